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

from mddm import arguments
from mddm.geometry import wrap
from mddm.noise import VARIANCES, Denoiser, add_noise, estimate, posterior
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
    """Run a sampler to its end and return the final frame.

    Raises:
        ValueError: there is none.
    """
    kept = deque(arguments.instance("frames", frames, Iterable), maxlen=1)
    if not kept:
        raise ValueError("frames must be those of a sampler that has not been run yet, got none")
    return kept.pop()


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

    Raises:
        TypeError, ValueError: an argument of another kind or out of its range.

    Source: MDDM algorithm 2, line 1; appendix B for free space.
    """
    batch_size = arguments.whole("batch_size", batch_size, at_least=1)
    n_particles = arguments.whole("n_particles", n_particles, at_least=1)
    sigma_max = arguments.number("sigma_max", sigma_max, above=0)
    box_length = arguments.box(box_length, free=True)
    arguments.generator(generator)
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
        TypeError, ValueError: no number, or one out of range.

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
        taken = {
            "n_steps": arguments.whole("n_steps", self.n_steps, at_least=0),
            "part": arguments.number("part", self.part, above=0, at_most=1),
            "noise_scale": arguments.number("noise_scale", self.noise_scale, at_least=0, at_most=1),
        }
        taken["lowest"], taken["highest"] = _range((self.lowest, self.highest), "lowest", "highest")
        for name, value in taken.items():
            object.__setattr__(self, name, value)


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
        TypeError, ValueError: at the call, before any frame: noise levels that do not increase
            from zero, a start that is not finite, an unknown variance, `center` in a box, which
            has no centre, or another argument of another kind or shape; on the way, a denoiser
            that returns another shape.
        FloatingPointError: on the way, a denoiser that returns what is not finite.

    Source: MDDM algorithm 2, and appendix B for `center`.
    """
    arguments.choice("variance", variance, VARIANCES)
    arguments.generator(generator)
    for corrector in correctors:
        arguments.instance("correctors", corrector, Corrector)
    x_t, sigmas, condition, box_length = _checked(
        denoiser, x_t, sigmas, condition, box_length, center
    )
    hops = None if box_length is None or hops is None else _range(hops, "hops")

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

    A network may draw a lattice that the potential does not support: at the noise levels where a
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
        TypeError, ValueError: as from `ancestral`, and for a `top` that is not above zero.

    Source: this study.
    """
    top = arguments.number("top", top, above=0)
    arguments.generator(generator)
    relaxed, sigmas, condition, box_length = _checked(
        denoiser, relaxed, sigmas, condition, box_length, center=False, name="relaxed"
    )
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
        TypeError, ValueError: as from `ancestral`, and for another order, a negative `churn` or
            one without a generator.

    Source: Song et al. 2021, eq. 13; Karras et al. 2022, algorithm 1, and algorithm 2 for churn.
    """
    order = arguments.whole("order", order, at_least=1, at_most=2)
    churn, churned = arguments.number("churn", churn, at_least=0), _range(churned, "churned")
    if churn or generator is not None:
        arguments.generator(generator)
    x_t, sigmas, condition, box_length = _checked(
        denoiser, x_t, sigmas, condition, box_length, center
    )

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


def _checked(denoiser, x_t, sigmas, condition, box_length, center, name="x_t"):
    arguments.instance("denoiser", denoiser, Callable)
    x_t, box_length = arguments.positions(x_t, name=name), arguments.box(box_length, free=True)
    if condition is not None:
        condition = arguments.conditions(condition, len(x_t), name="condition").to(x_t)
    if center and box_length is not None:
        raise ValueError(
            "center=True is for free space: a periodic box has no centre; leave it out, or pass "
            f"box_length=None instead of {box_length}"
        )
    sigmas = arguments.tensor("sigmas", sigmas, ("n_steps + 1",)).double().cpu()
    if len(sigmas) < 2 or sigmas[0] != 0 or not (sigmas.diff() > 0).all():
        raise ValueError(
            "sigmas must be at least two noise levels that increase from zero, as "
            "noise.make_schedule gives them"
        )
    return x_t, sigmas, condition, box_length


def _range(ends: Sequence[float], name: str, name_of_last: str = "") -> tuple[float, float]:
    ends = tuple(arguments.instance(name, ends, Sequence))
    if len(ends) != 2:
        raise ValueError(f"{name} must be two noise levels, got {len(ends)}")
    low = arguments.number(name, ends[0], at_least=0)
    high = arguments.number(name_of_last or name, ends[1], at_least=low, at_most=math.inf)
    return low, high


def _settle(positions: Tensor, box_length: float | None, center: bool) -> Tensor:
    if center:
        positions = positions - positions.mean(dim=1, keepdim=True)
    return wrap(positions, box_length)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


@torch.no_grad()
def _estimate(denoiser, x_t, sigma, condition, box_length):
    eps = estimate(denoiser, x_t, sigma.to(x_t).expand(len(x_t)), condition, box_length)
    # On a GPU, which would have to be waited for, the result tells.
    if eps.device.type == "cpu" and not eps.isfinite().all():
        raise FloatingPointError(
            f"denoiser returned numbers that are not finite at sigma = {sigma.item():.4g}: look "
            "whether its training has diverged, and whether sigma and condition are what it was "
            "trained on"
        )
    return eps
