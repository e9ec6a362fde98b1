"""What a configuration looks like: g(r) and bond order by freud, scattering.

One convention throughout: g(r) on 100 bins up to 0.499 box edges (4.99 in the box of 10),
since freud wants r_max below half the box; RDF-MSE is the mean squared difference over these
bins.  Of positions any image of a particle will do.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mddm import arguments, geometry, optional

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RDF_BINS = 100
# r_max in units of the box edge.
RDF_RANGE = 0.499
# A configuration whose `crystallinity` is above this counts as a crystal.
CRYSTAL = 0.5
# Where the neighbours end by which fcc, hcp and bcc are told, in units of the cube root of the
# volume of a particle: behind the second shell of bcc, at 1.26, and before that of fcc, at 1.59.
_BONDED = 1.42
# The bonds of a particle of each, by their kinds (`_kinds_of_bonds`) and the number of each kind.
_TYPES = {
    (((4, 2, 1), 12),): "fcc",
    (((4, 2, 1), 6), ((4, 2, 2), 6)): "hcp",
    (((4, 4, 2), 6), ((6, 6, 2), 8)): "bcc",
}
# freud's spherical harmonics overflow from a degree of about 170 on.
_MOST_DEGREE, _MOST_BINS = 100, 1_000_000
# Numbers that the sum over all waves may keep at once, 8 bytes each.
_WAVE_ENTRIES = 2**30


def rdf(
    positions: "ArrayLike", box_length: float, n_bins: int = RDF_BINS, r_max: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the radial distribution function g(r), averaged over configurations.

    Args:
        positions: (n_particles, 3) or (n_configurations, n_particles, 3) [length].
        box_length: edge of the periodic cube [length].
        n_bins: number of bins.
        r_max: upper end of the last bin [length]; 0.499 box edges by default.

    Returns:
        bin_centers: (n_bins,) [length].
        rdf: (n_bins,); an ideal gas has 1 - 1 / n_particles everywhere, for a particle is no
            neighbour of its own: 0.999 in the study's boxes.

    Raises:
        TypeError: an argument that is no number.
        ValueError: `r_max` reaches half the box edge, no bins, a box that is not positive, or
            positions that are not finite or of another shape.

    Source: MDDM section 2.2.
    """
    with optional.packages():
        import freud

    points, box_length = _configurations(positions, box_length)
    n_bins = arguments.whole("n_bins", n_bins, at_least=1, at_most=_MOST_BINS)
    r_max = RDF_RANGE * box_length if r_max is None else r_max
    r_max = arguments.cutoff("r_max", r_max, box_length)
    box = freud.box.Box.cube(box_length)
    counter = freud.density.RDF(bins=n_bins, r_max=r_max)
    for configuration in points:
        counter.compute((box, configuration), reset=False)
    return np.asarray(counter.bin_centers), np.asarray(counter.rdf)


def rdf_mse(rdf: "ArrayLike", reference: "ArrayLike") -> float:
    """Compute the RDF-MSE, the mean over the bins of the squared difference of two curves.

    Args:
        rdf, reference: (n_bins,) each, on the same bins.

    Raises:
        TypeError: no numbers.
        ValueError: curves of different length or not finite.

    Source: MDDM section 2.2.
    """
    rdf, reference = arguments.array("rdf", rdf), arguments.array("reference", reference)
    if rdf.shape != reference.shape or rdf.ndim != 1:
        raise ValueError(
            "rdf and reference must be one-dimensional and on the same bins, got shapes "
            f"{rdf.shape} and {reference.shape}"
        )
    return float(np.mean((rdf - reference) ** 2))


