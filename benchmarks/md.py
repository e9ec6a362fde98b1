"""Time `mddm.md.anneal`: steps and pair evaluations per second, hot and cold, by engine and skin.

    python benchmarks/md.py --batch 4 --steps 50                   # a CPU
    python benchmarks/md.py --batch 1025 --skins 0.3 0.4 0.5 0.6   # a GPU

The state is that of a short anneal, so that lists are as long and as short-lived as in earnest.
"hot" is held at ten times the target temperature, "cold" at the target.
"""

import argparse
import time
from dataclasses import replace
from itertools import product

import torch

from mddm import kernels, md, pairs
from mddm.condition import RANGES


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu or cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="numbers of systems")
    parser.add_argument("--particles", type=int, default=1000, help="particles of each, density 1")
    parser.add_argument("--steps", type=int, default=300, help="steps that are timed")
    parser.add_argument("--skins", type=float, nargs="+", default=[0.4])
    parser.add_argument("--engines", nargs="+", choices=["torch", "triton"])
    parser.add_argument("--compile", type=int, nargs="+", choices=[0, 1], default=[0, 1])
    parser.add_argument(
        "--tiles", nargs="+", default=["16x8"], help="neighbours x particles of a Triton program"
    )
    parser.add_argument("--profile", action="store_true", help="list the kernels of 20 steps")
    return parser.parse_args()


def draw_conditions(batch):
    low, high = torch.tensor(list(RANGES.values())).unbind(1)
    return low + (high - low) * torch.rand(batch, 3, generator=torch.Generator().manual_seed(0))


def neighbors_listed(state, conditions, box_length, skin):
    listed = pairs.make_pairs(conditions[:4], box_length, "cpu", torch.float32, skin=skin)
    listed.rebuild(state.positions[:4].cpu().transpose(1, 2))
    return (listed.neighbors != listed.own).sum().item() / listed.own.numel() / len(listed.longest)


def seconds_per_step(state, conditions, hot, arguments, **settings):
    n_steps = 10 * arguments.steps
    blocks = md.anneal(
        conditions,
        n_steps,
        1,
        previous=state,
        start_temperature=conditions[:, 2] * (10 if hot else 1),
        every=arguments.steps,
        **settings,
    )
    next(blocks)  # compiles, too
    start = time.perf_counter()
    next(blocks)
    return (time.perf_counter() - start) / arguments.steps


def profile(state, conditions, **settings):
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    blocks = md.anneal(conditions, 200, 1, previous=state, every=20, **settings)
    next(blocks)
    with torch.profiler.profile(activities=activities) as record:
        next(blocks)
    order = f"self_{settings['device']}_time_total"
    print(record.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=45))


def main():
    arguments = parse_arguments()
    fastest = "triton" if arguments.device == "cuda" and kernels.triton else "torch"
    box_length = arguments.particles ** (1 / 3)
    columns = "batch engine compile tile skin phase ms/step steps/s system-steps/s pairs/s".split()
    print("".join(f"{name:>15}" for name in columns))
    for batch in arguments.batch:
        conditions = draw_conditions(batch)
        common = {
            "n_particles": arguments.particles,
            "box_length": box_length,
            "device": arguments.device,
        }
        *_, start = md.anneal(conditions, 200, 0, compile=False, skin=0.4, **common)
        engines = arguments.engines or [fastest]
        for engine, compile, tile, skin in product(
            engines, arguments.compile, arguments.tiles, arguments.skins
        ):
            pairs.TritonPairs.force_tile = tuple(int(size) for size in tile.split("x"))
            settings = common | {"engine": engine, "compile": bool(compile), "skin": skin}
            # The run starts at step 0 of a protocol of its own.
            state = replace(start, step=0)
            listed = neighbors_listed(state, conditions, box_length, skin)
            for phase in ("hot", "cold"):
                seconds = seconds_per_step(state, conditions, phase == "hot", arguments, **settings)
                rates = [
                    1 / seconds,
                    batch / seconds,
                    batch * arguments.particles * listed / seconds,
                ]
                cells = [
                    batch,
                    engine,
                    bool(compile),
                    tile if engine == "triton" else "-",
                    skin,
                    phase,
                ]
                print(
                    "".join(f"{cell:>15}" for cell in map(str, cells))
                    + f"{1000 * seconds:15.3f}"
                    + "".join(f"{rate:15.4g}" for rate in rates),
                    flush=True,
                )
            if arguments.profile:
                profile(state, conditions, **settings)


if __name__ == "__main__":
    main()
