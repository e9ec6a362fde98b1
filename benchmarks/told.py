"""What should a network be told: the numbers of a formula, or the potential itself?

    python benchmarks/told.py         # an hour and a half on one core, resumable

Networks learn the same potentials in the same number of steps, and are judged level by level on
potentials of which they have seen no temperature: whole columns of the (k, phi) grid are held out.
They are judged, too, under the condition of another row, which tells how much they heed their own.
The draws are the same for all.  One thread.
"""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from mddm import checkpoint, dataset, encoding, structure, study, training
from mddm.configurations import Configurations
from mddm.study import tables, train


class EdgesAlone(encoding.PotentialConditioning):
    """What is told of a potential, but for what waves contribute to its energy."""

    n_wave = 0


encoding.CONDITIONINGS["edges alone"] = EdgesAlone
# Name, what the network is told, and settings that are not those of its recipe.
TOLD = {
    "k, phi, T": ("numbers", {}),
    "U, T": ("potential", {"jitter": 0.0}),
    "U, T, jittered": ("potential", {}),
    "U, T, of edges alone": ("edges alone", {"jitter": 0.0}),
    "U, T, rivals": ("potential", {"rivals": 0.3, "jitter": 0.0}),
}
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="data/opp.h5", help="relative to the root")
    parser.add_argument("--out", default="data/results", help="folder, relative to the root")
    parser.add_argument("--told", nargs="+", choices=tuple(TOLD), default=tuple(TOLD))
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--draws", type=int, default=200, help="configurations a level")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    return parser.parse_args()


def split_columns(data, seed):
    """Part the training rows into 80 of 100 columns of (k, phi) and the others."""
    columns = np.unique(np.column_stack([data.k, data.phi]), axis=0)
    held_out = np.random.default_rng(seed).choice(len(columns), len(columns) // 5, replace=False)
    pairs = np.column_stack([data.k, data.phi])[:, None]
    unseen = (pairs == columns[held_out]).all(axis=-1).any(axis=-1)
    return data.take(~unseen), data.take(unseen)


def source_of(told, data):
    """Give a network's training data, with the conditions that it is to be told."""
    if told == "numbers":
        return Configurations.of(data)
    return replace(Configurations.of(data, told="potential"), told=told)


def mistaken(source, seed):
    """Give crystals the conditions of one another."""
    crystals = [
        row
        for row, points in enumerate(source.positions)
        if structure.crystallinity(points.numpy(), source.box_length) > structure.CRYSTAL
    ]
    order = np.random.default_rng(seed).permutation(crystals)
    right, wrong = (source.conditions[list(rows)] for rows in (order, np.roll(order, 1)))
    known = replace(source, positions=source.positions[list(order)], conditions=right)
    return known, replace(known, conditions=wrong)


def main():
    given = parse_arguments()
    torch.set_num_threads(1)
    root = study.project_root()
    out, data = root / given.out / "told.csv", dataset.read(root / given.data).subset("train")
    seen, unseen = split_columns(data, given.seed)
    rows = pd.read_csv(out).to_dict("records") if out.is_file() else []
    for name in given.told:
        told, changes = TOLD[name]
        source, others = (source_of(told, each) for each in (seen, unseen))
        run = {"n_steps": given.steps, "batch_size": 4, "seed": given.seed, **changes}
        settings = train.settings_of("bragg", source, seen.content_hash, **run)
        path = root / given.out / "told" / f"{name.replace(', ', '-')}.safetensors"
        if path.is_file():
            checkpoint.check_replaceable(path, settings)
        else:
            train.run(path, settings, source, label=name)
        denoiser, header = checkpoint.load(path)
        right, wrong = mistaken(others, given.seed)
        judges = {"loss": others, "seen": source, "crystals": right, "mistaken": wrong}
        losses = {
            kind: training.level_losses(denoiser, judge, torch.tensor(LEVELS), given.draws)
            for kind, judge in judges.items()
        }
        found = [
            {"told": name, "sigma": sigma, "steps": header["step"], "seconds": header["seconds"]}
            | {kind: values[level].item() for kind, values in losses.items()}
            for level, sigma in enumerate(LEVELS)
        ]
        rows = [row for row in rows if row["told"] != name] + found
        tables.write_csv(out, pd.DataFrame(rows))
    table = pd.DataFrame(rows).pivot(index="told", columns="sigma", values="loss")
    print(table.loc[[name for name in TOLD if name in table.index]].round(3).to_string())


if __name__ == "__main__":
    main()
