"""A crystal that is periodic in a cube: its bonds, energy, shells, sites, symmetry and name."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from mddm import arguments, optional
from mddm.geometry import wrap
from mddm.potential import PairPotential, Smoothed
from mddm.sublattices import cosets

# How far a particle may be from where a symmetry puts it, in units of the cube root of the volume
# of a particle: in a perfect crystal, and in one that its box strains.
EXACT, STRAINED = 1e-4, 0.1
# With one particle a primitive cell the space group says it all.
_LATTICES = {
    **{2: "triclinic", 10: "simple monoclinic", 12: "base-centred monoclinic"},
    **{47: "simple orthorhombic", 65: "base-centred orthorhombic"},
    **{69: "face-centred orthorhombic", 71: "body-centred orthorhombic"},
    **{123: "simple tetragonal", 139: "body-centred tetragonal", 166: "rhombohedral"},
    **{191: "simple hexagonal", 221: "sc", 225: "fcc", 229: "bcc"},
}
# Others by space group and Wyckoff letters of a primitive cell's particles; those that a shift of
# the origin exchanges are both here.
_STRUCTURES = {
    **{(141, "aa"): "beta-tin", (141, "bb"): "beta-tin", (166, "cc"): "alpha-arsenic"},
    **{(194, "cc"): "hcp", (194, "dd"): "hcp", (194, "aacc"): "dhcp", (194, "aadd"): "dhcp"},
    **{(194, "ffff"): "lonsdaleite", (227, "aa"): "diamond", (227, "bb"): "diamond"},
    **{(223, "aacccccc"): "A15", (223, "aadddddd"): "A15"},
}


class Bonds(NamedTuple):
    """Pairs of particles that are near each other, each from both its ends.

    Args:
        start: (n_bonds,) which of the cell's particles it begins at.
        end: (n_bonds,) which one it ends at, or an image of which.
        vectors: (n_bonds, 3) from the one to the other [length].
    """

    start: np.ndarray
    end: np.ndarray
    vectors: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(n_bonds,) [length]."""
        return np.linalg.norm(self.vectors, axis=1)


class Symmetry(NamedTuple):
    """What spglib finds: the space group, its number, and the structure's name, "" without one."""

    space_group: str
    number: int
    name: str


