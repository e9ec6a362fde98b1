"""Time a training step of PBCConv by each of its two methods: python benchmarks/pbcconv.py."""

import argparse
import statistics
import time

import torch

from mddm.pbcconv import PBCConvDenoiser

METHODS = ("message_passing", "dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--n-particles", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--devices", nargs="+", default=devices)
    parser.add_argument("--n-neighbors", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many is printed")
    options = parser.parse_args()

    print(
        f"paper preset, {options.n_neighbors} neighbours, batch of {options.batch_size}, density "
        f"1, torch {torch.__version__} with {torch.get_num_threads()} threads; milliseconds for "
        "neighbours, forward and backward"
    )
    columns = (*METHODS, "ratio")
    print(f"{'device':>8} {'particles':>10}", *(f"{name:>16}" for name in columns))
    for device in options.devices:
        for n_particles in options.n_particles:
            times = [_median_ms(method, n_particles, device, options) for method in METHODS]
            cells = (*times, times[0] / times[1])
            print(f"{device:>8} {n_particles:>10}", *(f"{cell:>16.1f}" for cell in cells))


def _median_ms(method, n_particles, device, options) -> float:
    torch.manual_seed(0)
    denoiser = PBCConvDenoiser(n_neighbors=options.n_neighbors, method=method).to(device)
    box_length = n_particles ** (1 / 3)
    x_t = box_length * torch.rand(options.batch_size, n_particles, 3, device=device)
    eps, sigma = torch.randn_like(x_t), torch.full((options.batch_size,), 0.1, device=device)
    times = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        denoiser.zero_grad()
        (denoiser(x_t, sigma, None, box_length) - eps).square().mean().backward()
        if x_t.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])  # the first step warms up


if __name__ == "__main__":
    main()
