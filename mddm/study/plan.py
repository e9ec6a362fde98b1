"""What is annealed: the conditions of the study and the runs of each of its data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mddm.condition import RANGES
from mddm.family import Family
from mddm.potential import Smoothed, energy_scale

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
    "any": "data/any.h5",
    "named": "data/named.h5",
    "tests": "data/opp-tests.h5",
    "again": "data/opp-again.h5",
    "drawn": "data/opp-drawn.h5",
    "opp-stable": "data/opp-stable.h5",
    "any-stable": "data/any-stable.h5",
    "any-stable-rest": "data/any-stable-rest.h5",
}
# Those whose positions are rounded: they are large.
ROUNDED = ("any", "drawn")
# So many of the ramps' potentials are annealed faster, too.
N_LENGTHS = 20
# Potentials that nobody trains on; sizes are such that their usual densities are 1.
NAMED = {
    "lennard-jones": Family("lennard-jones"),
    "morse, wide": Family("morse", {"alpha": 6.0, "r_0": 1.1}),
    "morse, narrow": Family("morse", {"alpha": 14.0, "r_0": 1.1}),
    "yukawa": Family("yukawa", {"epsilon": 4.0}),
    "inverse-power": Family("inverse-power"),
    "dzugutov": Family("dzugutov", {"size": 0.958}),
    "lennard-jones-gauss, near": Family("lennard-jones-gauss", {"r_0": 1.42}),
    "lennard-jones-gauss, far": Family("lennard-jones-gauss", {"r_0": 1.52}),
    "shoulder": Family("shoulder", {"size": 0.85, "edge": 1.15}),
    "opp-decay": Family("opp-decay", {"k": 7.0, "phi": 2.0}),
}
# How potentials of `random_potentials` are drawn: evenly, or evenly in the logarithm.
_WELLS = {
    "size": (0.85, 1.0),
    "steepness": (10.0, 16.0),
    "tail": (-0.5, 1.5),
    "depth_1": (-0.5, 1.5),
    "r_1": (1.0, 1.5),
    "depth_2": (-1.0, 1.0),
    "r_2": (1.3, 2.0),
    "depth_3": (-0.7, 0.7),
    "r_3": (1.8, 2.7),
}
_WELLS_LOG = {f"width_{i}": (0.06, 0.35) for i in (1, 2, 3)} | {"kappa": (1.0, 4.0)}
_POTENTIAL_SEED, _DRAWN_SEED = 2501, 2502
# So many of them, the first, are what models that are told potentials are judged by.
_N_UNSEEN = 16
# The network told U has learned the lattices of so many of the others; the rest came later.
_N_LEARNED = 135
# Harvests' temperatures, in units of `potential.energy_scale`.
_HARVESTS, _NAMED_HARVESTS = (0.046, 0.026, 0.01), (0.03, 0.01)
# Where cooling begins [energy].
START_TEMPERATURE = 0.5
# Steps to the first harvest and to each that follows, and the temperature of the start [energy].
_SLOW, _FAST = (300_000, 12_000, START_TEMPERATURE), (100_000, 6_000, START_TEMPERATURE)
# Of what begins at a lattice and is only held, at each temperature.
_HELD = (3_000, 3_000, 0.0)
# Which of the first 25 test conditions are crystals (`structure.CRYSTAL`) in the study's data.
CRYSTALS = (1, 4, 5, 6, 7, 9, 10, 13, 15, 16, 17, 18, 19, 21, 23, 24)


@dataclass(frozen=True)
class Run:
    """One system to be cooled from a random start.

    Args:
        name: of its file; unique in a sweep.
        family: its potential, with all parameters.
        temperatures: the harvests' targets, hottest first [energy].
        seed: of the start and of the thermostat.
        split: "train", "test" or "replica".
        n_steps_first: MD steps from the random start to the first harvest.
        n_steps_between: MD steps from each harvest to the next.
        start_temperature: where the cooling begins [energy].
        n_kept: how many of the last harvests are part of the data set.
        start: "random", or "lattice": at each temperature the lattice of lowest free energy is held
            for `n_steps_first`.
    """

    name: str
    family: Family
    temperatures: tuple[float, ...]
    seed: int
    split: str
    n_steps_first: int
    n_steps_between: int
    start_temperature: float
    n_kept: int = 1
    start: str = "random"

    @property
    def potential(self) -> Smoothed:
        """The smoothed potential."""
        return self.family.at({})

    @property
    def k(self) -> float:
        """Spatial frequency of an oscillating potential [1 / length]."""
        return self.family.parameters["k"]

    @property
    def phi(self) -> float:
        """Phase of an oscillating potential [rad]."""
        return self.family.parameters["phi"]

    def steps_after(self, n_harvests: int) -> int:
        """Return the MD steps behind the given number of harvests."""
        return self.n_steps_first + (n_harvests - 1) * self.n_steps_between if n_harvests else 0


def oscillating(k: float, phi: float) -> Family:
    """Return the study's potential of these parameters."""
    return Family("opp", {"k": k, "phi": phi})


