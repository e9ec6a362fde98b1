"""From noise to structure: algorithm 2, and samplers that need fewer calls of the network.

A sampler is its settings, and called it is a generator of frames, from the start to the result, so
that the caller may watch, measure or stop it; `last` runs one to its end.  Those that have proved
themselves are in `mddm.samplers`, by name.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
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
        n_left: noise levels still to go; 0 is the result.
        sigma: noise level of the positions [length].
        positions: (batch, n_particles, 3) [length].
        calls: calls of the network so far.
        stage: what the sampler is at: "sampled", from noise; "relaxed", by the potential, and
            "polished" or "held" afterwards, where it does that too.  The last frame of a stage is
            its result.
    """

    n_left: int
    sigma: float
    positions: Tensor
    calls: int
    stage: str = "sampled"


# What `relaxing.Relaxing` does: takes (n_particles, 3) positions to a minimum of their energy, or
# on the way there until a `tolerance`, and holds them for `n_steps` of MD from a `seed` [length].
Relax = Callable[..., np.ndarray]


def check_levels(sigmas: Tensor) -> Tensor:
    """Check the noise levels that a sampler is to walk down.

    Args:
        sigmas: (n_levels + 1,) increasing noise levels, the first one zero [length].

    Returns:
        The levels in double precision, on the CPU.

    Raises:
        TypeError, ValueError: no such levels.
    """
    sigmas = arguments.tensor("sigmas", sigmas, ("n_levels + 1",)).double().cpu()
    if len(sigmas) < 2 or sigmas[0] != 0 or not (sigmas.diff() > 0).all():
        raise ValueError(
            "sigmas must be at least two noise levels that increase from zero, as "
            "noise.make_schedule gives them"
        )
    return sigmas


