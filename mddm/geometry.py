"""Geometry of a periodic cube: wrapping, minimum images and nearest neighbours.

Every function takes `box_length=None` for free space, so that the same networks run on point
clouds that have no box.
"""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mddm import arguments

# The distance matrix of one brute-force pass is kept below this many entries.
_MATRIX_ENTRIES = 2**27
# Past this many particles a kd-tree is faster than a distance matrix on a GPU too, transfers
# included (benchmarks/neighbors.py), and its cost grows as N log N instead of N squared.
_MATRIX_MAX_PARTICLES = 4096
# Within so many times the radius that holds k points on average there are k of them nearly always.
_REACH = 1.4
# Points of a leaf of such a tree; for so many neighbours larger leaves than SciPy's are faster.
_LEAF = 32
# The volumes of boxes far beyond these edges [length] are 0 or infinite in single precision.
_LEAST_EDGE, _GREATEST_EDGE = 1e-9, 1e9


def wrap(positions: Tensor, box_length: float | None) -> Tensor:
    """Fold positions into the periodic box.

    Args:
        positions: any shape [length].
        box_length: edge of the cube [length]; None leaves the positions as they are.

    Returns:
        Positions in the half-open interval [0, box_length), same shape and dtype; what is not
        finite becomes nan.

    Raises:
        TypeError, ValueError: no numbers, or a box that is not positive and finite.

    Source: MDDM section 4.3, the wrap of algorithms 1 and 2.
    """
    positions = arguments.tensor("positions", positions, finite=False)
    box_length = arguments.box(box_length, free=True)
    if box_length is None:
        return positions
    # A product, and not torch.full: PyTorch makes a number that goes into a function other than
    # arithmetic a constant of the compiled program, and answers for it when it has changed.
    edge = positions.new_ones(()) * box_length
    wrapped = torch.remainder(positions, edge)
    # Rounding takes a tiny negative coordinate to box_length itself, which is outside the box.
    return torch.where(wrapped == edge, torch.zeros_like(wrapped), wrapped)


def wrap_single(positions: Tensor, box_length: float) -> np.ndarray:
    """Fold positions into the periodic box as files and freud keep them, in single precision.

    Args:
        positions: any shape [length]; any image of a particle will do.
        box_length: edge of the cube [length].

    Returns:
        float32 positions in [0, box_length), same shape: what rounding would take to box_length
        itself is its image at 0.

    Raises:
        TypeError, ValueError: as from `wrap`; also for positions that are not finite, and for
            boxes whose volume single precision does not know.
    """
    limits = {"at_least": _LEAST_EDGE, "at_most": _GREATEST_EDGE}
    box_length = arguments.number("box_length", box_length, **limits)
    inside = wrap(arguments.tensor("positions", positions).detach().cpu().double(), box_length)
    return wrap(inside.float(), box_length).numpy()


def minimum_image(displacement: Tensor, box_length: float | None) -> Tensor:
    """Map displacement vectors to their shortest periodic image.

    Args:
        displacement: any shape [length].
        box_length: edge of the cube [length]; None leaves the vectors as they are.

    Returns:
        The image with every component in [-box_length / 2, box_length / 2]; what is not finite
        becomes nan.

    Raises:
        TypeError, ValueError: no numbers, or a box that is not positive and finite.
    """
    displacement = arguments.tensor("displacement", displacement, finite=False)
    box_length = arguments.box(box_length, free=True)
    if box_length is None:
        return displacement
    return displacement - box_length * torch.round(displacement / box_length)


def gather_particles(features: Tensor, neighbors: Tensor) -> Tensor:
    """Look up the features of each particle's neighbours.

    Args:
        features: (batch, n_particles, channels).
        neighbors: (batch, n_particles, n_neighbors), indices into `n_particles`.

    Returns:
        (batch, n_particles, n_neighbors, channels).

    Raises:
        TypeError, ValueError: arrays of another kind or shape.
    """
    features = arguments.tensor("features", features, ("batch", "n_particles", "c"), finite=False)
    neighbors = arguments.typed(
        "neighbors", neighbors, torch.int64, (*features.shape[:2], "n_neighbors")
    )
    batch, n_particles, n_neighbors = neighbors.shape
    channels = features.shape[-1]
    index = neighbors.reshape(batch, n_particles * n_neighbors, 1).expand(-1, -1, channels)
    return features.gather(1, index).reshape(batch, n_particles, n_neighbors, channels)


