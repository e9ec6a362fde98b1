"""Time what training and sampling cost with every network: python benchmarks/timing.py

    python benchmarks/timing.py            # a minute or two; writes data/results/timing.csv

All in one run on one device, one structure at a time, so that the rows may be compared with each
other.  What would take long is extrapolated from the median of several steps.
"""

import argparse
import json
import statistics

import torch
from torch.utils.benchmark import Timer

from mddm import dataset, files, noise, presets, samplers, study, training
from mddm.condition import SIGMA_MIN, sigma_max
from mddm.study import tables, tasks

COLUMNS = ("what", "n_steps", "model", "seconds", "device", "source")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=study.DATA, help="the MD data")
    parser.add_argument("--repeats", type=int, default=15, help="steps whose median is taken")
    parser.add_argument("--output", help="CSV file; default: data/results/timing.csv")
    return parser.parse_args()


def median_seconds(step, repeats):
    timer = Timer("step()", globals={"step": step})
    return statistics.median(timer.timeit(1).median for _ in range(repeats))


def networks(data, device, repeats):
    source = tasks.training_source("conditional", data)
    condition = torch.from_numpy(data.conditions[:1]).float().to(device)
    sigmas = noise.make_schedule("log", 500, SIGMA_MIN, sigma_max(data.box_length))
    for preset in presets.PRESETS:
        settings = presets.Settings(preset=preset, n_steps=1000, batch_size=1)
        state = training.TrainingState(settings, device)
        steps = training.train(state, source)
        step = median_seconds(lambda steps=steps: next(steps), repeats)
        yield "training", 1000, preset, 1000 * step
        denoiser = settings.new_denoiser().to(device).eval()
        frames = samplers.draw(
            denoiser,
            "ancestral",
            sigmas,
            condition.cpu().numpy(),
            n_samples=1,
            n_particles=data.positions.shape[1],
            box_length=data.box_length,
            seed=0,
            device=device,
        )
        with torch.no_grad():
            call = median_seconds(lambda frames=frames: next(frames), repeats)
        yield "one sample", 500, preset, 500 * call


def main():
    import pandas as pd

    arguments = parse_arguments()
    device, root = study.device(), study.project_root()
    data = dataset.read(root / arguments.data)
    rows, record = [], study.run_record(0, data=data.content_hash)
    source = f"from {arguments.repeats} steps"
    for line in networks(data, device, arguments.repeats):
        rows.append(dict(zip(COLUMNS, (*line, record["device"], source), strict=True)))
        print("{:10} {:5} {:12} {:9.3g} s".format(*line), flush=True)
    output = root / (arguments.output or "data/results/timing.csv")
    tables.write_csv(output, pd.DataFrame(rows))
    files.write_whole(output.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
