"""What is judged against MD, by its name, and how: entries, which `results` collects."""

import math
from typing import NamedTuple

import numpy as np

from mddm import lammps, lammps_process, seeded, structure
from mddm.dataset import Dataset
from mddm.study import tasks


class Key(NamedTuple):
    """What tells one score from another.

    Args:
        model: what was scored: a preset, or a name such as `QUENCH`.
        task: one of `tasks.TASKS`.
        split: "train" or "test"; "" for a surface.
        row: of the data; 0 for a surface.
        seed: of the answer.
        source: what it came from, see `md_source` and `surrogates.checkpoint_source`.
        sampler: one of `samplers.SAMPLERS`; "" for what is not sampled.
        n_steps: MD steps of a quench; 0 for all else.
        n_tries: of how many answers it is the one with the lowest energy at rest.
        relaxed: whether it was taken to a minimum of the energy.
    """

    model: str
    task: str
    split: str
    row: int
    seed: int
    source: str
    sampler: str = ""
    n_steps: int = 0
    n_tries: int = 1
    relaxed: bool = False


KEYS = Key._fields
# The last two are what has been spent on one sample: calls of the network, or MD steps, and seconds
# of the processor.
COLUMNS = (
    *KEYS,
    *("k", "phi", "temperature", "rdf_mse", "energy_gap", "crystallinity", "md_crystallinity"),
    *("calls", "seconds"),
)
# The presets that are scored in the box.
MODELS = ("mddm", "mddm-rbf", "bragg", "transolver")
IDEAL_GAS, LOOKED_UP, QUENCH, ANNEAL = "ideal gas", "look-up", "quench", "MD"
REPLICA, RELAXED_NOISE = "MD replica", "relaxed noise"
# Among the potentials that the network told U has learned.
LOOKED_UP_IN_ALL = f"{LOOKED_UP} in all"
# The lattice of lowest free energy, held at T by so many MD steps; and the lowest few of them, of
# which the lowest in energy at rest is a score of its own.
LATTICE_SEARCH, LATTICE_STEPS, LATTICE_TRIES = "lattice search", 3000, 3
# The network of this study.
OURS = "bragg"
# Samples of it that begin at a lattice, the lowest or one of the lowest, and how those that are
# drawn spread [energy].
SEEDED = {"seeded at the lowest": 0.0, "seeded": seeded.SPREAD}
# It, where it is told the potential itself, and no numbers of its formula.
TOLD = f"{OURS}, told U"
# What so many seconds of the processor buy of it and a quench, see `budget.within`.
ANSWERS = {f"answer in {seconds} s": float(seconds) for seconds in (10, 30, 100)}
# What uses the potential whatever its sampler.
ASKING = (QUENCH, ANNEAL, REPLICA, LATTICE_SEARCH, RELAXED_NOISE, TOLD, *ANSWERS)


def md_source(data: Dataset) -> str:
    """Name where scores of MD come from: the engine, and the data's content hash."""
    return f"{data.attributes['engine']}, data {data.content_hash}"


def judge(data: Dataset, row: int, positions: np.ndarray) -> dict:
    """Give a configuration the `COLUMNS` that depend on it alone, `ideal_gas` beside them.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        positions: (n_particles, 3) what is judged [length].
    """
    entry = tasks.evaluate(data, row, positions)
    entry |= {"row": row, "task": "conditional", **Key._field_defaults}
    entry |= {"seconds": math.nan, "crystallinity": _crystallinity(data, positions)}
    return entry | {"md_crystallinity": _crystallinity(data, data.positions[row])}


def _crystallinity(data: Dataset, positions: np.ndarray) -> float:
    return structure.crystallinity(positions, data.box_length)


def raw_and_relaxed(
    data: Dataset,
    row: int,
    positions: np.ndarray,
    seconds: float,
    named: dict,
    at_rest: tuple[np.ndarray, float] | None = None,
) -> list[dict]:
    """Judge a configuration as it is, and relaxed by the potential.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        positions: (n_particles, 3) what is judged [length].
        seconds: of the processor that it took.
        named: the columns that tell what it is.
        at_rest: the relaxed configuration and the seconds up to it, where it is known already.

    Returns:
        Two entries with the `COLUMNS`.
    """
    if at_rest is None:
        clock = lammps_process.process_time()
        relaxed, *_ = lammps.minimize(positions, data.potential(row), data.box_length)
        at_rest = relaxed, seconds + lammps_process.process_time() - clock
    raw = judge(data, row, positions) | {"seconds": seconds}
    rest = judge(data, row, at_rest[0]) | {"seconds": at_rest[1], "relaxed": True}
    return [raw | named, rest | named]