def test_conditions(n: int = 25) -> list[tuple[float, float, float]]:
    """Return the first n of the test set's (k, phi, temperature), drawn uniformly once for all."""
    low, high = np.array(list(RANGES.values())).T
    drawn = np.random.default_rng(_TEST_SEED).uniform(low, high, (n, 3))
    return [tuple(row) for row in drawn.round(4).tolist()]


def small_runs(n_steps: int = 20_000) -> list[Run]:
    """Return the anneals of data/opp-small.h5: 18 training, 4 test and 8 replica runs."""

    def run(name, condition, seed, split):
        k, phi, temperature = condition
        family = oscillating(k, phi)
        return Run(name, family, (temperature,), seed, split, n_steps, 0, 10 * temperature)

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
    steps = (n_steps_first, n_steps_between, START_TEMPERATURE)
    cooling = TEMPERATURE_GRID[::-1]
    points = _spread_out([(i, j) for i in range(10) for j in range(10)])
    grid, replicas, tests, tests_again = [], [], [], []
    for i, j in points:
        name, seed = f"k{i}-phi{j}", 1000 + 10 * i + j
        family = oscillating(K_GRID[i], PHI_GRID[j])
        grid.append(Run(name, family, cooling, seed, "train", *steps, 10))
    for run in grid[:10]:
        again = {"name": f"{run.name}-again", "seed": run.seed + 1000, "split": "replica"}
        replicas.append(replace(run, **again))
    for i, condition in enumerate(test_conditions()):
        tests.append(_to(condition, f"test{i:02}", 3000 + i, "test", steps))
        tests_again.append(_to(condition, f"test{i:02}-again", 4000 + i, "replica", steps))
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


def _to(condition, name, seed, split, steps=_SLOW) -> Run:
    """Plan a ramp that holds at every temperature of the grid above that of a condition."""
    k, phi, temperature = condition
    above = [station for station in TEMPERATURE_GRID[::-1] if station > temperature]
    return Run(name, oscillating(k, phi), (*above, temperature), seed, split, *steps)


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


def random_potentials(n: int) -> list[Family]:
    """Draw potentials of all shapes: a core, a tail, and three wells or humps.

    Parameters are those of `formulas.Wells`, taken from a Sobol sequence, so that every beginning
    of the list covers them evenly.  The energy's scale is 1 (`potential.energy_scale`).
    """
    from scipy.stats import qmc

    ends = {**_WELLS, **{name: np.log(ends) for name, ends in _WELLS_LOG.items()}}
    low, high = np.array(list(ends.values())).T
    points = qmc.Sobol(len(ends), rng=_POTENTIAL_SEED).random(1 << (n - 1).bit_length())[:n]
    found = []
    for point in qmc.scale(points, low, high):
        given = dict(zip(ends, point.tolist(), strict=True))
        given |= {name: float(np.exp(given[name])) for name in _WELLS_LOG}
        given = {name: round(value, 4) for name, value in given.items()}
        scale = energy_scale(Family("wells", given).at({}))
        found.append(Family("wells", given | {"epsilon": round(1 / scale, 6)}))
    return found


