"""Time k nearest neighbours against other libraries: python benchmarks/neighbors.py

    python benchmarks/neighbors.py --n-particles 1000 8000 64000 1000000

"tree" and "matrix" are the methods of `geometry.nearest_neighbors`; the others are taken where
they are installed.  vesin and matscipy list pairs within a cut-off, which is widened until no
particle lacks a neighbour, and of which the nearest are chosen.  All are held to the same
distances first, then run in turn; times are of the processor, or with a GPU of the clock, the
least of several rounds, and "ratio" is over that of "tree".
"""

import argparse
import math
import time
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.utils.benchmark import Timer

from mddm.geometry import minimum_image, nearest_neighbors

# All distances of so many particles take a second.
_MATRIX_MOST = 10_000


def by_scipy(positions, n_neighbors, box_length):
    points = positions.double().numpy()
    return cKDTree(points, boxsize=box_length).query(points, n_neighbors + 1)[1][:, 1:]


def by_freud(positions, n_neighbors, box_length):
    import freud

    query = freud.locality.AABBQuery(freud.box.Box.cube(box_length), positions.numpy())
    told = {"num_neighbors": n_neighbors, "exclude_ii": True}
    found = query.query(query.points, told).toNeighborList()
    return np.asarray(found.point_indices).reshape(-1, n_neighbors)


def by_vesin(positions, n_neighbors, box_length):
    from vesin import NeighborList

    def pairs(points, cutoff):
        search = NeighborList(cutoff=cutoff, full_list=True)
        told = {"box": box_length * np.eye(3), "periodic": True, "quantities": "ijd"}
        return search.compute(points=points, **told)

    return nearest_of_pairs(pairs, positions, n_neighbors, box_length)


def by_matscipy(positions, n_neighbors, box_length):
    from matscipy.neighbours import neighbour_list

    def pairs(points, cutoff):
        told = {"cell": box_length * np.eye(3), "pbc": [True] * 3, "positions": points}
        return neighbour_list("ijd", cutoff=cutoff, **told)

    return nearest_of_pairs(pairs, positions, n_neighbors, box_length)


def nearest_of_pairs(pairs, positions, n_neighbors, box_length):
    """Choose the nearest of all pairs within a cut-off that leaves no particle without."""
    points, n_particles = positions.double().numpy(), len(positions)
    cutoff = 1.25 * box_length * (3 * n_neighbors / (4 * math.pi * n_particles)) ** (1 / 3)
    while True:
        first, second, distance = pairs(points, cutoff)
        counts = np.bincount(first.astype(np.int64), minlength=n_particles)
        if counts.min() >= n_neighbors:
            break
        cutoff *= 1.1
    order = np.argsort(first, kind="stable")
    rank = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    apart = np.full((n_particles, counts.max()), np.inf)
    apart[first[order], rank] = distance[order]
    others = np.zeros(apart.shape, dtype=np.int64)
    others[first[order], rank] = second[order]
    nearest = np.argpartition(apart, n_neighbors - 1, axis=1)[:, :n_neighbors]
    nearest = np.take_along_axis(
        nearest, np.take_along_axis(apart, nearest, axis=1).argsort(axis=1), axis=1
    )
    return np.take_along_axis(others, nearest, axis=1)


def by_mddm(positions, n_neighbors, box_length, method):
    return nearest_neighbors(positions[None], n_neighbors, box_length, method)[0][0]


OTHERS = {"freud": by_freud, "vesin": by_vesin, "matscipy": by_matscipy}


def methods_of(positions):
    """Name the ways to find neighbours that there are on a device."""
    methods = {"tree": partial(by_mddm, method="tree")}
    if len(positions) <= _MATRIX_MOST:
        methods["matrix"] = partial(by_mddm, method="matrix")
    if positions.device.type == "cpu":
        methods["scipy"] = by_scipy
        methods |= {name: each for name, each in OTHERS.items() if find_spec(name)}
    return methods


def distances(positions, neighbors, box_length):
    """Measure in double precision how far the neighbours are, nearest first."""
    points = positions.cpu().double()
    apart = points[torch.as_tensor(np.asarray(neighbors, dtype=np.int64))] - points[:, None]
    return minimum_image(apart, box_length).norm(dim=-1).sort(dim=1).values


def measure(device, n_particles, n_neighbors, least_s):
    """Time all methods in turn on a random gas; give rows of method, milliseconds and ratio."""
    box_length = n_particles ** (1 / 3)
    draw = torch.Generator().manual_seed(0)
    positions = (box_length * torch.rand(n_particles, 3, generator=draw)).to(device)
    methods, told = methods_of(positions), (positions, n_neighbors, box_length)
    expected = None
    for name, method in methods.items():
        found = method(*told)
        found = distances(positions, found.cpu() if torch.is_tensor(found) else found, box_length)
        expected = found if expected is None else expected
        if not torch.allclose(found, expected, rtol=0, atol=1e-5 * box_length):
            raise RuntimeError(f"{name} finds other neighbours among {n_particles} particles")
    clock = {} if device == "cuda" else {"timer": time.process_time}
    timers = {
        name: Timer("method(*told)", globals={"method": method, "told": told}, **clock)
        for name, method in methods.items()
    }
    seconds = {name: [] for name in methods}
    while sum(seconds["tree"]) < least_s or len(seconds["tree"]) < 3:
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(1).median)
    least = {name: min(taken) for name, taken in seconds.items()}
    return [(name, 1000 * taken, taken / least["tree"]) for name, taken in least.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [1000, 8000, 64_000]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--n-particles", type=int, nargs="+", default=sizes)
    parser.add_argument("--devices", nargs="+", default=devices)
    parser.add_argument("--n-neighbors", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.3, help="at least so long of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.n_neighbors} neighbours, density 1, one thread, torch {torch.__version__}")
    print("device  particles    method        ms  ratio")
    for device in options.devices:
        for n_particles in options.n_particles:
            for row in measure(device, n_particles, options.n_neighbors, options.seconds):
                line = "{:6} {:10}  {:>8} {:9.2f} {:6.2f}"
                print(line.format(device, n_particles, *row), flush=True)


if __name__ == "__main__":
    main()
