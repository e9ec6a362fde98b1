"""The samplers by name, and samples that are drawn by them, each from a seed of its own."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mddm import arguments
from mddm.geometry import wrap
from mddm.noise import Denoiser
from mddm.sampling import (
    Ancestral,
    Corrector,
    Frame,
    Multistep,
    ProbabilityFlow,
    Relax,
    Sampler,
    Walk,
    pure_noise,
)

# Where structure has formed: steps that bring thermal motion to its right width.
_FINE = Corrector(4, 0.7, lowest=0.01, highest=0.16)
_FINISH = Ancestral(correctors=(_FINE,))
# Levels at which particles hop: where the sites of a crystal are plain to see [length].
_HOPS = (0.03, 0.12)
# Seeds of the noise that polishing adds lie above those of samples.  PyTorch's generator on a CPU
# heeds the lowest 32 bits alone, so that there the noise is made of the numbers that the start was
# made of; the scores that are published were drawn so.
_POLISHING_SEED = 2**32


@dataclass(frozen=True)
class _Relaxed(Sampler):
    """What samplers share that relax another one's samples: see `Polished` for the arguments."""

    asks_potential = True

    start: Sampler
    force: float | None = field(default=None, kw_only=True)

    def __post_init__(self):
        arguments.instance("start", self.start, Sampler)
        if self.force is not None:
            object.__setattr__(self, "force", arguments.number("force", self.force, above=0))

    @property
    def own_levels(self) -> bool:
        """Whether `start` has noise levels of its own."""
        return self.start.own_levels

    def _drawn(self, walk: Walk, x_t: Tensor, *given) -> Iterator[Frame]:
        return self.start(walk.denoiser, x_t, walk.sigmas, walk.generator, *given)

    def _relaxed(self, relax: Relax, positions: Tensor, how: Sequence[dict] = ()) -> Tensor:
        """Relax each system of a batch, and do to each what `how` says besides."""
        systems, until = positions.cpu().numpy(), {}
        if self.force is not None:
            until["tolerance"] = self.force * systems.shape[1] ** 0.5
        how = how or [{}] * len(systems)
        found = [relax(one, **until, **more) for one, more in zip(systems, how, strict=True)]
        return torch.as_tensor(np.stack(found)).to(positions)


@dataclass(frozen=True)
class Polished(_Relaxed):
    """A sample of another sampler, relaxed by the potential and polished by the network.

    A network may draw a lattice that the potential does not support: at the noise levels where a
    lattice is chosen, it hardly sees which one the condition asks for.  Relaxing under the
    potential mends that, and leaves defects and no thermal motion.  Little noise is enough for
    the network to mend the first and to bring back the second.

    Its frames are those of `start`, one of the relaxed positions at the level zero, and those of
    `finish`, from `top` down the levels below it.  The noise that is added comes from a generator
    of its own, whose seed is that of the given one plus 2^32: that one has to be seeded anew for
    each call.

    Args:
        start: draws what is relaxed.
        finish: takes the added noise away.
        top: how much noise is added [length].
        force: on a particle, root of the mean square, at which relaxing stops [energy / length];
            None for a minimum.  The last of the way down takes the longest, and noise is added to
            what comes of it.

    Raises:
        TypeError, ValueError: what is no sampler, or a `top` or `force` that is not above zero.

    Source: this study.
    """

    finish: Sampler = _FINISH
    top: float = 0.15

    def __post_init__(self):
        super().__post_init__()
        arguments.instance("finish", self.finish, Sampler)
        object.__setattr__(self, "top", arguments.number("top", self.top, above=0))

    def frames(self, walk: Walk, x_t: Tensor, relax: Relax) -> Iterator[Frame]:
        """Draw, relax and polish."""
        given = (walk.condition, walk.box_length, walk.center, relax)
        for frame in self._drawn(walk, x_t, *given):
            yield frame
        relaxed = self._relaxed(relax, frame.positions)
        seed = (_POLISHING_SEED + walk.generator.initial_seed()) % 2**64
        walk = replace(walk, generator=torch.Generator(walk.generator.device).manual_seed(seed))
        x_t, levels = walk.noised(relaxed, self.top)
        finish = self.finish(walk.denoiser, x_t, levels, walk.generator, *given)
        noised = next(finish)
        yield Frame(noised.n_left + 1, 0.0, relaxed, frame.calls, "relaxed")
        for after in itertools.chain([noised], finish):
            yield replace(after, calls=frame.calls + after.calls, stage="polished")


