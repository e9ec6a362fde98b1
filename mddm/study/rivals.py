"""What a model is held against: the ideal gas, MD, and what there is without a model.

Each function scores one thing, against MD of one condition, and returns entries with the columns
of `evaluation.COLUMNS`.
"""

import math

import numpy as np

from mddm import lammps, lammps_process, lattices
from mddm.dataset import Dataset
from mddm.study import evaluation


def yardsticks(data: Dataset, row: int) -> list[dict]:
    """Score the ideal gas, g(r) = 1, and every replica of a row against it.

    Returns:
        Entries with the `COLUMNS` that depend on the sample, replicas as they are and relaxed; the
        ideal gas has no energy.
    """
    source = evaluation.md_source(data)
    entries = [
        entry for partner in data.partners(row) for entry in replica(data, row, data, partner)
    ]
    gas = evaluation.judge(data, row, data.positions[row])
    gas |= {"model": evaluation.IDEAL_GAS, "seed": 0, "rdf_mse": gas["ideal_gas"], "calls": 0}
    gas |= {"energy_gap": math.nan, "crystallinity": 0.0, "source": source}
    return [gas, *entries]


def replica(data: Dataset, row: int, others: Dataset, partner: int) -> list[dict]:
    """Score MD of the same condition from another seed.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        others: the data set of the replica, which may be the same.
        partner: its row there.

    Returns:
        Two entries, as it is and relaxed, with nan seconds: a data set does not tell what it took.
    """
    named = {"model": evaluation.REPLICA, "seed": int(others.seed[partner])}
    named |= {"calls": int(others.steps[partner]), "source": evaluation.md_source(others)}
    return evaluation.raw_and_relaxed(data, row, others.positions[partner], math.nan, named)


def anneal_at_rest(data: Dataset, row: int) -> list[dict]:
    """Score what relaxing does to the configuration that all is scored against.

    Returns:
        One entry, the configuration relaxed.
    """
    named = {"model": evaluation.ANNEAL, "seed": 0, "calls": int(data.steps[row])}
    named |= {"source": evaluation.md_source(data)}
    return evaluation.raw_and_relaxed(data, row, data.positions[row], math.nan, named)[1:]


