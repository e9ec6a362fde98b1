"""How a system is annealed, whatever engine runs it: the start, the stages, and what is harvested.

A random start is relaxed, by each engine in its own way, and annealed.  A slow ramp is an anneal to
its hottest temperature, and from each harvest a way to the next.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# A stage is run in this many pieces: points of the trace, and chances to be interrupted.
PIECES = 20
# A system as much hotter than its thermostat has blown up.
_TOO_HOT = 10
# A stage is sampled a hundred times, or at every tenth step.  A step at which the pressure is
# measured takes half as long again.
_SAMPLES, _EVERY = 100, 10


@dataclass(frozen=True)
class Harvest:
    """One configuration that MD arrived at, with what is needed to run on from it.

    Args:
        positions: (n_particles, 3) float32 in [0, box_length) [length].
        velocities: (n_particles, 3) float32 [length / time].
        temperature: the thermostat's target [energy].
        energy: potential energy per particle of exactly these positions [energy].
        kinetic_temperature: mean over the last hold [energy].
        pressure: mean over the last hold [energy / length^3].
        drift: change of the potential energy per particle over the last hold, by a straight
            line through it [energy]: what is still going on.
        n_steps: MD steps since the random start.
        wall_time: time spent on them [s].
        trace: (n_points, 4) of step, kinetic temperature, potential energy per particle and
            pressure, since the previous harvest.
    """

    positions: np.ndarray
    velocities: np.ndarray
    temperature: float
    energy: float
    kinetic_temperature: float
    pressure: float
    drift: float
    n_steps: int
    wall_time: float
    trace: np.ndarray


class Stage(NamedTuple):
    """Some MD steps, in which the thermostat goes linearly from one temperature to another.

    Args:
        begin: the temperature before the first step [energy].
        end: that of the last step [energy].
        n_steps: MD steps.
    """

    begin: float
    end: float
    n_steps: int

    @property
    def hottest(self) -> float:
        """The highest temperature of the thermostat [energy]."""
        return max(self.begin, self.end)

    @property
    def every(self) -> int:
        """Temperature and pressure are sampled once in so many steps."""
        return min(max(self.n_steps // _SAMPLES, 1), _EVERY)

    def has_blown_up(self, kinetic_temperature: float) -> bool:
        """Tell whether a system of this kinetic temperature [energy] at the end has blown up."""
        return not kinetic_temperature < _TOO_HOT * self.hottest

    def drift(self, steps: np.ndarray, energies: np.ndarray) -> float:
        """Return the change over the stage, by a straight line through points of its trace.

        Args:
            steps: (n_points,) MD steps.
            energies: (n_points,) potential energy per particle [energy].

        Returns:
            The change [energy]; nan of a single point.
        """
        if len(steps) < 2:
            return math.nan
        return float(self.n_steps * np.polyfit(steps, energies, 1)[0])


def anneal(start_temperature: float, temperature: float, n_steps: int) -> list[Stage]:
    """Return the stages of an anneal: hold hot, cool linearly, hold at the target.

    A tenth of the steps is spent on either hold.

    Args:
        start_temperature: where the cooling begins [energy].
        temperature: the target [energy].
        n_steps: MD steps, at least 10.

    Source: MDDM section 2.1; the steps' division is ours.
    """
    hold = n_steps // 10
    return [
        Stage(start_temperature, start_temperature, hold),
        Stage(start_temperature, temperature, n_steps - 2 * hold),
        Stage(temperature, temperature, hold),
    ]


def cool(before: float, temperature: float, n_steps: int) -> list[Stage]:
    """Return the stages from a harvest to the next: cool linearly, hold for half of the steps.

    Args:
        before: temperature of the harvest [energy].
        temperature: the new target [energy].
        n_steps: MD steps, at least 2.

    Source: this study.
    """
    hold = n_steps // 2
    return [Stage(before, temperature, n_steps - hold), Stage(temperature, temperature, hold)]


def heal(hottest: float, temperature: float, n_steps: int) -> list[Stage]:
    """Return the stages that a crystal is healed in: hold hot for a third of the steps, cool.

    Args:
        hottest: below where it melts [energy].
        temperature: the target [energy].
        n_steps: MD steps, at least 3.

    Source: this study.
    """
    hold = n_steps // 3
    return [Stage(hottest, hottest, hold), Stage(hottest, temperature, n_steps - hold)]


def generator(seed: int, n_steps: int = 0) -> np.random.Generator:
    """Return the random numbers of a run that goes on after so many MD steps."""
    return np.random.default_rng((seed, n_steps))


def random_start(
    n_particles: int, box_length: float, temperature: float, rng: np.random.Generator
) -> Harvest:
    """Draw particles anywhere in the box, and their velocities, as `start` does.

    Args:
        n_particles: number of particles.
        box_length: edge of the periodic cube [length].
        temperature: of the velocities [energy].
        rng: drawn from, positions first.
    """
    return start(rng.uniform(0, box_length, (n_particles, 3)), temperature, rng)


def start(positions: np.ndarray, temperature: float, rng: np.random.Generator) -> Harvest:
    """Draw velocities for given positions.

    Args:
        positions: (n_particles, 3) [length].
        temperature: of the velocities, whose mean is not taken away [energy].
        rng: drawn from.

    Returns:
        What to run from, in double precision and with nothing measured: nan.
    """
    velocities, unknown = rng.normal(0, temperature**0.5, positions.shape), (math.nan,) * 4
    return Harvest(positions, velocities, temperature, *unknown, 0, 0.0, np.empty(0))
