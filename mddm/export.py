"""Configurations for other programs: GSD and extended XYZ, which OVITO, ASE and freud's users read.

`python -m mddm.export data/opp.h5 crystals.gsd --rows 8 9` writes rows of a data set.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mddm import arguments, dataset, geometry, optional

FORMATS = (".gsd", ".xyz", ".extxyz")
# What the comment line of an extended XYZ file has a meaning of its own for.
_TAKEN = (
    "energy", "free_energy", "stress", "virial", "dipole", "magmom", "pbc", "lattice", "properties",
)  # fmt: skip


def write(
    path: str | Path,
    positions: np.ndarray,
    box_length: float,
    information: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write configurations as the frames of one file, which is there whole or not at all.

    Args:
        path: ends in .gsd, .xyz or .extxyz.
        positions: (n_frames, n_particles, 3), or (n_particles, 3) for one frame [length]; any
            image of a particle will do, the one inside the box is written.
        box_length: edge of the periodic cube [length].
        information: a name and (n_frames,) numbers for each quantity to write beside them, such
            as k, phi, temperature and energy_per_particle: `log/<name>` in GSD, the comment line
            in XYZ.

    Raises:
        TypeError: an argument that is no number.
        ValueError: another ending, positions of another shape or not finite, a box that is not
            positive, a quantity without one number a frame, or one whose name is no word or is
            taken for something else by readers of extended XYZ.
        OSError: the folder is not there or not writable, or the disk is full.
    """
    path = Path(path)
    points = arguments.positions(positions, ("n_particles", 3), ("n_frames", "n_particles", 3))
    box_length = arguments.box(box_length)
    frames = geometry.wrap_single(points, box_length).reshape(-1, *points.shape[-2:])
    information = {name: np.asarray(values) for name, values in (information or {}).items()}
    for name, values in information.items():
        if values.shape != (len(frames),) or values.dtype.kind not in "iuf":
            raise ValueError(f"{name} must have one number a frame, got {values.tolist()}")
        if not str(name).isidentifier() or name.lower() in _TAKEN:
            raise ValueError(
                f"a quantity cannot be called {name!r}: readers of extended XYZ want a word, and "
                f"take {', '.join(_TAKEN)} for what holds of all particles together or of the "
                "box; choose another, such as 'energy_per_particle'"
            )
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
    with optional.packages():
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
    with optional.packages():
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
