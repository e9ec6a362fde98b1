"""The front door: a trained model by its name, and structures that are drawn from it.

A structure in three lines::

    import mddm

    model = mddm.load("bragg")
    found = model.sample(k=9.0, phi=0.75, temperature=0.02, n_samples=4, seed=0)
    found.write("found.gsd")
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mddm import (
    arguments,
    checkpoint,
    encoding,
    files,
    lammps,
    noise,
    presets,
    samplers,
    sampling,
    seeded,
    trust,
)
from mddm.budget import brief, within
from mddm.card import Card
from mddm.potential import Smoothed
from mddm.relaxing import Relaxing
from mddm.structures import Structures
from mddm.trust import Difference

# The study's models come with the package.
TRAINED = Path(__file__).parent / "trained"
# Noise levels of a sampler that is not told how many, and of algorithm 2.
_N_LEVELS, _N_LEVELS_ANCESTRAL = 40, 500
# The sampler that begins at a lattice, and needs a condition to choose it.
_SEEDED = "seeded"


def models() -> list[Card]:
    """List the models that come with the package."""
    return [load(name).card for name in sorted(_trained())]


def _trained() -> dict[str, Path]:
    # An unfinished training of a checkout lies there too, as NAME.state.safetensors.
    paths = TRAINED.glob("*-*.safetensors")
    return {path.stem: path for path in paths if "." not in path.stem}


def load(name: str | Path, device: torch.device | str = "cpu") -> "Model":
    """Load a trained model.

    Args:
        name: of a model that comes with the package, such as "bragg" or "unconditional-bragg"
            (`models` lists them); or the path of a checkpoint.
        device: where it computes.

    Raises:
        ValueError: an unknown name, a file that is no checkpoint, or of a network that was never
            trained, or a device that is not there.
        FileNotFoundError: no such file.
    """
    device = arguments.device(device)
    path = arguments.path(name, "name")
    if path.suffix != ".safetensors":
        known = _trained()
        known |= {
            stem.removeprefix("conditional-"): path
            for stem, path in known.items()
            if stem.startswith("conditional-")
        }
        path = known[arguments.choice("name", str(name), sorted(known))]
    denoiser, header = checkpoint.load(path)
    settings = presets.Settings(**header["settings"])
    if header["n_particles"] is None:
        raise ValueError(f"{path} was saved before its first step of training; train it")
    card = Card(
        name=path.stem,
        preset=settings.preset,
        ranges=settings.ranges,
        potential=checkpoint.potential_of(header),
        n_particles=header["n_particles"],
        box_length=header["box_length"],
        n_parameters=sum(value.numel() for value in denoiser.parameters()),
        steps=header["step"],
        told=settings.told,
        source=files.named_with_hash(path),
    )
    return Model(card, denoiser.to(device), settings, device)


@dataclass(frozen=True)
class Model:
    """A trained model, ready to draw from; `load` makes it.

    Args:
        card: what it is and knows.
        denoiser: its network.
        settings: what it was trained with.
        device: where it computes.
    """

    card: Card
    denoiser: torch.nn.Module
    settings: presets.Settings
    device: torch.device

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers that it can be asked with, its best one first."""
        best, names = samplers.BEST[self.card.preset], list(samplers.SAMPLERS)
        if "temperature" in self.card.ranges:
            best = samplers.BEST_AT_T[self.card.preset]
        if self.card.told == "potential":
            best = samplers.BEST_TOLD
        if self.card.box_length is None:
            best = samplers.BEST_IN_FREE_SPACE
            names = [name for name in names if not samplers.SAMPLERS[name].asks_potential]
        elif "temperature" in self.card.ranges:
            names.append(_SEEDED)
        else:
            names = [name for name in names if not samplers.SAMPLERS[name].asks_temperature]
        return tuple(dict.fromkeys((best, *names)))

    def sample(
        self,
        *,
        k: float | None = None,
        phi: float | None = None,
        temperature: float | None = None,
        n_samples: int = 1,
        seed: int = 0,
        n_particles: int | None = None,
        box_length: float | None = None,
        sampler: str | sampling.Sampler | None = None,
        n_levels: int | None = None,
        potential: Smoothed | None = None,
        budget: float | None = None,
        what: str | None = None,
        n_steps: int | None = None,
        extrapolate: bool = False,
        progress: bool = True,
        **numbers: float,
    ) -> Structures:
        """Draw structures.

        Args:
            k: spatial frequency of the potential [1 / length].
            phi: its phase [rad]; whole turns are taken off.
            temperature: [energy].  A model of one structure is asked without these three.
            n_samples: how many.
            seed: of the first; the next have the next seeds, and each is the same whatever it is
                drawn together with.
            n_particles: in each; as in training by default.  Of 8, 27, 64, ... times as many, or
                about so many, a smaller sample is repeated and drawn again from noise by samplers
                that are asked for by name, see `samplers.Repeated`.
            box_length: edge of the periodic cube [length]; by default what gives the density of
                training, and no other density will do.
            sampler: one of `samplers`, or one with settings of your own, see `mddm.samplers`; by
                default the first of them, the best.
            n_levels: noise levels of the sampler: 40 by default, the paper's 500 for its own;
                "quick", "chilled", "settled" and "held" have theirs.
            potential: what a sampler that asks it relaxes under, whose lattices "seeded" begins at,
                and what energies are of; by default that of k and phi.  A model that is told
                potentials needs it, with a temperature.
            budget: seconds; with it, the answer is the lowest in energy at rest of as many samples
                as they are enough for where most are crystals, and elsewhere a quench in the time
                that is left, see `budget.within`.  Where what is "stable" is asked for, it is the
                lowest of all, of a lattice, and of a crystal healed in that time.
            what: of a model that is told potentials: "anneal", what MD comes to, the default, or
                "stable", the crystal that MD may miss.
            n_steps: likewise, MD steps of the anneal; as many as the study's by default.
            extrapolate: whether a condition outside of the ranges of training will do.
            progress: whether to say on stderr how far along it is.
            numbers: of a condition of other names, those of `card.ranges`.

        Raises:
            TypeError, ValueError: a condition that is missing, or that the model does not know;
                another argument of another kind or out of its range.
            ImportError, RuntimeError: LAMMPS, which relaxes, is not there or fails.
        """
        condition = {"k": k, "phi": phi, "temperature": temperature} | numbers
        condition = self.card.take_condition(condition, potential, extrapolate)
        asked = {"what": what, "n_steps": n_steps}
        asked = {name: value for name, value in asked.items() if value is not None}
        if asked and self.card.told != "potential":
            raise ValueError(
                f"{self.card.name!r} knows anneals of the study alone; leave out {', '.join(asked)}"
            )
        n_samples = arguments.whole("n_samples", n_samples, at_least=1)
        seed = arguments.seed(seed, bits=31)
        n_particles, box_length = self.card.take_size(n_particles, box_length)
        if sampler is None:
            sampler = self.samplers[0]
        times = 1
        if not isinstance(sampler, sampling.Sampler):
            sampler = arguments.choice("sampler", sampler, self.samplers)
            sampler = samplers.SAMPLERS.get(sampler, sampler)
            if sampler != _SEEDED:
                times = self.card.times_training(n_particles, box_length)
                sampler = samplers.repeated(sampler, times)
        self.card.warn_of_size(n_particles, box_length, times)
        if getattr(sampler, "asks_temperature", False) and "temperature" not in condition:
            raise ValueError(f"{self.card.name!r} knows no temperature, at which to hold a sample")
        if n_levels is not None and getattr(sampler, "own_levels", False):
            raise ValueError(
                f"this sampler has noise levels of its own; leave out n_levels = {n_levels}"
            )
        if n_levels is None:
            plain = isinstance(sampler, sampling.Ancestral) and not sampler.correctors
            n_levels = _N_LEVELS_ANCESTRAL if plain else _N_LEVELS
        n_levels = arguments.whole("n_levels", n_levels, at_least=2)
        if potential is None:
            potential = self._potential(condition)
        found = Structures(np.empty((0, 0, 3)), box_length, condition, potential)
        if sampler in samplers.SAMPLERS.values() and asked.keys() <= {"what"} and what != "stable":
            source = trust.source_of(self.card.source, samplers.name_of(sampler))
            found = replace(found, source=source)
        if sampler == _SEEDED or sampler.asks_potential or potential is not None:
            found.known_potential(potential)
        levels = (self.settings.sigma_min, self.settings.sigma_max)
        sigmas = noise.make_schedule("log", n_levels, *levels)
        if budget is not None:
            return self._within(budget, found, asked, sampler, sigmas, n_samples, n_particles, seed)
        start, drawn = time.perf_counter(), []
        for number in range(n_samples):
            frames = self._frames(found, asked, sampler, sigmas, n_particles, seed + number)
            final = _watch(frames, number, n_samples, start, progress)
            drawn.append(final.positions[0].cpu().numpy())
        seconds = (time.perf_counter() - start) / n_samples
        return replace(found, positions=np.stack(drawn), calls=final.calls, seconds=seconds)

    def answer(
        self,
        found: Structures,
        seed: int = 0,
        n_steps: int = trust.QUENCH_STEPS,
        what: str = encoding.ANSWERS[0],
    ) -> tuple[Structures, Difference]:
        """Choose among several samples and a quench (`trust.answer`): how good is what is chosen?

        Args:
            found: at least three samples of one condition, drawn from this model, which is one
                that is told potentials.  How far they differ from MD is known of the package's own
                model and its best sampler alone.
            seed: of the quench.
            n_steps: of the quench; what is said is for those of the default.
            what: the samples were asked for; of "stable" ones the lowest at rest is chosen.

        Returns:
            What is chosen, and what it is thought to differ from MD by.

        Raises:
            ValueError: another model, fewer than three samples, or an unknown `what`.
            ImportError, RuntimeError: LAMMPS is not there or fails.
        """
        if self.card.told != "potential":
            raise ValueError(
                f"what samples of {self.card.name!r} are worth is in the book, in the chapter on "
                "evaluation; this is for models that are told potentials"
            )
        stable = arguments.choice("what", what, encoding.ANSWERS) == "stable"
        potential, box_length = found.known_potential(), found.periodic_box()
        ordered, at_rest = found.crystallinity(), found.relax().energies
        # Before the quench, which takes the longest.
        trust.evidence(ordered, at_rest, 0.0, potential)
        size = {"n_particles": found.positions.shape[1], "box_length": box_length}
        temperature = found.condition["temperature"]
        quench = lammps.anneal(potential, temperature, n_steps, seed, **size).positions[None]
        quenched = replace(found, positions=quench)
        energy = quenched.relax().energies
        known = trust.evidence(ordered, at_rest, energy[0], potential)
        energies = np.append(at_rest, energy)
        chosen = trust.answer(np.append(ordered, quenched.crystallinity()), energies)
        if stable:
            chosen = int(energies.argmin())
        difference = trust.Calibration.read(TRAINED / trust.FILE).judge(known, found.source)
        both = np.concatenate([found.positions, quench])
        return replace(found, positions=both[chosen : chosen + 1]), difference

    def _within(self, seconds, system, asked, sampler, sigmas, n_samples, n_particles, seed):
        if n_samples != 1:
            raise ValueError(f"a budget is for one structure, got n_samples = {n_samples}")
        if "temperature" not in system.condition:
            raise ValueError(f"a budget needs a temperature, which {self.card.name!r} is not told")
        start = time.perf_counter()
        sampler, held_on = brief(sampler)
        candidates = within(
            seconds,
            lambda number: self._frames(system, asked, sampler, sigmas, n_particles, seed + number),
            system.known_potential(),
            system.condition["temperature"],
            n_particles=n_particles,
            box_length=system.periodic_box(),
            seed=seed,
            held_on=held_on,
            stable=asked.get("what") == "stable",
        )
        return replace(
            system,
            positions=candidates[0].positions[None],
            candidates=tuple(candidates),
            seconds=time.perf_counter() - start,
        )

    def _frames(
        self, system, asked, sampler, sigmas, n_particles, seed
    ) -> Iterator[sampling.Frame]:
        # One sample at a time: a CPU gains nothing by batches, and rounding depends on them.
        conditions = self._told(system, asked)
        if sampler == _SEEDED:
            size = (n_particles, system.box_length, system.condition["temperature"])
            told = (sigmas, conditions, seed)
            return seeded.draw(self.denoiser, system.potential, *size, *told, device=self.device)
        size = (1, n_particles, system.box_length, seed, self.device)
        relax = None
        if sampler.asks_potential:
            temperature = system.condition.get("temperature")
            relax = Relaxing(system.potential, system.box_length, temperature)
        return samplers.draw(self.denoiser, sampler, sigmas, conditions, *size, relax)

    def _told(self, system: Structures, asked: Mapping) -> torch.Tensor | None:
        if not self.card.ranges:
            return None
        if self.card.told == "potential":
            return encoding.encode(system.potential, **system.condition, **asked)[None]
        return torch.tensor([list(system.condition.values())])

    def _potential(self, condition: Mapping[str, float]) -> Smoothed | None:
        family = self.card.potential
        return None if family is None else family.at(condition)


def _watch(frames, number: int, n_samples: int, start: float, progress: bool) -> sampling.Frame:
    """Run a sampler to its end, and say after each five seconds how far along it is."""
    due = time.perf_counter() + 5
    total = None
    for frame in frames:
        total = frame.n_left + 1 if total is None else total
        if progress and time.perf_counter() >= due:
            due = time.perf_counter() + 5
            so_far = time.perf_counter() - start
            done = number + (total - frame.n_left) / (total + 1)
            print(
                f"sample {number + 1}/{n_samples}, noise {frame.sigma:.3g}, {so_far:.0f} s so far, "
                f"about {so_far / done * (n_samples - done):.0f} s to go",
                file=sys.stderr,
                flush=True,
            )
    return frame
