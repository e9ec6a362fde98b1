"""Configurations for other programs: GSD, extended XYZ and LAMMPS data, which OVITO reads all.

`mddm export data/opp.h5 --rows 8 9 --out crystals.gsd` writes rows of a data set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import arguments, files, geometry, optional

if TYPE_CHECKING:
    from ase import Atoms

FORMATS = (".gsd", ".xyz", ".extxyz", ".data")
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
        path: ends in .gsd, .xyz or .extxyz; or in .data for one frame in LAMMPS's format.
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
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    frames, box_length, information = _checked(positions, box_length, information)
    path = _for_frames(path, len(frames))
    writers = {".gsd": _write_gsd, ".data": _write_data}
    with files.whole(path) as partial:
        writers.get(path.suffix, _write_xyz)(partial, frames, box_length, information)


def check(path: str | Path, n_frames: int = 1) -> None:
    """Find out whether `write` can write a file, before there is anything to write.

    Args:
        path: of the file.
        n_frames: how many it is to hold.

    Raises:
        TypeError, ValueError: another ending, or more frames than such a file holds.
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    n_frames = arguments.whole("n_frames", n_frames, at_least=1)
    files.check_writable(_for_frames(path, n_frames))


def _for_frames(path, n_frames):
    path = arguments.path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in one of {', '.join(FORMATS)}, got {str(path)!r}")
    if path.suffix == ".data" and n_frames > 1:
        raise ValueError(
            f"a LAMMPS data file holds one configuration, got {n_frames}; write each to a file of "
            "its own, or all to .extxyz"
        )
    return path


def to_ase(
    positions: np.ndarray,
    box_length: float,
    information: Mapping[str, Sequence[float]] | None = None,
) -> list["Atoms"]:
    """Turn configurations into ASE's `Atoms`, of the element X, which is none.

    Args, Raises: as `write`.
    """
    return _images(*_checked(positions, box_length, information))


def read(path: str | Path) -> tuple[np.ndarray, float]:
    """Read the configurations of a file that another program wrote.

    Args:
        path: ends in .gsd, in .data as LAMMPS writes it, or is of a format that ASE reads, such as
            extended XYZ.

    Returns:
        positions: (n_frames, n_particles, 3) in [0, box_length) [length].
        box_length: edge of the periodic cube [length].

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is none of these, frames of several boxes or sizes, or a box that
            is no periodic cube.
    """
    path = arguments.path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    load = _load_gsd if path.suffix == ".gsd" else _load_ase
    try:
        frames = load(path)
    except (OSError, RuntimeError, LookupError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} is no file of configurations: {error}") from error
    if not frames or not frames[0][0].size:
        raise ValueError(f"{path} has no frame with particles")
    # GSD keeps single precision.
    boxes = {tuple(np.round(np.asarray(box, dtype=float), 5)) for _, box in frames}
    if len(boxes) != 1 or len({points.shape for points, _ in frames}) != 1:
        raise ValueError(f"{path} holds frames of several boxes or sizes; write each to its own")
    (x, y, z, *tilts), *_ = boxes
    if not (x == y == z > 0) or any(tilts):
        raise ValueError(f"{path} must have a periodic cube for a box, got {x:g}, {y:g}, {z:g}")
    positions = arguments.positions(np.stack([points for points, _ in frames]))
    return geometry.wrap_single(positions, x), float(x)


def _load_gsd(path):
    with optional.packages():
        import gsd.hoomd

    with gsd.hoomd.open(path, "r") as file:
        # Its box is centred on the origin, ours begins there.
        return [
            (frame.particles.position + frame.configuration.box[:3] / 2, frame.configuration.box)
            for frame in file
        ]


def _load_ase(path):
    with optional.packages():
        import ase.io

    # ASE takes the ending for that of RuNNer.
    known = {"format": "lammps-data"} if path.suffix == ".data" else {}
    try:
        images = ase.io.read(path, index=":", **known)
    except ase.io.formats.UnknownFileTypeError as error:
        raise ValueError(f"{path} is of no format that ASE knows: {error}") from error
    # Edges and what is not a right angle; no edge where there is no period.
    return [
        (
            image.get_positions(),
            np.append(image.cell.lengths() * image.pbc, image.cell.angles() - 90),
        )
        for image in images
    ]


def _checked(positions, box_length, information):
    points = arguments.positions(positions, ("n_particles", 3), ("n_frames", "n_particles", 3))
    box_length = arguments.box(box_length)
    frames = geometry.wrap_single(points, box_length).reshape(-1, *points.shape[-2:])
    if information is None:
        information = {}
    for name, values in arguments.instance("information", information, Mapping).items():
        if not str(name).isidentifier() or name.lower() in _TAKEN:
            raise ValueError(
                f"a quantity cannot be called {name!r}: readers of extended XYZ want a word, and "
                f"take {', '.join(_TAKEN)} for what holds of all particles together or of the "
                "box; choose another, such as 'energy_per_particle'"
            )
        arguments.array(f"{name}, one number a frame,", values, (len(frames),), finite=False)
    return frames, box_length, {name: np.asarray(values) for name, values in information.items()}


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


def _images(frames, box_length, information):
    with optional.packages():
        import ase

    images = []
    for index, points in enumerate(frames):
        atoms = ase.Atoms(["X"] * len(points), points, cell=[box_length] * 3, pbc=True)
        atoms.info.update({name: values[index].item() for name, values in information.items()})
        images.append(atoms)
    return images


def _write_xyz(path, frames, box_length, information):
    images = _images(frames, box_length, information)
    with optional.packages():
        import ase.io

    ase.io.write(path, images, format="extxyz")


def _write_data(path, frames, box_length, information):
    (image,) = _images(frames, box_length, {})
    with optional.packages():
        import ase.io

    ase.io.write(path, image, format="lammps-data", specorder=["X"], masses=False)
