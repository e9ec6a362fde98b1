"""Which crystal a potential wants: the lattices that fit a periodic cube, lowest in energy first.

`mddm lattices --potential opp:k=13.87,phi=1.01 -n 5` prints the five lowest of a potential.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_array

from mddm import arguments, bases, phonons
from mddm.crystal import STRAINED, Crystal, check_potential, spacing_of
from mddm.potential import Smoothed
from mddm.sublattices import SHORTEST, cells

# Lattices whose neighbours are counted at a time: it bounds the memory that this takes.
_CHUNK = 2000
# How many of the lowest in energy are candidates for the lowest free energy, at the least, and in
# units of what is asked for.
_CANDIDATES, _TIMES = 20, 4


def search(
    potential: Smoothed,
    n_particles: int,
    box_length: float,
    n_best: int = 5,
    *,
    shortest: float | None = None,
) -> list[Crystal]:
    """Find the lattices of lowest energy that a periodic cube can hold.

    All of them are looked at, one particle a cell; for more see `bases.search`.  The first search
    with a number of particles makes their list, which takes seconds; later ones take a moment.

    Args:
        potential: a smoothed pair potential.
        n_particles: particles in the cube.
        box_length: edge of the cube [length].
        n_best: how many to return.
        shortest: distance that no two particles are nearer than [length]; by default 0.86 cube
            roots of the volume of a particle.

    Returns:
        The lowest in energy first; fewer than `n_best` where there are no more.

    Raises:
        TypeError, ValueError: a potential that is not finite or does not repel
            (`crystal.check_potential`), a number of particles with too many lattices, or with none.
        ImportError: there is no spglib.

    Source: this study.
    """
    return search_many([potential], n_particles, box_length, n_best, shortest=shortest)[0]


def search_many(
    potentials: Sequence[Smoothed],
    n_particles: int,
    box_length: float,
    n_best: int = 5,
    *,
    shortest: float | None = None,
) -> list[list[Crystal]]:
    """Search the same lattices for many potentials at once: the arguments and errors of `search`.

    Returns:
        What `search` returns, for each potential.
    """
    n_best = arguments.whole("n_best", n_best, at_least=1)
    vectors, values = energies(potentials, n_particles, box_length, shortest=shortest)
    at = np.zeros((1, 3))
    return [
        [Crystal(vectors[i], at, box_length, float(column[i])) for i in np.argsort(column)[:n_best]]
        for column in values.T
    ]


def energies(
    potentials: Sequence[Smoothed],
    n_particles: int,
    box_length: float,
    *,
    shortest: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the energies of all lattices: the arguments and errors of `search`.

    Returns:
        cells: (n_lattices, 3, 3), a lattice vector a row [length].
        energies: (n_lattices, n_potentials) per particle [energy].
    """
    potentials = arguments.several(
        "potentials", potentials, Smoothed, "wrap it: Smoothed(potential)"
    )
    if not potentials:
        raise ValueError("potentials must hold at least one")
    n_particles = arguments.whole("n_particles", n_particles)
    spacing = spacing_of(n_particles, box_length)
    shortest = SHORTEST * spacing if shortest is None else shortest
    shortest = arguments.number("shortest", shortest, above=0)
    for potential in potentials:
        check_potential(potential, shortest)
    r_cut = max(potential.r_cut for potential in potentials)
    whole, radii, counts = _neighbors(n_particles, shortest / spacing, r_cut / box_length)
    r = torch.from_numpy(radii * box_length)
    values = torch.stack([potential.energy(r) for potential in potentials], dim=1)
    return whole * (box_length / n_particles), counts @ values.numpy()


