"""What is sound in a data set, and how far two seeds are apart: `mddm check data/opp.h5`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mddm import arguments, structure
from mddm.dataset import SPLITS, Dataset, read
from mddm.potential import pair_distances

# With fewer the thermostat still trails behind the ramp while the last temperature is held.
_SETTLING_STEPS = 10_000
# An energy that changed by less than this part of the temperature was kept: of a thousand particles
# that only vibrate it wavers by a tenth of that.
_KEPT = 0.5
# Conditions that are so small a part of a grid have been drawn.
_FEW_OF_GRID = 10


@dataclass(frozen=True)
class Check:
    """What one check of a data set found."""

    name: str
    passed: bool
    detail: str


def check(dataset: Dataset) -> list[Check]:
    """Check a data set's completeness and physics without the engine that made it.

    Energies and pressures are recomputed from the stored positions by `mddm.potential`, in double
    precision and with an analytic potential; the engine used a table.  What a set does not say,
    such as pressures, is not judged, nor is the grid of one whose runs have no seeds.

    Returns:
        One `Check` a line of the report, in a fixed order.

    Raises:
        TypeError: no data set.
    """
    arguments.instance("dataset", dataset, Dataset)
    if not len(dataset):
        return [Check("rows", False, "the data set is empty")]
    low, high = np.array(list(dataset.ranges.values())).reshape(-1, 2).T
    outside = ((dataset.conditions < low) | (dataset.conditions > high)).any(axis=1).sum()
    checks = [
        Check(
            "conditions",
            not outside,
            f"{', '.join(dataset.ranges) or 'one'}: {outside} out of range",
        )
    ]
    # Potentials that conditions do not tell apart are of no grid.
    if dataset.seed is not None and set(dataset.parameters) <= set(dataset.ranges):
        checks.append(_grid(dataset.subset("train").conditions))
    return [*checks, _replicas(dataset), _duplicates(dataset), *_physics(dataset)]


def _grid(conditions: np.ndarray) -> Check:
    axes = [np.unique(column) for column in conditions.T]
    size = int(np.prod([len(axis) for axis in axes]))
    distinct = len(np.unique(conditions, axis=0))
    if size > _FEW_OF_GRID * len(conditions) > 0:
        return Check(
            "training conditions",
            len(conditions) == distinct,
            f"{distinct} drawn, {len(conditions) - distinct} repeated",
        )
    return Check(
        "training grid",
        len(conditions) == distinct == size,
        f"{' x '.join(str(len(axis)) for axis in axes)}, {distinct} of {size} points, "
        f"{len(conditions) - distinct} repeated",
    )


def _replicas(dataset: Dataset) -> Check:
    originals = dataset.take(dataset.split != "replica")
    known = {row.tobytes() for row in originals.conditions}
    replicas = dataset.subset("replica").conditions
    if len(replicas) and not known:
        return Check("replicas", True, f"{len(replicas)}, of conditions in another set")
    orphans = sum(row.tobytes() not in known for row in replicas)
    return Check(
        "replicas", orphans == 0, f"{len(replicas)}, {orphans} of no other row's condition"
    )


def _duplicates(dataset: Dataset) -> Check:
    distinct = len({row.tobytes() for row in dataset.positions})
    if dataset.seed is not None:
        runs = np.column_stack([dataset.conditions, dataset.seed])
        distinct = min(distinct, len(np.unique(runs, axis=0)))
    twins = len(dataset) - distinct
    return Check("duplicates", twins == 0, f"{twins} rows repeat another's run or positions")


def _physics(dataset: Dataset) -> list[Check]:
    found = np.array([_recomputed(dataset, row) for row in range(len(dataset))])
    wrong = np.abs(found[:, 0] - dataset.energy).max()
    nearest = found[:, 2].min()
    core = max(dataset.family_of(row).r_core for row in range(len(dataset)))
    checks = [
        Check("energies", wrong < 1e-4, f"recomputed, differ by at most {wrong:.1e}"),
        Check("distances", nearest > core, f"closest pair {nearest:.3f}, must be above {core}"),
    ]
    if dataset.pressure is not None:
        # A stored pressure is a mean over time, a recomputed one of an instant: where the structure
        # changed meanwhile, they are of two.
        excess = found[:, 1] - dataset.pressure
        if dataset.drift is not None:
            excess = excess[np.abs(dataset.drift) < _KEPT * dataset.temperature]
        told = (
            f"recomputed in {len(excess)} rows that kept their energy, differ from the mean over "
            f"time by {excess.sum() / max(len(excess), 1):+.3f} on average, by at most "
            f"{np.abs(excess).max(initial=0):.2f}; from {dataset.pressure.min():.1f} to "
            f"{dataset.pressure.max():.1f}"
        )
        checks.insert(1, Check("pressures", bool((np.abs(excess) < 0.5).all()), told))
    if dataset.kinetic_temperature is not None and dataset.steps is not None:
        # The mean over a hold scatters by the thermostat's own correlation; the mean over the rows
        # must be tighter than each.
        settled = dataset.steps >= _SETTLING_STEPS
        checks.append(_temperatures((dataset.kinetic_temperature / dataset.temperature)[settled]))
    if dataset.drift is not None:
        drift = dataset.drift / dataset.temperature
        told = (
            f"over the last hold the energy changed by {np.median(drift):+.3f} T in the median, "
            f"from {drift.min():+.2f} to {drift.max():+.2f} T"
        )
        checks.append(Check("drift", bool(np.abs(np.median(drift)) < 0.5), told))
    if dataset.steps is not None and "n_steps" in dataset.attributes:
        least = int(dataset.attributes["n_steps"])
        told = f"at least {dataset.steps.min()} behind every row, {least} promised"
        checks.append(Check("steps", bool((dataset.steps >= least).all()), told))
    return checks


def _temperatures(ratio: np.ndarray) -> Check:
    name, rows = "temperatures", f"{len(ratio)} rows of {_SETTLING_STEPS:,} steps or more"
    if not len(ratio):
        return Check(name, True, f"{rows}: the thermostat needs them to settle")
    return Check(
        name,
        bool(np.abs(ratio - 1).max() < 0.1 and abs(ratio.mean() - 1) < 0.02),
        f"kinetic / target {ratio.mean():.4f} on average, from {ratio.min():.4f} to "
        f"{ratio.max():.4f}, over {rows}",
    )


def _recomputed(dataset: Dataset, row: int) -> tuple[float, float, float]:
    # Energy per particle, pressure and least distance, in double precision.
    box_length, potential = dataset.box_length, dataset.potential(row)
    positions = torch.from_numpy(dataset.positions[row]).double()
    r = pair_distances(positions, potential.r_cut, box_length)
    n_particles = len(positions)
    kinetic = (n_particles - 1) * dataset.temperature[row]
    pressure = (kinetic + (r * potential.force(r)).sum().item() / 3) / box_length**3
    closest = r.min().item() if len(r) else box_length / 2
    return potential.energy(r).sum().item() / n_particles, pressure, closest


def floor(dataset: Dataset) -> list[dict]:
    """Compare every training and test row with its replicas: the noise that no surrogate can beat.

    Returns:
        One entry a pair of rows: `row` and `replica` (their indices), the numbers of the condition
        by their names, `split`, `rdf_mse` between the two, `ideal_gas` (RDF-MSE of g = 1),
        `energy_gap` (the replica's energy minus the row's), `crystallinity` and
        `replica_crystallinity`.

    Raises:
        TypeError: no data set.

    Source: RDF-MSE as in MDDM section 2.2; the floor is ours.
    """
    arguments.instance("dataset", dataset, Dataset)
    entries = []
    for row in np.flatnonzero(dataset.split != "replica"):
        for replica in dataset.partners(row):
            systems = dataset.positions[[row, replica]]
            curves = [structure.rdf(system, dataset.box_length)[1] for system in systems]
            ordered = [structure.crystallinity(system, dataset.box_length) for system in systems]
            entries.append(
                {
                    "row": int(row),
                    "replica": int(replica),
                    **dict(zip(dataset.ranges, dataset.conditions[row].tolist(), strict=True)),
                    "split": str(dataset.split[row]),
                    "rdf_mse": structure.rdf_mse(curves[1], curves[0]),
                    "ideal_gas": structure.rdf_mse(np.ones_like(curves[0]), curves[0]),
                    "energy_gap": float(dataset.energy[replica] - dataset.energy[row]),
                    "crystallinity": ordered[0],
                    "replica_crystallinity": ordered[1],
                }
            )
    return entries


def bimodal(entry: Mapping) -> bool:
    """Tell whether one of the two seeds of an entry of `floor` has crystallised and one has not."""
    crystals = [
        entry[name] > structure.CRYSTAL for name in ("crystallinity", "replica_crystallinity")
    ]
    return crystals[0] != crystals[1]


def report(path: str | Path) -> bool:
    """Print what a file holds and what `check` and `floor` find; True where all is sound.

    Raises:
        OSError, ValueError: as `dataset.read`.
    """
    dataset = read(path)
    counts = ", ".join(f"{(dataset.split == split).sum()} {split}" for split in SPLITS)
    print(f"{path}: {counts}; content {dataset.content_hash}")
    families = dataset.family if isinstance(dataset.family, tuple) else [dataset.family]
    for family in dict.fromkeys(map(str, families)):
        print(f"  potential = {family}")
    for name, value in dataset.attributes.items():
        print(f"  {name} = {value}")
    checks = check(dataset)
    for result in checks:
        print(f"  {'ok    ' if result.passed else 'FAILED'} {result.name}: {result.detail}")
    passed = all(result.passed for result in checks)
    if passed:
        _print_floor(floor(dataset))
    return passed


def _print_floor(entries: list[dict]) -> None:
    print("  between seeds (median, greatest):")
    for split in SPLITS[:2]:
        some = [entry for entry in entries if entry["split"] == split]
        if some:
            errors, gaps = (
                np.abs([entry[name] for entry in some]) for name in ("rdf_mse", "energy_gap")
            )
            print(
                f"    {split}: RDF-MSE {np.median(errors):.4f}, {errors.max():.4f}; energies "
                f"differ by {np.median(gaps):.4f}, {gaps.max():.4f}; {sum(map(bimodal, some))} of "
                f"{len(some)} pairs are a crystal by one seed and none by the other"
            )
        else:
            print(f"    {split}: no replicas")