def structure_factor(
    positions: "ArrayLike", box_length: float, k_max: float = 20.0, n_bins: int = 80
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the static structure factor S(q) from the wave vectors that fit the box.

    Args:
        positions: (n_particles, 3) or (n_configurations, n_particles, 3) [length].
        box_length: edge of the periodic cube [length].
        k_max: largest wave number [1 / length].
        n_bins: number of bins between the smallest wave that fits the box and `k_max`.

    Returns:
        wave_numbers: (n_bins,) bin centers [1 / length].
        structure_factor: (n_bins,); nan where no wave vector falls into a bin.

    Raises:
        TypeError: an argument that is no number.
        ValueError: positions that are not finite or of another shape, a box that is not
            positive, no bins, or a `k_max` below the smallest wave number or so high that the
            waves do not fit into memory.
    """
    points, box_length = _configurations(positions, box_length)
    n_bins = arguments.whole("n_bins", n_bins, at_least=1, at_most=_MOST_BINS)
    k_max = arguments.number("k_max", k_max, at_least=2 * np.pi / box_length)
    edges = np.linspace(0.99 * 2 * np.pi / box_length, k_max, n_bins + 1)
    total, count = np.zeros(n_bins), np.zeros(n_bins)
    for configuration in points:
        wave_numbers, power = _scattering(configuration, box_length, k_max)
        total += np.histogram(wave_numbers, edges, weights=power)[0]
        count += np.histogram(wave_numbers, edges)[0]
    with np.errstate(invalid="ignore"):
        return (edges[1:] + edges[:-1]) / 2, total / count


def bragg_peak(positions: "ArrayLike", box_length: float, k_max: float = 20.0) -> float:
    """Compute the height of the strongest Bragg peak, as a share of a perfect crystal's.

    It sees any lattice that is one crystal through the box, whatever its cell; vibrations and
    grain boundaries lower it.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].
        k_max: largest wave number [1 / length].

    Returns:
        The largest S(q) / n_particles over the single wave vectors that fit the box: 1 in a
        crystal at rest, a few hundredths in a glass of a thousand particles.

    Raises:
        TypeError, ValueError: as `structure_factor`.
    """
    points, box_length = _one_configuration(positions, box_length)
    k_max = arguments.number("k_max", k_max, at_least=2 * np.pi / box_length)
    wave_numbers, power = _scattering(points, box_length, k_max)
    inside = (wave_numbers > 0) & (wave_numbers <= k_max)
    return float(power[inside].max() / len(points))


def bond_order(
    positions: "ArrayLike", box_length: float, degree: int = 6, n_neighbors: int = 12
) -> np.ndarray:
    """Compute each particle's Steinhardt order parameter, averaged over its neighbours.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].
        degree: the l of q_l.
        n_neighbors: nearest neighbours that count as bonded.

    Returns:
        (n_particles,) the averaged q_l: about 0.1 in a gas, 0.15 in a glass,
        0.57 in fcc (l = 6).

    Raises:
        TypeError: an argument that is no number.
        ValueError: positions that are not finite or of another shape, a box that is not
            positive, no neighbours or more than can be told apart, or a degree outside of
            0 to 100.

    Source: Lechner and Dellago 2008.
    """
    with optional.packages():
        import freud

    points, box_length = _one_configuration(positions, box_length)
    degree = arguments.whole("degree", degree, at_least=0, at_most=_MOST_DEGREE)
    n_neighbors = arguments.whole("n_neighbors", n_neighbors, at_least=1)
    order = freud.order.Steinhardt(l=degree, average=True)
    cell = _cell_for(n_neighbors, points, box_length)
    order.compute(cell, neighbors={"num_neighbors": n_neighbors})
    return np.asarray(order.particle_order)[: len(points)]


def coordination(positions: "ArrayLike", box_length: float, r_max: float) -> np.ndarray:
    """Count the neighbours of every particle within a distance.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].
        r_max: the distance [length], below half the box edge.

    Returns:
        (n_particles,) whole numbers.

    Raises:
        TypeError: an argument that is no number.
        ValueError: positions that are not finite or of another shape, a box that is not positive,
            or an `r_max` that reaches half its edge.
    """
    with optional.packages():
        import freud

    points, box_length = _one_configuration(positions, box_length)
    r_max = arguments.cutoff("r_max", r_max, box_length)
    query = {"r_max": r_max, "exclude_ii": True}
    found = freud.locality.AABBQuery(freud.box.Box.cube(box_length), points).query(points, query)
    return np.bincount(found.toNeighborList().query_point_indices, minlength=len(points))


def crystallinity(positions: "ArrayLike", box_length: float) -> float:
    """Compute the fraction of solid-like particles: those at the heart of any one crystal.

    Two of the 12 nearest neighbours' bond-order vectors (l = 6) that point alike make a
    connection; a particle with eight connections or more is solid-like.  A simple cubic
    lattice, with six neighbours, is not seen; `bragg_peak` sees it.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].

    Returns:
        The fraction, 0 in a glass, near 1 in fcc, bcc and hcp.

    Raises:
        TypeError: no numbers.
        ValueError: positions that are not finite or of another shape, or a box that is not
            positive.

    Source: ten Wolde, Ruiz-Montero and Frenkel 1995, as freud has it.
    """
    solid, _ = _solid(positions, box_length)
    return float(solid.mean())


def grains(positions: "ArrayLike", box_length: float) -> np.ndarray:
    """Compute how large the grains of a crystal are: its solid-like particles that hang together.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].

    Returns:
        (n_grains,) the share of all particles in each, largest first.  Grains whose bonds point
        alike, as those of twins do, are one.

    Raises:
        TypeError, ValueError: as `crystallinity`, which says what is solid-like.
    """
    solid, cluster = _solid(positions, box_length)
    return np.sort(np.unique(cluster[solid], return_counts=True)[1])[::-1] / len(solid)


def _solid(positions: "ArrayLike", box_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Tell of each particle whether it is solid-like, and in which cluster."""
    with optional.packages():
        import freud

    points, box_length = _one_configuration(positions, box_length)
    order = freud.order.SolidLiquid(l=6, q_threshold=0.7, solid_threshold=8)
    cell = _cell_for(12, points, box_length)
    order.compute(cell, neighbors={"num_neighbors": 12})
    solid = np.asarray(order.num_connections) >= 8
    return solid[: len(points)], np.asarray(order.cluster_idx)[: len(points)]


