"""The data set: anneals with their conditions, splits and provenance, in one HDF5 file.

`mddm check data/opp.h5` prints what a file holds, and checks its physics.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mddm import arguments, files, geometry, structure
from mddm.potential import CONVENTION, OscillatingPair, Smoothed, pair_distances
from mddm.study import plan

SPLITS = ("train", "test", "replica")
ATTRIBUTES = (
    "box_length",
    "r_core",
    "r_on",
    "r_cut",
    "time_step",
    "n_steps",
    "thermostat",
    "engine",
    "convention",
    "command",
)
# The attribute of a file that keeps the content hash; and what to do about a file without others.
_HASH = "content_hash"
_SCHEMA = (
    "data/README.md lists the columns and attributes that a data set has; with h5py they can be "
    "added, such as file.attrs['r_cut'] = 3.0"
)
# With fewer the thermostat still trails behind the ramp while the last temperature is held.
_SETTLING_STEPS = 10_000
_COLUMNS = {
    "positions": np.float32,
    "k": np.float64,
    "phi": np.float64,
    "temperature": np.float64,
    "seed": np.int64,
    "split": str,
    "energy": np.float64,
    "kinetic_temperature": np.float64,
    "pressure": np.float64,
    "drift": np.float64,
    "steps": np.int64,
}


@dataclass(frozen=True)
class Dataset:
    """Configurations of one number of particles in one box, each under a condition of its own.

    Args:
        positions: (n, n_particles, 3), kept as float32 in [0, box_length); any image of a
            particle will do [length].
        k: (n,) spatial frequency of the potential [1 / length].
        phi: (n,) phase of the potential [rad].
        temperature: (n,) target of the thermostat [energy].
        seed: (n,) seed of the start and the thermostat.
        split: (n,) "train", "test" or "replica": the condition of a training or test row again,
            with another seed.
        energy: (n,) potential energy per particle of these positions [energy].
        kinetic_temperature: (n,) mean over the last hold [energy].
        pressure: (n,) mean over the last hold [energy / length^3].
        drift: (n,) change of the potential energy per particle over the last hold [energy].
        steps: (n,) MD steps behind each configuration.
        attributes: how the data was made; `ATTRIBUTES` lists what must be there, `n_steps`
            being the least of `steps`.

    Raises:
        TypeError: a box that is no number.
        ValueError: columns of the wrong shape or type, numbers that are not finite, an unknown
            split, a missing attribute, or a box that is not positive.
    """

    positions: np.ndarray
    k: np.ndarray
    phi: np.ndarray
    temperature: np.ndarray
    seed: np.ndarray
    split: np.ndarray
    energy: np.ndarray
    kinetic_temperature: np.ndarray
    pressure: np.ndarray
    drift: np.ndarray
    steps: np.ndarray
    attributes: Mapping

    def __post_init__(self):
        arguments.instance("attributes", self.attributes, Mapping)
        missing = [name for name in ATTRIBUTES if name not in self.attributes]
        if missing:
            raise ValueError(f"attributes must contain {', '.join(missing)}")
        for name, kind in _COLUMNS.items():
            column = _column(name, getattr(self, name), kind)
            if name == "positions":
                if column.ndim != 3 or column.shape[-1] != 3:
                    raise ValueError(
                        f"positions must have the shape (n, n_particles, 3), got {column.shape}"
                    )
                column = geometry.wrap_single(column, self.box_length)
            elif column.shape != (len(self),):
                raise ValueError(f"{name} must have the shape ({len(self)},), got {column.shape}")
            object.__setattr__(self, name, column)
        unknown = sorted(set(self.split.tolist()) - set(SPLITS))
        if unknown:
            raise ValueError(f"split must be one of {SPLITS}, got {unknown}")

    def __len__(self):
        return len(self.positions)

    @property
    def box_length(self) -> float:
        """Edge of the periodic cube [length]."""
        return arguments.box(self.attributes["box_length"])

    @property
    def conditions(self) -> np.ndarray:
        """The (n, 3) array of k, phi and temperature."""
        return np.stack([self.k, self.phi, self.temperature], axis=1)

    def take(self, rows) -> "Dataset":
        """Return the rows given by a mask, a slice or a sequence of indices.

        Raises:
            ValueError: none of these, or rows that there are not.
        """
        expected = f"rows must be a mask, a slice or a sequence of indices of {len(self)} rows"
        try:
            chosen = np.arange(len(self))[rows]
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{expected}: {error}") from error
        if chosen.ndim != 1:
            raise ValueError(f"{expected}, got {rows!r}")
        columns = {name: getattr(self, name)[chosen] for name in _COLUMNS}
        return Dataset(**columns, attributes=self.attributes)

    def subset(self, split: str) -> "Dataset":
        """Return the rows of one split.

        Raises:
            ValueError: no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return self.take(self.split == split)

    def nearest(self, k: float, phi: float, temperature: float) -> int:
        """Find the row whose condition is nearest, each of its parts measured by its range.

        Raises:
            TypeError: a part that is no number.
            ValueError: the data set is empty, or a part is not finite.
        """
        if not len(self):
            raise ValueError("the data set has no rows to choose from")
        parts = {"k": k, "phi": phi, "temperature": temperature}
        condition = [arguments.number(name, value) for name, value in parts.items()]
        spread = np.ptp(self.conditions, axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        distance = np.linalg.norm((self.conditions - condition) / scale, axis=1)
        return int(distance.argmin())

    def partners(self, row: int) -> np.ndarray:
        """Return the indices of all other rows with the same condition: its replicas.

        Raises:
            TypeError, ValueError: no number, or that of no row.
        """
        row = self._row(row)
        same = (self.conditions == self.conditions[row]).all(axis=1)
        same[row] = False
        return np.flatnonzero(same)

    def potential(self, row: int) -> Smoothed:
        """Return the smoothed potential that a row was made with.

        Raises:
            TypeError, ValueError: no number, or that of no row.
        """
        row = self._row(row)
        radii = {name: float(self.attributes[name]) for name in ("r_core", "r_on", "r_cut")}
        return Smoothed(OscillatingPair(float(self.k[row]), float(self.phi[row])), **radii)

    def _row(self, row: int) -> int:
        return arguments.whole("row", row, at_least=0, at_most=len(self) - 1)

    @property
    def content_hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all columns, whatever file they are in."""
        digest = hashlib.sha256(f"{self.box_length!r}".encode())
        for name in _COLUMNS:
            column = getattr(self, name)
            column = "\n".join(column).encode() if name == "split" else column.tobytes()
            digest.update(name.encode() + column)
        return digest.hexdigest()[:12]


def _column(name: str, value, kind: type) -> np.ndarray:
    try:
        found = np.asarray(value, dtype=kind if kind is str else None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of {kind.__name__}: {error}") from error
    if kind is str:
        return found
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be an array of {kind.__name__}, got {found.dtype}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite; some are nan or infinite")
    # Positions are rounded once they are inside the box.
    column = found if name == "positions" else found.astype(kind)
    if kind is np.int64 and (column != found).any():
        raise ValueError(f"{name} must be whole numbers")
    return column


def write(path: str | Path, dataset: Dataset) -> None:
    """Write a data set to an HDF5 file, which is there whole or not at all.

    The content hash goes with it, for `read` to check.

    Raises:
        TypeError, ValueError: no path, or no data set.
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    import h5py

    path, dataset = arguments.path(path), arguments.instance("dataset", dataset, Dataset)
    content = io.BytesIO()
    # From version 1.8 on, HDF5 has checksums for all that it keeps besides the columns, but not
    # for text of any length, where a flipped bit can make it read for ever.
    with h5py.File(content, "w", libver=("v108", "latest")) as file:
        for name in _COLUMNS:
            column = getattr(dataset, name)
            if name == "split":
                file.create_dataset(name, data=_fixed(column))
            elif name == "positions":
                # One configuration a chunk, so that single rows are quick to read.
                chunks = (1, *column.shape[1:]) if column.size else None
                options = {"compression": "gzip", "shuffle": True} if column.size else {}
                file.create_dataset(name, data=column, chunks=chunks, **options)
            else:
                file.create_dataset(name, data=column)
        for name, value in {**dataset.attributes, _HASH: dataset.content_hash}.items():
            file.attrs[name] = _fixed(value) if isinstance(value, str) else value
    files.write_whole(path, content.getvalue())


def _fixed(text: str | np.ndarray) -> np.ndarray:
    import h5py

    encoded = np.char.encode(text, "utf-8")
    return encoded.astype(h5py.string_dtype(length=max(1, encoded.dtype.itemsize)))


def read(path: str | Path) -> Dataset:
    """Read a data set.

    Raises:
        FileNotFoundError: there is no such file; the message says how to get one.
        OSError: the file is there, but the system does not let it be read, or it is locked.
        ValueError: the file is truncated, no HDF5 file, of another schema, or its columns are not
            those that it was written with.
    """
    path = arguments.path(path)
    if path.is_dir():
        raise IsADirectoryError(f"data set {path} is a folder; name a file, such as data/opp.h5")
    remedy = _remedy(path)
    if not path.is_file():
        raise FileNotFoundError(f"data set {path} does not exist; {remedy}")
    lacking, columns, attributes = _contents(path, remedy)
    if lacking:
        raise ValueError(
            f"data set {path} lacks the columns {', '.join(lacking)}, or has something else in "
            f"their place; {_SCHEMA}"
        )
    written = attributes.pop(_HASH, None)
    try:
        found = Dataset(**columns, attributes=attributes)
        content_hash = found.content_hash
    except (TypeError, ValueError) as error:
        raise ValueError(f"data set {path} is of another schema: {error}; {_SCHEMA}") from error
    if written not in (None, content_hash):
        raise ValueError(
            f"data set {path} is not as it was written: content hash {content_hash}, was "
            f"{written}; {remedy}. Where it was changed on purpose, delete its attribute {_HASH!r}"
        )
    return found


def _contents(path: Path, remedy: str) -> tuple[list[str], dict, dict]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = {name: _plain(value) for name, value in file.attrs.items()}
            lacking = [name for name in _COLUMNS if not isinstance(file.get(name), h5py.Dataset)]
            if lacking:
                return lacking, {}, attributes
            columns = {name: file[name][...] for name in _COLUMNS if name != "split"}
            if h5py.check_string_dtype(file["split"].dtype) is None:
                return ["split"], columns, attributes
            return [], columns | {"split": file["split"].asstr()[...]}, attributes
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        # What is wrong with the content has no number of the system's.
        if not getattr(error, "errno", None):
            message = f"data set {path} is damaged or no HDF5 file ({error}); {remedy}"
            raise ValueError(message) from error
        locked = (
            ": another program is writing to it, or its file system has no locks, for which there "
            "is HDF5_USE_FILE_LOCKING=FALSE in the environment"
        )
        reason = os.strerror(error.errno) + (locked if "lock file" in str(error) else "")
        raise OSError(error.errno, f"data set cannot be read ({reason})", str(path)) from error


def _plain(value):
    """Give an attribute as Python has it: other programs write arrays of one, or bytes."""
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = np.asarray(value).item()
    return value.decode() if isinstance(value, bytes) else value


def _remedy(path: Path) -> str:
    """Say how to get a file back; only the study's own can be made anew by the study."""
    whole = path.resolve()
    for name, file in plan.FILES.items():
        if whole.match(file) and (whole.parents[1] / "mddm" / "study" / "plan.py").is_file():
            back = f"`git checkout -- {path}` brings the study's own back"
            if path.exists():
                return f"if it is yours, move it away; {back}"
            return f"{back}, `mddm data make {name}` makes it anew"
    if path.exists():
        return "take a good copy of it"
    return f"name a file that `dataset.write` made, or the study's own, {plan.FILES['ramps']}"


@dataclass(frozen=True)
class Check:
    """What one check of a data set found."""

    name: str
    passed: bool
    detail: str


def check(dataset: Dataset) -> list[Check]:
    """Check a data set's completeness and physics without the engine that made it.

    Energies and pressures are recomputed from the stored positions by `mddm.potential`, in double
    precision and with an analytic potential; the engine used a table.

    Returns:
        One `Check` a line of the report, in a fixed order.

    Raises:
        TypeError: no data set.
    """
    arguments.instance("dataset", dataset, Dataset)
    if not len(dataset):
        return [Check("rows", False, "the data set is empty")]
    train = dataset.subset("train")
    axes = [np.unique(column) for column in train.conditions.T]
    size = int(np.prod([len(axis) for axis in axes]))
    distinct = len(np.unique(train.conditions, axis=0))
    runs = np.column_stack([dataset.conditions, dataset.seed])
    twins = len(dataset) - min(
        len(np.unique(runs, axis=0)),
        len({row.tobytes() for row in dataset.positions}),
    )
    originals = np.flatnonzero(dataset.split != "replica")
    known = {row.tobytes() for row in dataset.conditions[originals]}
    replicas = dataset.subset("replica").conditions
    orphans = sum(row.tobytes() not in known for row in replicas)
    checks = [
        Check("convention", dataset.attributes["convention"] == CONVENTION, CONVENTION),
        Check(
            "training grid",
            len(train) == distinct == size,
            f"{' x '.join(str(len(axis)) for axis in axes)}, {distinct} of {size} points, "
            f"{len(train) - distinct} repeated",
        ),
        Check("replicas", orphans == 0, f"{len(replicas)}, {orphans} of no other row's condition"),
        Check("duplicates", twins == 0, f"{twins} rows repeat another's run or positions"),
    ]
    return checks + _physics(dataset)


def _physics(dataset: Dataset) -> list[Check]:
    found = np.array([_recomputed(dataset, row) for row in range(len(dataset))])
    wrong = np.abs(found[:, 0] - dataset.energy).max()
    # A stored pressure is a mean over time, a recomputed one of an instant.
    excess = found[:, 1] - dataset.pressure
    nearest, core = found[:, 2].min(), float(dataset.attributes["r_core"])
    # The mean over a hold scatters by the thermostat's own correlation; the mean over the rows
    # must be tighter than each.
    settled = dataset.steps >= _SETTLING_STEPS
    ratio = (dataset.kinetic_temperature / dataset.temperature)[settled]
    drift = dataset.drift / dataset.temperature
    least = int(dataset.attributes["n_steps"])
    return [
        Check("energies", wrong < 1e-4, f"recomputed, differ by at most {wrong:.1e}"),
        Check(
            "pressures",
            bool(np.abs(excess).max() < 0.5),
            f"recomputed, differ from the mean over time by {excess.mean():+.3f} on average, by at "
            f"most {np.abs(excess).max():.2f}; from {dataset.pressure.min():.1f} to "
            f"{dataset.pressure.max():.1f}",
        ),
        Check("distances", nearest > core, f"closest pair {nearest:.3f}, must be above {core}"),
        _temperatures(ratio),
        Check(
            "drift",
            bool(np.abs(np.median(drift)) < 0.5),
            f"over the last hold the energy changed by {np.median(drift):+.3f} T in the median, "
            f"from {drift.min():+.2f} to {drift.max():+.2f} T",
        ),
        Check(
            "steps",
            bool((dataset.steps >= least).all()),
            f"at least {dataset.steps.min()} behind every row, {least} promised",
        ),
    ]


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
        One entry a pair of rows: `row` and `replica` (their indices), `k`, `phi`,
        `temperature`, `split`, `rdf_mse` between the two, `ideal_gas` (RDF-MSE of g = 1),
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
                    "k": float(dataset.k[row]),
                    "phi": float(dataset.phi[row]),
                    "temperature": float(dataset.temperature[row]),
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


def floor_lines(dataset: Dataset) -> list[str]:
    """Sum `floor` up, a line of text for the training rows and one for the test rows."""
    entries, lines = floor(dataset), []
    for split in SPLITS[:2]:
        some = [entry for entry in entries if entry["split"] == split]
        if not some:
            lines.append(f"{split}: no replicas")
            continue
        errors, gaps = (
            np.abs([entry[name] for entry in some]) for name in ("rdf_mse", "energy_gap")
        )
        lines.append(
            f"{split}: RDF-MSE {np.median(errors):.4f}, {errors.max():.4f}; energies differ by "
            f"{np.median(gaps):.4f}, {gaps.max():.4f}; {sum(map(bimodal, some))} of {len(some)} "
            "pairs are a crystal by one seed and none by the other"
        )
    return lines
