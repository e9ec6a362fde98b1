"""What scores add up to: the paper's tables with more rows, and the README's summary."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import files, optional, samplers, structure
from mddm.study import evaluation, tasks

if TYPE_CHECKING:
    import pandas as pd

# Where a page has the summary.
BEGIN, END = "<!-- made by `make results` -->", "<!-- end of what it made -->"
# What stands behind the name of all that asks the potential, in every table that compares; the
# space does not break.
ASKS = "\u00a0†"
# What the models are judged on: task and split, and what to call them.
SPLITS = {
    ("unconditional", "train"): "one configuration",
    ("conditional", "train"): "training conditions",
    ("conditional", "test"): "test conditions",
}


def table_1(scored: "pd.DataFrame", quoted: "pd.DataFrame") -> "pd.DataFrame":
    """Sum scores up, with bootstrap intervals of the mean, all and by what MD arrived at.

    Conditions are what a mean is taken over; several samples of one are averaged first.  Of these
    the best is scored too, by its energy at rest, which is known without MD.  Conditions of one
    potential come from one run of MD, and so intervals are over potentials, resampled whole.

    Args:
        scored: `evaluation.COLUMNS` and `above_lowest` (`bottom.above_lowest`), one line a sample.
        quoted: model, task, split, rdf_mse and source of values from elsewhere.

    Returns:
        One line for each model, task, split, sampler, n_steps, n_tries, relaxed or not, and
        `reference` ("all", "crystal" or "glass"): rdf_mse (mean), median, ci_low, ci_high,
        energy_gap and above_lowest (medians), above_lowest_mean and crystalline (the share of
        structures that `is_crystal` tells) with ends _low and _high of their intervals, n
        (conditions, or samples of the one configuration), calls and seconds_per_sample (means),
        source.
    """
    with optional.packages():
        import pandas as pd

    scored = pd.concat([scored, best_of_several(scored)], ignore_index=True)
    scored["crystalline"] = is_crystal(scored["crystallinity"])
    crystal = np.where(is_crystal(scored["md_crystallinity"]), "crystal", "glass")
    parts = [scored.assign(reference="all"), scored.assign(reference=crystal)]
    by = ["model", "task", "split", "sampler", "n_steps", "n_tries", "relaxed", "reference"]
    lines = []
    for key, group in pd.concat(parts).groupby(by, sort=False):
        of_one = group.groupby("seed" if key[1] == "unconditional" else "row")
        means = of_one[["rdf_mse", "above_lowest", "crystalline"]].mean()
        potentials = None
        if key[1] == "conditional":
            potentials = list(of_one[["k", "phi"]].first().itertuples(index=False, name=None))
        low, high = tasks.bootstrap_interval(means["rdf_mse"], groups=potentials)
        values = {"rdf_mse": means["rdf_mse"].mean(), "median": means["rdf_mse"].median()}
        values |= {"ci_low": low, "ci_high": high}
        values |= {name: group[name].median() for name in ("energy_gap", "above_lowest")}
        for name, column in (("above_lowest_mean", "above_lowest"), ("crystalline", "crystalline")):
            ends = (np.nan, np.nan)
            if means[column].notna().all():
                ends = tasks.bootstrap_interval(means[column], groups=potentials)
            values |= {name: means[column].mean()}
            values |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
        values |= {"n": len(means)}
        values |= _spent(group)
        lines.append(dict(zip(by, key, strict=True)) | values)
    paper = _as_quoted(quoted).assign(n_steps=0, n_tries=1, relaxed=False, reference="all")
    return pd.concat([pd.DataFrame(lines), paper], ignore_index=True)


def best_of_several(scored: "pd.DataFrame") -> "pd.DataFrame":
    """Take the sample whose energy is the lowest at rest where a condition has several.

    At rest, for the thermal motion of a sample says nothing of its lattice, and changes its energy
    by more than one lattice differs from another.

    Args:
        scored: `evaluation.COLUMNS`, one line a sample, and one for it relaxed.

    Returns:
        The lines of the chosen samples, as they are and relaxed, with what was spent on all to
        choose, and how many they were as `n_tries`.
    """
    with optional.packages():
        import pandas as pd

    drawn = (scored["sampler"] != "") | (scored["model"] == evaluation.QUENCH)
    drawn = scored[(scored["task"] == "conditional") & drawn]
    chosen = []
    by = ["model", "split", "sampler", "n_steps", "row"]
    for _, tries in drawn.groupby(by, sort=False):
        at_rest = tries[tries["relaxed"].astype(bool)]
        if len(at_rest) > 1:
            best = tries["seed"] == at_rest.loc[at_rest["energy_gap"].idxmin(), "seed"]
            spent = {name: at_rest[name].sum() for name in ("calls", "seconds")}
            spent["n_tries"] = len(at_rest)
            chosen.append(tries[best].assign(**spent))
    return pd.concat(chosen) if chosen else scored[:0]


def by_best_sampler(lines: "pd.DataFrame") -> "pd.Series":
    """Tell which lines, of scores or of their summary, are of one try by a preset's best."""
    return (lines["sampler"] == lines["model"].map(samplers.BEST)) & (lines["n_tries"] == 1)