def nearest(data: Dataset, row: int, n: int, *more: Dataset) -> list[np.ndarray]:
    """Look up the structures of several training potentials, those nearest to a condition.

    Args:
        data: the MD data of the condition, with training rows or without.
        row: the condition: none of the training set, or it would find itself.
        n: how many.
        more: data sets of the same box, whose training rows are looked at as well.

    Returns:
        Of each potential the configuration that is nearest, (n_particles, 3) [length].
    """
    several = [each for each in (each.subset("train") for each in (data, *more)) if len(each)]
    spread = np.ptp(several[0].conditions, axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    away = [
        np.linalg.norm((known.conditions - data.conditions[row]) / scale, axis=1)
        for known in several
    ]
    where = [(known, at) for known in several for at in range(len(known))]
    found = {}
    for place in np.concatenate(away).argsort(kind="stable"):
        known, at = where[place]
        found.setdefault((known.k[at], known.phi[at]), known.positions[at])
        if len(found) == n:
            break
    return list(found.values())


def look_up(data: Dataset, row: int, n_tries: int = 1, *more: Dataset) -> list[dict]:
    """Score the answer of someone who has the training set and no model.

    That is the configuration of the training condition that is nearest, as it is; or of the
    nearest of several potentials that one whose energy at rest is the lowest.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against: none of the training set, or
            it would find itself.
        n_tries: how many potentials to look at.
        more: data sets with more potentials, which the network told U has learned too.

    Returns:
        Two entries, as it is and relaxed, with what was spent on all to choose.
    """
    clock = lammps_process.process_time()
    found = nearest(data, row, n_tries, *more)
    seconds = lammps_process.process_time() - clock
    name = evaluation.LOOKED_UP_IN_ALL if more else evaluation.LOOKED_UP
    named = {"model": name, "seed": 0, "calls": 0, "n_tries": n_tries}
    named |= {"source": look_up_source(data, *more)}
    tries = [evaluation.raw_and_relaxed(data, row, each, seconds, named) for each in found]
    best = min(tries, key=lambda entries: entries[1]["energy_gap"])
    if n_tries == 1:
        return best
    spent = seconds + sum(relaxed["seconds"] - seconds for _, relaxed in tries)
    return [entry | {"seconds": spent} for entry in best]


def look_up_source(data: Dataset, *more: Dataset) -> str:
    """Name where the structures come from that are looked up."""
    return " and ".join([evaluation.md_source(data), *(each.content_hash for each in more)])


def relaxed_noise(data: Dataset, row: int, seed: int = 0) -> list[dict]:
    """Score the answer of someone who has the potential and nothing else: uniform noise, relaxed.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        seed: of the noise.

    Returns:
        Two entries that differ in `relaxed` alone, for it is relaxed already.
    """
    clock = lammps_process.process_time()
    # Not the noise of any sample.
    drawn = np.random.default_rng(4_000_000 + 1000 * row + seed)
    positions = drawn.uniform(0, data.box_length, data.positions.shape[1:])
    at_rest, *_ = lammps.minimize(positions, data.potential(row), data.box_length)
    seconds = lammps_process.process_time() - clock
    named = {"model": evaluation.RELAXED_NOISE, "seed": seed, "calls": 0}
    named |= {"source": evaluation.md_source(data)}
    return evaluation.raw_and_relaxed(data, row, at_rest, seconds, named, (at_rest, seconds))


def quenched(data: Dataset, row: int, n_steps: int, seed: int) -> tuple[np.ndarray, float]:
    """Cool a random start from 10 T to T in a few steps of MD, at least 10.

    Returns:
        (n_particles, 3) positions [length], and seconds of the processor.
    """
    clock = lammps_process.process_time()
    found = lammps.anneal(
        data.potential(row),
        float(data.temperature[row]),
        n_steps,
        seed,
        n_particles=data.positions.shape[1],
        box_length=data.box_length,
        time_step=float(data.attributes["time_step"]),
    )
    return found.positions, lammps_process.process_time() - clock


def quench(data: Dataset, row: int, n_steps: int, seed: int = 0) -> list[dict]:
    """Score the rival: a quench, as `quenched` makes it.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        n_steps: MD steps, at least 10.
        seed: of the quench.

    Returns:
        Two entries, as it is and relaxed.
    """
    # Not the start of any row of the data.
    positions, seconds = quenched(data, row, n_steps, 1_000_000 + 1000 * row + seed)
    named = {"model": evaluation.QUENCH, "n_steps": n_steps, "seed": seed, "calls": n_steps}
    named |= {"source": evaluation.md_source(data)}
    return evaluation.raw_and_relaxed(data, row, positions, seconds, named)


def lattice_search(data: Dataset, row: int) -> list[dict]:
    """Score the answer of someone who knows the potential alone: a lattice, held at T by MD.

    The list of the lattices that fit the box is made once for all rows and does not count.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.

    Returns:
        Four entries: the lattice of lowest free energy, as it is and relaxed; and of the lowest
        few the one whose energy at rest is the lowest, with what was spent on all of them.
    """
    potential, temperature = data.potential(row), float(data.temperature[row])
    box = {"n_particles": data.positions.shape[1], "box_length": data.box_length}
    lattices.search(potential, **box)
    clock = lammps_process.process_time()
    asked = {"temperature": temperature, "n_best": evaluation.LATTICE_TRIES}
    found = lattices.stable(potential, **box, **asked)
    searching = lammps_process.process_time() - clock
    named = {"model": evaluation.LATTICE_SEARCH, "seed": 0, "calls": evaluation.LATTICE_STEPS}
    named |= {"source": evaluation.md_source(data)}
    tries = []
    for seed, each in enumerate(found):
        clock = lammps_process.process_time()
        held = lammps.hold(
            potential,
            each.crystal.positions,
            temperature,
            evaluation.LATTICE_STEPS,
            # Not that of any row of the data, nor of a quench.
            seed=2_000_000 + 1000 * row + seed,
            box_length=data.box_length,
            time_step=float(data.attributes["time_step"]),
        )
        seconds = searching + lammps_process.process_time() - clock
        tries.append(evaluation.raw_and_relaxed(data, row, held.positions, seconds, named))
    spent = {
        "n_tries": len(tries),
        "calls": evaluation.LATTICE_STEPS * len(tries),
        "seconds": searching + sum(relaxed["seconds"] - searching for _, relaxed in tries),
    }
    best = min(tries, key=lambda entries: entries[1]["energy_gap"])
    return tries[0] + [entry | spent for entry in best]
