"""Time what a structure costs: training and sampling of every network, anneals and quenches.

    python benchmarks/timing.py            # minutes; writes data/results/timing.csv

All in one run on one device, single samples, so that the rows may be compared with each other.  A
step's cost is the median of several; what would take hours is said to be extrapolated from it.
"""

import argparse
import json
import statistics
import time

import torch

from mddm import dataset, files, lammps, noise, samplers, study, training
from mddm.condition import SIGMA_MIN, sigma_max
from mddm.study import jobs, plan, tables, tasks

COLUMNS = ("what", "n_steps", "model", "seconds", "device", "source")
MEASURED, EXTRAPOLATED = "measured", "from {} steps"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=study.DATA, help="the MD data")
    parser.add_argument("--repeats", type=int, default=15, help="steps whose median is taken")
    parser.add_argument("--anneal-steps", type=int, default=10_000, help="MD steps that are timed")
    parser.add_argument("--output", help="CSV file; default: data/results/timing.csv")
    return parser.parse_args()


def median_seconds(function, device, repeats):
    times = []
    # The first calls allocate, and compile where there is something to compile.
    for _ in range(3 + repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def networks(data, device, repeats):
    source = tasks.training_source("conditional", data)
    condition = torch.from_numpy(data.conditions[:1]).float().to(device)
    sigmas = noise.make_schedule("log", 500, SIGMA_MIN, sigma_max(data.box_length))
    for preset in training.PRESETS:
        settings = training.Settings(preset=preset, n_steps=1000, batch_size=1)
        state = training.TrainingState(settings, device)
        steps = training.train(state, source)
        step = median_seconds(lambda steps=steps: next(steps), device, repeats)
        yield "training", 1000, preset, 1000 * step, EXTRAPOLATED.format(repeats)
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
            call = median_seconds(lambda frames=frames: next(frames), device, repeats)
        yield "one sample", 500, preset, 500 * call, EXTRAPOLATED.format(repeats)


def molecular_dynamics(data, anneal_steps):
    row = tasks.unconditional_row(data)
    potential, temperature = data.potential(row), float(data.temperature[row])
    for n_steps in jobs.QUENCH_STEPS[:3]:
        start = time.perf_counter()
        quenched = lammps.anneal(potential, temperature, n_steps, seed=0)
        shortest = time.perf_counter() - start
        yield "quench", n_steps, "LAMMPS", shortest, MEASURED
    start = time.perf_counter()
    lammps.minimize(quenched.positions, potential, data.box_length)
    yield "relaxing a sample", 0, "LAMMPS", time.perf_counter() - start, MEASURED
    start = time.perf_counter()
    lammps.anneal(potential, temperature, anneal_steps, seed=0)
    # The start and its minimisation cost the same, however many steps follow.
    per_step = (time.perf_counter() - start - shortest) / (anneal_steps - n_steps)
    long = plan.ramp_runs()[0].n_steps_first
    extrapolated = EXTRAPOLATED.format(f"{anneal_steps:,}")
    yield "anneal", long, "LAMMPS", shortest + per_step * long, extrapolated


def main():
    import pandas as pd

    arguments = parse_arguments()
    device, root = study.device(), study.project_root()
    data = dataset.read(root / arguments.data)
    rows, record = [], study.run_record(0, data=data.content_hash)
    for entries, place in (
        (networks(data, device, arguments.repeats), record["device"]),
        (molecular_dynamics(data, arguments.anneal_steps), "cpu"),
    ):
        for what, n_steps, model, seconds, source in entries:
            line = (what, n_steps, model, seconds, place, source)
            rows.append(dict(zip(COLUMNS, line, strict=True)))
            print(f"{what:20} {n_steps:7} {model:12} {seconds:9.3g} s  {source}", flush=True)
    output = root / (arguments.output or "data/results/timing.csv")
    tables.write_csv(output, pd.DataFrame(rows))
    files.write_whole(output.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
