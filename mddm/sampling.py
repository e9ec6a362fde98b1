"""From noise to structure: algorithm 2, and samplers that need fewer calls of the network.

Every sampler is a generator of frames, from the start to the result, so that the caller may
watch, measure or stop it; `last` runs one to its end.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from mddm.geometry import wrap
from mddm.noise import Denoiser, add_noise, posterior
from mddm.waves import hop


@dataclass(frozen=True)
class Frame:
    """A moment of sampling.

    Args:
        step: noise levels still to go; 0 is the result.
        sigma: noise level of the positions [length].
        positions: (batch, n_particles, 3) [length].
        calls: calls of the network so far.
    """

    step: int
    sigma: float
    positions: Tensor
    calls: int


def last(frames: Iterable[Frame]) -> Frame:
    """Run a sampler to its end and return the final frame."""
    return deque(frames, maxlen=1).pop()


def pure_noise(
    batch_size: int,
    n_particles: int,
    box_length: float | None,
    sigma_max: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw the start of sampling, x_T.

    Args:
        batch_size: number of systems.
        n_particles: particles in each.
        box_length: edge of the periodic cube [length]: positions are uniform in it.  None for
            free space: positions are normal with the scale `sigma_max`.
        sigma_max: highest noise level [length].
        generator: source of randomness; its device is where the positions are made.

    Returns:
        (batch_size, n_particles, 3) [length].

    Source: MDDM algorithm 2, line 1; appendix B for free space.
    """
    shape, on = (batch_size, n_particles, 3), {"generator": generator, "device": generator.device}
    if box_length is None:
        return sigma_max * torch.randn(shape, **on)
    return wrap(box_length * torch.rand(shape, **on), box_length)


@dataclass(frozen=True)
class Corrector:
    """Steps of a sampler that stay at a noise level and draw the positions to what is likely there.

    Such a step removes the error that the steps before it have left.  It takes a part c of the
    estimated noise away and puts fresh noise of the variance (2 c - c^2 t) sigma^2 in its place,
    where t is the mean square of the estimate.  That keeps any normal distribution as it is.
    Where all noise is known, t = 1, as in a crystal that has formed, Langevin dynamics, with its
    variance 2 c sigma^2, would leave too much noise, and melt it; where nothing is known, t = 0,
    it is Langevin dynamics.

    Args:
        n_steps: steps after each reverse step, at the level that it reached.
        part: the part c of the estimated noise that a step replaces, at most 1.
        lowest, highest: the levels at which they are taken [length].
        noise_scale: factor of the fresh noise.  Below 1 the steps favour what is likeliest, as
            cooling does: a normal distribution gets narrower by about this factor, and order
            forms that would not in so few steps.

    Raises:
        ValueError: a number out of range.

    Source: Song et al. 2021, algorithm 4, whose correctors are Langevin steps; the variance that
        keeps a normal distribution is ours.  Less noise for likelier samples: Ingraham et al.
        2023 (Chroma), low-temperature sampling.
    """

    n_steps: int
    part: float = 0.3
    lowest: float = 0.0
    highest: float = math.inf
    noise_scale: float = 1.0

    def __post_init__(self):
        if self.n_steps < 0 or not 0 < self.part <= 1:
            raise ValueError(
                f"n_steps must be at least 0 and part in (0, 1], got {self.n_steps} and {self.part}"
            )
        if not 0 <= self.lowest <= self.highest:
            raise ValueError(
                f"lowest must be at least 0 and at most highest, got {self.lowest} and "
                f"{self.highest}"
            )
        if not 0 <= self.noise_scale <= 1:
            raise ValueError(f"noise_scale must lie in [0, 1], got {self.noise_scale}")