@dataclass(frozen=True)
class Crystal:
    """A crystal that fits a periodic cube.

    Args:
        cell: (3, 3), a lattice vector a row [length]; whole numbers of them make the cube's edges.
        basis: (n, 3), the particles of a cell in units of the lattice vectors.
        box_length: edge of the cube [length].
        energy: potential energy per particle [energy]; nan where it is not known.

    Raises:
        TypeError, ValueError: no numbers, arrays of other shapes, or a cell that does not fit the
            cube.
    """

    cell: np.ndarray = field(repr=False)
    basis: np.ndarray = field(repr=False)
    box_length: float
    energy: float = math.nan

    def __post_init__(self):
        cell, basis = _arrays(self.cell, self.basis)
        taken = {"cell": cell, "basis": basis, "box_length": arguments.box(self.box_length)}
        taken["energy"] = arguments.array("energy", self.energy, (), finite=False).item()
        for name, value in taken.items():
            object.__setattr__(self, name, value)
        repeats = self.box_length * np.linalg.inv(self.cell)
        if not np.allclose(repeats, np.rint(repeats), atol=1e-6):
            raise ValueError(
                f"the cell does not fit a cube of edge {self.box_length}: whole numbers of its "
                "vectors must make the cube's edges"
            )

    @property
    def n_cells(self) -> int:
        """Cells in the cube."""
        return round(self.box_length**3 / abs(np.linalg.det(self.cell)))

    @property
    def n_particles(self) -> int:
        """Particles in the cube."""
        return self.n_cells * len(self.basis)

    @property
    def spacing(self) -> float:
        """Cube root of the volume of a particle [length]."""
        return spacing_of(self.n_particles, self.box_length)

    @cached_property
    def positions(self) -> np.ndarray:
        """(n_particles, 3) float32 in [0, box_length) [length]."""
        sites = cosets(self._repeats)[:, None] + self.basis
        positions = torch.from_numpy(sites.reshape(-1, 3) @ self.cell).float()
        return wrap(positions, self.box_length).numpy()

    @cached_property
    def wave_vectors(self) -> np.ndarray:
        """(n_cells, 3), those of the vibrations that are periodic in the cube [1 / length]."""
        return 2 * math.pi / self.box_length * cosets(self._repeats.T)

    @property
    def _repeats(self) -> np.ndarray:
        return np.rint(self.box_length * np.linalg.inv(self.cell)).astype(np.int64)

    def bonds(self, r_max: float) -> Bonds:
        """Find the pairs of particles of which one is in the cell: see `bonds`."""
        return bonds(self.cell, self.basis, r_max)

    def shells(self, r_max: float, tolerance: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Count neighbours by their distance.

        Args:
            r_max: largest distance [length].
            tolerance: gap between one shell and the next [length].

        Returns:
            Mean distance in each shell [length], and neighbours in it per particle, both
            (n_shells,).

        Raises:
            TypeError, ValueError: a length that is no positive number.
        """
        tolerance = arguments.number("tolerance", tolerance, above=0)
        lengths = np.sort(self.bonds(r_max).lengths)
        shells = np.split(lengths, np.flatnonzero(np.diff(lengths) > tolerance) + 1)
        radii = [shell.mean() for shell in shells if len(shell)]
        counts = [len(shell) / len(self.basis) for shell in shells if len(shell)]
        return np.array(radii), np.array(counts)

    def symmetry(self, tolerance: float = EXACT) -> Symmetry:
        """Find the space group and the name of the structure: see `symmetry`."""
        return symmetry(self.cell, self.basis, tolerance)


def spacing_of(n_particles: int, box_length: float) -> float:
    """Return the cube root of the volume that each particle of a cube has [length].

    Raises:
        TypeError, ValueError: the number of particles is no whole number above 0, or there is no
            box.
    """
    n_particles = arguments.whole("n_particles", n_particles, at_least=1)
    return arguments.box(box_length) / n_particles ** (1 / 3)


def bonds(cell: np.ndarray, basis: np.ndarray, r_max: float) -> Bonds:
    """Find the pairs of particles of which one is in the cell, up to `r_max` apart.

    Args:
        cell: (3, 3), a lattice vector a row [length].
        basis: (n, 3) particles of the cell, in units of the lattice vectors.
        r_max: largest distance [length]; it may reach over many cells.

    Raises:
        TypeError, ValueError: arrays of other shapes or of no numbers, a cell without a volume, or
            a distance that is not positive.
    """
    cell, basis = _arrays(cell, basis)
    r_max = arguments.number("r_max", r_max, above=0)
    apart = basis[None] - basis[:, None]
    # Planes of the lattice are 1 / |reciprocal vector| apart.
    reach = r_max * np.linalg.norm(np.linalg.inv(cell), axis=0) + np.abs(apart).max(axis=(0, 1))
    shifts = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in reach.astype(int)), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    vectors = (shifts[:, None, None] + apart) @ cell
    squared = np.einsum("sijx,sijx->sij", vectors, vectors)
    squared[(shifts == 0).all(axis=1)] += np.diag(np.full(len(basis), math.inf))
    shift, start, end = np.nonzero(squared <= r_max**2)
    return Bonds(start, end, vectors[shift, start, end])


def symmetry(cell: np.ndarray, basis: np.ndarray, tolerance: float = EXACT) -> Symmetry:
    """Find the space group, and the conventional name of the structure where it has one.

    Args:
        cell: (3, 3), a lattice vector a row [length].
        basis: (n, 3) particles of the cell, in units of the lattice vectors.
        tolerance: how far a particle may be from where a symmetry puts it, in units of the cube
            root of the volume of a particle.

    Raises:
        ImportError: there is no spglib.
        TypeError, ValueError: arrays of other shapes or of no numbers, a cell without a volume, a
            tolerance that is not positive, or so large that spglib finds no symmetry at all.

    Source: spglib, Togo and Tanaka 2018.
    """
    with optional.packages():
        import spglib

    cell, basis = _arrays(cell, basis)
    tolerance = arguments.number("tolerance", tolerance, above=0)
    spacing = (abs(np.linalg.det(cell)) / len(basis)) ** (1 / 3)
    crystal = (cell, basis, [1] * len(basis))
    try:
        found = spglib.get_symmetry_dataset(crystal, symprec=tolerance * spacing)
    except spglib.SpglibError:
        found = None
    if found is None:
        raise ValueError(
            f"spglib finds no symmetry within {tolerance} of the spacing; take a smaller tolerance"
        )
    # The first of each that a primitive cell has.
    _, first = np.unique(found.mapping_to_primitive, return_index=True)
    letters = "".join(sorted(found.wyckoffs[index] for index in first))
    name = _STRUCTURES.get((found.number, letters), "")
    if len(letters) == 1:
        name = _LATTICES[found.number]
    return Symmetry(found.international, found.number, name)


def energy(crystal: Crystal, potential: Smoothed) -> float:
    """Return the potential energy per particle of a crystal at rest [energy].

    Raises:
        TypeError: no crystal, or no potential that has an end.
    """
    arguments.instance("crystal", crystal, Crystal)
    bounded(potential)
    lengths = torch.from_numpy(crystal.bonds(potential.r_cut).lengths)
    return potential.energy(lengths).sum().item() / (2 * len(crystal.basis))


def _arrays(cell, basis) -> tuple[np.ndarray, np.ndarray]:
    cell = arguments.array("cell", cell, (3, 3))
    if np.linalg.det(cell) == 0:
        raise ValueError("the cell's vectors must span a volume")
    return cell, arguments.array("basis", basis, ("n", 3))


def bounded(potential: PairPotential) -> float:
    """Return where a potential ends [length].

    Raises:
        TypeError: it is no potential, or one that has no end.
    """
    r_cut = getattr(potential, "r_cut", math.inf)
    if not hasattr(potential, "energy") or not r_cut < math.inf:
        raise TypeError(
            "potential must have energy(r) and a finite r_cut, such as mddm.potential.Smoothed, "
            f"got {potential!r}"
        )
    return r_cut


def check_potential(potential: PairPotential, shortest: float) -> None:
    """Refuse a potential for which a search of crystals means nothing.

    Args:
        potential: what is asked about.
        shortest: distance that no two particles of the crystals are nearer than [length].

    Raises:
        TypeError: as for `bounded`.
        ValueError: `shortest` is not positive; the potential is nan or infinite somewhere, or does
            not rise all the way from `shortest` to contact: particles would come nearer than that.
    """
    r_cut, shortest = bounded(potential), arguments.number("shortest", shortest, above=0)
    r = torch.linspace(1e-3, max(r_cut, shortest), 3000, dtype=torch.float64)
    values = potential.energy(r)
    if not torch.isfinite(values).all():
        wrong = r[~torch.isfinite(values)][0].item()
        raise ValueError(
            f"the potential is not finite at r = {wrong:.4g}; give it finite parameters, and a "
            "core with Smoothed(potential, r_core=...)"
        )
    inside, least = values[r <= shortest], potential.energy(r.new_tensor([shortest]))[0]
    if not (inside[0] > least and least <= inside.min() + 1e-9 * abs(least)):
        lowest = r[inside.argmin()].item()
        raise ValueError(
            f"the potential must repel wherever r is below shortest, {shortest:.4g}, but it is "
            f"lowest at r = {lowest:.4g}; crystals with nearer neighbours are not searched: give a "
            "smaller shortest, or a potential that repels"
        )