@dataclass(frozen=True)
class Walk:
    """What stays the same on the way down, see `Sampler`; and what every step is made of."""

    denoiser: Denoiser
    sigmas: Tensor
    generator: torch.Generator
    condition: Tensor | None
    box_length: float | None
    center: bool = False

    @torch.no_grad()
    def estimate(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Ask the network for the noise of the positions, at a level."""
        levels = sigma.to(x_t).expand(len(x_t))
        eps = estimate(self.denoiser, x_t, levels, self.condition, self.box_length)
        # On a GPU, which would have to be waited for, the result tells.
        if eps.device.type == "cpu" and not eps.isfinite().all():
            raise FloatingPointError(
                f"denoiser returned numbers that are not finite at sigma = {sigma.item():.4g}: "
                "look whether its training has diverged, and whether sigma and condition are what "
                "it was trained on"
            )
        return eps

    def normal(self, like: Tensor) -> Tensor:
        """Draw unit noise."""
        on = {"device": like.device, "dtype": like.dtype}
        return torch.randn(like.shape, generator=self.generator, **on)

    def levels_from(self, top: float) -> Tensor:
        """Give the noise levels from `top` down."""
        levels = self.sigmas[self.sigmas < top]
        return torch.cat([levels, levels.new_tensor([top])])

    def noised(self, positions: Tensor, top: float) -> tuple[Tensor, Tensor]:
        """Add noise of the level `top`; return the positions, and the levels from there down."""
        levels = self.levels_from(top)
        fresh = self.normal(positions)
        return add_noise(positions, levels[-1].to(positions), fresh, self.box_length), levels

    def settle(self, positions: Tensor) -> Tensor:
        """Put the positions where they belong, into the box or about the origin."""
        if self.center:
            positions = positions - positions.mean(dim=1, keepdim=True)
        return wrap(positions, self.box_length)


class Sampler:
    """What every sampler is: its settings, and this call.

    One of your own says how to take a step, in `advance`.
    """

    # Whether it has to be given `relax`.
    asks_potential: ClassVar[bool] = False
    # Whether it has to be told a temperature besides.
    asks_temperature: ClassVar[bool] = False
    # Whether of the noise levels that it is given it keeps the two ends alone.
    own_levels: ClassVar[bool] = False

    def __call__(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        sigmas: Tensor,
        generator: torch.Generator,
        condition: Tensor | None = None,
        box_length: float | None = None,
        center: bool = False,
        relax: Relax | None = None,
    ) -> Iterator[Frame]:
        """Go from noise to structure.

        Args:
            denoiser: the network.
            x_t: (batch, n_particles, 3) start, at the level sigmas[-1] [length].
            sigmas: (n_levels + 1,) increasing noise levels, the first one zero [length].
            generator: source of randomness.
            condition: (batch, 3), k, phi and temperature; None for a model of one structure.
            box_length: edge of the periodic cube [length], or None for free space.
            center: move the centre of mass to the origin after every step, for a
                translation-invariant network in free space.
            relax: takes the (n_particles, 3) positions of a system to a minimum of its energy, as
                `relaxing.Relaxing` does; for samplers with `asks_potential`.

        Yields:
            The start, then a frame at each level below.

        Raises:
            TypeError, ValueError: at the call, before any frame: noise levels that do not increase
                from zero, a start that is not finite, `center` in a box, which has no centre, no
                `relax` where it is needed, or another argument of another kind or shape; on the
                way, a denoiser that returns another shape.
            FloatingPointError: on the way, a denoiser that returns what is not finite.
        """
        arguments.instance("denoiser", denoiser, Callable)
        arguments.generator(generator)
        x_t, box_length = arguments.positions(x_t, name="x_t"), arguments.box(box_length, free=True)
        if condition is not None:
            condition = arguments.conditions(condition, len(x_t), name="condition").to(x_t)
        if center and box_length is not None:
            raise ValueError(
                "center=True is for free space: a periodic box has no centre; leave it out, or "
                f"pass box_length=None instead of {box_length}"
            )
        if self.asks_potential and not callable(relax):
            raise TypeError(
                "relax must be a function that takes (n_particles, 3) positions to a minimum of "
                f"their energy, for this sampler asks the potential; got {relax!r}"
            )
        sigmas = check_levels(sigmas)
        walk = Walk(denoiser, sigmas, generator, condition, box_length, center)
        return self.frames(walk, x_t, relax)

    def frames(self, walk: Walk, x_t: Tensor, relax: Relax | None) -> Iterator[Frame]:
        """Walk down all levels; a generator of its own, so that the call has checked first."""
        calls, sigmas = 0, walk.sigmas
        yield Frame(len(sigmas) - 1, sigmas[-1].item(), x_t, calls)
        for step in range(len(sigmas) - 1, 0, -1):
            x_t, more = self.advance(walk, x_t, step)
            calls += more
            yield Frame(step - 1, sigmas[step - 1].item(), x_t, calls)

    def advance(self, walk: Walk, x_t: Tensor, step: int) -> tuple[Tensor, int]:
        """Go from the level sigmas[step] to the one below; return the positions and the calls."""
        raise NotImplementedError


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


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse diffusion process, optionally with correctors and hops.

    The plain process calls the network once a noise level.

    Args:
        variance: "exact", or "paper" for the smaller variance that MDDM prints.
        correctors: taken one after the other at each level in their range.
        hops: lowest and highest level [length] at which `waves.hop` empties the sites of a
            crystal that two particles share, before any correctors; None for no such moves.
            Free space has no sites.

    Raises:
        TypeError, ValueError: an unknown variance, or another setting of another kind or range.

    Source: MDDM algorithm 2, and appendix B for `center`.
    """

    variance: str = "exact"
    correctors: tuple[Corrector, ...] = ()
    hops: tuple[float, float] | None = None

    def __post_init__(self):
        arguments.choice("variance", self.variance, VARIANCES)
        correctors = tuple(arguments.instance("correctors", self.correctors, Sequence))
        for corrector in correctors:
            arguments.instance("correctors", corrector, Corrector)
        object.__setattr__(self, "correctors", correctors)
        if self.hops is not None:
            object.__setattr__(self, "hops", _range(self.hops, "hops"))

    def advance(self, walk: Walk, x_t: Tensor, step: int) -> tuple[Tensor, int]:
        """Take a reverse step, hops and corrections; see `Sampler.advance`."""
        above, below, box_length = walk.sigmas[step], walk.sigmas[step - 1], walk.box_length
        eps = walk.estimate(x_t, above)
        mean, sigma = posterior(x_t, eps, above**2, below**2, self.variance)
        x_t = walk.settle(mean + sigma * walk.normal(x_t))
        level, calls = below.item(), 1
        if self.hops and box_length is not None and self.hops[0] <= level <= self.hops[1]:
            x_t = hop(x_t, level, box_length)
        for corrector in self.correctors:
            if level > 0 and corrector.lowest <= level <= corrector.highest:
                for _ in range(corrector.n_steps):
                    eps = walk.estimate(x_t, below)
                    x_t = walk.settle(x_t + level * _correction(eps, corrector, walk))
                calls += corrector.n_steps
        return x_t, calls


def _correction(eps: Tensor, corrector: Corrector, walk: Walk) -> Tensor:
    known = eps.square().mean(dim=(1, 2), keepdim=True).clamp(max=1)
    variance = corrector.part * (2 - corrector.part * known)
    fresh = corrector.noise_scale * variance.sqrt() * walk.normal(eps)
    return fresh - corrector.part * eps


@dataclass(frozen=True)
class ProbabilityFlow(Sampler):
    """The ordinary differential equation dx = eps d(sigma), which adds no noise.

    With `churn` a step starts by adding some all the same, and the equation is followed from the
    higher level: fresh noise lets the network correct what the steps before have got wrong.

    Args:
        order: 1 for Euler's method, 2 for Heun's, which calls the network twice a step, except
            in the last step.
        churn: by which part a step raises the noise level before it follows the equation.
        churned: lowest and highest level at which it does [length].

    Raises:
        TypeError, ValueError: another order, a negative `churn`, or what is no two levels.

    Source: Song et al. 2021, eq. 13; Karras et al. 2022, algorithm 1, and algorithm 2 for churn.
    """

    order: int = 2
    churn: float = 0.0
    churned: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self):
        taken = {
            "order": arguments.whole("order", self.order, at_least=1, at_most=2),
            "churn": arguments.number("churn", self.churn, at_least=0),
            "churned": _range(self.churned, "churned"),
        }
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def advance(self, walk: Walk, x_t: Tensor, step: int) -> tuple[Tensor, int]:
        """Follow the equation to the level below; see `Sampler.advance`."""
        sigma, below = walk.sigmas[step], walk.sigmas[step - 1]
        if self.churn and self.churned[0] <= sigma <= self.churned[1]:
            above = sigma * (1 + self.churn)
            added = (above**2 - sigma**2).sqrt().to(x_t)
            x_t, sigma = wrap(x_t + added * walk.normal(x_t), walk.box_length), above
        stride = (below - sigma).item()
        slope = walk.estimate(x_t, sigma)
        ahead, calls = x_t + stride * slope, 1
        if self.order == 2 and below > 0:
            there = walk.estimate(wrap(ahead, walk.box_length), below)
            ahead, calls = x_t + stride * (slope + there) / 2, 2
        return walk.settle(ahead), calls


