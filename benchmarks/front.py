"""What few calls of the network reach: one sample a condition, scored against MD, and its price.

    python benchmarks/front.py --at-rest --settings quick
    python benchmarks/front.py --split train            # what settings are chosen on

Goes on where data/results/front.csv ends, whose columns are those of all scores, the setting's name
under `sampler`.  One thread; seconds are of the processor, LAMMPS included.
"""

import argparse
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch

from mddm import dataset, lammps_process, sampling, structure, study
from mddm.samplers import SAMPLERS
from mddm.study import evaluation, jobs, results, surrogates

PRESET, TASK = "bragg", "conditional"
# Of the training conditions whose MD is a crystal, so many are what settings are chosen on.
N_CHOSEN_ON = 8


def chilled(n_steps, noise_scale):
    """The sampler `quick` with other corrections."""
    quick = SAMPLERS["quick"]
    *beginning, end = quick.start.stages
    stages = [
        replace(stage, sampler=changed(stage.sampler, n_steps, noise_scale)) for stage in beginning
    ]
    return replace(quick, start=replace(quick.start, stages=(*stages, end)))


def changed(sampler, n_steps, noise_scale):
    correctors = [
        replace(corrector, n_steps=n_steps, noise_scale=noise_scale)
        for corrector in sampler.correctors
    ]
    return replace(sampler, correctors=correctors)


# By name; the more calls, the more noise is left in them.
SETTINGS = {
    "quick": SAMPLERS["quick"],
    "held": SAMPLERS["held"],
    "4 corrections": chilled(4, 0.3),
    "12 corrections": chilled(12, 0.5),
    "1 correction": chilled(1, 0.3),
    "32 corrections": chilled(32, 0.7),
    "no corrections": chilled(0, 0.3),
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="data/results/front.csv", help="relative to the root")
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=tuple(SETTINGS))
    relax = "score samples relaxed, too, which takes longer than drawing them"
    parser.add_argument("--at-rest", action="store_true", help=relax)
    return parser.parse_args()


def rows_of(md, split):
    """All test conditions, or a few of the training conditions, spread over the crystals."""
    rows = jobs.choose_rows(md, split, 100)
    if split == "test":
        return rows
    crystals = [
        row
        for row in rows
        if structure.crystallinity(md.positions[row], md.box_length) > structure.CRYSTAL
    ]
    return [crystals[n] for n in np.linspace(0, len(crystals) - 1, N_CHOSEN_ON).round().astype(int)]


@cache
def surrogate_of(setting):
    return surrogates.Surrogate(PRESET, TASK, SETTINGS[setting])


def score(md, row, setting, at_rest):
    """Draw one sample, and give its entries, as it is and at rest."""
    surrogate = surrogate_of(setting)
    # Loads the network, which no sample is to pay for.
    surrogate.conditions(md, row)
    clock = lammps_process.process_time()
    final = sampling.last(surrogate.frames(md, row))
    seconds = lammps_process.process_time() - clock
    named = {"model": PRESET, "seed": 0, "source": surrogate.source}
    named |= {"sampler": setting, "calls": final.calls}
    positions = final.positions[0].cpu().numpy()
    if at_rest:
        return evaluation.raw_and_relaxed(md, row, positions, seconds, named)
    return [evaluation.judge(md, row, positions) | {"seconds": seconds} | named]


def main():
    options = parse_arguments()
    root = study.project_root()
    md = dataset.read(root / study.DATA)
    source = surrogates.checkpoint_source(TASK, PRESET)
    asked = [
        (
            evaluation.Key(PRESET, TASK, options.split, row, 0, source, setting),
            partial(score, md, row, setting, options.at_rest),
        )
        for setting in options.settings
        for row in rows_of(md, options.split)
    ]
    results.collect(root / options.out, asked)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
