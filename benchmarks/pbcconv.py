"""Time a training step of each network in several ways: python benchmarks/pbcconv.py.

geometric        the convolution as the paper writes it, on torch-geometric
message_passing  the same by indexing: one message an edge, and their maximum
dense            the convolution as it is used
bfloat16         the same with matrix products in half precision
compiled         the same through torch.compile

Times are of the processor, or of the GPU; "error" is the root mean square change of the output
against double precision, in units of the output's.
"""

import argparse
import statistics
import time

import torch
from torch.utils.benchmark import Timer
from torch_geometric.nn import MessagePassing

from mddm.pbcconv import PBCConv
from mddm.presets import PRESETS, Settings

WAYS = ("geometric", "message_passing", "dense", "bfloat16", "compiled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--models", nargs="+", choices=tuple(PRESETS), default=tuple(PRESETS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:4])
    parser.add_argument("--n-particles", type=int, nargs="+", default=[1000])
    parser.add_argument("--devices", nargs="+", default=devices)
    parser.add_argument("--n-neighbors", type=int, help="of the convolutions; else the preset's")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many is printed")
    options = parser.parse_args()

    print(f"density 1, torch {torch.__version__} with {torch.get_num_threads()} threads")
    names = ("device", "model", "particles", "batch", "way", "ms a step", "ms a sample", "first ms")
    print("".join(f"{name:>16}" for name in (*names, "error")))
    for device in options.devices:
        for model in options.models:
            for n_particles in options.n_particles:
                for batch in options.batch_sizes:
                    for way in options.ways:
                        if model in ("mddm", "mddm-rbf") or way in WAYS[2:]:
                            cells = measure(device, model, n_particles, batch, way, options)
                            head = (device, model, n_particles, batch, way)
                            print("".join(f"{cell:>16}" for cell in (*head, *cells)), flush=True)


class Geometric(MessagePassing):
    """A layer's messages, passed on by torch-geometric."""

    def __init__(self, layer):
        super().__init__(aggr="max")
        self.h = layer.message

    def forward(self, features, neighbors, edges, globals_):
        """Convolve as the layer does."""
        batch, n_particles, n_neighbors = neighbors.shape
        target = torch.arange(batch * n_particles, device=neighbors.device)
        first = n_particles * torch.arange(batch, device=neighbors.device)[:, None, None]
        out = self.propagate(
            torch.stack([(neighbors + first).flatten(), target.repeat_interleave(n_neighbors)]),
            features=features.flatten(0, 1),
            edges=edges.flatten(0, 2),
            globals_=globals_.repeat_interleave(n_particles * n_neighbors, dim=0),
        )
        return out.unflatten(0, (batch, n_particles))

    def message(self, features_i, features_j, edges, globals_):
        """Compute the message of each edge."""
        return self.h(features_i, features_j, edges, globals_)


def measure(device, model, n_particles, batch, way, options):
    sizes = {}
    if options.n_neighbors and model != "transolver":
        sizes["n_neighbors"] = options.n_neighbors
    denoiser = Settings(preset=model, ranges={}, architecture=sizes).new_denoiser().to(device)
    for layer in denoiser.modules():
        if isinstance(layer, PBCConv) and way == "message_passing":
            layer.method = way
        elif isinstance(layer, PBCConv) and way == "geometric":
            layer.forward = Geometric(layer).forward
    box_length = n_particles ** (1 / 3)
    generator = torch.Generator().manual_seed(0)
    x_t = (box_length * torch.rand(batch, n_particles, 3, generator=generator)).to(device)
    eps, sigma = torch.randn_like(x_t), torch.full((batch,), 0.1, device=device)
    with torch.no_grad():
        exact = denoiser.double()(x_t.double(), sigma.double(), None, box_length)
    denoiser.float()
    call = torch.compile(denoiser) if way == "compiled" else denoiser
    lowered = torch.autocast(device, torch.bfloat16, enabled=way == "bfloat16")

    def step():
        denoiser.zero_grad()
        with lowered:
            estimate = call(x_t, sigma, None, box_length)
        (estimate.float() - eps).square().mean().backward()
        return estimate.detach()

    # The first step compiles, if need be.
    start = time.perf_counter()
    error = (step() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    first = 1000 * (time.perf_counter() - start)
    clock = {} if device == "cuda" else {"timer": time.process_time}
    timer = Timer("step()", globals={"step": step}, **clock)
    median = 1000 * statistics.median(timer.timeit(1).median for _ in range(options.repeats))
    return f"{median:.1f}", f"{median / batch:.1f}", f"{first:.0f}", f"{error:.1e}"


if __name__ == "__main__":
    main()