@dataclass(frozen=True)
class Multistep(Sampler):
    """The same equation by a method of second order that calls the network once a step.

    It follows the estimate of the data as a line in log sigma, through the present step and the
    one before; the first step and the last, to zero, are Euler's.

    Source: Lu et al. 2022, DPM-Solver++, algorithm 2 (2M), for data that are not scaled.
    """

    def frames(self, walk: Walk, x_t: Tensor, relax: Relax | None) -> Iterator[Frame]:
        """Walk down all levels, with the estimate of the step before."""
        sigmas, before, width = walk.sigmas, None, None
        n_left = len(sigmas) - 1
        yield Frame(n_left, sigmas[-1].item(), x_t, 0)
        for step in range(n_left, 0, -1):
            sigma, below = sigmas[step], sigmas[step - 1]
            # Estimates of the data are kept as ways there from where the particles are now: a
            # torus has no other difference of two places.
            way = -sigma.item() * walk.estimate(x_t, sigma)
            ahead, ratio = way, (below / sigma).item()
            if before is not None and below > 0:
                ahead = way + (way - before) * math.log(1 / ratio) / (2 * width)
            move = (1 - ratio) * ahead
            before, width = way - move, math.log(1 / ratio) if below > 0 else None
            x_t = walk.settle(x_t + move)
            yield Frame(step - 1, below.item(), x_t, n_left + 1 - step)


def _range(ends: Sequence[float], name: str, name_of_last: str = "") -> tuple[float, float]:
    ends = tuple(arguments.instance(name, ends, Sequence))
    if len(ends) != 2:
        raise ValueError(f"{name} must be two noise levels, got {len(ends)}")
    low = arguments.number(name, ends[0], at_least=0)
    high = arguments.number(name_of_last or name, ends[1], at_least=low, at_most=math.inf)
    return low, high