def nearest_neighbors(
    positions: Tensor, n_neighbors: int, box_length: float | None, method: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Find the k nearest neighbours of every particle, nearest first, across the boundary.

    Args:
        positions: (batch, n_particles, 3) [length]; any image of a particle will do.
        n_neighbors: neighbours per particle, at least 1 and below `n_particles`.
        box_length: edge of the periodic cube [length], or None for free space.
        method: "matrix" (all distances), "tree" (scipy's periodic kd-tree, on the CPU) or
            "auto", the faster of the two: the tree on a CPU and for large systems, the matrix
            for small systems on a GPU (benchmarks/neighbors.py measures both).

    Returns:
        neighbors: (batch, n_particles, n_neighbors) int64 indices.
        displacement: (batch, n_particles, n_neighbors, 3), the minimum image of r_j - r_i
            [length], differentiable with respect to `positions`.

    Raises:
        TypeError, ValueError: positions of another shape, `n_neighbors` out of range, or positions
            that are not finite. On a GPU, which would have to be waited for, the last is not
            looked for: what is not finite then comes out in `displacement`.

    Source: MDDM section 4.2, the graph of PBCConv.
    """
    positions = arguments.positions(positions)
    box_length = arguments.box(box_length, free=True)
    n_particles = positions.shape[1]
    n_neighbors = arguments.whole("n_neighbors", n_neighbors, at_least=1)
    if n_neighbors >= n_particles:
        raise ValueError(
            f"n_neighbors must be below the number of particles ({n_particles}), got {n_neighbors}"
            "; take more particles, or a network of fewer neighbors"
        )
    method = arguments.choice("method", method, ("auto", "matrix", "tree"))
    if method == "auto":
        method = "matrix" if _prefers_matrix(positions) else "tree"
    find = _nearest_by_matrix if method == "matrix" else _nearest_by_tree
    neighbors = find(positions.detach(), None, None, n_neighbors, box_length)
    displacement = gather_particles(positions, neighbors) - positions[:, :, None]
    return neighbors, minimum_image(displacement, box_length)


def nearest_points(
    positions: Tensor, points: Tensor, there: Tensor, n_nearest: int, box_length: float | None
) -> Tensor:
    """Find the points that are nearest to every particle, in any order.

    Args:
        positions: (batch, n_particles, 3) [length]; any image of a particle will do.
        points: (batch, n_points, 3) [length].
        there: (batch, n_points) bool, which of the points there are; where these are fewer than
            asked for, others come with them.
        n_nearest: points per particle, at least 1 and at most `n_points`.
        box_length: edge of the periodic cube [length], or None for free space.

    Returns:
        (batch, n_particles, n_nearest) int64 indices into `n_points`.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.
    """
    positions, box_length = arguments.positions(positions), arguments.box(box_length, free=True)
    points = arguments.tensor("points", points, (len(positions), "n_points", 3))
    there = arguments.typed("there", there, torch.bool, tuple(points.shape[:2]))
    n_nearest = arguments.whole("n_nearest", n_nearest, at_least=1, at_most=points.shape[1])
    find = _nearest_by_matrix if _prefers_matrix(positions) else _nearest_by_tree
    return find(positions, points, there, n_nearest, box_length)


def _prefers_matrix(positions: Tensor) -> bool:
    return positions.device.type != "cpu" and positions.shape[1] <= _MATRIX_MAX_PARTICLES


# Both take None for `points` and `there` to look among the other particles.


def _nearest_by_matrix(positions, points, there, n_nearest, box_length):
    among = positions if points is None else points
    if box_length is not None:
        # In units of the box, where minimum images take the least time.
        positions, among = positions / box_length, among / box_length
    batch, n_points, _ = among.shape
    rows = max(1, _MATRIX_ENTRIES // (batch * n_points))
    chunks = []
    for start in range(0, positions.shape[1], rows):
        centers = positions[:, start : start + rows]
        distance2 = positions.new_zeros(batch, centers.shape[1], n_points)
        for axis in range(3):
            delta = among[:, None, :, axis] - centers[:, :, None, axis]
            if box_length is not None:
                delta -= delta.round()
            distance2.addcmul_(delta, delta)
        if points is None:
            distance2.diagonal(start, 1, 2).fill_(torch.inf)
        else:
            distance2.masked_fill_(~there[:, None], torch.inf)
        chunks.append(distance2.topk(n_nearest, dim=-1, largest=False).indices)
    return torch.cat(chunks, dim=1)


def _nearest_by_tree(positions, points, there, n_nearest, box_length):
    def plain(places):
        return wrap(places, box_length).cpu().double().numpy()

    centers, among = plain(positions), None if points is None else plain(points)
    nearest = np.empty((*positions.shape[:2], n_nearest), dtype=np.int64)
    own = np.arange(positions.shape[1])[:, None]
    for system, around in enumerate(centers):
        if points is None:
            found = _query(around, around, n_nearest + 1, box_length)
            keep = found != own
            # Among coincident particles a query may not return the particle itself.
            keep[keep.all(axis=1), -1] = False
            nearest[system] = found[keep].reshape(-1, n_nearest)
        else:
            present = there[system].cpu().numpy()
            # A query that finds too few points returns their number for the rest.
            index = np.append(present.nonzero()[0], present.argmin())
            nearest[system] = index[_query(among[system][present], around, n_nearest, box_length)]
    return torch.from_numpy(nearest).to(positions.device)


def _query(points: np.ndarray, centers: np.ndarray, k: int, box_length: float | None) -> np.ndarray:
    """Find the k points nearest to each centre: (len(centers), k) indices, nearest first."""
    if len(points) and box_length is not None:
        # A tree without a period is faster, among the images near the faces of the box.
        reach = _REACH * box_length * (3 * k / (4 * np.pi * len(points))) ** (1 / 3)
        if reach < box_length / 2:
            images, image_of = points, np.arange(len(points))
            for axis, shift in enumerate(box_length * np.eye(3)):
                low, high = images[:, axis] < reach, images[:, axis] > box_length - reach
                images = np.concatenate([images, images[low] + shift, images[high] - shift])
                image_of = np.concatenate([image_of, image_of[low], image_of[high]])
            tree = cKDTree(images, _LEAF, compact_nodes=False, balanced_tree=False)
            distance, found = tree.query(centers, k, distance_upper_bound=reach)
            if np.isfinite(distance).all():
                return image_of[found].reshape(-1, k)
    return cKDTree(points, boxsize=box_length).query(centers, k)[1].reshape(-1, k)


def neighbor_pairs(positions: Tensor, r_cut: float, box_length: float) -> Tensor:
    """List every pair of particles closer than a cut-off, each pair once.

    Args:
        positions: (n_particles, 3) [length].
        r_cut: largest distance [length], below half the box edge.
        box_length: edge of the periodic cube [length].

    Returns:
        (n_pairs, 2) int64 indices.

    Raises:
        ValueError: `r_cut` reaches half the box edge, where minimum images are ambiguous, or
            positions of another shape or not finite.
    """
    positions = arguments.positions(positions, ("n_particles", 3))
    box_length = arguments.box(box_length)
    r_cut = arguments.cutoff("r_cut", r_cut, box_length)
    points = wrap(positions.detach(), box_length).cpu().double().numpy()
    pairs = cKDTree(points, boxsize=box_length).query_pairs(r_cut, output_type="ndarray")
    return torch.from_numpy(pairs.astype(np.int64)).to(positions.device)
