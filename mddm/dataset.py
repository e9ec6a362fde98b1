"""The data set: configurations with their conditions and potential, in one HDF5 file."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mddm import arguments, encoding, files, geometry
from mddm.condition import RANGES, take_ranges
from mddm.family import CONVENTIONS, Family, common
from mddm.potential import Smoothed

SPLITS = ("train", "test", "replica")
# What a set says whose potential is told by its convention, as all of the study's do.
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
# Attributes of a file alone; and what to do about one that lacks others.
_HASH, _POTENTIAL, _RANGES = "content_hash", "potential", "ranges"
_SCHEMA = (
    "data/README.md lists the columns and attributes that a data set has; with h5py they can be "
    "added, such as file.attrs['r_cut'] = 3.0"
)
# Columns beside the parameters of the potential, and those that a set can do without.
_COLUMNS = {
    "positions": np.float32,
    "temperature": np.float64,
    "seed": np.int64,
    "split": str,
    "energy": np.float64,
    "kinetic_temperature": np.float64,
    "pressure": np.float64,
    "drift": np.float64,
    "steps": np.int64,
}
_OPTIONAL = ("seed", "kinetic_temperature", "pressure", "drift", "steps")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Configurations of one number of particles in one box, each under a condition of its own.

    The parameters of the potential are columns too: `data.k` is `data.parameters["k"]`.

    Args:
        positions: (n, n_particles, 3), kept as float32 in [0, box_length); any image of a
            particle will do [length].
        temperature: (n,) target of the thermostat [energy].
        split: (n,) "train", "test" or "replica": the condition of a training or test row again,
            with another seed.
        energy: (n,) potential energy per particle of these positions [energy].
        attributes: how the data was made; its `box_length` at least [length].  Where `family` is
            left out, all of `ATTRIBUTES`, whose convention says what the potential is; `n_steps`
            is the least of `steps`.
        parameters: name and (n,) values of each parameter of the potential that varies: k
            [1 / length] and phi [rad] in the study's sets.
        family: the potential, but for these parameters; or (n,) of them, that of each row with
            all of its own.  Where those differ in numbers alone, these become parameters.
        ranges: name and (low, high) of each number of a condition, from which networks are given
            it scaled; by default the least and greatest value of each that varies.
        seed: (n,) seed of the start and the thermostat; None where it is not known, as for all
            that follow.
        kinetic_temperature: (n,) mean over the last hold [energy].
        pressure: (n,) mean over the last hold [energy / length^3].
        drift: (n,) change of the potential energy per particle over the last hold [energy].
        steps: (n,) MD steps behind each configuration.

    Raises:
        TypeError: a box that is no number.
        ValueError: columns of the wrong shape or type, numbers that are not finite, an unknown
            split, a missing attribute, a convention or parameter that is not known, or a box that
            is not positive.
    """

    positions: np.ndarray
    temperature: np.ndarray
    split: np.ndarray
    energy: np.ndarray
    attributes: Mapping
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    family: Family | Sequence[Family] | None = None
    ranges: Mapping[str, tuple[float, float]] | None = None
    seed: np.ndarray | None = None
    kinetic_temperature: np.ndarray | None = None
    pressure: np.ndarray | None = None
    drift: np.ndarray | None = None
    steps: np.ndarray | None = None

    def __post_init__(self):
        arguments.instance("attributes", self.attributes, Mapping)
        family, parameters = _family(self.family, self.attributes, self.parameters)
        taken = {"family": family, "parameters": {}}
        columns = {
            name: _column(name, getattr(self, name), kind)
            for name, kind in _COLUMNS.items()
            if name not in _OPTIONAL or getattr(self, name) is not None
        }
        # In the order of the formula, however they are given: files know no other.
        for name in family.free if parameters else ():
            if name in parameters:
                taken["parameters"][name] = _column(name, parameters[name], np.float64)
        points = columns["positions"]
        if points.ndim != 3 or points.shape[-1] != 3:
            raise ValueError(
                f"positions must have the shape (n, n_particles, 3), got {points.shape}"
            )
        columns["positions"] = geometry.wrap_single(points, self.box_length)
        if isinstance(family, tuple) and len(family) != len(points):
            raise ValueError(f"family must be one, or one for each of {len(points)} rows")
        for name, column in {**columns, **taken["parameters"]}.items():
            if name != "positions" and column.shape != (len(points),):
                raise ValueError(f"{name} must have the shape ({len(points)},), got {column.shape}")
        for name, value in {**columns, **taken}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "ranges", self._ranges())
        unknown = sorted(set(self.split.tolist()) - set(SPLITS))
        if unknown:
            raise ValueError(f"split must be one of {SPLITS}, got {unknown}")

    def _ranges(self) -> dict[str, tuple[float, float]]:
        numbers = {**self.parameters, "temperature": self.temperature}
        if self.ranges is None:
            ends = {name: (each.min(), each.max()) for name, each in numbers.items() if len(each)}
            return {name: tuple(map(float, end)) for name, end in ends.items() if end[0] < end[1]}
        ranges = take_ranges(self.ranges)
        for name in ranges:
            arguments.choice("each of ranges", name, numbers)
        return ranges

    def __getattr__(self, name: str) -> np.ndarray:
        parameters = vars(self).get("parameters", {})
        if name in parameters:
            return parameters[name]
        raise AttributeError(
            f"a data set of {', '.join(parameters) or 'one potential'} has no {name}"
        )

    def __len__(self):
        return len(self.positions)

    @property
    def box_length(self) -> float:
        """Edge of the periodic cube [length]."""
        return arguments.box(self.attributes["box_length"])

    @property
    def conditions(self) -> np.ndarray:
        """The (n, len(ranges)) numbers of the conditions: k, phi and temperature in the study."""
        columns = [getattr(self, name) for name in self.ranges]
        return np.stack(columns, axis=1) if columns else np.empty((len(self), 0))

    @property
    def encoded(self) -> Tensor:
        """The (n, 303) conditions of networks that are told potentials, see `encoding.encode`.

        Rows that began at a lattice, as the attribute `start` says, are stable crystals.

        Raises:
            ValueError: a potential that cannot be told.
        """
        what = "stable" if self.attributes.get("start") == "lattice" else "anneal"
        steps = [encoding.N_STEPS] * len(self) if self.steps is None else self.steps.tolist()
        told = [
            encoding.encode(self.potential(row), float(self.temperature[row]), steps[row], what)
            for row in range(len(self))
        ]
        return torch.stack(told) if told else torch.empty(0, encoding.SIZE)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All columns that there are, by name."""
        known = {name: getattr(self, name) for name in _COLUMNS}
        known = {"positions": known["positions"], **self.parameters, **known}
        return {name: column for name, column in known.items() if column is not None}

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
        columns = {name: column[chosen] for name, column in self.columns.items()}
        columns["parameters"] = {name: columns.pop(name) for name in self.parameters}
        if isinstance(self.family, tuple):
            columns["family"] = [self.family[row] for row in chosen]
        return replace(self, **columns)

    def subset(self, split: str) -> "Dataset":
        """Return the rows of one split.

        Raises:
            ValueError: no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return self.take(self.split == split)

    def nearest(self, *condition: float, **named: float) -> int:
        """Find the row whose condition is nearest, each of its parts measured by its range.

        Args:
            condition: its numbers in the order of `ranges`: k, phi, temperature in the study;
            named: or by their names.

        Raises:
            TypeError: a part that is no number.
            ValueError: the data set is empty, a part is missing, not known or not finite.
        """
        if not len(self):
            raise ValueError("the data set has no rows to choose from")
        parts = dict(zip(self.ranges, condition, strict=False)) | named
        if parts.keys() != self.ranges.keys() or len(condition) + len(named) != len(parts):
            raise ValueError(
                f"a condition must be {', '.join(self.ranges)}, got {named or condition}"
            )
        wanted = [arguments.number(name, parts[name]) for name in self.ranges]
        spread = np.ptp(self.conditions, axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        distance = np.linalg.norm((self.conditions - wanted) / scale, axis=1)
        return int(distance.argmin())

    def partners(self, row: int) -> np.ndarray:
        """Return the indices of all other rows with the same condition: its replicas.

        Raises:
            TypeError, ValueError: no number, or that of no row.
        """
        row = self._row(row)
        same = (self.conditions == self.conditions[row]).all(axis=1)
        for column in self.parameters.values():
            same &= column == column[row]
        if isinstance(self.family, tuple):
            same &= [each == self.family[row] for each in self.family]
        same[row] = False
        return np.flatnonzero(same)

    def potential(self, row: int) -> Smoothed:
        """Return the smoothed potential that a row was made with.

        Raises:
            TypeError, ValueError: no number, or that of no row.
        """
        return self.family_of(row).at({})

    def family_of(self, row: int) -> Family:
        """Return a row's potential by its name, with all parameters.

        Raises:
            TypeError, ValueError: no number, or that of no row.
        """
        row = self._row(row)
        if isinstance(self.family, tuple):
            return self.family[row]
        return self.family.fix({name: float(each[row]) for name, each in self.parameters.items()})

    def _row(self, row: int) -> int:
        return arguments.whole("row", row, at_least=0, at_most=len(self) - 1)

    @property
    def content_hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all columns, whatever file they are in."""
        digest = hashlib.sha256(f"{self.box_length!r}".encode())
        if isinstance(self.family, tuple):
            digest.update(repr(self.family).encode())
        for name, column in self.columns.items():
            column = "\n".join(column).encode() if name == "split" else column.tobytes()
            digest.update(name.encode() + column)
        return digest.hexdigest()[:12]


def _family(given, attributes: Mapping, parameters: Mapping):
    """Take the potential, or that of each row, and the parameters that vary."""
    _check_attributes(attributes, ("box_length",))
    arguments.instance("parameters", parameters, Mapping)
    if isinstance(given, Sequence):
        if parameters:
            raise ValueError("parameters must be left out where each row has a family of its own")
        given = arguments.several("family", given, Family)
        for each in given:
            each.at({})
        return (common(given) if given else None) or (tuple(given), {})
    if given is None:
        given = _of_convention(attributes)
    arguments.instance("family", given, Family)
    for word in parameters:
        arguments.choice("each of parameters", word, given.free)
    lacking = [word for word in given.needs if word not in parameters]
    if lacking:
        raise ValueError(f"parameters must contain {', '.join(lacking)}")
    return given, parameters


def _of_convention(attributes: Mapping) -> Family:
    _check_attributes(attributes, ATTRIBUTES)
    radii = {radius: float(attributes[radius]) for radius in ("r_core", "r_on", "r_cut")}
    return Family(CONVENTIONS[attributes["convention"]], **radii)


def _check_attributes(attributes: Mapping, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in attributes]
    if missing:
        raise ValueError(f"attributes must contain {', '.join(missing)}")
    if "convention" in attributes:
        arguments.choice("convention", attributes["convention"], CONVENTIONS)


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
        for name, column in dataset.columns.items():
            if name == "split":
                file.create_dataset(name, data=_fixed(column))
            elif name == "positions":
                # One configuration a chunk, so that single rows are quick to read.
                chunks = (1, *column.shape[1:]) if column.size else None
                options = {"compression": "gzip", "shuffle": True} if column.size else {}
                file.create_dataset(name, data=column, chunks=chunks, **options)
            else:
                file.create_dataset(name, data=column)
        told = {_POTENTIAL: _spelled(dataset.family), _RANGES: json.dumps(dataset.ranges)}
        for name, value in {**dataset.attributes, **told, _HASH: dataset.content_hash}.items():
            file.attrs[name] = _fixed(value) if isinstance(value, str) else value
    files.write_whole(path, content.getvalue())


def _spelled(family: Family | tuple[Family, ...]) -> str:
    if isinstance(family, Family):
        return json.dumps(asdict(family))
    rows = [json.dumps(asdict(each)) for each in family]
    known = list(dict.fromkeys(rows))
    return f'{{"known": [{", ".join(known)}], "rows": {[known.index(row) for row in rows]}}}'


def _understood(text: str) -> Family | list[Family]:
    told = json.loads(text)
    if "known" not in told:
        return Family(**told)
    known = [Family(**each) for each in told["known"]]
    return [known[row] for row in told["rows"]]


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
    columns, attributes = _contents(path, remedy)
    written = attributes.pop(_HASH, None)
    try:
        told = {}
        if _POTENTIAL in attributes:
            told["family"] = _understood(attributes.pop(_POTENTIAL))
            told["ranges"] = json.loads(attributes.pop(_RANGES))
        family = told["family"] if told else _of_convention(attributes)
        # Of before the potential and the ranges were written, all of the study.
        told = told or {"ranges": RANGES}
        alone = isinstance(family, Family)
        needed = [*_COLUMNS, *(family.needs if alone else ())]
        if "family" in told:
            needed = [name for name in needed if name not in _OPTIONAL]
        lacking = [name for name in needed if name not in columns]
        if lacking:
            raise ValueError(
                f"it lacks the columns {', '.join(lacking)}, or has something else in their place"
            )
        free = family.free if alone else ()
        parameters = {name: columns[name] for name in free if name in columns}
        columns = {name: column for name, column in columns.items() if name in _COLUMNS}
        found = Dataset(**columns, **told, attributes=attributes, parameters=parameters)
        content_hash = found.content_hash
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"data set {path} is of another schema: {error}; {_SCHEMA}") from error
    if written not in (None, content_hash):
        raise ValueError(
            f"data set {path} is not as it was written: content hash {content_hash}, was "
            f"{written}; {remedy}. Where it was changed on purpose, delete its attribute {_HASH!r}"
        )
    return found


def _contents(path: Path, remedy: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = {name: _plain(value) for name, value in file.attrs.items()}
            columns = {}
            for name, column in file.items():
                text = isinstance(column, h5py.Dataset) and h5py.check_string_dtype(column.dtype)
                if isinstance(column, h5py.Dataset) and bool(text) == (name == "split"):
                    columns[name] = column.asstr()[...] if text else column[...]
            return columns, attributes
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
    if path.exists():
        return f"take a good copy of it, such as by `git checkout -- {path}` if it is under git"
    return (
        "name a file that `dataset.write` or `mddm data import` made, or the study's own, "
        "data/opp.h5 in its clone"
    )
