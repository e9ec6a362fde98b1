"""Which crystal a potential wants, with several particles a cell.

Every lattice of cells that the cube can hold is filled on a grid, by moving one particle at a time
to the best place that the others leave it; the lowest are then relaxed off the grid.
Fillings miss the lowest of more than four particles a cell; with so many, the most compact cells
alone are filled at random, and relaxed.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import minimize

from mddm import arguments
from mddm.crystal import Crystal, bonds, bounded, check_potential, energy, spacing_of
from mddm.potential import Smoothed, energy_unit
from mddm.sublattices import SHORTEST, cells

# Step of the grid, in units of the cube root of the volume of a particle.  Steps come in fours, so
# that the places of diamond and A15 are on it.
_GRID = 0.2
# Ways to fill each cell, how often each particle is moved, and how many ways are kept.
_STARTS, _SWEEPS, _WAYS = 48, 6, 3
# The most particles that are put on the grid.  With more of them so many cells are filled at
# random, so often, and relaxed in so many steps, some at a time: of 400 ways to fill the cell of
# A15 one becomes A15.
_MOST_ON_GRID, _CELLS, _TRIES, _STEPS, _BATCH = 4, 2, 1500, 60, 150
# How many of the filled cells are relaxed, and in how many steps, before the best of them go on.
_ROUNDS = ((4000, 15), (800, 40), (150, 100))
_MOST_STEPS = 2000
# Noise that takes particles off the saddle points which symmetry may have put them on, and how much
# further than the cut-off bonds are followed when they move, in units as above.
_JIGGLE, _SKIN = 0.02, 0.4
# Entries of the table that the grid's energies are read from, evenly spaced in r squared.
_TABLE = 2**16
# Structures nearer in energy are the same one, in units of `potential.energy_unit`.
_SAME = 1e-5


def search(
    potential: Smoothed,
    n_particles: int,
    box_length: float,
    per_cell: int,
    n_best: int = 5,
    *,
    shortest: float | None = None,
    seed: int = 0,
) -> list[Crystal]:
    """Find crystals of low energy with several particles a cell.

    With two particles all places on a grid are tried, with more it is a search with random starts,
    which may miss the lowest.  With more than four these are in the two most compact cells alone,
    the cube among them where it fits.  A thousand particles, two to four a cell or eight, take
    about a minute.

    Args:
        potential: a smoothed pair potential.
        n_particles: particles in the cube.
        box_length: edge of the cube [length].
        per_cell: particles of a cell, at least 2; those of one are searched by `lattices.search`.
        n_best: how many to return.
        shortest: distance that no two particles are nearer than [length]; by default 0.86 cube
            roots of the volume of a particle.
        seed: of the starts.

    Returns:
        Relaxed crystals, the lowest in energy first, fewer than `n_best` where there are no more.
        Cells of two particles of which two make one of four are searched too, and crystals of one
        particle a cell are among these.

    Raises:
        TypeError, ValueError: as for `lattices.search`; `per_cell` is below 2 or no divisor of the
            number of particles.
        ImportError: there is no spglib.

    Source: this study; Pickard and Needs 2011 search from random starts, off the grid.
    """
    spacing = spacing_of(n_particles, box_length)
    n_particles = arguments.whole("n_particles", n_particles)
    per_cell, n_best = (
        arguments.whole(name, value, at_least=least)
        for name, value, least in (("per_cell", per_cell, 1), ("n_best", n_best, 1))
    )
    if per_cell < 2 or n_particles % per_cell:
        raise ValueError(
            f"per_cell must be a whole number above 1 that divides n_particles ({n_particles}), "
            f"got {per_cell!r}; for one particle a cell there is lattices.search"
        )
    shortest = SHORTEST * spacing if shortest is None else shortest
    check_potential(potential, shortest)
    rng = np.random.default_rng(arguments.seed(seed))
    found = []
    for n in (2, 4) if per_cell == 4 else (per_cell,):
        found += _search(potential, n_particles // n, box_length, n, n_best, shortest, rng)
    if not found:
        raise ValueError(
            f"no lattice of {n_particles // per_cell} cells keeps its sites {shortest:.4g} apart; "
            "give a smaller shortest, or other numbers of particles"
        )
    return _distinct(found, potential)[:n_best]


def _search(potential, n_cells, box_length, per_cell, n_best, shortest, rng):
    spacing = spacing_of(n_cells * per_cell, box_length)
    whole = cells(n_cells, shortest / spacing_of(n_cells, box_length)) * (box_length / n_cells)
    if per_cell > _MOST_ON_GRID:
        crystals = _scattered(whole, per_cell, potential, box_length, rng)[: _ROUNDS[-1][0]]
        return _distinct(relax(crystals, potential), potential)[:n_best]
    filled, unit = [], energy_unit(potential)
    for cell in whole:
        energies, ways = _fill(cell, per_cell, potential, spacing, unit, rng)
        filled += [(value, cell, basis) for value, basis in zip(energies, ways, strict=True)]
    filled.sort(key=lambda each: each[0])
    crystals = []
    for _, cell, basis in filled[: _ROUNDS[0][0]]:
        noise = rng.normal(0, _JIGGLE * spacing, basis.shape) @ np.linalg.inv(cell)
        crystals.append(Crystal(cell, basis + noise, box_length))
    for n_kept, n_steps in _ROUNDS:
        crystals = _distinct(relax(crystals[:n_kept], potential, n_steps), potential)
    return _distinct(relax(crystals[: 4 * n_best + 10], potential), potential)[:n_best]


def _scattered(whole, per_cell, potential, box_length, rng):
    """Fill the most compact cells at random, and relax them somewhat."""
    compact = sorted(whole, key=lambda cell: np.linalg.norm(cell, axis=1).max())
    crystals = []
    for cell in compact[:_CELLS]:
        for start in range(0, _TRIES, _BATCH):
            ways = rng.random((min(_BATCH, _TRIES - start), per_cell, 3))
            crystals += relax([Crystal(cell, way, box_length) for way in ways], potential, _STEPS)
    return _distinct(crystals, potential)


def relax(
    crystals: list[Crystal], potential: Smoothed, n_steps: int = _MOST_STEPS
) -> list[Crystal]:
    """Relax the particles of crystals within their cells, which stay as they are.

    Args:
        crystals: of equal numbers of particles a cell.
        potential: a smoothed pair potential.
        n_steps: most iterations.

    Returns:
        The crystals with the energies that they have then.

    Raises:
        TypeError, ValueError: other objects, crystals of several numbers of particles a cell, or no
            number of steps above 0.
    """
    crystals = arguments.several("crystals", crystals, Crystal)
    bounded(potential)
    n_steps = arguments.whole("n_steps", n_steps, at_least=1)
    if len({len(crystal.basis) for crystal in crystals}) > 1:
        raise ValueError("crystals must have equal numbers of particles a cell")
    if not crystals or len(crystals[0].basis) == 1:
        return [_relaxed(crystal, crystal.basis, potential) for crystal in crystals]
    reach = potential.r_cut + _SKIN * crystals[0].spacing
    places = np.stack([crystal.basis @ crystal.cell for crystal in crystals])
    starts, ends, offsets = [], [], []
    for which, crystal in enumerate(crystals):
        start, end, vectors = bonds(crystal.cell, crystal.basis, reach)
        # Bonds of a particle with its own images keep their lengths, all others are here twice.
        once = start < end
        start, end = start[once], end[once]
        starts.append(start + which * len(crystal.basis))
        ends.append(end + which * len(crystal.basis))
        offsets.append(vectors[once] - (places[which][end] - places[which][start]))
    start, end = (torch.from_numpy(np.concatenate(part)) for part in (starts, ends))
    offset = torch.from_numpy(np.concatenate(offsets))

    unit = energy_unit(potential)

    def total(flat):
        at = torch.from_numpy(flat).view(-1, 3)
        vectors = at[end] + offset - at[start]
        r = vectors.norm(dim=-1)
        pull = (potential.force(r) / r)[:, None] * vectors
        slope = torch.zeros_like(at).index_add_(0, start, pull).index_add_(0, end, -pull)
        return potential.energy(r).sum().item() / unit, slope.flatten().numpy() / unit

    settings = {"maxiter": n_steps, "maxfun": 2 * n_steps, "ftol": 1e-15, "gtol": 1e-7}
    done = minimize(total, places.ravel(), jac=True, method="L-BFGS-B", options=settings)
    places = done.x.reshape(places.shape)
    return [
        _relaxed(crystal, at @ np.linalg.inv(crystal.cell), potential)
        for crystal, at in zip(crystals, places, strict=True)
    ]


def _relaxed(crystal: Crystal, basis: np.ndarray, potential: Smoothed) -> Crystal:
    moved = Crystal(crystal.cell, basis - basis[0], crystal.box_length)
    return Crystal(moved.cell, moved.basis, moved.box_length, energy(moved, potential))


def _distinct(crystals: list[Crystal], potential: Smoothed) -> list[Crystal]:
    """Put crystals in order of energy, one of each."""
    kept, same = [], _SAME * energy_unit(potential)
    for crystal in sorted(crystals, key=lambda crystal: crystal.energy):
        if not kept or crystal.energy > kept[-1].energy + same:
            kept.append(crystal)
    return kept


def _fill(cell, per_cell, potential, spacing, unit, rng):
    """Fill a cell in some of the best ways.

    Returns:
        Energies per particle, and bases, (n_ways, per_cell, 3).
    """
    lengths = np.linalg.norm(cell, axis=1)
    shape = tuple(4 * np.ceil(lengths / (4 * _GRID * spacing)).astype(int))
    alone, field = _field(cell, shape, potential)
    # The energy between a particle and another with all its images depends on how far apart they
    # are alone.
    apart, field = _apart(shape), field.ravel()
    n_starts = 1 if per_cell == 2 else _STARTS
    places = rng.integers(field.size, size=(n_starts, per_cell))
    places[:, 0] = 0
    for sweep in range(1 if per_cell == 2 else _SWEEPS):
        before = places.copy()
        for moved in range(1, per_cell):
            # The first time round the particles come one after another.
            others = range(moved) if sweep == 0 else np.delete(np.arange(per_cell), moved)
            places[:, moved] = field[apart[places[:, others]]].sum(axis=1).argmin(axis=1)
        if (places == before).all():
            break
    pairs = field[apart[places[:, :, None], places[:, None]]].sum(axis=(1, 2))
    energies = (alone - field[0] + pairs / per_cell) / 2
    _, first = np.unique(np.round(energies / unit, 6), return_index=True)
    best = first[np.argsort(energies[first])][:_WAYS]
    grid = np.stack(np.unravel_index(places[best], shape), axis=-1) / shape
    return energies[best], grid


def _field(cell, shape, potential):
    """Sum the potential of a lattice at the places of a grid: (its own sites, all places)."""
    fine = cell / np.array(shape)[:, None]
    radius = potential.r_cut
    most = (radius * np.linalg.norm(np.linalg.inv(fine), axis=0)).astype(int)
    steps = [np.arange(-n, n + 1) for n in most]
    gram = fine @ fine.T
    x, y, z = np.meshgrid(*steps, indexing="ij", sparse=True)
    squared = gram[0, 0] * x**2 + (gram[1, 1] * y**2 + 2 * gram[0, 1] * x * y)
    squared = squared + (gram[2, 2] * z**2 + 2 * gram[1, 2] * y * z) + 2 * gram[0, 2] * x * z
    inside = squared < radius**2
    x, y, z = (step % n for step, n in zip((x, y, z), shape, strict=True))
    place = ((x * shape[1] + y) * shape[2] + z)[inside]
    values = _table(potential)[(squared[inside] * (_TABLE / radius**2)).astype(np.int32)]
    field = np.bincount(place, values, minlength=math.prod(shape))
    # A particle at a site of the lattice is no neighbour of itself.
    return field[0] - _table(potential)[0], field


@lru_cache(maxsize=4)
def _table(potential):
    middle = (torch.arange(_TABLE, dtype=torch.float64) + 0.5) / _TABLE
    return potential.energy(middle.sqrt() * potential.r_cut).numpy()


@lru_cache(maxsize=16)
def _apart(shape):
    """Return the place of the difference of each two places, (n_places, n_places)."""
    place = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape))
    apart = (place[:, :, None] - place[:, None]) % np.array(shape)[:, None, None]
    return np.ravel_multi_index(tuple(apart), shape).astype(np.int32)
