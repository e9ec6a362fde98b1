"""The best structure that some seconds buy: samples, a quench in what is left, the lowest of all.

A sample is cheap and right more often than a quench of its price; where the network is at a loss,
the quench is better.  Which of them it is, the energy at rest tells.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mddm import arguments, lammps, lattices, structure
from mddm.potential import Smoothed
from mddm.sampling import Frame

# What a quench spends on getting its random start to rest, and what a structure needs to get to
# rest, in MD steps of the same time.
_STARTING, _RELAXING = 3000, 1500
# MD steps of the shortest quench and of the longest; and what a sample or a lattice is held for.
_SHORTEST, _LONGEST, _HELD = 100, 300_000, 4000
# A quench ends before the budget does, at this part of what is left: some steps take longer.
_CAREFUL = 0.9
# Steps by which MD is timed.
_TIMED = 400
# Frames after which the time that a sample takes is guessed.
_FEW = 5
# The part of the budget in which another sample is begun.
_SAMPLED = 0.5
SAMPLE, QUENCH, LATTICE = "sample", "quench", "lattice"


@dataclass(frozen=True)
class Candidate:
    """A structure that may be the answer.

    Args:
        name: what it is: "sample", "quench" or "lattice".
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


def within(
    budget: float,
    draw: Callable[[int], Iterator[Frame]],
    potential: Smoothed,
    temperature: float,
    *,
    n_particles: int = 1000,
    box_length: float = 10.0,
    seed: int = 0,
    stable: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Candidate]:
    """Find structures within some seconds, and put the one of lowest energy at rest first.

    Args:
        budget: seconds, at least what a quench of 100 steps takes.
        draw: gives the frames of sample number 0, 1, ..., as from `samplers.draw`.  There is more
            than one where half of the budget is enough for them; frames are left off where they
            would take too long.
        potential: what the structure is of.
        temperature: [energy].
        n_particles, box_length: of the system [length].
        seed: of the quench.
        stable: whether the lattice of lowest free energy, held at the temperature, will do too: the
            answer to what is stable, and not to what MD comes to.
        clock: that the seconds are of.

    Returns:
        The candidates, the lowest in energy at rest first.

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
        _, energy, _ = lammps.minimize(positions, potential, box_length)
        ordered = structure.crystallinity(positions, box_length)
        spent = clock() - begun
        found.append(Candidate(name, positions, energy, ordered, spent, n_steps))

    if stable:
        crystal = lattices.stable(potential, n_particles, box_length, temperature, 1)[0].crystal
        held = lammps.hold(
            potential, crystal.positions, temperature, _HELD, seed, box_length=box_length
        )
        add(LATTICE, held.positions, start, _HELD)
    a_step = _seconds_a_step(potential, temperature, n_particles, box_length, clock)
    number, longest = 0, 0.0
    while not number or clock() + longest < start + _SAMPLED * budget:
        begun = clock()
        sample = _sample(draw(number), start + budget - (_HELD + _RELAXING) * a_step, clock)
        if sample is None:
            break
        add(SAMPLE, sample, begun)
        number, longest = number + 1, max(longest, clock() - begun)
    begun = clock()
    left = _CAREFUL * (start + budget - begun) / a_step
    n_steps = int(min(left - _STARTING - _RELAXING, _LONGEST))
    if n_steps >= _SHORTEST or not found:
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
    spent = clock() - start
    if spent > 1.5 * budget:
        warnings.warn(f"a budget of {budget:g} s took {spent:.0f} s", stacklevel=2)
    return sorted(found, key=lambda candidate: candidate.energy_at_rest)


def _sample(frames, deadline, clock) -> np.ndarray | None:
    start = clock()
    for number, frame in enumerate(frames, start=1):
        a_frame = (clock() - start) / number
        # What has come to its last frame is not thrown away for a guess.
        if number >= _FEW and frame.n_left > 1 and clock() + a_frame * frame.n_left > deadline:
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
