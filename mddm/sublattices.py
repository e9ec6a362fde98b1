"""All lattices that a periodic cube can hold with a given number of sites, as integers.

The waves that are periodic in the cube have whole numbers for wave vectors, and those that a
lattice scatters are a lattice of whole numbers again.  So a lattice with n sites in the
cube is a sublattice of the whole numbers with index n, and each has one Hermite normal form: there
are finitely many.
"""

import io
import math
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mddm import arguments, optional
from mddm.files import write_whole

# More than this take minutes and gigabytes to list.
MOST_SUBLATTICES = 20_000_000
# By default no two sites are nearer than this, in units of the cube root of the volume of a site.
SHORTEST = 0.86
# Of the cube's 48 symmetries three generate all others but the inversion, which no lattice lacks:
# x and y swapped, y and z swapped, x turned around.
_GENERATORS = np.array(
    [
        [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]
)


def count(n_sites: int) -> int:
    """Count the sublattices of index `n_sites` before symmetry: the sum of d2 d3^2 over d1 d2 d3.

    Raises:
        TypeError, ValueError: `n_sites` is no whole number above 0.

    Source: Cohn 1962, or any count of Hermite normal forms.
    """
    return sum(d2 * d3**2 for _, d2, d3 in _diagonals(n_sites))


def all_lattices(n_sites: int, shortest: float = SHORTEST) -> np.ndarray:
    """List the lattices with `n_sites` sites in a periodic cube, one of each that are alike.

    Lattices are alike if one of the cube's 48 symmetries takes one to the other.  The list is
    kept in the folder of `cache_folder`, where that can be written to.

    Args:
        n_sites: sites in the cube.
        shortest: distance that no two sites are nearer than, in units of the cube root of the
            volume of a site; 2^(1/6) = 1.122, that of fcc, is the most that there can be.

    Returns:
        (n_lattices, 3, 3) int16, upper triangular Hermite normal forms of determinant `n_sites`:
        the rows, times 2 pi over the box edge, are the wave vectors whose waves have their crests
        at all the sites.

    Raises:
        TypeError, ValueError: `n_sites` is no whole number above 0, or has more sublattices than
            can be listed; `shortest` is not positive.

    Source: this study; Hart and Forcade 2008 list superlattices in the same way.
    """
    most = count(n_sites)
    if most > MOST_SUBLATTICES:
        raise ValueError(
            f"{n_sites} sites have {most:,} lattices, more than can be listed "
            f"({MOST_SUBLATTICES:,}); take a smaller box, a number of sites with fewer or smaller "
            "divisors, or more particles a cell"
        )
    return _listed(
        arguments.whole("n_sites", n_sites), arguments.number("shortest", shortest, above=0)
    )


def cells(n_sites: int, shortest: float = SHORTEST) -> np.ndarray:
    """Return a reduced cell of each lattice of `all_lattices`, one of those of one shape.

    Two lattices may lie in the cube in ways that none of its symmetries takes to each other, and be
    the same lattice turned: no potential tells them apart.

    Args:
        n_sites, shortest: as for `all_lattices`.

    Returns:
        (n_cells, 3, 3) int64, a lattice vector a row in units of box edge / `n_sites`, by Niggli's
        rules.

    Raises:
        TypeError, ValueError: as for `all_lattices`.
        ImportError: there is no spglib.
    """
    return _reduced(
        arguments.whole("n_sites", n_sites), arguments.number("shortest", shortest, above=0)
    )


@lru_cache(maxsize=8)
def _reduced(n_sites: int, shortest: float) -> np.ndarray:
    with optional.packages():
        import spglib

    forms = all_lattices(n_sites, shortest).astype(float)
    whole = np.rint(n_sites * np.linalg.inv(forms).transpose(0, 2, 1))
    if not len(whole):
        return np.empty((0, 3, 3), dtype=np.int64)
    reduced = np.rint([spglib.niggli_reduce(cell) for cell in whole]).astype(np.int64)
    products = (reduced @ reduced.transpose(0, 2, 1)).reshape(-1, 9)[:, [0, 4, 8, 1, 2, 5]]
    # All angles are acute, or none; else signs are a matter of directions.
    shape = np.column_stack([np.abs(products), products[:, 5] > 0])
    first = np.unique(shape, axis=0, return_index=True)[1]
    return reduced[np.sort(first)]


def cache_folder() -> Path:
    """Return the folder that lists are kept in: mddm in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mddm"


def hermite(matrices: np.ndarray) -> np.ndarray:
    """Bring integer matrices to Hermite normal form by operations on their rows.

    Args:
        matrices: (..., 3, 3) integers, not singular.

    Returns:
        (..., 3, 3) int64, upper triangular, with a positive diagonal and entries above it that are
        not negative and below that of their column's.

    Raises:
        TypeError, ValueError: another shape, other than whole numbers, or a singular matrix.
    """
    return _hermite(_whole("matrices", matrices, (..., 3, 3)))


def _hermite(matrices: np.ndarray) -> np.ndarray:
    rows = np.array(matrices, dtype=np.int64)
    shape, rows = rows.shape, rows.reshape(-1, 3, 3)
    for column in range(3):
        for below in range(column + 1, 3):
            # Euclid's algorithm, in all matrices at once.
            active = np.flatnonzero(rows[:, below, column])
            while len(active):
                upper, lower = rows[active, column], rows[active, below]
                times = upper[:, column] // lower[:, column]
                rows[active, column] = lower
                rows[active, below] = upper - times[:, None] * lower
                active = active[rows[active, below, column] != 0]
        pivot = rows[:, column, column]
        if (pivot == 0).any():
            raise ValueError("matrices must not be singular")
        rows[:, column] *= np.sign(pivot)[:, None]
        for above in range(column):
            times = rows[:, above, column] // rows[:, column, column]
            rows[:, above] -= times[:, None] * rows[:, column]
    return rows.reshape(shape)


def cosets(matrix: np.ndarray) -> np.ndarray:
    """List one vector of whole numbers for each class that a sublattice parts them into.

    Args:
        matrix: (3, 3) integers, not singular; its rows span the sublattice.

    Returns:
        (n, 3) int64 with n the determinant's size, the origin first.

    Raises:
        TypeError, ValueError: as for `hermite`.
    """
    diagonal = np.diagonal(_hermite(_whole("matrix", matrix, (3, 3))))
    return np.stack(np.meshgrid(*map(np.arange, diagonal), indexing="ij"), axis=-1).reshape(-1, 3)


def _whole(name: str, value: np.ndarray, shape: tuple) -> np.ndarray:
    found = arguments.array(name, value, shape)
    if (found != np.rint(found)).any():
        raise ValueError(f"{name} must hold whole numbers")
    return found


def _diagonals(n_sites: int) -> list[tuple[int, int, int]]:
    n_sites = arguments.whole("n_sites", n_sites, at_least=1)
    divisors = [d for d in range(1, n_sites + 1) if n_sites % d == 0]
    pairs = [(d1, d2) for d1 in divisors for d2 in divisors if n_sites % (d1 * d2) == 0]
    return [(d1, d2, n_sites // (d1 * d2)) for d1, d2 in pairs]


@lru_cache(maxsize=8)
def _listed(n_sites: int, shortest: float) -> np.ndarray:
    path = cache_folder() / f"lattices-{n_sites}-{shortest:.6g}.npy"
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        pass  # Not there, or not whole: it is made anew.
    lattices = _distinct(_spread_out(n_sites, shortest), n_sites).astype(np.int16)
    content = io.BytesIO()
    np.save(content, lattices)
    try:
        write_whole(path, content.getvalue())
    except OSError:
        pass  # A cache that cannot be written costs seconds the next time, no more.
    return lattices


def _spread_out(n_sites: int, shortest: float) -> np.ndarray:
    """List the Hermite normal forms, (n, 3, 3), whose sites keep their distance."""
    # Lengths in units of box edge / n_sites, in which all coordinates of sites are whole numbers.
    radius2 = shortest**2 * n_sites ** (4 / 3) * (1 - 1e-12)
    found = []
    for d1, d2, d3 in _diagonals(n_sites):
        # The area of a site in the plane z = 0 is at least that in the densest plane.
        if d1 * d2 * math.sqrt(3) / 2 * radius2 > n_sites**2:
            continue
        for p in range(d2):
            q, r = _above(d1, d2, d3, p, radius2)
            forms = np.zeros((len(q), 3, 3), dtype=np.int64)
            forms[:] = np.diag((d1, d2, d3))
            forms[:, 0, 1], forms[:, 0, 2], forms[:, 1, 2] = p, q, r
            found.append(forms)
    return np.concatenate(found)


def _above(d1: int, d2: int, d3: int, p: int, radius2: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the q and r for which [[d1, p, q], [0, d2, r], [0, 0, d3]] keeps its distance.

    The sites lie in planes of constant z, all alike, each displaced from the one below by the same
    vector: one of d3^2, -q and -r steps along a grid.
    """
    # Squared distance of the grid's points from the nearest site in the plane, where it is short.
    near = np.full(d3 * d3, np.inf)
    steps = np.arange(-int(radius2**0.5 / d1), int(radius2**0.5 / d1) + 1)
    points = []
    for b in steps:
        # x = a d2 - b p for whole numbers a
        reach = math.sqrt(max(radius2 - (b * d1) ** 2, 0))
        a = np.arange(math.ceil((b * p - reach) / d2), math.floor((b * p + reach) / d2) + 1)
        points.append(np.stack([a, np.full_like(a, b)], axis=-1))
    a, b = np.concatenate(points).T
    squared = (a * d2 - b * p) ** 2 + (b * d1) ** 2
    in_plane = (a % d3 == 0) & (b % d3 == 0) & (squared > 0)
    none = np.empty(0, dtype=np.int64)
    if (squared[in_plane] < radius2).any():
        return none, none
    order = np.argsort(-squared)
    near[(a % d3 * d3 + b % d3)[order]] = squared[order]
    q, r = (index.ravel() for index in np.indices((d3, d3), dtype=np.int32))
    a, b = np.zeros_like(q), np.zeros_like(r)
    spacing = d1 * d2
    for plane in range(1, int(radius2**0.5 / spacing) + 1):
        for steps, step in ((a, q), (b, r)):
            steps += step
            steps[steps >= d3] -= d3
        apart = near[a * d3 + b] >= radius2 - (plane * spacing) ** 2
        if not apart.all():
            q, r, a, b = (values[apart] for values in (q, r, a, b))
    return q, r


def _distinct(forms: np.ndarray, n_sites: int) -> np.ndarray:
    """Keep the first of the forms, (n, 3, 3), that the cube's symmetries take to each other."""
    if not len(forms):
        return forms

    def key(forms):
        (d1, p, q), (_, d2, r) = forms[:, 0].T, forms[:, 1].T
        return (((d1 * (n_sites + 1) + d2) * n_sites + p) * n_sites + q) * n_sites + r

    keys = key(forms)
    order = np.argsort(keys)
    forms, keys = forms[order], keys[order]
    images = [np.searchsorted(keys, key(_hermite(forms @ change))) for change in _GENERATORS]
    here = np.tile(np.arange(len(forms)), len(images))
    graph = coo_array((np.ones(len(here), dtype=bool), (here, np.concatenate(images))))
    graph.resize(len(forms), len(forms))
    _, labels = connected_components(graph, directed=False)
    return forms[np.unique(labels, return_index=True)[1]]
