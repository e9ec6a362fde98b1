"""Configurations for other programs: GSD and extended XYZ, which OVITO, ASE and freud's users read.

`python -m mddm.export data/opp.h5 crystals.gsd --rows 8 9` writes rows of a data set.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mddm import dataset

FORMATS = (".gsd", ".xyz", ".extxyz")


def write(
    path: str | Path,
    positions: np.ndarray,
    box_length: float,
    information: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write configurations as the frames of one file, which is there whole or not at all.

    Args:
        path: ends in .gsd, .xyz or .extxyz.
        positions: (n_frames, n_particles, 3), or (n_particles, 3) for one frame [length].
        box_length: edge of the periodic cube [length].
        information: a name and (n_frames,) numbers for each quantity to write beside them, such
            as k, phi, temperature and energy: `log/<name>` in GSD, the comment line in XYZ.

    Raises:
        ValueError: another ending, positions of another shape or not finite, or a quantity
            without one number a frame.
        OSError: the folder is not there or not writable, or the disk is full.
    """
    path, frames = Path(path), np.asarray(positions, dtype=np.float32)
    if frames.ndim == 2:
        frames = frames[None]
    if frames.ndim != 3 or frames.shape[2] != 3 or 0 in frames.shape:
        raise ValueError(
            "positions must have the shape (n_particles, 3) or (n_frames, n_particles, 3), got "
            f"{np.shape(positions)}"
        )
    if not np.isfinite(frames).all():
        raise ValueError("positions must be finite; some are nan or infinite")
    information = {name: np.asarray(values) for name, values in (information or {}).items()}
    for name, values in information.items():
        if values.shape != (len(frames),):
            raise ValueError(f"{name} must have one number a frame, got shape {values.shape}")
    writers = {".gsd": _write_gsd, ".xyz": _write_xyz, ".extxyz": _write_xyz}
    if path.suffix not in writers:
        raise ValueError(f"path must end in one of {', '.join(FORMATS)}, got {str(path)!r}")
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        writers[path.suffix](partial, frames, box_length, information)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_gsd(path, frames, box_length, information):
    import gsd.hoomd

    with gsd.hoomd.open(path, "w") as file:
        for index, points in enumerate(frames):
            frame = gsd.hoomd.Frame()
            frame.configuration.step = index
            frame.configuration.box = [box_length] * 3 + [0, 0, 0]
            frame.particles.N = len(points)
            # Its box is centred on the origin.
            frame.particles.position = points - np.float32(box_length / 2)
            frame.log = {name: values[index : index + 1] for name, values in information.items()}
            file.append(frame)


def _write_xyz(path, frames, box_length, information):
    import ase
    import ase.io

    images = []
    for index, points in enumerate(frames):
        # The symbol of no element.
        atoms = ase.Atoms(["X"] * len(points), points, cell=[box_length] * 3, pbc=True)
        atoms.info.update({name: values[index].item() for name, values in information.items()})
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: write rows of a data set with their conditions and energies."""
    parser = argparse.ArgumentParser(prog="python -m mddm.export", description=__doc__)
    parser.add_argument("data", help="an HDF5 file of the data set's schema")
    parser.add_argument("output", help=f"ends in {' or '.join(FORMATS)}")
    parser.add_argument("--split", choices=dataset.SPLITS, help="only this split's rows")
    parser.add_argument("--rows", type=int, nargs="+", help="only these rows, from 0")
    options = parser.parse_args(arguments)
    try:
        data = dataset.read(options.data)
        rows = np.arange(len(data)) if options.rows is None else np.array(options.rows)
        if not ((rows >= 0) & (rows < len(data))).all():
            raise ValueError(f"rows must lie in [0, {len(data)}), got {options.rows}")
        chosen = data.take(rows)
        if options.split:
            chosen = chosen.subset(options.split)
        if not len(chosen):
            raise ValueError(f"no row of {options.data} is chosen; leave out --split or --rows")
        names = ("k", "phi", "temperature", "pressure", "steps", "seed")
        information = {name: getattr(chosen, name) for name in names}
        # Readers take "energy" for that of all particles together.
        information["energy_per_particle"] = chosen.energy
        write(options.output, chosen.positions, chosen.box_length, information)
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {len(chosen)} configurations to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
