"""The study's tasks: what each is trained on, and how its samples are judged.

A score means something only next to others: the ideal gas, which knows nothing; a replica, MD of
the same condition from another seed, as good as MD itself; and the potential energy, which
tells a good structure from a poor one where g(r) no longer does.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mddm import arguments, structure
from mddm.condition import RANGES
from mddm.configurations import Configurations, Source
from mddm.dataset import Dataset
from mddm.potential import potential_energy
from mddm.shapes import SURFACES, Surface
from mddm.study import plan

TASKS = ("unconditional", "conditional", "potential", *SURFACES)


def training_source(
    task: str,
    dataset: Dataset | Sequence[Dataset] | None = None,
    row: int | None = None,
    n_points: int = 1000,
) -> Source:
    """Give a task the configurations that it is trained on.

    Args:
        task: one of `TASKS`.
        dataset: the data of the tasks of MD; several of one box for "potential", whose networks
            are told any pair potential.
        row: the one configuration of the unconditional task.
        n_points: points on a surface, for the other two.

    Raises:
        TypeError, ValueError: an unknown task, one without the data that it needs, or a row that
            is not there.

    Source: MDDM section 5 and appendix B.
    """
    if arguments.choice("task", task, TASKS) in SURFACES:
        return Surface(task, n_points)
    if dataset is None or (task == "unconditional" and row is None):
        raise ValueError(f"the task {task!r} needs a dataset, and 'unconditional' a row of it")
    if task == "potential":
        several = [dataset] if isinstance(dataset, Dataset) else dataset
        known = arguments.several("dataset", several, Dataset)
        return Configurations.of(*(each.subset("train") for each in known), told="potential")
    arguments.instance("dataset", dataset, Dataset)
    if task == "unconditional":
        return Configurations.one(dataset, _row(dataset, row))
    return Configurations.of(dataset.subset("train"))


def unconditional_row(dataset: Dataset) -> int:
    """Return the training row whose configuration the unconditional task is about.

    In data of other conditions than the study's it is the first.

    Raises:
        TypeError, ValueError: no data set, or one without training rows.
    """
    arguments.instance("dataset", dataset, Dataset)
    train = np.flatnonzero(dataset.split == "train")
    if not len(train):
        raise ValueError("dataset has no training rows, one of which the task is about")
    if dataset.ranges.keys() != RANGES.keys():
        return int(train[0])
    return int(train[dataset.take(train).nearest(*plan.UNCONDITIONAL)])


def replicas(dataset: Dataset, row: int, others: Dataset) -> np.ndarray:
    """Find the replicas of a row in another data set.

    Args:
        dataset: the data set of the row.
        row: a condition, and the length of the MD run that arrived there.
        others: where to look.

    Returns:
        The rows of `others` that have the same condition and length, and another seed.

    Raises:
        TypeError, ValueError: no data set, or a row that is not there.
    """
    row = _row(dataset, row)
    arguments.instance("others", others, Dataset)
    same = (others.conditions == dataset.conditions[row]).all(axis=1)
    same &= (others.steps == dataset.steps[row]) & (others.seed != dataset.seed[row])
    return np.flatnonzero(same)


def evaluate(dataset: Dataset, row: int, positions: np.ndarray) -> dict[str, Any]:
    """Judge a sample against the MD configuration of its condition, yardsticks beside it.

    Args:
        dataset: the MD data.
        row: the configuration to judge by.
        positions: (n_particles, 3) the sample [length].

    Returns:
        The numbers of the condition by their names, the row's `split`, `rdf_mse` of the sample,
        `ideal_gas` and `replica` (the same for g = 1 and for the mean over the row's replicas;
        nan where there is none), `energy` (potential energy per particle), `energy_gap` (that of
        the sample minus that of MD).

    Raises:
        TypeError, ValueError: no data set, a row that is not there, or positions of another shape
            or not finite.

    Source: MDDM section 2.2 for RDF-MSE; the yardsticks are ours.
    """
    row, box_length = _row(dataset, row), dataset.box_length
    system = arguments.positions(positions, ("n_particles", 3)).detach().cpu().double()
    _, reference = structure.rdf(dataset.positions[row], box_length)
    _, curve = structure.rdf(positions, box_length)
    replicas = [
        structure.rdf_mse(structure.rdf(dataset.positions[partner], box_length)[1], reference)
        for partner in dataset.partners(row)
    ]
    energy = potential_energy(system, dataset.potential(row), box_length).mean().item()
    return {
        **dict(zip(dataset.ranges, dataset.conditions[row].tolist(), strict=True)),
        "split": str(dataset.split[row]),
        "rdf_mse": structure.rdf_mse(curve, reference),
        "ideal_gas": structure.rdf_mse(np.ones_like(reference), reference),
        "replica": float(np.mean(replicas)) if replicas else math.nan,
        "energy": energy,
        "energy_gap": energy - float(dataset.energy[row]),
    }


def _row(dataset: Dataset, row: int) -> int:
    arguments.instance("dataset", dataset, Dataset)
    return arguments.whole("row", row, at_least=0, at_most=len(dataset) - 1)


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, groups: Sequence | None = None
) -> tuple[float, float]:
    """Give the 95 % bootstrap interval of a mean (bias-corrected and accelerated).

    Args:
        values: (n,) scores.
        seed: of the resampling.
        groups: (n,) what each score belongs to.  Scores of one group depend on each other, as
            those of one potential at several temperatures do, and whole groups are resampled.
            None where all are independent.

    Returns:
        Lower and upper end; nan where fewer than two values, or groups, leave it undefined.

    Raises:
        TypeError, ValueError: no numbers, or some that are not finite; groups of another number.
    """
    from scipy.stats import bootstrap

    seed = arguments.seed(seed)
    values = arguments.tensor("values", values, (0,), ("n",)).double().numpy()
    if groups is None:
        groups = range(len(values))
    elif len(arguments.instance("groups", groups, Sequence)) != len(values):
        raise ValueError(f"groups must name that of each of {len(values)} values, got {groups!r}")
    named = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    belongs = [named[group] for group in groups]
    sums, counts = np.bincount(belongs, values), np.bincount(belongs)
    # The order in which they come makes no difference to what is drawn.
    order = np.lexsort((counts, sums))
    sums, counts = sums[order], counts[order]
    if len(sums) < 2 or np.ptp(sums / counts) == 0:
        return math.nan, math.nan

    def mean(sums, counts, axis):
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    drawn = {"paired": True, "rng": np.random.default_rng(seed)}
    interval = bootstrap((sums, counts), mean, **drawn).confidence_interval
    return float(interval.low), float(interval.high)