def any_runs(n: int = 396) -> list[Run]:
    """Return the ramps of random potentials, from T = 0.5 to three temperatures.

    The first 16 are no training data.
    """
    return [
        Run(
            f"any{i:03}", family, _HARVESTS, 10_000 + i, "test" if i < _N_UNSEEN else "train",
            *_FAST, n_kept=len(_HARVESTS),
        )
        for i, family in enumerate(random_potentials(n))
    ]  # fmt: skip


def drawn_runs(n: int = 395) -> list[Run]:
    """Return ramps to three temperatures of n oscillating potentials between those of the grid.

    They are taken from a Sobol sequence, so that every beginning covers the ranges evenly.
    """
    from scipy.stats import qmc

    low, high = np.array([RANGES[name] for name in ("k", "phi")]).T
    points = qmc.Sobol(2, rng=_DRAWN_SEED).random(1 << (n - 1).bit_length())[:n]
    return [
        Run(
            f"drawn{i:03}", oscillating(*point), _HARVESTS, 40_000 + i, "train",
            *_SLOW, n_kept=len(_HARVESTS),
        )
        for i, point in enumerate(qmc.scale(points, low, high).round(4).tolist())
    ]  # fmt: skip


def named_runs() -> list[Run]:
    """Return three ramps of each potential of `NAMED`, held at two temperatures."""
    runs = []
    for again, split in enumerate(("test", "replica", "replica")):
        for i, (name, family) in enumerate(NAMED.items()):
            scale = energy_scale(family.at({}))
            stations = tuple(round(scale * station, 5) for station in _NAMED_HARVESTS)
            run = Run(f"{name.replace(', ', '-')}-{again}", family, stations, 0, split, *_SLOW)
            runs.append(replace(run, seed=20_000 + 100 * again + i, n_kept=len(stations)))
    return runs


def more_test_runs(n: int = 75) -> list[Run]:
    """Return two ramps to each of n more test conditions, those after the first 25."""
    runs = []
    for i, condition in list(enumerate(test_conditions(25 + n)))[25:]:
        runs.append(_to(condition, f"test{i:02}", 3000 + i, "test"))
        runs.append(_to(condition, f"test{i:02}-again", 4000 + i, "replica"))
    return runs


def more_replica_runs(n: int = 8) -> list[Run]:
    """Return n more ramps to each of the `CRYSTALS` among the first 25 test conditions."""
    conditions = test_conditions()
    return [
        _to(conditions[i], f"test{i:02}-again{again}", 6000 + 100 * again + i, "replica")
        for again in range(n)
        for i in CRYSTALS
    ]


def stable_runs(annealed: Sequence[Run], first_seed: int = 30_000) -> list[Run]:
    """Return, for the potential of each of some training runs, its lowest lattices held at T."""
    return [
        Run(
            f"{run.name}-stable", run.family, _HARVESTS, first_seed + i, "train", *_HELD,
            n_kept=len(_HARVESTS), start="lattice",
        )
        for i, run in enumerate(run for run in annealed if run.split == "train")
    ]  # fmt: skip


def _lattices_of_any():
    return stable_runs(any_runs(300), 30_000 + _N_UNSEEN)


# What each data set of `FILES` is made of.
RUNS = {
    "small": small_runs,
    "lengths": length_runs,
    "ramps": ramp_runs,
    "replica": replica_runs,
    "any": any_runs,
    "named": named_runs,
    "tests": more_test_runs,
    "again": more_replica_runs,
    "drawn": drawn_runs,
    "opp-stable": lambda: stable_runs(ramp_runs()),
    "any-stable": lambda: _lattices_of_any()[:_N_LEARNED],
    "any-stable-rest": lambda: _lattices_of_any()[_N_LEARNED:],
}


def _spread_out(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    places = np.array(points, dtype=float)
    order = [int(((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(order) < len(points):
        distance = np.minimum(distance, ((places - places[order[-1]]) ** 2).sum(axis=1))
        order.append(int(distance.argmax()))
    return [points[index] for index in order]