@dataclass(frozen=True)
class Held(_Relaxed):
    """A sample of another sampler, relaxed by the potential and held at its temperature.

    What polishing leaves to the network, molecular dynamics does here: defects go, and
    thermal motion comes.  Its frames are those of `start` and one of what was held.

    Args:
        start: draws what is relaxed.
        n_steps: of molecular dynamics.
        force: as for `Polished`.

    Raises:
        TypeError, ValueError: what is no sampler, fewer steps than one, or a `force` that is not
            above zero.

    Source: this study.
    """

    asks_temperature = True

    n_steps: int

    def __post_init__(self):
        super().__post_init__()
        n_steps = arguments.whole("n_steps", self.n_steps, at_least=1)
        object.__setattr__(self, "n_steps", n_steps)

    def frames(self, walk: Walk, x_t: Tensor, relax: Relax) -> Iterator[Frame]:
        """Draw, relax and hold."""
        for frame in self._drawn(walk, x_t, walk.condition, walk.box_length, walk.center, relax):
            yield replace(frame, n_left=frame.n_left + 1)
        first = walk.generator.initial_seed()
        how = [
            {"n_steps": self.n_steps, "seed": (first + number) % 2**31}
            for number in range(len(x_t))
        ]
        held = self._relaxed(relax, frame.positions, how)
        yield Frame(0, 0.0, held, frame.calls, "held")


