"""What decides how fast a preset learns: a study of short runs, each changed in one way.

    python benchmarks/preset.py                        # goes on where data/results/study.csv ends
    python benchmarks/preset.py --presets mddm         # one preset's runs only

Every run gets the same processor time, not the same number of steps, trains on the conditional
task's training conditions and is judged on configurations that it has not seen, MD replicas and
test conditions, level by level.  One thread; a run's file of record lies beside the table.
"""

import argparse
import csv
import json
import time

import torch

from mddm import dataset, files, pbcconv, presets, study, training
from mddm.condition import SIGMA_MIN, sigma_max
from mddm.configurations import Configurations
from mddm.study import tables, tasks

# The levels where structure forms; the mean over them is the verdict.
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
# Unseen configurations that are drawn for each of them.
N_JUDGED = 24

# Other networks with the paper's number of parameters, all widths powers of two.
RIVALS = [
    sizes
    for sizes in pbcconv.sizes_with(101_891, [2**power for power in range(4, 9)])
    if presets.Settings(preset="mddm", architecture=sizes) != presets.Settings(preset="mddm")
]

# The first run of a preset is its present default, each of the others one step away from it.
# "levels" are the range of noise that is trained on, "architecture" the network's arguments.
VARIANTS = {
    "mddm-rbf": [
        {},
        {"architecture": {"modulated": False}},
        {"learning_rate": 1e-3},
        {"architecture": {"n_neighbors": 8}},
        {"architecture": {"n_neighbors": 24}},
        {"levels": (0.01, 0.8)},
        {"schedule": "log"},
        {"architecture": {"n_layers": 6, "channels": 64}},
        {"architecture": {"n_layers": 3, "channels": 128}},
        {"architecture": {"n_radial": 32}},
        {"batch_size": 4},
    ],
    "mddm": [
        {},
        {"learning_rate": 2e-3},
        {"learning_rate": 8e-3},
        {"architecture": {"n_neighbors": 5}},
        {"architecture": {"n_neighbors": 12}},
        {"architecture": {"n_neighbors": 20}},
        {"schedule": "linear_variance"},
        {"schedule": "power"},
        {"schedule": "log"},
        *({"architecture": sizes} for sizes in RIVALS),
    ],
    "bragg": [
        {},
        {"learning_rate": 1e-3},
        {"learning_rate": 4e-3},
    ],
    "transolver": [
        {},
        {"learning_rate": 3e-3},
    ],
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=study.DATA, help="relative to the root")
    parser.add_argument("--out", default="data/results/study.csv", help="relative to the root")
    parser.add_argument("--presets", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--seconds", type=float, default=25, help="processor time of each run")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    options = parse_arguments()
    md = dataset.read(study.project_root() / options.data)
    judge = Configurations.of(md.take(md.split != "train"))
    source = tasks.training_source("conditional", md)
    path = study.project_root() / options.out
    done = set()
    if path.is_file():
        with open(path, newline="") as file:
            done = {(row["preset"], row["change"]) for row in csv.DictReader(file)}
    record = study.run_record(options.seed, data=md.content_hash)
    files.write_whole(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    for preset in options.presets:
        for change in VARIANTS[preset]:
            name = tables.describe(change)
            if (preset, name) not in done:
                row = measure(preset, change, source, judge, options, md.content_hash)
                append(path, {"preset": preset, "change": name, **row})


def measure(preset, change, source, judge, options, content_hash):
    change = dict(change)
    low, high = change.pop("levels", (SIGMA_MIN, sigma_max(source.box_length)))
    settings = {
        "preset": preset,
        "batch_size": 1,
        **presets.RECIPES[preset],
        "sigma_min": low,
        "sigma_max": high,
        "ranges": source.ranges,
        "ema_decay": 0.99,
        "seed": options.seed,
        "data": content_hash,
    } | change
    n_steps = steps_in(options.seconds, settings, source)
    state = training.TrainingState(presets.Settings(n_steps=n_steps, **settings))
    start = time.process_time()
    for _ in training.train(state, source):
        pass
    seconds = time.process_time() - start
    levels = torch.tensor(LEVELS)
    # The same draws for every run.
    losses = training.level_losses(state.average.module, judge, levels, N_JUDGED, 1)
    sizes = (parameter.numel() for parameter in state.denoiser.parameters())
    return {
        "parameters": sum(sizes),
        "steps": n_steps,
        "seconds": f"{seconds:.0f}",
        "loss": f"{losses.mean():.4f}",
        **{f"loss at {level}": f"{loss:.4f}" for level, loss in zip(LEVELS, losses, strict=True)},
    }


def steps_in(seconds, settings, source, n=10):
    """Return how many steps fit into so much processor time."""
    state = training.TrainingState(presets.Settings(n_steps=n + 2, **settings))
    steps = training.train(state, source)
    next(steps), next(steps)
    start = time.process_time()
    for _ in steps:
        pass
    return max(50, round(seconds * n / (time.process_time() - start)))


def append(path, row):
    tables.append_line(path, row)
    print(*row.values(), sep="  ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