def stable(
    potential: Smoothed,
    n_particles: int,
    box_length: float,
    temperature: float,
    n_best: int = 5,
    *,
    per_cell: int = 1,
    shortest: float | None = None,
) -> list[phonons.Vibrations]:
    """Find the crystals of lowest free energy, among those of low energy.

    Args:
        potential, n_particles, box_length, n_best, shortest: as for `search`.
        temperature: [energy].
        per_cell: particles a cell; more than one as for `bases.search`.

    Returns:
        Their vibrations, the lowest free energy first; where fewer than `n_best` are stable, those
        of others follow (`phonons.by_free_energy`).

    Raises:
        TypeError, ValueError, ImportError: as for `search`, `bases.search` and
            `phonons.vibrations`.
    """
    n_best = arguments.whole("n_best", n_best, at_least=1)
    per_cell = arguments.whole("per_cell", per_cell, at_least=1)
    n_candidates = max(_CANDIDATES, _TIMES * n_best)
    if per_cell == 1:
        found = search(potential, n_particles, box_length, n_candidates, shortest=shortest)
    else:
        found = bases.search(
            potential, n_particles, box_length, per_cell, n_candidates, shortest=shortest
        )
    return phonons.by_free_energy(found, potential, temperature)[:n_best]


@lru_cache(maxsize=4)
def _neighbors(
    n_sites: int, shortest: float, reach: float
) -> tuple[np.ndarray, np.ndarray, csr_array]:
    """Count the neighbours of a site in all lattices, at each of the distances that there are.

    Squared distances are whole numbers, so that few are different: an energy of all lattices is a
    product of one matrix.

    Returns:
        The cells; the distances, in box edges; and of how many pairs of opposite neighbours each
        lattice has them, (n_lattices, n_distances).
    """
    whole = cells(n_sites, shortest)
    if not len(whole):
        raise ValueError(
            f"no lattice with {n_sites} sites in a cube keeps them {shortest:.4g} cube roots of "
            "their volume apart; give a smaller shortest, or another number of particles"
        )
    products = (whole @ whole.transpose(0, 2, 1)).astype(float)
    radius = reach * n_sites
    # Planes of a lattice are 1 / |reciprocal vector| apart.
    most = radius * np.linalg.norm(np.linalg.inv(whole), axis=1).max(axis=0)
    axes = (np.arange(-int(n), int(n) + 1) for n in most)
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    # One of each vector and its opposite.
    steps = steps[len(steps) // 2 + 1 :]
    pairs = (steps[:, :, None] * steps[:, None]).reshape(-1, 9).T.astype(float)
    lattices, squares = [], []
    for start in range(0, len(whole), _CHUNK):
        squared = products[start : start + _CHUNK].reshape(-1, 9) @ pairs
        lattice, step = np.nonzero(squared <= radius**2)
        lattices.append(start + lattice)
        squares.append(squared[lattice, step])
    squares, column = np.unique(np.concatenate(squares), return_inverse=True)
    index = np.concatenate(lattices), column
    counts = csr_array((np.ones(len(column)), index), (len(whole), len(squares)))
    return whole, np.sqrt(squares) / n_sites, counts


def table(crystals: Sequence[Crystal], free_energies: Sequence[float] = ()) -> str:
    """Write crystals as lines of text: energy a particle, symmetry and name, the nearest shells.

    Args:
        crystals: as from `search`.
        free_energies: of each, if they are to be told [energy]; nan where it is unstable.

    Raises:
        ImportError: there is no spglib.
    """
    free = f"{'free energy':>12}" if free_energies else ""
    lines = [
        f"{'energy':>11}{free}  {'space group':<12}{'within a tenth of a spacing':<36}neighbours"
    ]
    for index, crystal in enumerate(crystals):
        exact, near = crystal.symmetry(), crystal.symmetry(STRAINED)
        radii, counts = crystal.shells(1.8 * crystal.spacing, 0.05 * crystal.spacing)
        shells = ", ".join(
            f"{n:.3g} at {r:.3f}" for r, n in zip(radii[:3], counts[:3], strict=True)
        )
        free = ""
        if free_energies:
            value = free_energies[index]
            free = f"{'unstable':>12}" if math.isnan(value) else f"{value:12.5g}"
        named = f"{near.space_group}, {near.name}" if near.name else near.space_group
        lines.append(f"{crystal.energy:11.5g}{free}  {exact.space_group:<12}{named:<36}{shells}")
    return "\n".join(lines)
