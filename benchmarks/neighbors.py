"""Time k nearest neighbours by distance matrix and by kd-tree: python benchmarks/neighbors.py."""

import argparse
import statistics
import time

import torch

from mddm.geometry import nearest_neighbors

METHODS = ("matrix", "tree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [100, 300, 1000, 3000, 10_000]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--n-particles", type=int, nargs="+", default=sizes)
    parser.add_argument("--devices", nargs="+", default=devices)
    parser.add_argument("--n-neighbors", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many is printed")
    options = parser.parse_args()

    print(
        f"{options.n_neighbors} neighbours, batch of {options.batch_size}, density 1, torch "
        f"{torch.__version__} with {torch.get_num_threads()} threads; milliseconds"
    )
    print(f"{'device':>8} {'particles':>10}", *(f"{method:>10}" for method in METHODS))
    for device in options.devices:
        for n_particles in options.n_particles:
            box_length = n_particles ** (1 / 3)
            generator = torch.Generator().manual_seed(0)
            shape = (options.batch_size, n_particles, 3)
            positions = (box_length * torch.rand(shape, generator=generator)).to(device)
            times = [
                _median_ms(positions, options.n_neighbors, box_length, method, options.repeats)
                for method in METHODS
            ]
            print(f"{device:>8} {n_particles:>10}", *(f"{ms:>10.2f}" for ms in times))


def _median_ms(positions, n_neighbors, box_length, method, repeats) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        nearest_neighbors(positions, n_neighbors, box_length, method)
        if positions.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])  # the first call warms up


if __name__ == "__main__":
    main()
