"""Figures of the study's numbers that several pages share, each drawn on the Axes it is given."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mddm import samplers
from mddm.study import evaluation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# What takes less than so many seconds stands at the edge.
_LEAST = 1.0
# In every figure, by the name in its legend; what has no colour here is grey, what has no marker
# a circle.
_SEEDED = f"{evaluation.OURS}, from a lattice"
_HELD = f"{evaluation.OURS}, held"
_ANSWER = f"{evaluation.TOLD}, or a quench"
COLORS = {model: f"C{number}" for number, model in enumerate(evaluation.MODELS)}
COLORS |= dict.fromkeys([_SEEDED, _HELD], COLORS[evaluation.OURS])
COLORS |= {evaluation.LOOKED_UP: "C4", evaluation.LATTICE_SEARCH: "C5"}
COLORS |= {evaluation.LOOKED_UP_IN_ALL: "tab:olive"}
COLORS |= {evaluation.RELAXED_NOISE: "C6", _ANSWER: "C8", evaluation.TOLD: "tab:purple"}
MARKERS = {evaluation.QUENCH: "s", evaluation.LOOKED_UP: "D", evaluation.LATTICE_SEARCH: "^"}
MARKERS |= {evaluation.LOOKED_UP_IN_ALL: "d"}
MARKERS |= {_SEEDED: "P", _HELD: "X", evaluation.RELAXED_NOISE: "v", _ANSWER: "*"}


def prices(ax: "Axes", summed: "pd.DataFrame") -> "Axes":
    """Draw how close to MD what asks the potential comes, against the seconds that it takes.

    Quenches of all lengths are joined, and so are answers within budgets, and one sample and the
    best of several.  A replica is a line across.  What takes less than a second stands at the edge.

    Args:
        ax: where to draw.
        summed: as from `tables.table_1`.

    Returns:
        The Axes.

    Raises:
        ValueError: nothing to draw.
    """
    lines = summed[(summed["task"] == "conditional") & (summed["split"] == "test")]
    lines = lines[(lines["reference"] == "all") & ~lines["relaxed"].astype(bool)]
    known = (evaluation.LOOKED_UP, evaluation.LOOKED_UP_IN_ALL, evaluation.REPLICA)
    asking = (evaluation.QUENCH, evaluation.LATTICE_SEARCH, *evaluation.ANSWERS)
    shown = lines["model"].isin((*known, *asking)) & (lines["n_tries"] == 1)
    shown |= (lines["model"] == evaluation.TOLD) & (lines["sampler"] == samplers.BEST_TOLD)
    lines = lines[shown]
    if lines.empty:
        raise ValueError("summed must have conditional scores on the test conditions")
    series = lines["model"].mask(lines["model"].isin(evaluation.ANSWERS), _ANSWER)
    for label, group in lines.groupby(series, sort=False):
        look = {"color": COLORS.get(label, "0.3"), "label": label}
        if label == evaluation.REPLICA:
            ax.axhline(group["rdf_mse"].iloc[0], linestyle="--", linewidth=1.2, **look)
            continue
        drawn = group.assign(x=group["seconds_per_sample"].clip(lower=_LEAST)).sort_values("x")
        ends = np.abs(drawn[["ci_low", "ci_high"]].sub(drawn["rdf_mse"], axis=0))
        marked = {"marker": MARKERS.get(label, "o"), "markersize": 7, "linewidth": 1.2}
        ax.errorbar(drawn["x"], drawn["rdf_mse"], ends.T, elinewidth=1, **marked, **look)
    ax.set(xscale="log", ylim=(0, None))
    ax.set(xlabel="processor seconds for one structure", ylabel="RDF-MSE to MD")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend()
    return ax


def forming(axes: Sequence["Axes"], found: "pd.DataFrame") -> Sequence["Axes"]:
    """Draw which crystals form, and how deep they lie, against the seconds that it takes.

    What asks the potential is filled, what is told its numbers alone is hollow.  One answer and
    the best of several are joined, and so are quenches of all lengths.  What is not known to have
    taken time is a line across.

    Args:
        axes: two of them, above each other, 5.4 by 6.4 inches with the legend that is put below.
        found: as from `comparison.forming`.

    Returns:
        The Axes.

    Raises:
        ValueError: not two Axes, or nothing to draw.
    """
    if len(axes) != 2 or found.empty:
        raise ValueError(f"axes must be two and found not empty; got {len(axes)}, {len(found)}")
    panels = {"crystalline": "seconds", "above_lowest": "seconds_at_rest"}
    seeded = found["sampler"].isin(evaluation.SEEDED)
    series = found["model"].mask(seeded, _SEEDED)
    series = series.mask(series.isin(evaluation.ANSWERS), _ANSWER)
    # Of several quenches the price is no longer one of length.
    several = (found["model"] == evaluation.QUENCH) & (found["n_tries"] > 1)
    series += found["n_tries"].map(", best of {}".format).where(several, "")
    for label, group in found.groupby(series, sort=False):
        look = {"color": COLORS.get(label, "0.3"), "linewidth": 1.2, "label": label}
        asks = group["asks"].astype(bool)
        marker = {"marker": MARKERS.get(label, "o"), "markersize": 7}
        face = {"markerfacecolor": look["color"] if asks.any() else "white"}
        for ax, (value, seconds) in zip(axes, panels.items(), strict=True):
            if group[seconds].isna().all():
                ax.axhline(group[value].iloc[0], linestyle="--", **look)
                continue
            drawn = group.assign(x=group[seconds].clip(lower=_LEAST)).sort_values("x")
            ax.plot(drawn["x"], drawn[value], **look, **marker, **face)
            told = drawn[~asks.loc[drawn.index]]
            ax.plot(told["x"], told[value], "w", linestyle="", **marker | {"markersize": 4})
            if value == "crystalline":
                ends = np.abs(drawn[[f"{value}_low", f"{value}_high"]].sub(drawn[value], axis=0))
                bars = {"color": look["color"], "elinewidth": 1, "alpha": 0.5, "zorder": 1.5}
                ax.errorbar(drawn["x"], drawn[value], ends.T, fmt="none", **bars)
    share, energy = axes
    share.set(ylabel="crystals that form", ylim=(-0.04, 1.04))
    share.yaxis.set_major_formatter("{x:.0%}")
    energy.set(ylabel="energy at rest above\nthe lowest known [ε]")
    energy.set(xlabel="processor seconds for one structure")
    for ax in axes:
        ax.set(xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
    marks = {"asks the potential": "0.3", "told k, φ and T alone": "white"}
    handles = share.get_legend_handles_labels()[0]
    handles += [
        share.plot([], [], "o", color="0.3", markerfacecolor=face, label=label)[0]
        for label, face in marks.items()
    ]
    share.figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return axes