def ancestral(
    denoiser: Denoiser,
    x_t: Tensor,
    sigmas: Tensor,
    generator: torch.Generator,
    condition: Tensor | None = None,
    box_length: float | None = None,
    variance: str = "exact",
    correctors: Sequence[Corrector] = (),
    center: bool = False,
    hops: tuple[float, float] | None = None,
) -> Iterator[Frame]:
    """Sample by the reverse diffusion process, optionally with correctors and hops.

    The plain process calls the network once a noise level.

    Args:
        denoiser: the network.
        x_t: (batch, n_particles, 3) start, at the level sigmas[-1] [length].
        sigmas: (n_steps + 1,) increasing noise levels, the first one zero [length].
        generator: source of randomness.
        condition: (batch, 3), k, phi and temperature; None for a model of one structure.
        box_length: edge of the periodic cube [length], or None for free space.
        variance: "exact", or "paper" for the smaller variance that MDDM prints.
        correctors: taken one after the other at each level in their range.
        center: move the centre of mass to the origin after every step, for a
            translation-invariant network in free space.
        hops: lowest and highest level [length] at which `waves.hop` empties the sites of a
            crystal that two particles share, before any correctors; None for no such moves.
            Free space has no sites.

    Yields:
        The start, then a frame after each of the n_steps steps.

    Raises:
        ValueError: at the call, before any frame: noise levels that do not increase from zero,
            a start that is not finite, an unknown variance, or `center` in a box, which has no
            centre.

    Source: MDDM algorithm 2, and appendix B for `center`.
    """
    if variance not in ("exact", "paper"):
        raise ValueError(f"variance must be 'exact' or 'paper', got {variance!r}")
    hops = None if box_length is None else hops
    sigmas = _checked(sigmas, x_t, box_length, center)

    def reverse_step(x_t, step):
        eps = _estimate(denoiser, x_t, sigmas[step], condition, box_length)
        mean, sigma = posterior(x_t, eps, sigmas[step] ** 2, sigmas[step - 1] ** 2, variance)
        x_t = _settle(mean + sigma * _normal(x_t, generator), box_length, center)
        level, calls = sigmas[step - 1].item(), 1
        if hops is not None and hops[0] <= level <= hops[1]:
            x_t = hop(x_t, level, box_length)
        for corrector in correctors:
            if step > 1 and corrector.lowest <= level <= corrector.highest:
                for _ in range(corrector.n_steps):
                    eps = _estimate(denoiser, x_t, sigmas[step - 1], condition, box_length)
                    change = _correction(eps, corrector, generator)
                    x_t = _settle(x_t + level * change, box_length, center)
                calls += corrector.n_steps
        return x_t, calls

    return _frames(x_t, sigmas, reverse_step)


def _correction(eps: Tensor, corrector: Corrector, generator: torch.Generator) -> Tensor:
    known = eps.square().mean(dim=(1, 2), keepdim=True).clamp(max=1)
    variance = corrector.part * (2 - corrector.part * known)
    fresh = corrector.noise_scale * variance.sqrt() * _normal(eps, generator)
    return fresh - corrector.part * eps


def polish(
    denoiser: Denoiser,
    relaxed: Tensor,
    sigmas: Tensor,
    top: float,
    generator: torch.Generator,
    condition: Tensor | None = None,
    box_length: float | None = None,
    correctors: Sequence[Corrector] = (),
) -> Iterator[Frame]:
    """Add noise to relaxed configurations, and take it away by the reverse process.

    A network may draw a lattice that the potential does not bear: at the noise levels where a
    lattice is chosen, it hardly sees which one the condition asks for.  Relaxing under the
    potential mends that, and leaves defects and no thermal motion.  Little noise is enough for
    the network to mend the first and to bring back the second.

    Args:
        denoiser, sigmas, generator, condition, box_length, correctors: see `ancestral`.
        relaxed: (batch, n_particles, 3) minima of the potential energy [length].
        top: how much noise is added; of `sigmas` those below it are walked down [length].

    Yields:
        The relaxed configurations, at the level zero, then the frames of `ancestral`.

    Raises:
        ValueError: as from `ancestral`, and for a `top` that is not above zero.

    Source: this study.
    """
    if not 0 < top < math.inf:
        raise ValueError(f"top must be a noise level above zero, got {top}")
    sigmas = _checked(sigmas, relaxed, box_length, center=False)
    sigmas = torch.cat([sigmas[sigmas < top], sigmas.new_tensor([top])])
    x_t = add_noise(relaxed, sigmas[-1].to(relaxed), _normal(relaxed, generator), box_length)
    frames = ancestral(
        denoiser, x_t, sigmas, generator, condition, box_length, correctors=correctors
    )
    return chain([Frame(len(sigmas), 0.0, relaxed, 0)], frames)


