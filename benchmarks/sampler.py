"""Which sampler makes the most of a number of network calls: raw samples, scored against MD.

    python benchmarks/sampler.py                       # goes on where samplers.csv ends
    python benchmarks/sampler.py --model bragg --tasks conditional

Every setting gets as many noise levels as the calls allow.  Each is judged by RDF-MSE and by the
energy above MD's, both of the samples as they come, without relaxation; a conditional model under
test conditions whose MD is a crystal, where samplers differ most.  One thread.
"""

import argparse
import csv
import json
import time
from dataclasses import replace

import numpy as np
import torch

from mddm import checkpoint, dataset, files, noise, presets, sampling, structure, study
from mddm.condition import sigma_max
from mddm.samplers import SAMPLERS
from mddm.sampling import Ancestral, Corrector, ProbabilityFlow
from mddm.study import tables, tasks

WINDOW = (0.02, 0.3)


def corrections(n=4, step=0.3, window=WINDOW):
    return Ancestral(correctors=[Corrector(n, step, *window)])


def flow(order, churn=0.0):
    return ProbabilityFlow(order, churn, churned=WINDOW)


def cooled(**changes):
    """The sampler `cooled` with its steps where a crystal begins changed."""
    beginning, *others = SAMPLERS["cooled"].correctors
    return replace(SAMPLERS["cooled"], correctors=[replace(beginning, **changes), *others])


# Name of the setting: how to sample, and the smallest noise level [length].
SETTINGS = {
    "ancestral": (SAMPLERS["ancestral"], 0.005),
    "ancestral, the paper's variance": (SAMPLERS["paper"], 0.005),
    "Euler": (flow(1), 0.005),
    "Heun": (flow(2), 0.005),
    "Heun, churn 0.1": (flow(2, 0.1), 0.005),
    "Euler, churn 0.3": (flow(1, 0.3), 0.005),
    "1 correction": (corrections(1), 0.005),
    "2 corrections": (corrections(2), 0.005),
    "4 corrections": (corrections(4), 0.005),
    "8 corrections": (corrections(8), 0.005),
    "4 corrections, step 0.1": (corrections(step=0.1), 0.005),
    "4 corrections, step 0.6": (corrections(step=0.6), 0.005),
    "4 corrections, step 1": (corrections(step=1.0), 0.005),
    "8 corrections, step 0.6": (corrections(8, 0.6), 0.005),
    "8 corrections, step 1": (corrections(8, 1.0), 0.005),
    "4 corrections from 0.05": (corrections(window=(0.05, 0.3)), 0.005),
    "4 corrections to 0.6": (corrections(window=(0.02, 0.6)), 0.005),
    "4 corrections to 0.15": (corrections(window=(0.02, 0.15)), 0.005),
    "4 corrections, smallest level 0.02": (corrections(), 0.02),
    "4 corrections, smallest level 0.04": (corrections(), 0.04),
    "corrected": (SAMPLERS["corrected"], 0.005),
    "cooled": (SAMPLERS["cooled"], 0.005),
    "cooled, 12 steps": (cooled(n_steps=12), 0.005),
    "cooled, 48 steps": (cooled(n_steps=48), 0.005),
    "cooled, step 0.3": (cooled(part=0.3), 0.005),
    "cooled, noise 0.7": (cooled(noise_scale=0.7), 0.005),
    "cooled, noise 0.9": (cooled(noise_scale=0.9), 0.005),
    "cooled, noise 1": (cooled(noise_scale=1.0), 0.005),
    "cooled from 0.13 to 0.45": (cooled(lowest=0.13, highest=0.45), 0.005),
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=study.DATA, help="relative to the root")
    parser.add_argument("--out", default="data/results/samplers.csv", help="relative to the root")
    parser.add_argument("--model", choices=tuple(presets.PRESETS), default="mddm-rbf")
    tasks_on_md = ("unconditional", "conditional")
    parser.add_argument("--tasks", nargs="+", choices=tasks_on_md, default=tasks_on_md)
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=tuple(SETTINGS))
    parser.add_argument("--calls", type=int, default=240, help="of the network, at most")
    parser.add_argument("--samples", type=int, default=4, help="of each setting and task")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    options = parse_arguments()
    root = study.project_root()
    md, path = dataset.read(root / options.data), root / options.out
    done = set()
    if path.is_file():
        with open(path, newline="") as file:
            lines = list(csv.DictReader(file))
        done = {(line["model"], line["task"], line["setting"]) for line in lines}
    record_path = path.with_suffix(".json")
    checkpoints = {}
    if record_path.is_file():
        checkpoints = json.loads(record_path.read_text())["checkpoints"]
    for task in options.tasks:
        file = study.checkpoint_path("full", task, options.model)
        denoiser, _ = checkpoint.load(file)
        checkpoints[file.name] = files.file_hash(file)
        record = study.run_record(options.seed, data=md.content_hash, checkpoints=checkpoints)
        files.write_whole(record_path, json.dumps(record, indent=1) + "\n")
        rows = rows_of(task, md, options.samples)
        for setting in options.settings:
            sampler, smallest = SETTINGS[setting]
            named = {"model": options.model, "task": task, "setting": setting}
            if tuple(named.values()) not in done:
                append(path, named | measure(denoiser, sampler, smallest, task, rows, md, options))


def rows_of(task, md, n):
    if task == "unconditional":
        return n * [tasks.unconditional_row(md)]
    rows = [
        row
        for row in np.flatnonzero(md.split == "test").tolist()
        if structure.crystallinity(md.positions[row], md.box_length) > structure.CRYSTAL
    ]
    return [rows[place] for place in np.linspace(0, len(rows) - 1, n).round().astype(int)]


def measure(denoiser, sampler, smallest, task, rows, md, options):
    box_length, n_particles = md.box_length, md.positions.shape[1]
    largest = sigma_max(box_length)
    n_levels = most_levels(sampler, smallest, largest, options.calls)
    sigmas = noise.log_schedule(n_levels, smallest, largest)
    generator = torch.Generator().manual_seed(options.seed)
    x_t = sampling.pure_noise(len(rows), n_particles, box_length, largest, generator)
    condition = None
    if task == "conditional":
        condition = torch.from_numpy(md.conditions[rows]).float()
    start = time.process_time()
    frame = sampling.last(sampler(denoiser, x_t, sigmas, generator, condition, box_length))
    seconds = time.process_time() - start
    positions = frame.positions.double().numpy()
    scores = [tasks.evaluate(md, row, sample) for row, sample in zip(rows, positions, strict=True)]
    return {
        "levels": n_levels,
        "calls": frame.calls,
        "rdf_mse": f"{np.mean([score['rdf_mse'] for score in scores]):.4f}",
        "energy_gap": f"{np.mean([score['energy_gap'] for score in scores]):.3f}",
        "samples": len(rows),
        "seconds": f"{seconds / len(rows):.2f}",
    }


def most_levels(sampler, smallest, largest, calls):
    """Return the most noise levels that need no more than so many calls."""

    def needed(n_levels):
        sigmas = noise.log_schedule(n_levels, smallest, largest)
        start, generator = torch.zeros(1, 1, 3), torch.Generator().manual_seed(0)
        frames = sampler(lambda x_t, *_: x_t, start, sigmas, generator, None, None)
        return sampling.last(frames).calls

    low, high = 2, calls + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= calls else (low, middle)
    return low


def append(path, row):
    tables.append_line(path, row)
    print(*row.values(), sep="  ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