def is_crystal(crystallinity: "pd.Series") -> "pd.Series":
    """Tell which structures are crystals: this is what "a crystal forms" means in the study.

    Args:
        crystallinity: the share of solid-like particles, as from `structure.crystallinity`; above
            `structure.CRYSTAL` it is a crystal.
    """
    return crystallinity > structure.CRYSTAL


def asks_potential(lines: "pd.DataFrame") -> "pd.Series":
    """Tell which lines are of structures that used the potential itself, not its numbers alone.

    MD does, with every step, and the lattice search; a sample does where it is relaxed, where it
    begins at a lattice, or is chosen from several by its energy.
    """
    asking = [name for name, sampler in samplers.SAMPLERS.items() if sampler.asks_potential]
    found = lines["sampler"].isin([*asking, *evaluation.SEEDED]) | (lines["n_tries"] > 1)
    return found | lines["model"].isin(evaluation.ASKING) | lines["relaxed"].astype(bool)


def marked(names: "pd.Series", lines: "pd.DataFrame") -> "pd.Series":
    """Put the mark `ASKS` behind the names of the lines that ask the potential."""
    return names + asks_potential(lines).map({True: ASKS, False: ""})


def labels(lines: "pd.DataFrame") -> "pd.Series":
    """Say in words what each line is of, but for the sampler, as "quench, 100 steps"."""
    named = with_steps(lines["model"], lines["n_steps"])
    return named + _best_of(lines).where(lines["sampler"] == "", "")


def with_steps(names: "pd.Series", n_steps: "pd.Series") -> "pd.Series":
    """Add to each name how many steps it took, as "quench, 1,000 steps", where it took any."""
    return names + n_steps.map(lambda n: f", {n:,} steps" if n else "")


def sampler_labels(lines: "pd.DataFrame") -> "pd.Series":
    """Say in words how each line was sampled, as "polished, best of 4"; "" where it was not."""
    return lines["sampler"] + _best_of(lines).where(lines["sampler"] != "", "")


def _best_of(lines: "pd.DataFrame") -> "pd.Series":
    return lines["n_tries"].map(lambda n: f", best of {n}" if n > 1 else "")


def quenches(lines: "pd.DataFrame") -> "pd.DataFrame":
    """Take the lines, of scores or of their summary, of one quench of any number of steps."""
    return lines[(lines["model"] == evaluation.QUENCH) & (lines["n_tries"] == 1)]


def table_a1(scored: "pd.DataFrame", quoted: "pd.DataFrame") -> "pd.DataFrame":
    """Sum up the scores of sphere and torus, with bootstrap intervals of the mean.

    Args:
        scored: `surfaces.COLUMNS`, one line a cloud.
        quoted: model, task, sinkhorn and source of values from elsewhere.

    Returns:
        One line for each model, task and sampler: sinkhorn [length^2], ci_low, ci_high, distance
        (mean distance off the surface [length]), n, calls and seconds_per_sample (means), source.
    """
    with optional.packages():
        import pandas as pd

    lines = []
    for key, group in scored.groupby(["model", "task", "sampler"], sort=False):
        low, high = tasks.bootstrap_interval(group["sinkhorn"])
        values = {"sinkhorn": group["sinkhorn"].mean(), "ci_low": low, "ci_high": high}
        values |= {"distance": group["distance"].mean(), "n": len(group)}
        values |= _spent(group)
        lines.append(dict(zip(("model", "task", "sampler"), key, strict=True)) | values)
    return pd.concat([pd.DataFrame(lines), _as_quoted(quoted)], ignore_index=True)


def _spent(group: "pd.DataFrame") -> dict:
    spent = {"calls": group["calls"].mean(), "seconds_per_sample": group["seconds"].mean()}
    return spent | {"source": "; ".join(sorted(set(group["source"])))}


def _as_quoted(quoted: "pd.DataFrame") -> "pd.DataFrame":
    return quoted.assign(model=quoted["model"] + " (paper)", sampler="paper")


