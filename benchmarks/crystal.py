"""What must a network see to make a crystal: its neighbours, their sum, the waves of the box?

    python benchmarks/crystal.py                 # half an hour on one core, resumable
    python benchmarks/crystal.py --samples 32    # more of the network that is kept: two minutes

Each network learns one configuration of MD, a crystal that MD finds late, in the same number of
steps.  It is judged level by level, beside the best guess of one who knows every site but not that
each is taken once, and by samples that start from uniform noise, beside that noise itself.  All are
judged as they come, and at rest.  One thread.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd
import torch

from mddm import (
    checkpoint,
    dataset,
    files,
    geometry,
    lammps,
    noise,
    presets,
    samplers,
    sampling,
    structure,
    study,
    training,
)
from mddm.condition import sigma_max
from mddm.configurations import Configurations
from mddm.study import jobs, surrogates, tables, tasks

# Name, preset and the settings that are not those of its recipe.
NETWORKS = {
    "largest message": ("mddm-rbf", {}),
    "sum of messages": ("bragg", {"decoys": 0.0, "architecture": {"n_fields": 0}}),
    "sum and waves": ("bragg", {"decoys": 0.0, "architecture": {"sites": False}}),
    "and sites": ("bragg", {"decoys": 0.0}),
    "and decoys": ("bragg", {}),
}
LAST = "and decoys"
# What they start from, judged as they are.
START = "uniform noise"
# Cooling helps a network that has to choose among many crystals; these know one.
SAMPLER = "corrected"
LEVELS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
# Particles closer than this share a site [length].
SAME_SITE = 0.6


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="data/opp-lengths.h5", help="relative to the root")
    parser.add_argument("--out", default="data/results", help="folder, relative to the root")
    parser.add_argument("--condition", nargs=3, type=float, default=(3.8, 1.2, 0.046))
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--levels", type=int, default=surrogates.N_LEVELS, help="of sampling")
    parser.add_argument("--samples", type=int, default=16, help="of each network")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    options = parse_arguments()
    root = study.project_root()
    md = dataset.read(root / options.data)
    row = longest(md, options.condition)
    folder = root / options.out
    folder.mkdir(parents=True, exist_ok=True)
    losses, samples = folder / "crystal-losses.csv", folder / "crystal-samples.csv"
    if not samples.exists():
        known(md, row, losses, samples, options)
    record = folder / "crystal.json"
    for name in options.networks:
        drawn = pd.read_csv(samples)["network"].eq(name).sum()
        if not drawn:
            state = learn(md, row, name, losses, samples, options)
            if name == LAST:
                save(state, md, row, record, options)
        elif name == LAST and record.exists():
            # Those that are there have the first seeds.
            for entry in draw(md, row, name, *load(record), seeds_of(options)[drawn:], options):
                append(samples, entry)


def known(md, row, losses, samples, options):
    """Judge the guess of one who knows every site, anneals by MD, and what samples start from."""
    for sigma in LEVELS:
        loss = known_sites(md.positions[row], sigma, md.box_length, options.seed)
        append(losses, {"network": "knows the sites", "sigma": sigma, "loss": f"{loss:.4f}"})
    for anneal in alike(md, row):
        named = {"network": "MD", "made_by": f"{md.steps[anneal]:,} steps", "seed": 0}
        spent = {"calls": int(md.steps[anneal]), "seconds": ""}
        append(samples, named | spent | judge(md, row, md.positions[anneal]))
    for seed in seeds_of(options):
        start = np.random.default_rng(seed).uniform(0, md.box_length, md.positions[row].shape)
        named = {"network": START, "made_by": "", "seed": seed, "calls": 0, "seconds": ""}
        append(samples, named | judge(md, row, start))


def learn(md, row, name, losses, samples, options):
    """Train a network on the crystal and judge it; return the end of its training."""
    state = train(md, row, *NETWORKS[name], options)
    denoiser = state.average.module.eval()
    levels = torch.tensor(LEVELS)
    measured = training.level_losses(denoiser, source_of(md, row), levels, 8, options.seed)
    lines = [
        {"network": name, "sigma": s, "loss": f"{x:.4f}"}
        for s, x in zip(LEVELS, measured.tolist(), strict=True)
    ]
    drawn = draw(md, row, name, denoiser, state.settings, seeds_of(options), options)
    for path, entries in ((losses, lines), (samples, drawn)):
        for entry in entries:
            append(path, entry)
    return state


def draw(md, row, name, denoiser, settings, seeds, options):
    """Sample from uniform noise, and judge the samples."""
    entries = []
    for seed in seeds:
        final, seconds = sample(md, denoiser, settings, options.levels, seed)
        named = {"network": name, "made_by": SAMPLER, "seed": seed}
        spent = {"calls": final.calls, "seconds": f"{seconds:.1f}"}
        entries.append(named | spent | judge(md, row, final.positions[0].numpy()))
    return entries


def save(state, md, row, path, options):
    """Keep the network that makes crystals, for the chapter about them."""
    kept = checkpoint_beside(path)
    record = study.run_record(options.seed, data=md.content_hash, row=row, steps=options.steps)
    checkpoint.save(kept, state, record)
    record |= {"checkpoint": f"{kept.name} {files.file_hash(kept)}"}
    files.write_whole(path, json.dumps(record, indent=1) + "\n")


def load(path):
    """Return the network that was kept, and its settings."""
    preset, _ = NETWORKS[LAST]
    denoiser, header = checkpoint.load(checkpoint_beside(path), preset)
    return denoiser.eval(), presets.Settings(**header["settings"])


def checkpoint_beside(path):
    preset, _ = NETWORKS[LAST]
    kept = study.checkpoint_path("full", "crystal", preset)
    return kept if path.parent == jobs.folder_of(study.DATA) else path.with_name(kept.name)


def longest(md, condition):
    """Return the row of a condition with the longest anneal."""
    return int(max(alike(md, md.nearest(*condition)), key=lambda row: md.steps[row]))


def alike(md, row):
    """Return the rows of the same condition, this one among them."""
    return sorted([row, *md.partners(row)])


def seeds_of(options):
    return range(options.seed, options.seed + options.samples)


def source_of(md, row):
    return Configurations.one(md, row)


def train(md, row, preset, change, options):
    settings = presets.Settings(
        preset=preset,
        n_steps=options.steps,
        batch_size=2,
        sigma_max=sigma_max(md.box_length),
        ranges={},
        seed=options.seed,
        data=md.content_hash,
        **presets.RECIPES[preset] | change,
    )
    state = training.TrainingState(settings)
    steps = training.train(state, source_of(md, row))
    for _ in study.progress(steps, options.steps, preset):
        pass
    return state


def sample(md, denoiser, settings, n_levels, seed):
    start = time.process_time()
    final = sampling.last(
        samplers.draw(
            denoiser,
            SAMPLER,
            noise.make_schedule("log", n_levels, settings.sigma_min, settings.sigma_max),
            None,
            n_samples=1,
            n_particles=md.positions.shape[1],
            box_length=md.box_length,
            seed=seed,
        )
    )
    return final, time.process_time() - start


def judge(md, row, positions):
    relaxed, _, _ = lammps.minimize(positions, md.potential(row), md.box_length)
    entry = {}
    for prefix, places in (("", positions), ("relaxed_", relaxed)):
        scored = tasks.evaluate(md, row, places)
        entry[f"{prefix}rdf_mse"] = f"{scored['rdf_mse']:.4f}"
        entry[f"{prefix}energy_gap"] = f"{scored['energy_gap']:.3f}"
    entry["crystallinity"] = f"{structure.crystallinity(positions, md.box_length):.3f}"
    pairs = geometry.neighbor_pairs(torch.from_numpy(positions), SAME_SITE, md.box_length)
    return entry | {"shared_sites": len(pairs)}


def known_sites(positions, sigma, box_length, seed):
    """Measure the loss of the posterior mean over all sites, each particle by itself."""
    sites = torch.from_numpy(positions).double()
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(sites.shape, generator=generator, dtype=torch.float64)
    x_t = sites + sigma * eps
    from_site = geometry.minimum_image(x_t[:, None] - sites[None], box_length)
    weights = (-from_site.square().sum(dim=-1) / (2 * sigma**2)).softmax(dim=-1)
    estimate = (weights[..., None] * from_site).sum(dim=1) / sigma
    return (estimate - eps).square().mean().item()


def append(path, row):
    tables.append_line(path, row)
    print(*row.values(), sep="  ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