def structure_types(positions: "ArrayLike", box_length: float) -> dict[str, float]:
    """Tell fcc, hcp and bcc apart by which neighbours a particle and its neighbours share.

    Args:
        positions: (n_particles, 3) [length].
        box_length: edge of the periodic cube [length].

    Returns:
        The share of particles whose surroundings are those of a perfect fcc, hcp and bcc crystal,
        each by its name.  One missing neighbour is enough to count as none of them.

    Raises:
        TypeError, ValueError: as `coordination`; fewer particles than neighbours need.

    Source: common neighbour analysis, Honeycutt and Andersen 1987; Faken and Jónsson 1994.
    """
    with optional.packages():
        import freud

    points, box_length = _one_configuration(positions, box_length)
    if len(points) < (2 * _BONDED) ** 3:
        least = math.ceil((2 * _BONDED) ** 3)
        raise ValueError(f"positions must hold {least} particles or more, got {len(points)}")
    query = {"r_max": _BONDED * box_length / len(points) ** (1 / 3), "exclude_ii": True}
    found = freud.locality.AABBQuery(freud.box.Box.cube(box_length), points).query(points, query)
    near = [set() for _ in points]
    for one, other in np.asarray(found.toNeighborList()[:]):
        near[one].add(int(other))
    names = [_TYPES.get(_kinds_of_bonds(particle, near), "") for particle in range(len(points))]
    return {name: names.count(name) / len(points) for name in ("fcc", "hcp", "bcc")}


def _kinds_of_bonds(particle: int, near: list[set[int]]) -> tuple:
    """Count the kinds of a particle's bonds: shared neighbours, their bonds, the most of one."""
    kinds = Counter()
    for other in near[particle]:
        shared = near[particle] & near[other]
        bonds = [len(near[each] & shared) for each in shared]
        kinds[len(shared), sum(bonds) // 2, max(bonds, default=0)] += 1
    return tuple(sorted(kinds.items()))


def _scattering(points: np.ndarray, box_length: float, k_max: float):
    # freud's own sum takes wave vectors of one octant only, which a tilted crystal shows.
    k_min = 2 * np.pi / box_length
    reach = int(k_max / k_min)
    if len(points) * (2 * reach + 1) ** 2 + 4 * (2 * reach + 1) ** 3 > _WAVE_ENTRIES:
        raise ValueError(
            f"k_max = {k_max} asks for {(2 * reach + 1) ** 3:,} waves in a box of edge "
            f"{box_length:g}, too many to keep: take a smaller one"
        )
    indices = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(indices, indices, indices, indexing="ij"))
    # exp(i q r) is a product over the axes, so that all waves together are one matrix product.
    phases = np.exp(1j * k_min * points[..., None] * indices).astype(np.complex64)
    plane = (phases[:, 0, :, None] * phases[:, 1, None, :]).reshape(len(points), -1)
    power = np.abs(plane.T @ phases[:, 2]) ** 2 / len(points)
    return k_min * np.sqrt((grid**2).sum(axis=0)).ravel(), power.ravel()


def _cell_for(n_neighbors: int, points: np.ndarray, box_length: float):
    """Give freud's box and points, in which all of so many neighbours are within half an edge.

    freud counts a particle once however many of its images are near, so that a cell smaller than
    a neighbourhood is repeated until it is not; equivalent particles follow each other in turn.
    """
    import freud

    # No more of them can be within 1.5 edges.
    most = 27 * len(points)
    query = {"num_neighbors": n_neighbors, "exclude_ii": True}
    for copies in (1, 2, 3) if n_neighbors < most else ():
        steps = [np.arange(copies) - (copies - 1) / 2] * 3
        shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 1, 3)
        repeated = (points + shifts * box_length).astype(np.float32).reshape(-1, 3)
        edge = copies * box_length
        cell = freud.box.Box.cube(edge), repeated
        found = freud.locality.AABBQuery(*cell).query(repeated, query).toNeighborList()
        if len(found) == n_neighbors * len(repeated) and found.distances.max() < edge / 2:
            return cell
    raise ValueError(
        f"n_neighbors must be fewer than there are within 1.5 box edges, got {n_neighbors} for "
        f"{len(points)} particles"
    )


def _one_configuration(positions: "ArrayLike", box_length: float) -> tuple[np.ndarray, float]:
    single = (1, "n_particles", 3)
    points, box_length = _configurations(positions, box_length, ("n_particles", 3), single)
    return points[0], box_length


def _configurations(
    positions: "ArrayLike", box_length: float, *shapes: tuple
) -> tuple[np.ndarray, float]:
    shapes = shapes or (("n_particles", 3), ("n_configurations", "n_particles", 3))
    points = arguments.positions(positions, *shapes)
    box_length = arguments.box(box_length)
    inside = geometry.wrap_single(points, box_length).reshape(-1, *points.shape[-2:])
    # freud's box is centred on the origin.
    return inside - np.float32(box_length / 2), box_length