def summary(summed: "pd.DataFrame") -> str:
    """Write the RDF-MSE of raw samples and of the marks beside them as a Markdown table.

    A cell has the mean and its interval and, over conditions, the median.

    Args:
        summed: as from `table_1`; each cell is of the sampler that does best there, of those that
            ask the potential in a row of its own.  Of the quenches the shortest and the longest
            are shown, and what was not scored is left out.
    """
    shown = summed[~summed["relaxed"].astype(bool) & (summed["reference"] == "all")]
    shown = shown.assign(label=labels(shown))
    shown["label"] = marked(shown["label"], shown)
    by_length = quenches(shown).sort_values("n_steps")["label"]
    rows = [f"{model}{mark}" for model in evaluation.MODELS for mark in ("", ASKS)]
    rows += [name + ASKS for name in (evaluation.TOLD, *evaluation.ANSWERS)]
    rows += ["mddm (paper)", "transolver (paper)", evaluation.IDEAL_GAS]
    rows += [evaluation.RELAXED_NOISE + ASKS]
    rows += dict.fromkeys([*by_length[:1], *by_length[-1:]])
    rows += [evaluation.LATTICE_SEARCH + ASKS]
    for name in (evaluation.LOOKED_UP, evaluation.LOOKED_UP_IN_ALL):
        several = (shown["model"] == name) & (shown["n_tries"] > 1)
        rows += [name, *shown.loc[several, "label"]]
    rows += [evaluation.REPLICA + ASKS]
    lines = ["| RDF-MSE | " + " | ".join(SPLITS.values()) + " |", "|---|---|---|---|"]
    for row in rows:
        of = shown[shown["label"] == row]
        cells = []
        for task, split in SPLITS:
            found = of[(of["task"] == task) & (of["split"] == split)].sort_values("rdf_mse")
            cells.append(_cell(found.iloc[0]) if len(found) else "")
        if any(cells):
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(line: "pd.Series") -> str:
    if np.isnan(line["ci_low"]):
        return f"{line['rdf_mse']:.3f}"
    mean = with_interval(*line[["rdf_mse", "ci_low", "ci_high"]])
    # Of samples of one configuration the median is the mean.
    return f"{mean}; {line['median']:.3f}" if line["task"] == "conditional" else mean


def with_interval(mean: float, low: float, high: float, sign: str = "") -> str:
    """Write a mean and its interval, which a narrow table breaks between the two alone.

    Args:
        mean, low, high: to three decimals.
        sign: "+" for differences.
    """
    low, high = (f"{end:{sign}.3f}" for end in (low, high))
    return f"{mean:{sign}.3f} ({low}\u00a0to\u00a0{high})"


def with_summary(text: str, content: str) -> str:
    """Put a generated table between the marks that a page has for it.

    Raises:
        ValueError: the page has no such marks.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no place for the results: {BEGIN} ... {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{content}\n\n{END}", text)


def read_scores(path: Path) -> "pd.DataFrame":
    """Read a file of scores, but for lines that were torn.

    Raises:
        FileNotFoundError: there is no such file; the message says how to make it.
        ValueError: the file is empty.
    """
    with optional.packages():
        import pandas as pd

    text = "".join(_lines(path))
    if not text:
        raise ValueError(f"{path} is empty, without even the names of columns; remove it")
    found = pd.read_csv(io.StringIO(text), dtype={"sampler": str, "split": str})
    text = [name for name in ("sampler", "split") if name in found]
    return found.assign(**{name: found[name].fillna("") for name in text})


def torn_lines(path: Path) -> list[int]:
    """Say how many whole lines of a file of scores are before each that was torn.

    A line is torn that has fewer values than there are columns, or more, or no end.
    """
    torn = [place for place, line in enumerate(_lines(path)) if not line]
    return [place - n_before - 1 for n_before, place in enumerate(torn)]


def _lines(path: Path) -> list[str]:
    """Read the lines of a CSV file, those that were torn as empty ones."""
    if not path.is_file():
        raise FileNotFoundError(f"there are no scores at {path}; `mddm results` makes them")
    with open(path) as file:
        lines = file.readlines()
    n_columns = len(_values(lines[0])) if lines else 0
    return [line if len(_values(line)) == n_columns > 0 else "" for line in lines]


def _values(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True)) if line.endswith("\n") else []
    except csv.Error:
        return []


def write_csv(path: Path, content: "pd.DataFrame") -> None:
    """Write a CSV file, which is there whole or not at all."""
    files.write_whole(path, content.to_csv(index=False, float_format="%.6g"))


def append_line(path: Path, line: Mapping) -> None:
    """Add a line to a CSV file, and the names of its columns first if there is no file.

    The file is there whole or not at all; the end of a line that was torn is cut off.
    """
    added = io.StringIO()
    table = csv.DictWriter(added, line, lineterminator="\n")
    found = path.read_text() if path.is_file() else ""
    if not found:
        table.writeheader()
    table.writerow(line)
    files.write_whole(path, found[: found.rfind("\n") + 1] + added.getvalue())


def describe(change: Mapping) -> str:
    """Name a run of the study of settings by what is not as the preset has it.

    Args:
        change: settings that differ; those of the network lie under "architecture".
    """
    network = change.get("architecture", {})
    others = {name: value for name, value in change.items() if name != "architecture"}
    return ", ".join(f"{name} {value}" for name, value in (network | others).items()) or "none"
