"""What a configuration looks like: g(r) and bond order by freud, scattering.

One convention throughout: g(r) on 100 bins up to 0.499 box edges (4.99 in the box of 10),
since freud wants r_max below half the box; RDF-MSE is the mean squared difference over these
bins.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RDF_BINS = 100
# r_max in units of the box edge.
RDF_RANGE = 0.499
# A configuration whose `crystallinity` is above this counts as a crystal.
CRYSTAL = 0.5


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
        rdf: (n_bins,); an ideal gas has 1 everywhere.

    Raises:
        ValueError: `r_max` reaches half the box edge, or positions that are not finite or of
            another shape.

    Source: MDDM section 2.2.
    """
    import freud

    r_max = RDF_RANGE * box_length if r_max is None else r_max
    if not 0 < r_max < box_length / 2:
        raise ValueError(f"r_max must be below half the box edge ({box_length / 2}), got {r_max}")
    box = freud.box.Box.cube(box_length)
    counter = freud.density.RDF(bins=n_bins, r_max=r_max)
    for points in _configurations(positions, box_length):
        counter.compute((box, points), reset=False)
    return np.asarray(counter.bin_centers), np.asarray(counter.rdf)


def rdf_mse(rdf: "ArrayLike", reference: "ArrayLike") -> float:
    """Compute the RDF-MSE, the mean over the bins of the squared difference of two curves.

    Args:
        rdf, reference: (n_bins,) each, on the same bins.

    Raises:
        ValueError: curves of different length.

    Source: MDDM section 2.2.
    """
    rdf, reference = np.asarray(rdf, dtype=float), np.asarray(reference, dtype=float)
    if rdf.shape != reference.shape or rdf.ndim != 1:
        raise ValueError(
            "both curves must be one-dimensional and on the same bins, got shapes "
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
        ValueError: positions that are not finite or of another shape.
    """
    edges = np.linspace(0.99 * 2 * np.pi / box_length, k_max, n_bins + 1)
    total, count = np.zeros(n_bins), np.zeros(n_bins)
    for points in _configurations(positions, box_length):
        wave_numbers, power = _scattering(points, box_length, k_max)
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
        ValueError: positions that are not finite or of another shape.
    """
    points = _one_configuration(positions, box_length)
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
        ValueError: positions that are not finite or of another shape.

    Source: Lechner and Dellago 2008.
    """
    import freud

    points = _one_configuration(positions, box_length)
    order = freud.order.Steinhardt(l=degree, average=True)
    box = freud.box.Box.cube(box_length)
    order.compute((box, points), neighbors={"num_neighbors": n_neighbors})
    return np.asarray(order.particle_order)


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
        ValueError: positions that are not finite or of another shape.

    Source: ten Wolde, Ruiz-Montero and Frenkel 1995, as freud has it.
    """
    import freud

    points = _one_configuration(positions, box_length)
    order = freud.order.SolidLiquid(l=6, q_threshold=0.7, solid_threshold=8)
    box = freud.box.Box.cube(box_length)
    order.compute((box, points), neighbors={"num_neighbors": 12})
    return float((np.asarray(order.num_connections) >= 8).mean())


def _scattering(points: np.ndarray, box_length: float, k_max: float):
    # freud's own sum takes wave vectors of one octant only, which a tilted crystal shows.
    k_min = 2 * np.pi / box_length
    reach = int(k_max / k_min)
    indices = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(indices, indices, indices, indexing="ij"))
    # exp(i q r) is a product over the axes, so that all waves together are one matrix product.
    phases = np.exp(1j * k_min * points[..., None] * indices).astype(np.complex64)
    plane = (phases[:, 0, :, None] * phases[:, 1, None, :]).reshape(len(points), -1)
    power = np.abs(plane.T @ phases[:, 2]) ** 2 / len(points)
    return k_min * np.sqrt((grid**2).sum(axis=0)).ravel(), power.ravel()


def _one_configuration(positions: "ArrayLike", box_length: float) -> np.ndarray:
    configurations = _configurations(positions, box_length)
    if len(configurations) != 1:
        raise ValueError(
            f"positions must have the shape (n_particles, 3), got {np.shape(positions)}; "
            "call this once a configuration"
        )
    return configurations[0]


def _configurations(positions: "ArrayLike", box_length: float) -> np.ndarray:
    points = np.asarray(positions, dtype=np.float32)
    if points.ndim == 2:
        points = points[None]
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        raise ValueError(
            "positions must have the shape (n_particles, 3) or (n_configurations, n_particles, "
            f"3), got {np.shape(positions)}"
        )
    if not np.isfinite(points).all():
        raise ValueError("positions must be finite; some are nan or infinite")
    # freud's box is centred on the origin.
    return points - np.float32(box_length / 2)
