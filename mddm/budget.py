"""What some seconds buy: samples, and a quench in what is left.

A sample is cheap, and a crystal more often than a quench of its price; where MD comes to a glass,
the quench is closer.  Which of them it is, the samples tell (`trust.answer`).  Where what is stable
is asked for, lattices count, too, and a crystal is healed in what is left.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from mddm import arguments, lammps, lattices, structure, trust
from mddm.potential import Smoothed
from mddm.samplers import SAMPLERS, Held
from mddm.sampling import Frame, Sampler

# What a quench spends on getting its random start to rest, and what a structure needs to get to
# rest, in MD steps of the same time.
_STARTING, _RELAXING = 3000, 400
# On a particle, root of the mean square, at which a structure is at rest [energy / length]: its
# energy is right to 1e-4, for a third of the seconds that a minimum takes.
_AT_REST = 0.03
# MD steps of the shortest quench and of the longest; and what a lattice is held for.
_SHORTEST, _LONGEST, _HELD = 100, 300_000, 4000
# MD steps after which a glass is told from what may become a crystal, and how ordered that is then.
_BRIEF, _PROMISING = SAMPLERS["settled"].n_steps, 0.3
# A quench ends before the budget does, at this part of what is left: some steps take longer.
_CAREFUL = 0.9
# Steps by which MD is timed.
_TIMED = 200
# Frames after which the time that a sample takes is guessed.
_FEW = 5
# The part of the budget in which another sample is begun where so far most are crystals, as many as
# not, and fewer: those are for nothing where a quench is the answer.
_SAMPLED = {1: _CAREFUL, 0: 2 / 3, -1: 1 / 4}
# Where crystals lead by so many, what is left heals the best of them, if it is for at least so many
# MD steps: in fewer, few defects go.  Each takes as long as two of those by which MD is timed, for
# neighbours change soon.
_SURE, _HEALING, _HOT = 4, 10_000, 2
SAMPLE, QUENCH, LATTICE, HEALED = "sample", "quench", "lattice", "healed"


@dataclass(frozen=True)
class Candidate:
    """A structure that may be the answer.

    Args:
        name: what it is: "sample", "quench" or "lattice", or "healed", which was one of the others.
        positions: (n_particles, 3) float32 at the temperature [length].
        energy_at_rest: potential energy per particle in the nearest minimum [energy].
        crystallinity: see `structure.crystallinity`.
        seconds: that it took, getting to rest included.
        n_steps: of MD; 0 for a sample.
    """

    name: str
    positions: np.ndarray
    energy_at_rest: float
    crystallinity: float
    seconds: float
    n_steps: int = 0


def brief(sampler: Sampler) -> tuple[Sampler, int]:
    """Part the MD steps that a sampler holds samples for, so that few of them are lost on glasses.

    Args:
        sampler: that a sample is to be drawn by.

    Returns:
        One that holds them for as many steps as `settled` does, and the steps that are left; of a
        sampler that holds them for no more or not at all, the same, and 0.
    """
    if not isinstance(sampler, Held) or sampler.n_steps <= _BRIEF:
        return sampler, 0
    return replace(sampler, n_steps=_BRIEF), sampler.n_steps - _BRIEF


def within(
    budget: float,
    draw: Callable[[int], Iterator[Frame]],
    potential: Smoothed,
    temperature: float,
    *,
    n_particles: int = 1000,
    box_length: float = 10.0,
    seed: int = 0,
    held_on: int = 0,
    stable: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Candidate]:
    """Find structures within some seconds, and put the answer first.

    Most samples say whether MD comes to a crystal.  If so, all of the seconds are for samples, and
    the answer is the lowest at rest of the crystals.  If not, it is a quench in what is left.

    What is stable is the lowest at rest of all: samples, the lattice of lowest free energy, held at
    the temperature, and either a quench, or the best sample healed (`lammps.heal`) where crystals
    lead by four and enough of the seconds are left.

    Args:
        budget: seconds, at least what a quench of 100 steps takes.
        draw: gives the frames of sample number 0, 1, ..., as from `samplers.draw`; they are left
            off where they would take too long.
        potential: what the structure is of.
        temperature: [energy].
        n_particles: of the system.
        box_length: edge of its periodic cube [length].
        seed: of the quench, and of healing.
        held_on: MD steps for which samples that look like crystals are held at the temperature, as
            from `brief`; or as many as there is time for.
        stable: whether to answer what is stable, and not what MD comes to.
        clock: that the seconds are of.

    Returns:
        The candidates: the answer, then all others, the lowest in energy at rest first.

    Raises:
        TypeError, ValueError: an argument of another kind or out of its range.
        ImportError, RuntimeError: LAMMPS is not there or fails.

    Source: this study.
    """
    budget = arguments.number("budget", budget, above=0)
    arguments.instance("potential", potential, Smoothed, "wrap it: Smoothed(potential)")
    temperature = arguments.number("temperature", temperature, above=0)
    n_particles = arguments.whole("n_particles", n_particles, at_least=2)
    box_length, seed = arguments.box(box_length), arguments.seed(seed, bits=31)
    start, found = clock(), []

    def add(name, positions, begun, n_steps=0):
        force = _AT_REST * n_particles**0.5
        _, energy, _ = lammps.minimize(positions, potential, box_length, tolerance=force)
        ordered = structure.crystallinity(positions, box_length)
        spent = clock() - begun
        found.append(Candidate(name, positions, energy, ordered, spent, n_steps))

    def is_crystal(candidate):
        return candidate.crystallinity > structure.CRYSTAL

    def held(positions, n_steps):
        size = {"box_length": box_length}
        return lammps.hold(potential, positions, temperature, n_steps, seed, **size).positions

    if stable:
        crystal = lattices.stable(potential, n_particles, box_length, temperature, 1)[0].crystal
        add(LATTICE, held(crystal.positions, _HELD), start, _HELD)
    a_step = _seconds_a_step(potential, temperature, n_particles, box_length, clock)

    def steps_left(now, besides=_RELAXING):
        return int(min(_CAREFUL * (start + budget - now) / a_step - besides, _LONGEST))

    number, lead, longest = 0, 0, 0.0
    while not number or clock() + longest < start + _SAMPLED[np.sign(lead)] * budget:
        begun = clock()
        if stable and lead >= _SURE and steps_left(begun) >= _HOT * _HEALING:
            break
        # A first sample that is left off costs a quench instead.
        instead = 0.0 if found else (_STARTING + _SHORTEST + _RELAXING) * a_step
        deadline = start + budget - (_BRIEF + _RELAXING) * a_step
        sample = _sample(draw(number), deadline, instead, clock)
        if sample is None:
            break
        n_steps = min(held_on, int((start + budget - clock()) / a_step) - _RELAXING)
        if n_steps > 0 and structure.crystallinity(sample, box_length) > _PROMISING:
            sample = held(sample, n_steps)
        add(SAMPLE, sample, begun)
        number, lead = number + 1, lead + (1 if is_crystal(found[-1]) else -1)
        longest = max(longest, clock() - begun)
    begun = clock()
    n_steps = steps_left(begun, _STARTING + _RELAXING)
    if (lead <= 0 and n_steps >= _SHORTEST) or not found:
        n_steps = max(n_steps, _SHORTEST)
        quench = lammps.anneal(
            potential,
            temperature,
            n_steps,
            seed,
            n_particles=n_particles,
            box_length=box_length,
        )
        add(QUENCH, quench.positions, begun, n_steps)
    chosen = min(found, key=lambda candidate: candidate.energy_at_rest)
    if number and not stable:
        ordered = [each.crystallinity for each in found]
        at_rest = [each.energy_at_rest for each in found]
        chosen = found[trust.answer(ordered, at_rest, quenched=found[-1].name == QUENCH)]
    begun = clock()
    n_steps = steps_left(begun) // _HOT
    if stable and lead >= _SURE and n_steps >= _HEALING:
        # A lattice has no defects.
        best = min(filter(is_crystal, found[-number:]), key=lambda each: each.energy_at_rest)
        size = {"box_length": box_length}
        healed = lammps.heal(potential, best.positions, temperature, n_steps, seed, **size)
        add(HEALED, healed.positions, begun, n_steps)
        if found[-1].energy_at_rest < chosen.energy_at_rest and is_crystal(found[-1]):
            chosen = found[-1]
    spent = clock() - start
    if spent > 1.5 * budget:
        warnings.warn(f"a budget of {budget:g} s took {spent:.0f} s", stacklevel=2)
    others = (candidate for candidate in found if candidate is not chosen)
    return [chosen, *sorted(others, key=lambda candidate: candidate.energy_at_rest)]


def _sample(frames, deadline, instead, clock) -> np.ndarray | None:
    start = clock()
    for number, frame in enumerate(frames, start=1):
        left = (clock() - start) / number * frame.n_left
        # What has come to its last frame is not thrown away for a guess.
        if number >= _FEW and frame.n_left > 1 and clock() + left > deadline and left > instead:
            return None
    return frame.positions[0].cpu().numpy()


def _seconds_a_step(potential, temperature, n_particles, box_length, clock) -> float:
    """Measure how long an MD step takes, on what is no structure of interest."""
    side = int(np.ceil(n_particles ** (1 / 3)))
    axis = (np.arange(side) + 0.5) * box_length / side
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)[:n_particles]
    taken = []
    for n_steps in (1, 1 + _TIMED):
        begun = clock()
        # The grid is no structure of the potential's: it is not given the time to fall apart.
        how = {"box_length": box_length, "time_step": 1e-5}
        lammps.hold(potential, grid, temperature, n_steps, 0, **how)
        taken.append(clock() - begun)
    # The difference of two times is uncertain, and too short a step costs more than too long a one.
    return max(taken[1] - taken[0], taken[1] / 4) / _TIMED
