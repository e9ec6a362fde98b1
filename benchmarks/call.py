"""Time a call of `bragg` part by part, against the formulas as written: python benchmarks/call.py.

    python benchmarks/call.py --output data/results/call.csv

Both ways run in turn on one thread, with the committed weights, on a configuration of the data in
noise; times are of the processor, the least of several rounds, so that the ratios of one run
hold on a busy machine too.  "error" is the largest difference, in units of the root mean square
of the result.
"""

import argparse
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from scipy.spatial import cKDTree
from torch.utils.benchmark import Timer

from mddm import bragg, checkpoint, dataset, edges, geometry, noise, wave_fields, waves
from mddm.layers import Gaussians

ROOT = Path(__file__).parents[1]


class PlainEdges:
    """The edges of a graph, one product of functions of the distance and harmonics each."""

    def __init__(self, neighbors, displacement, radial, of_edges=None, n_senders=None):
        self.neighbors = neighbors
        distance = displacement.norm(dim=-1, keepdim=True)
        unit = displacement / distance.clamp(min=1e-6)
        directions = edges.harmonics(unit.movedim(-1, 0)).movedim(0, -1)
        functions = radial(distance)
        if of_edges is not None:
            told = of_edges(distance.flatten(1), torch.arange(len(distance)))
            functions = torch.cat([functions, told.view(*distance.shape[:-1], -1)], dim=-1)
        self.edges = (functions[..., :, None] * directions[..., None, :]).flatten(-2)

    def collect(self, sent, filter_):
        """Sum what the neighbours send, each multiplied by a filter of the edge."""
        sent = geometry.gather_particles(sent, self.neighbors)
        return (filter_(self.edges) * sent).sum(dim=2) / self.neighbors.shape[2] ** 0.5


def plain_gaussians(self, value):
    return torch.exp(-(((value - self.centers) / self.width) ** 2))


def plain_biases(self, cosines):
    angles = self.angles(cosines[..., None])
    return [layer.bias(angles).permute(0, 3, 1, 2) for layer in self.layers]


def plain_nearest(positions, points, there, n_nearest, box_length):
    return geometry._nearest_by_matrix(positions, points, there, n_nearest, box_length)


def plain_query(points, centers, k, box_length):
    return cKDTree(points, boxsize=box_length).query(centers, k)[1].reshape(-1, k)


@contextmanager
def plain():
    """Have every part of a call computed as its formula is written."""
    with (
        mock.patch.object(bragg, "sort_edges", PlainEdges),
        mock.patch.object(wave_fields.WaveFields, "_biases", plain_biases),
        mock.patch.object(Gaussians, "forward", plain_gaussians),
        mock.patch.object(geometry, "_query", plain_query),
        mock.patch.object(waves, "nearest_points", plain_nearest),
    ):
        yield


def parts(network, x_t, sigma, condition, box_length):
    """Name the parts of a call, each a function without arguments."""
    n_neighbors = network.n_neighbors
    graph = geometry.nearest_neighbors(x_t, n_neighbors, box_length)
    heard = network.conditioning.spread(network.conditioning(condition, sigma))
    found = (x_t, network.n_waves, waves.Q_LONG, network.q_max, box_length)
    strongest = waves.strongest_waves(*found, long=True)
    sites = waves.find_sites(strongest, sigma, x_t.shape[1], box_length)
    features = torch.randn(*x_t.shape[:2], network.embedding.shape[0])
    both = torch.cat([features, features], dim=-1)

    def over_edges():
        sorted_ = bragg.sort_edges(*graph, network.radial)
        return [sorted_.collect(layer.send(features), layer.filter) for layer in network.layers][-1]

    return {
        "call": lambda: network(x_t, sigma, condition, box_length),
        "neighbours": lambda: geometry.nearest_neighbors(x_t, n_neighbors, box_length)[1],
        "waves": lambda: waves.strongest_waves(*found, long=True).strength,
        "fields of the waves": lambda: network.fields(x_t, strongest, heard, box_length),
        "sites": lambda: waves.find_sites(strongest, sigma, x_t.shape[1], box_length)[0],
        "who is on which": lambda: waves.assign(x_t, *sites, sigma, box_length)[0],
        "edges": over_edges,
        "MLPs": lambda: [layer.mlp(layer.norm(both)) for layer in network.layers][-1],
    }


def compare(what, function, repeats):
    """Time both ways in turn."""
    timer = Timer("function()", globals={"function": function}, timer=time.process_time)
    fast, slow = [], []
    for _ in range(repeats):
        fast.append(1000 * timer.timeit(1).median)
        with plain():
            slow.append(1000 * timer.timeit(1).median)
    row = {"part": what, "plain_ms": min(slow), "ms": min(fast), "ratio": min(slow) / min(fast)}
    print("{part:20} {plain_ms:8.2f} {ms:8.2f} {ratio:6.2f}".format(**row), flush=True)
    return row


@torch.inference_mode()
def measure(network, inputs, repeats):
    for what, function in parts(network, *inputs).items():
        result = function()
        with plain():
            expected = function()
        error = (result - expected).abs().max() / expected.square().mean().sqrt()
        yield compare(what, function, repeats) | {"error": error.item()}


def training_step(network, inputs, repeats):
    """Time the network and its gradients."""
    network.train().requires_grad_(True)

    def step():
        network.zero_grad()
        network(*inputs).square().mean().backward()
        return torch.cat([weight.grad.flatten() for weight in network.parameters()])

    result = step()
    with plain():
        expected = step()
    error = (result - expected).abs().max() / expected.square().mean().sqrt()
    return compare("training step", step, repeats) | {"error": error.item()}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=ROOT / "data/opp.h5", help="the MD data")
    trained = ROOT / "data/checkpoints/conditional-bragg.safetensors"
    parser.add_argument("--checkpoint", default=trained)
    parser.add_argument("--row", type=int, default=0, help="of the data; 0 is a crystal")
    parser.add_argument("--sigma", type=float, default=0.1, help="noise level [length]")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="CSV file; nothing is written by default")
    return parser.parse_args()


def main():
    options = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = dataset.read(options.data)
    network = checkpoint.load(options.checkpoint)[0].eval()
    x_0 = torch.from_numpy(data.positions[[options.row]]).float()
    x_t = noise.add_noise(x_0, options.sigma, torch.randn_like(x_0), data.box_length)
    condition = torch.from_numpy(data.conditions[[options.row]]).float()
    inputs = (x_t, torch.tensor([options.sigma]), condition, data.box_length)
    print("part                 plain ms       ms  ratio")
    rows = list(measure(network, inputs, options.repeats))
    rows.append(training_step(network, inputs, options.repeats))
    table = pd.DataFrame(rows)
    if options.output:
        options.output.write_text(table.to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
