"""Draw the README's figure from the data set and a trained model.

From the repository's root: .venv/bin/python book/overview.py
"""

import matplotlib.pyplot as plt
import numpy as np

from mddm import dataset, plotting, samplers, structure, study
from mddm.study import evaluation, jobs, surrogates, tables, tasks

MODEL = evaluation.OURS
SAMPLER = samplers.BEST_AT_T[MODEL]
# A moment of the process that is shown [length].
LEVEL = 0.3


def read(name):
    """Read what is scored of structures of the test conditions as they are."""
    scored = tables.read_scores(jobs.folder_of(study.DATA) / f"{name}.csv")
    return scored[(scored["split"] == "test") & ~scored["relaxed"]]


def typical_crystal(quenches):
    """Choose the test condition of the median score, of those where MD and sample are crystals.

    A crystal that the shortest quench has is left out.
    """
    scored = read("front")
    at_once = quenches[quenches["n_steps"] == quenches["n_steps"].min()]
    at_once = at_once[tables.is_crystal(at_once["crystallinity"])]
    asked = (scored["sampler"] == SAMPLER) & ~scored["row"].isin(at_once["row"])
    for crystallinity in ("md_crystallinity", "crystallinity"):
        asked &= tables.is_crystal(scored[crystallinity])
    ranked = scored[asked].sort_values("rdf_mse")["row"]
    return int(ranked.iloc[len(ranked) // 2])


def how_late(quenches, row):
    """Say from which length on a quench has the crystal of a test condition, if one has it."""
    quenches = quenches[quenches["row"] == row].sort_values("n_steps")
    found = quenches[tables.is_crystal(quenches["crystallinity"])]["n_steps"]
    if len(found):
        return f"a crystal in a quench of {found.iloc[0]:,} steps"
    return f"no crystal in a quench of {quenches['n_steps'].iloc[-1]:,} steps"


def main():
    """Sample, compare with MD, draw and save."""
    root = study.project_root()
    md = dataset.read(root / study.DATA)
    quenches = read("scores-quench")
    row = typical_crystal(quenches)
    frames = surrogates.Surrogate(MODEL, "conditional", SAMPLER).frames(md, row)
    frames = list(study.progress(frames, label="sampling"))
    between = min(frames, key=lambda frame: abs(frame.sigma - LEVEL))
    shown = [frames[0], between, frames[-1]]

    plotting.set_style()
    # As wide as a page's column on a screen, so that its letters can be read on a phone too.
    figure = plt.figure(figsize=(6.4, 4.6))
    figure.get_layout_engine().set(h_pad=0.08)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    titles = ["uniform noise", f"noise {shown[1].sigma:.2g} σ", "sample", "MD"]
    clouds = [frame.positions[0] for frame in shown] + [md.positions[row]]
    for ax, cloud, title in zip(above.subplots(1, 4), clouds, titles, strict=True):
        plotting.particles(ax, cloud, md.box_length)
        ax.set_title(title, fontsize=11)

    bin_centers, reference = structure.rdf(md.positions[row], md.box_length)
    _, sampled = structure.rdf(shown[-1].positions, md.box_length)
    _, replica = structure.rdf(md.positions[md.partners(row)], md.box_length)
    again = "MD, other seed"
    curves = {"MD": reference, again: replica, "sample": sampled}
    ideal_gas = structure.rdf_mse(np.ones_like(reference), reference)
    errors = {name: structure.rdf_mse(curve, reference) for name, curve in curves.items()}
    told = {name: f"{name}: RDF-MSE {error:.3f}" for name, error in errors.items()} | {"MD": "MD"}
    named = {told[name]: curve for name, curve in curves.items()}
    marks = {"reference": "MD", "replica": told[again]}
    ax = plotting.rdf(below.subplots(), bin_centers, named, **marks)
    ax.lines[0].set_label(f"ideal gas: RDF-MSE {ideal_gas:.3f}")
    ax.legend()
    condition = f"k = {md.k[row]:.1f}, φ = {md.phi[row]:.1f}, T = {md.temperature[row]:.3f}"
    ax.set_title(f"{condition}: {how_late(quenches, row)}", fontsize=11)
    target = root / "book" / "_assets" / "overview.png"
    figure.savefig(target)
    print(f"wrote {target.relative_to(root)}; {tasks.evaluate(md, row, np.asarray(clouds[2]))}")


if __name__ == "__main__":
    main()
