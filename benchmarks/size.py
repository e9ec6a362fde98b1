"""Time a call of the networks by the number of particles: python benchmarks/size.py.

    python benchmarks/size.py --output data/results/size.csv    # a quarter of an hour

A crystal in noise, which has sites to find, on one thread, with the committed weights; times are of
the processor, the least of several rounds.  "ratio" is the time a particle over that of the first
size, and "peak_mib" the most memory that the process has held so far.
"""

import argparse
import resource
import time
from pathlib import Path

import pandas as pd
import torch
from torch.utils.benchmark import Timer

from mddm import checkpoint, fourier, noise

CHECKPOINTS = Path(__file__).parents[1] / "data/checkpoints"
SIGMA, CONDITION = 0.1, (9.0, 0.75, 0.02)


def crystal(cells):
    """Fill a cube with bcc at number density 1, in any order, and add noise."""
    corner = torch.cartesian_prod(*[torch.arange(cells)] * 3)
    box_length = (2 * cells**3) ** (1 / 3)
    sites = box_length / cells * torch.cat([corner, corner + 0.5])
    draw = torch.Generator().manual_seed(0)
    sites = sites[torch.randperm(len(sites), generator=draw)][None]
    eps = torch.randn(sites.shape, generator=draw)
    return noise.add_noise(sites, SIGMA, eps, box_length), box_length


@torch.inference_mode()
def measure(networks, cells, repeats):
    x_t, box_length = crystal(cells)
    told = (torch.tensor([SIGMA]), torch.tensor([CONDITION]), box_length)
    for name, network in networks.items():
        call = {"network": network, "x_t": x_t, "told": told}
        timer = Timer("network(x_t, *told)", globals=call, timer=time.process_time)
        seconds = min(timer.timeit(1).median for _ in range(repeats))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        yield {
            "model": name,
            "n_particles": x_t.shape[1],
            "ms": 1000 * seconds,
            "us_a_particle": 1e6 * seconds / x_t.shape[1],
            "peak_mib": peak,
        }


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["bragg", "mddm-rbf"])
    parser.add_argument(
        "--cells",
        type=int,
        nargs="+",
        default=[8, 16, 32, 79],
        help="of two particles, along an edge",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="CSV file; nothing is written by default")
    return parser.parse_args()


def main():
    options = parse_arguments()
    torch.set_num_threads(1)
    networks = {
        name: checkpoint.load(CHECKPOINTS / f"conditional-{name}.safetensors")[0].eval()
        for name in options.models
    }
    if fourier.finufft is None:
        print("without FINUFFT")
    rows, first = [], {}
    print("model       particles        ms  us a particle  ratio  peak MiB")
    for cells in sorted(options.cells):
        for row in measure(networks, cells, options.repeats):
            row["ratio"] = row["us_a_particle"] / first.setdefault(
                row["model"], row["us_a_particle"]
            )
            line = "{model:10} {n_particles:10} {ms:9.1f} {us_a_particle:14.1f} {ratio:6.2f} "
            print((line + "{peak_mib:9.0f}").format(**row), flush=True)
            rows.append(row)
    if options.output:
        options.output.write_text(pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
