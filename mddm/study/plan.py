"""What is annealed: the conditions of the study and the runs of each of its data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mddm.condition import RANGES
from mddm.potential import OscillatingPair, Smoothed

# The paper's ranges, closed on the left: ten values each.
K_GRID = tuple(round(1 + 1.4 * i, 1) for i in range(10))
PHI_GRID = tuple(round(0.6 * i, 1) for i in range(10))
TEMPERATURE_GRID = tuple(round(0.01 + 0.004 * i, 3) for i in range(10))
_TEST_SEED = 250131
# The one configuration of the unconditional task: k, phi, temperature.
UNCONDITIONAL = (K_GRID[4], PHI_GRID[7], TEMPERATURE_GRID[1])
# The data sets, and the sweep that makes each: `mddm data make NAME`.
FILES = {
    "small": "data/opp-small.h5",
    "lengths": "data/opp-lengths.h5",
    "ramps": "data/opp.h5",
    "replica": "data/opp-replica.h5",
}
# So many of the ramps' potentials are annealed faster, too.
N_LENGTHS = 20


@dataclass(frozen=True)
class Run:
    """One system to be cooled from a random start.

    Args:
        name: of its file; unique in a sweep.
        k: spatial frequency of the potential [1 / length].
        phi: phase of the potential [rad].
        temperatures: the harvests' targets, hottest first [energy].
        seed: of the start and of the thermostat.
        split: "train", "test" or "replica".
        n_steps_first: MD steps from the random start to the first harvest.
        n_steps_between: MD steps from each harvest to the next.
        start_temperature: where the cooling begins [energy].
        n_kept: how many of the last harvests are part of the data set.
    """

    name: str
    k: float
    phi: float
    temperatures: tuple[float, ...]
    seed: int
    split: str
    n_steps_first: int
    n_steps_between: int
    start_temperature: float
    n_kept: int = 1

    @property
    def potential(self) -> Smoothed:
        """The smoothed potential."""
        return Smoothed(OscillatingPair(self.k, self.phi))

    def steps_after(self, n_harvests: int) -> int:
        """Return the MD steps behind the given number of harvests."""
        return self.n_steps_first + (n_harvests - 1) * self.n_steps_between if n_harvests else 0


def test_conditions(n: int = 25) -> list[tuple[float, float, float]]:
    """Return the first n of the test set's (k, phi, temperature), drawn uniformly once for all."""
    low, high = np.array(list(RANGES.values())).T
    drawn = np.random.default_rng(_TEST_SEED).uniform(low, high, (n, 3))
    return [tuple(row) for row in drawn.round(4).tolist()]


def small_runs(n_steps: int = 20_000) -> list[Run]:
    """Return the anneals of data/opp-small.h5: 18 training, 4 test and 8 replica runs."""

    def run(name, condition, seed, split):
        k, phi, temperature = condition
        return Run(name, k, phi, (temperature,), seed, split, n_steps, 0, 10 * temperature)

    grid = [
        (k, phi, temperature)
        for k in K_GRID[0::4]
        for phi in PHI_GRID[1::3]
        for temperature in TEMPERATURE_GRID[1::7]
    ]
    tests = test_conditions(4)
    # Every fifth training point: another k, phi and temperature each time.
    again = grid[::5] + tests
    runs = [run(f"train-{i:02}", row, i, "train") for i, row in enumerate(grid)]
    runs += [run(f"test-{i:02}", row, 100 + i, "test") for i, row in enumerate(tests)]
    runs += [run(f"replica-{i:02}", row, 200 + i, "replica") for i, row in enumerate(again)]
    return runs


def ramp_runs(n_steps_first: int = 300_000, n_steps_between: int = 12_000) -> list[Run]:
    """Return the slow ramps from T = 0.5, in an order whose every beginning spans (k, phi) evenly.

    A ramp a grid point of (k, phi), harvested at the ten grid temperatures; the same again with
    another seed for ten of them; and two ramps, harvested at their end, for each of the 25 test
    conditions.
    """
    steps = (n_steps_first, n_steps_between, 0.5)
    cooling = TEMPERATURE_GRID[::-1]
    points = _spread_out([(i, j) for i in range(10) for j in range(10)])
    grid, replicas, tests, tests_again = [], [], [], []
    for i, j in points:
        name, seed = f"k{i}-phi{j}", 1000 + 10 * i + j
        grid.append(Run(name, K_GRID[i], PHI_GRID[j], cooling, seed, "train", *steps, 10))
    for run in grid[:10]:
        again = {"name": f"{run.name}-again", "seed": run.seed + 1000, "split": "replica"}
        replicas.append(replace(run, **again))
    for i, (k, phi, temperature) in enumerate(test_conditions()):
        stations = (*(station for station in cooling if station > temperature), temperature)
        tests.append(Run(f"test{i:02}", k, phi, stations, 3000 + i, "test", *steps))
        again = f"test{i:02}-again"
        tests_again.append(Run(again, k, phi, stations, 4000 + i, "replica", *steps))
    # What `length_runs` is held against comes first.  Then each group advances at a steady pace,
    # and is complete after this share of the rest.
    first, rest = grid[:N_LENGTHS], grid[N_LENGTHS:]
    groups = ((rest, 1), (tests, 0.3), (tests_again, 0.6), (replicas, 1))
    paced = [
        (share * (i + 0.5) / len(group), order, run)
        for order, (group, share) in enumerate(groups)
        for i, run in enumerate(group)
    ]
    return first + [run for _, _, run in sorted(paced, key=lambda entry: entry[:2])]


def replica_runs() -> list[Run]:
    """Return the ramp of `ramp_runs` to the `UNCONDITIONAL` configuration, with another seed."""
    k, phi, temperature = UNCONDITIONAL
    (ramp,) = (run for run in ramp_runs() if (run.k, run.phi, run.split) == (k, phi, "train"))
    stations = tuple(station for station in ramp.temperatures if station >= temperature)
    changes = {"name": f"{ramp.name}-again", "seed": ramp.seed + 1000, "split": "replica"}
    return [replace(ramp, temperatures=stations, n_kept=1, **changes)]


def length_runs(lengths: Sequence[int] = (3_000, 10_000, 30_000, 100_000)) -> list[Run]:
    """Return the first 20 ramps' ways to their first harvest, but faster.

    Each is what `ramp_runs` begins with, but for the number of steps and the seed.
    """
    runs = []
    for exponent, n_steps in enumerate(lengths):
        for index, ramp in enumerate(ramp_runs()[:N_LENGTHS]):
            changes = {"name": f"{ramp.name}-{n_steps}", "temperatures": ramp.temperatures[:1]}
            changes |= {"seed": 5000 + 100 * exponent + index, "split": "test"}
            changes |= {"n_steps_first": n_steps, "n_steps_between": 0, "n_kept": 1}
            runs.append(replace(ramp, **changes))
    return runs


# What each data set of `FILES` is made of.
RUNS = {
    "small": small_runs,
    "lengths": length_runs,
    "ramps": ramp_runs,
    "replica": replica_runs,
}


def _spread_out(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    places = np.array(points, dtype=float)
    order = [int(((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(order) < len(points):
        distance = np.minimum(distance, ((places - places[order[-1]]) ** 2).sum(axis=1))
        order.append(int(distance.argmax()))
    return [points[index] for index in order]
