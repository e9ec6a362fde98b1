"""Data sets from other programs' files: GSD, extended XYZ and any trajectory that ASE reads."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mddm import arguments, export
from mddm.dataset import SPLITS, Dataset
from mddm.family import Family
from mddm.potential import potential_energy


def read_files(
    paths: str | Path | Sequence[str | Path],
    potential: Family | Sequence[Family],
    temperature: float | Sequence[float],
    split: str | Sequence[str] = "train",
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Dataset:
    """Make a data set of the configurations of files, each frame a row.

    What differs between the files, such as the temperature or a parameter of the potential, is the
    condition that a model of the set is told; where nothing does, a model learns without one.

    Args:
        paths: of files as `export.read` takes them, all of one box and number of particles.
        potential: what they were made with, one for all or one for each file.
        temperature: likewise [energy].
        split: likewise, "train", "test" or "replica".
        ranges: see `dataset.Dataset`; by default the least and the greatest value of each number
            that differs.

    Returns:
        The data set, with the energies that the potential gives; seeds, steps, pressures and
        what else only the engine could know are left out.

    Raises:
        FileNotFoundError: no such file.
        TypeError, ValueError: a file of another kind, box or size, a potential with a cut-off of
            half the box, or not one value for all or for each file.
    """
    paths = [paths] if isinstance(paths, str | PathLike) else paths
    paths = [
        arguments.path(path, "each of paths")
        for path in arguments.several("paths", paths, (str, PathLike))
    ]
    if not paths:
        raise ValueError("paths must name at least one file")
    families = _each("potential", potential, len(paths), Family)
    temperatures = _each("temperature", temperature, len(paths), (int, float, np.number))
    temperatures = [arguments.number("temperature", each, above=0) for each in temperatures]
    splits = [
        arguments.choice("split", each, SPLITS) for each in _each("split", split, len(paths), str)
    ]
    frames, boxes = zip(*map(export.read, paths), strict=True)
    if len({(box, points.shape[1]) for points, box in zip(frames, boxes, strict=True)}) != 1:
        sizes = "; ".join(
            f"{path}: {points.shape[1]} particles in a box of {box:g}"
            for path, points, box in zip(paths, frames, boxes, strict=True)
        )
        raise ValueError(f"paths must be of one box and number of particles, got {sizes}")
    counts = [len(points) for points in frames]
    energies = [
        _energy(one, each.at({}), boxes[0])
        for points, each in zip(frames, families, strict=True)
        for one in points
    ]
    return Dataset(
        positions=np.concatenate(frames),
        temperature=np.repeat(temperatures, counts),
        split=np.repeat(splits, counts),
        energy=energies,
        family=[each for each, n in zip(families, counts, strict=True) for _ in range(n)],
        ranges=ranges,
        attributes={"box_length": boxes[0], "source": ", ".join(path.name for path in paths)},
    )


def _each(name: str, value: Any, n: int, kind: type | tuple[type, ...]) -> list:
    if isinstance(value, kind):
        return [value] * n
    values = arguments.several(name, value, kind)
    if len(values) not in (1, n):
        raise ValueError(
            f"{name} must be one for all or one for each of {n} files, got {len(values)}"
        )
    return values * n if len(values) == 1 else values


def _energy(points: np.ndarray, potential, box_length: float) -> float:
    return potential_energy(torch.from_numpy(points).double(), potential, box_length).mean().item()