@dataclass(frozen=True)
class Repeated(Sampler):
    """A sample of a small box, repeated to fill a large one, and drawn again from noise.

    A crystal begins as the strongest of all waves that fit the box.  Of those there are as many as
    particles, and a network that has learned small boxes does not settle on one in a large box: it
    draws a glass.  So the structure is decided in a box of about the size of training, and its
    copies are no longer equal after noise and another walk down from there.  A crystal is a single
    grain then.  The frames on the way to the small sample show it repeated.

    Args:
        sampler: draws the small sample, and goes down from the noise in the large box.  One that
            asks the potential would relax the small sample in the large box: see `repeated`.
        times: copies along each axis.
        top: the noise [length].

    Raises:
        TypeError, ValueError: what is no sampler or one that asks the potential, fewer copies than
            one, or a `top` that is not above zero; at the first frame, particles that do not make
            so many equal boxes.

    Source: this study.
    """

    sampler: Sampler
    times: int
    top: float = 0.3

    def __post_init__(self):
        if arguments.instance("sampler", self.sampler, Sampler).asks_potential:
            raise ValueError(
                "sampler must not ask the potential; pass it to samplers.repeated, which repeats "
                f"what it relaxes, got {self.sampler!r}"
            )
        object.__setattr__(self, "times", arguments.whole("times", self.times, at_least=1))
        object.__setattr__(self, "top", arguments.number("top", self.top, above=0))

    @property
    def own_levels(self) -> bool:
        """Whether `sampler` has noise levels of its own."""
        return self.sampler.own_levels

    def frames(self, walk: Walk, x_t: Tensor, relax: Relax | None) -> Iterator[Frame]:
        """Draw the small sample, then go down again in the large box."""
        n_copies, left = self.times**3, x_t.shape[1] % self.times**3
        if walk.box_length is None or left:
            where = "free space" if walk.box_length is None else "a box"
            raise ValueError(
                f"{x_t.shape[1]} particles in {where} are no {n_copies} equal boxes; take a "
                f"periodic box and a multiple of {n_copies} particles"
            )
        edge = walk.box_length / self.times
        corners = edge * torch.cartesian_prod(*[torch.arange(self.times)] * 3).to(x_t)
        # Uniform in the large box, they are so in the small one.
        start = wrap(x_t[:, : x_t.shape[1] // n_copies], edge)
        below = replace(walk, sigmas=walk.levels_from(self.top))
        n_left = 1 + next(self.sampler.frames(below, x_t, relax)).n_left
        for frame in self.sampler.frames(replace(walk, box_length=edge), start, relax):
            copies = corners[:, None] + frame.positions[:, None]
            x_t = wrap(copies.flatten(1, 2), walk.box_length)
            yield replace(frame, n_left=n_left + frame.n_left, positions=x_t)
        for after in self.sampler.frames(below, walk.noised(x_t, self.top)[0], relax):
            yield replace(after, calls=frame.calls + after.calls)


@dataclass(frozen=True)
class Stage:
    """A part of the way down, see `Staged`.

    Args:
        sampler: that goes it.
        n_levels: noise levels below its start, evenly spaced in log sigma.
        lowest: the last of them [length].  None for the last stage, which ends at zero; of several
            levels the one before that is the lowest that there is.

    Raises:
        TypeError, ValueError: a setting of another kind or out of its range.
    """

    sampler: Sampler
    n_levels: int
    lowest: float | None = None

    def __post_init__(self):
        arguments.instance("sampler", self.sampler, Sampler)
        n_levels = arguments.whole("n_levels", self.n_levels, at_least=1)
        object.__setattr__(self, "n_levels", n_levels)
        if self.lowest is not None:
            object.__setattr__(self, "lowest", arguments.number("lowest", self.lowest, above=0))


@dataclass(frozen=True)
class Staged(Sampler):
    """Samplers one after the other, each on a part of the way and on noise levels of its own.

    So that few calls go where they count.  Of the levels that it is given it keeps the two ends,
    the highest and the lowest above zero.

    Args:
        stages: from the top down; the last one, and no other, has no `lowest`.

    Raises:
        TypeError, ValueError: what are no such stages; at the first frame, ends that do not lie
            about the stages' levels.

    Source: this study.
    """

    own_levels = True

    stages: tuple[Stage, ...]

    def __post_init__(self):
        stages = tuple(arguments.instance("stages", self.stages, Sequence))
        for stage in stages:
            arguments.instance("stages", stage, Stage)
        ends = [stage.lowest for stage in stages]
        if not ends or ends[-1] is not None or None in ends[:-1] or ends[:-1] != _down(ends[:-1]):
            raise ValueError(
                "stages must each have a lowest level below that of the one before, and the last, "
                f"which ends at zero, must have none: lowest = None; got {ends}"
            )
        object.__setattr__(self, "stages", stages)

    def frames(self, walk: Walk, x_t: Tensor, relax: Relax) -> Iterator[Frame]:
        """Go one stage after the other."""
        levels = self._levels(walk.sigmas)
        n_left, calls = sum(len(each) - 1 for each in levels), 0
        yield Frame(n_left, walk.sigmas[-1].item(), x_t, calls)
        for stage, sigmas in zip(self.stages, levels, strict=True):
            n_left -= len(sigmas) - 1
            frames = stage.sampler.frames(replace(walk, sigmas=sigmas), x_t, relax)
            # Of the start, which is the end of the stage before.
            next(frames)
            for frame in frames:
                yield replace(frame, n_left=n_left + frame.n_left, calls=calls + frame.calls)
            x_t, calls = frame.positions, calls + frame.calls

    def _levels(self, sigmas: Tensor) -> list[Tensor]:
        ends = [stage.lowest for stage in self.stages[:-1]]
        lowest, highest = sigmas[1].item(), sigmas[-1].item()
        if ends != _down([end for end in ends if lowest < end < highest]):
            raise ValueError(
                f"sigmas must begin below the levels of this sampler's stages, {ends}, and end "
                f"above them, got {lowest:.4g} to {highest:.4g}"
            )
        found = []
        for stage, top, end in zip(self.stages, [highest, *ends], [*ends, lowest], strict=True):
            to_zero = stage.lowest is None
            if to_zero and stage.n_levels == 1:
                found.append(sigmas.new_tensor([0.0, top]))
                continue
            spaced = torch.logspace(
                *np.log10([end, top]), stage.n_levels + (not to_zero), dtype=sigmas.dtype
            )
            found.append(torch.cat([sigmas.new_zeros(int(to_zero)), spaced]))
        return found


def _down(levels: Sequence[float]) -> list[float]:
    return sorted(set(levels), reverse=True)


_COOLED = Ancestral(
    # Many small steps with little noise where a crystal has to begin, for a network that knows
    # many structures and is sure of none until one has formed.
    correctors=(Corrector(24, 0.2, lowest=0.16, highest=0.3, noise_scale=0.8), _FINE),
    hops=_HOPS,
)
# Where a crystal has to begin a few large steps do, too, if they put back less noise still.
_CHILLED = Staged(
    (
        *(
            Stage(Ancestral(correctors=(Corrector(7, 0.4, 0.99 * at, 1.01 * at, 0.4),)), 1, at)
            for at in (0.27, 0.23, 0.19)
        ),
        Stage(Multistep(), 2),
    )
)
SAMPLERS: dict[str, Sampler] = {
    "polished": Polished(_COOLED),
    # A tenth of the calls of `polished`: relaxed in part, for the rest of that takes longer than
    # all of them, and thermalised in three.
    "quick": Polished(_CHILLED, finish=Staged((Stage(Ancestral(), 3),)), top=0.05, force=0.3),
    # The same beginning; molecular dynamics of some seconds does the rest.
    "held": Held(_CHILLED, 4_000, force=0.3),
    # For long enough to bring thermal motion and to tell a crystal from a glass, and no longer.
    "settled": Held(_CHILLED, 600, force=1.0),
    # Noise of about the width of thermal motion, and no correctors: what a network that errs at
    # every level does the least harm by.
    "thermalised": Polished(_COOLED, finish=Ancestral(), top=0.05),
    "cooled": _COOLED,
    "chilled": _CHILLED,
    # More steps where structure forms, between thermal motion and half a particle spacing.
    "corrected": Ancestral(
        correctors=(Corrector(4, 0.7, lowest=0.01, highest=0.4),),
        hops=_HOPS,
    ),
    "ancestral": Ancestral(),
    "paper": Ancestral(variance="paper"),
    "heun": ProbabilityFlow(),
}
# The best one of each preset in the box: correctors, and so polishing, do a network harm that knows
# nothing.
BEST = {
    "mddm": "thermalised",
    "mddm-rbf": "polished",
    "bragg": "polished",
    "transolver": "ancestral",
}
# Where there is a temperature to hold at: closer to MD than `polished`, for a third of the seconds.
BEST_AT_T = BEST | {"bragg": "held"}
BEST_IN_FREE_SPACE = "corrected"
# Of networks that are told potentials: the one by which it is known what their samples are worth.
BEST_TOLD = BEST_AT_T["bragg"]


def name_of(sampler: Sampler) -> str:
    """Give the name of a sampler, the key of `SAMPLERS`.

    Raises:
        ValueError: it is none of them.
    """
    for name, known in SAMPLERS.items():
        if known == sampler:
            return name
    raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")


def repeated(sampler: str | Sampler, times: int) -> Sampler:
    """Give a sampler as it is used in a box that is several times as long as those of training.

    Args:
        sampler: a key of `SAMPLERS`, or a sampler; of one that relaxes samples, what draws them is
            `Repeated`.
        times: copies along each axis; of one there is nothing to repeat.

    Raises:
        TypeError, ValueError: an unknown sampler, or fewer copies than one.
    """
    sampler = _known(sampler)
    if arguments.whole("times", times, at_least=1) == 1:
        return sampler
    if isinstance(sampler, _Relaxed):
        return replace(sampler, start=repeated(sampler.start, times))
    return Repeated(sampler, times)


def _known(sampler: str | Sampler) -> Sampler:
    if isinstance(sampler, Sampler):
        return sampler
    return SAMPLERS[arguments.choice("sampler", sampler, SAMPLERS)]


def draw(
    denoiser: Denoiser,
    sampler: str | Sampler,
    sigmas: Tensor,
    conditions: np.ndarray | None,
    n_samples: int,
    n_particles: int,
    box_length: float | None,
    seed: int,
    device: torch.device | str = "cpu",
    relax: Relax | None = None,
) -> Iterator[Frame]:
    """Draw samples from pure noise, all in one batch.

    Where each of several is to be the same whatever it is drawn together with, draw one by one.

    Args:
        denoiser: a trained network, on `device`.  Where it is `relative`, samples of free space
            have their centre at the origin: from displacements alone it cannot tell where that was.
        sampler: a key of `SAMPLERS`, or a sampler.
        sigmas: (n_levels + 1,) noise levels to walk down [length].
        conditions: (n_samples, 3), k, phi and temperature; None for a model of one structure.
        n_samples: number of samples.
        n_particles: particles in each.
        box_length: edge of the periodic cube [length], or None for free space.
        seed: of all randomness.
        device: where to compute.
        relax: see `sampling.Sampler`.

    Yields:
        The sampler's frames; the last one holds the samples, (n_samples, n_particles, 3).

    Raises:
        TypeError, ValueError: an unknown sampler, conditions of another shape, one that needs
            `relax` without it, or another argument of another kind or out of its range.
    """
    sampler = _known(sampler)
    n_samples = arguments.whole("n_samples", n_samples, at_least=1)
    device = arguments.device(device)
    if conditions is not None:
        conditions = arguments.conditions(conditions, n_samples).to(device, torch.float32)
    sigmas = arguments.tensor("sigmas", sigmas, ("n_levels + 1",))
    generator = torch.Generator(device).manual_seed(arguments.seed(seed))
    start = pure_noise(n_samples, n_particles, box_length, sigmas[-1].item(), generator)
    center = box_length is None and getattr(denoiser, "relative", False)
    return sampler(denoiser, start, sigmas, generator, conditions, box_length, center, relax)