def probability_flow(
    denoiser: Denoiser,
    x_t: Tensor,
    sigmas: Tensor,
    condition: Tensor | None = None,
    box_length: float | None = None,
    order: int = 2,
    center: bool = False,
    churn: float = 0.0,
    churned: tuple[float, float] = (0.0, float("inf")),
    generator: torch.Generator | None = None,
) -> Iterator[Frame]:
    """Sample by the ordinary differential equation dx = eps d(sigma), which adds no noise.

    With `churn` a step starts by adding some all the same, and the equation is followed from the
    higher level: fresh noise lets the network correct what the steps before have got wrong.

    Args:
        denoiser, x_t, sigmas, condition, box_length, center: see `ancestral`.
        order: 1 for Euler's method, 2 for Heun's, which calls the network twice a step, except
            in the last step.
        churn: by which part a step raises the noise level before it follows the equation.
        churned: lowest and highest level at which it does [length].
        generator: source of randomness; needed for `churn`.

    Yields:
        The start, then a frame after each of the n_steps steps.

    Raises:
        ValueError: at the call, before any frame: noise levels that do not increase from zero,
            a start that is not finite, another order, a negative `churn` or one without a
            generator, or `center` in a box.

    Source: Song et al. 2021, eq. 13; Karras et al. 2022, algorithm 1, and algorithm 2 for churn.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if not 0 <= churn < math.inf or (churn and generator is None):
        raise ValueError(
            f"churn must be at least 0, and needs a generator above it, got {churn} and {generator}"
        )
    sigmas = _checked(sigmas, x_t, box_length, center)

    def follow(x_t, step):
        sigma, below = sigmas[step], sigmas[step - 1]
        if churn and churned[0] <= sigma <= churned[1]:
            above = sigma * (1 + churn)
            added = (above**2 - sigma**2).sqrt().to(x_t)
            x_t, sigma = wrap(x_t + added * _normal(x_t, generator), box_length), above
        stride = (below - sigma).item()
        slope = _estimate(denoiser, x_t, sigma, condition, box_length)
        ahead, calls = x_t + stride * slope, 1
        if order == 2 and step > 1:
            ahead = wrap(ahead, box_length)
            there = _estimate(denoiser, ahead, below, condition, box_length)
            ahead, calls = x_t + stride * (slope + there) / 2, 2
        return _settle(ahead, box_length, center), calls

    return _frames(x_t, sigmas, follow)


def _frames(x_t: Tensor, sigmas: Tensor, advance: Callable) -> Iterator[Frame]:
    # A generator of its own, so that the samplers check their arguments when they are called.
    calls = 0
    yield Frame(len(sigmas) - 1, sigmas[-1].item(), x_t, calls)
    for step in range(len(sigmas) - 1, 0, -1):
        x_t, more = advance(x_t, step)
        calls += more
        yield Frame(step - 1, sigmas[step - 1].item(), x_t, calls)


def _checked(sigmas: Tensor, x_t: Tensor, box_length: float | None, center: bool) -> Tensor:
    if center and box_length is not None:
        raise ValueError(
            "center=True is for free space: a periodic box has no centre; leave it out, or pass "
            f"box_length=None instead of {box_length}"
        )
    if not torch.isfinite(x_t).all():
        raise ValueError("x_t must be finite; some positions are nan or infinite")
    sigmas = sigmas.double().cpu()
    if sigmas.ndim != 1 or len(sigmas) < 2 or sigmas[0] != 0 or not (sigmas.diff() > 0).all():
        raise ValueError(
            "sigmas must be at least two noise levels that increase from zero, as "
            "noise.make_schedule gives them"
        )
    return sigmas


def _settle(positions: Tensor, box_length: float | None, center: bool) -> Tensor:
    if center:
        positions = positions - positions.mean(dim=1, keepdim=True)
    return wrap(positions, box_length)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


@torch.no_grad()
def _estimate(denoiser, x_t, sigma, condition, box_length):
    return denoiser(x_t, sigma.to(x_t).expand(len(x_t)), condition, box_length)
