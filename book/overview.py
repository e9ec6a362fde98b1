"""Draw the README's figure from the data set and a trained model.

From the repository's root: .venv/bin/python book/overview.py
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np

from mddm import dataset, plotting, samplers, structure, study
from mddm.study import evaluation, jobs, tables, tasks

# A moment of the process that is shown [length].
LEVEL = 0.3


def typical_crystal(model):
    """Choose the crystal among the test conditions whose sample has the median score."""
    scored = tables.read_scores(jobs.folder_of(study.DATA) / f"scores-{model}.csv")
    asked = (scored["split"] == "test") & tables.by_best_sampler(scored)
    asked &= ~scored["relaxed"] & (scored["seed"] == 0)
    crystals = scored[asked & (scored["md_crystallinity"] > structure.CRYSTAL)]
    ranked = crystals.sort_values("rdf_mse")["row"]
    return int(ranked.iloc[len(ranked) // 2])


def how_late(row):
    """Say from which length on a quench has the crystal of a test condition, if one has it."""
    scored = tables.read_scores(jobs.folder_of(study.DATA) / "scores-quench.csv")
    quenches = scored[(scored["row"] == row) & ~scored["relaxed"]].sort_values("n_steps")
    found = quenches[quenches["crystallinity"] > structure.CRYSTAL]["n_steps"]
    if len(found):
        return f"a crystal in a quench of {found.iloc[0]:,} steps"
    return f"no crystal in a quench of {quenches['n_steps'].iloc[-1]:,} steps"


def main():
    """Sample, compare with MD, draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bragg", choices=evaluation.MODELS)
    options = parser.parse_args()
    root = study.project_root()
    md = dataset.read(root / study.DATA)
    row = typical_crystal(options.model)
    sampler = samplers.BEST[options.model]
    frames = evaluation.Surrogate(options.model, "conditional", sampler).frames(md, row)
    frames = list(study.progress(frames, label="sampling"))
    between = min(frames, key=lambda frame: abs(frame.sigma - LEVEL))
    shown = [frames[0], between, frames[-1]]

    plotting.set_style()
    # As wide as a page's column on a screen, so that its letters can be read on a phone too.
    figure = plt.figure(figsize=(6.4, 4.6))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    titles = ["uniform noise", f"noise {shown[1].sigma:.1f} σ", "sample", "MD"]
    clouds = [frame.positions[0] for frame in shown] + [md.positions[row]]
    for ax, cloud, title in zip(above.subplots(1, 4), clouds, titles, strict=True):
        plotting.particles(ax, cloud, md.box_length)
        ax.set_title(title, fontsize=11)

    bin_centers, reference = structure.rdf(md.positions[row], md.box_length)
    _, sampled = structure.rdf(shown[-1].positions, md.box_length)
    _, replica = structure.rdf(md.positions[md.partners(row)], md.box_length)
    curves = {"MD": reference, "MD, other seed": replica, "sample": sampled}
    ideal_gas = structure.rdf_mse(np.ones_like(reference), reference)
    errors = {name: structure.rdf_mse(curve, reference) for name, curve in curves.items()}
    named = {
        name if name == "MD" else f"{name}: RDF-MSE {errors[name]:.3f}": curve
        for name, curve in curves.items()
    }
    ax = plotting.rdf(below.subplots(), bin_centers, named, reference="MD")
    ax.lines[0].set_label(f"ideal gas: RDF-MSE {ideal_gas:.3f}")
    ax.legend()
    condition = f"k = {md.k[row]:.1f}, φ = {md.phi[row]:.1f}, T = {md.temperature[row]:.3f}"
    ax.set_title(f"{condition}: {how_late(row)}", fontsize=11)
    target = root / "book" / "_assets" / "overview.png"
    figure.savefig(target)
    print(f"wrote {target.relative_to(root)}; {tasks.evaluate(md, row, np.asarray(clouds[2]))}")


if __name__ == "__main__":
    main()
