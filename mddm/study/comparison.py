"""Models beside their rivals: which crystals form, for how many seconds, and who is ahead.

A comparison is made on the same conditions: condition by condition where two are compared, and
with a quench of the same price where seconds are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import optional, samplers, sampling, structure
from mddm.dataset import Dataset
from mddm.study import evaluation, surrogates, tables, tasks

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

# Samplers of a network by itself, where another one is the best.
_BY_ITSELF = ("cooled", "chilled")
_CONDITION = ["row", "k", "phi"]


def forming(summed: "pd.DataFrame") -> "pd.DataFrame":
    """Take from a summary which crystals form and how deep they lie, and what that takes.

    Args:
        summed: as from `tables.table_1`.

    Returns:
        A line for each model, sampler, n_steps and n_tries on the test conditions whose MD is a
        crystal, of a model by itself and by its best sampler: asks (`tables.asks_potential`);
        crystalline with its interval, and seconds, of the structure as it is; above_lowest
        (median), above_lowest_mean with its interval, and seconds_at_rest, of it relaxed; n.
    """
    lines = summed[(summed["task"] == "conditional") & (summed["split"] == "test")]
    lines = lines[(lines["reference"] == "crystal") & (lines["model"] != evaluation.IDEAL_GAS)]
    shown = lines["sampler"].isin(["", *evaluation.SEEDED])
    best = samplers.BEST | {evaluation.TOLD: samplers.BEST_TOLD}
    shown |= lines["sampler"] == lines["model"].map(best)
    shown |= lines["sampler"].isin(_BY_ITSELF) & (lines["n_tries"] == 1)
    lines = lines.rename(columns={"seconds_per_sample": "seconds"})[shown]
    named, relaxed = ["model", "sampler", "n_steps", "n_tries"], lines["relaxed"].astype(bool)
    raw = lines[~relaxed].assign(asks=tables.asks_potential(lines[~relaxed]))
    raw = raw[[*named, "asks", *_with_ends("crystalline"), "seconds", "n"]]
    at_rest = [*named, "above_lowest", *_with_ends("above_lowest_mean"), "seconds"]
    at_rest = lines.loc[relaxed, at_rest].rename(columns={"seconds": "seconds_at_rest"})
    return raw.merge(at_rest, on=named, how="left")


def forming_in_words(found: "pd.DataFrame") -> "pd.DataFrame":
    """Write what `forming` gives as a table to be read, with intervals in brackets.

    Returns:
        A line for each of `forming`, by its name and sampler, marked where it asks the potential:
        crystals that form [%]; energy at rest above the lowest known, median and mean [energy];
        seconds of a structure as it is.
    """
    with optional.packages():
        import pandas as pd

    sampler = tables.sampler_labels(found)
    names = tables.labels(found) + sampler.where(sampler == "", ", " + sampler)
    mark = found["asks"].map({True: tables.ASKS, False: ""})
    shares = 100 * found[_with_ends("crystalline")]
    means = found[_with_ends("above_lowest_mean")]
    seconds = found["seconds"].map(lambda s: "" if np.isnan(s) else f"{s:.1f}")
    columns = {
        "crystals form [%]": [_in_brackets(*share, digits=0) for share in shares.to_numpy()],
        "above the lowest [ε], median": found["above_lowest"].map("{:.3f}".format).to_numpy(),
        "mean": [_in_brackets(*mean, digits=3) for mean in means.to_numpy()],
        "seconds": seconds.to_numpy(),
    }
    words = pd.DataFrame(columns, index=names + mark)
    # Answers by their budgets, which as words are in another order.
    series = found["model"].mask(found["model"].isin(evaluation.ANSWERS), "answer")
    return words.iloc[np.lexsort([found["seconds"], series])]


def _in_brackets(value: float, low: float, high: float, digits: int) -> str:
    ends = "" if np.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{ends}"


def _with_ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def of_conditions(lines: "pd.DataFrame", column: str = "rdf_mse") -> "pd.Series":
    """Average what is measured of each condition, over its samples.

    Args:
        lines: `evaluation.COLUMNS`, of one model and sampler.
        column: what to average.

    Returns:
        (n_conditions,) by row, k and phi.
    """
    return lines.groupby(_CONDITION)[column].mean()


def quench_of_price(scored: "pd.DataFrame", seconds: float, column: str = "rdf_mse") -> "pd.Series":
    """Say what a quench that takes so many seconds reaches in each condition.

    That lies between what the next shorter and the next longer quench reach there, on the
    logarithm of their seconds; below the shortest, and above the longest, it is what that one has.

    Args:
        scored: `evaluation.COLUMNS`, of which the quenches are taken; either all of them are
            relaxed or none.
        seconds: of the processor, for one structure.
        column: what they reach.

    Returns:
        (n_conditions,) by row, k and phi.

    Raises:
        ValueError: there are no quenches, or some are relaxed and others are not.
    """
    lines = tables.quenches(scored)
    if lines["relaxed"].nunique() != 1:
        raise ValueError(
            "scored must have quenches, all of them relaxed or none; "
            f"got {len(lines)}, of which {int(lines['relaxed'].sum())} are relaxed"
        )
    price = lines.groupby("n_steps")["seconds"].mean()
    reached = lines.pivot_table(index=_CONDITION, columns="n_steps", values=column)[price.index]
    at = np.log(price.to_numpy())
    return reached.apply(lambda values: np.interp(np.log(seconds), at, values), axis=1)


def answered(folder: Path) -> "dict[str, pd.DataFrame]":
    """Gather the answers within budgets, and the quenches of the same conditions.

    Args:
        folder: of scores.

    Returns:
        `evaluation.COLUMNS` by set of conditions, "test" and "further", as far as they are scored;
        of structures as they are, one try each.
    """
    with optional.packages():
        import pandas as pd

    files = {name: folder / f"scores-{name}.csv" for name in ("answers", "quench", "tests")}
    found = {name: tables.read_scores(path) for name, path in files.items() if path.exists()}
    sets = {}
    if {"answers", "quench"} <= set(found):
        both = pd.concat([found["answers"], found["quench"]])
        sets["test"] = both[(both["split"] == "test") & (both["n_tries"] == 1)]
    if "tests" in found:
        further, unseen = found["tests"], tables.read_scores(folder / "scores-unseen.csv")
        quenches = unseen[(unseen["split"] == "tests") & (unseen["model"] == evaluation.QUENCH)]
        of_row = further.drop_duplicates("row")[_CONDITION]
        sets["further"] = pd.concat([further, quenches.merge(of_row, on="row")])
    return {name: each[~each["relaxed"].astype(bool)] for name, each in sets.items()}


def within_budgets(sets: "Mapping[str, pd.DataFrame]") -> "pd.DataFrame":
    """Compare answers within budgets with quenches that take as long, condition by condition.

    Args:
        sets: of each set of conditions, by its name, `evaluation.COLUMNS` of answers and quenches
            as they are, one try each.

    Returns:
        A line for each budget and set, and for all sets together where there are several: the
        answer's name, `conditions`, RDF-MSE and its median, those of the quench, and as from
        `paired`, of the answer's minus the quench's, the mean, `behind`, its interval, n_ahead, n.

    Raises:
        ValueError: a set has no quenches, or relaxed ones.
    """
    with optional.packages():
        import pandas as pd

    lines = []
    for name in evaluation.ANSWERS:
        beside = {}
        for conditions, scored in sets.items():
            answers = scored[scored["model"] == name]
            if len(answers):
                quenches = quench_of_price(scored, answers["seconds"].mean())
                beside[conditions] = of_conditions(answers), quenches
        if len(beside) > 1:
            beside["all"] = [pd.concat(each) for each in zip(*beside.values(), strict=True)]
        for conditions, (ours, theirs) in beside.items():
            line = {"answer": name, "conditions": conditions}
            line |= {"rdf_mse": ours.mean(), "median": ours.median()}
            line |= {"quench": theirs.mean(), "quench_median": theirs.median()}
            apart = paired(ours, theirs)
            kept = {each: apart[each] for each in ("ci_low", "ci_high", "n_ahead", "n")}
            lines.append(line | {"behind": apart["mean"]} | kept)
    return pd.DataFrame(lines)


def paired(ours: "pd.Series", rival: "pd.Series") -> dict[str, float]:
    """Compare two answers condition by condition.

    Args:
        ours: as from `of_conditions`, of what is better the smaller it is.
        rival: the same of the rival; conditions that only one of them has are left out.

    Returns:
        mean and median of ours minus the rival's, below zero where ours is ahead; ci_low and
        ci_high, the interval of the mean, over potentials; n_ahead of n conditions.

    Raises:
        ValueError: they have no condition in common.
    """
    behind = (ours - rival).dropna()
    if behind.empty:
        raise ValueError("ours and rival have no condition in common")
    potentials = behind.index.droplevel("row").tolist()
    low, high = tasks.bootstrap_interval(behind, groups=potentials)
    found = {"mean": behind.mean(), "median": behind.median(), "ci_low": low, "ci_high": high}
    return found | {"n_ahead": int((behind < 0).sum()), "n": len(behind)}


def against_rivals(
    ours: "pd.DataFrame", scored: "pd.DataFrame", column: str = "rdf_mse"
) -> "pd.DataFrame":
    """Compare with the look-up, the quench of the same price and MD from another seed.

    Args:
        ours: `evaluation.COLUMNS`, of one model and sampler, all of it relaxed or none.
        scored: `evaluation.COLUMNS` of the rivals, on the same conditions and more.
        column: what is compared, which is better the smaller it is.

    Returns:
        A line for each rival: `against` and what `paired` gives.

    Raises:
        ValueError: a rival has not been scored on these conditions.
    """
    with optional.packages():
        import pandas as pd

    scored = scored[(scored["relaxed"] == ours["relaxed"].iloc[0]) & (scored["n_tries"] == 1)]
    reached = of_conditions(ours, column)
    lines = []
    for rival in (evaluation.LOOKED_UP, evaluation.QUENCH, evaluation.REPLICA):
        if rival == evaluation.QUENCH:
            theirs = quench_of_price(scored, ours["seconds"].mean(), column)
        else:
            theirs = of_conditions(scored[scored["model"] == rival], column)
        lines.append({"against": rival} | paired(reached, theirs))
    return pd.DataFrame(lines)


def against_rivals_in_words(pairs: "pd.DataFrame") -> "Styler":
    """Write what `against_rivals` gives of several answers as a table to be read.

    Args:
        pairs: lines of `against_rivals`, of answers that are told apart by the columns kind and
            answer, with what each takes in the mean as `seconds`.

    Returns:
        A line for each answer, the cheapest of a kind first, and a column for each rival: the mean
        difference with its interval, the median, and in how many conditions the answer is ahead;
        underlined where the interval leaves zero out.
    """
    with optional.packages():
        import pandas as pd

    order = pairs.sort_values(["kind", "seconds"], kind="stable").index
    words, look = {}, {}
    for pair in pairs.loc[order].to_dict("records"):
        line = (pair["kind"], pair["answer"], f"{pair['seconds']:.0f}")
        interval = tables.with_interval(pair["mean"], pair["ci_low"], pair["ci_high"], "+")
        told = f"{interval} {pair['median']:+.3f};\u00a0{pair['n_ahead']}\u00a0of\u00a0{pair['n']}"
        clear = pair["ci_high"] < 0 or pair["ci_low"] > 0
        rival = f"minus {pair['against']}"
        words.setdefault(rival, {})[line] = told
        look.setdefault(rival, {})[line] = "text-decoration: underline" if clear else ""
    words, look = pd.DataFrame(words), pd.DataFrame(look)
    words = words.rename_axis(["", "answer", "[s]"])
    style = words.style.apply(lambda _: look.set_axis(words.index), axis=None)
    # A kind's name stands where its lines begin; and three rivals fit a page.
    style = style.set_table_styles([{"selector": "th.level0", "props": "vertical-align: top"}])
    return style.set_table_attributes('style="font-size: 0.8em"')


def failures(scored: "pd.DataFrame") -> "pd.DataFrame":
    """Name the conditions whose MD is a crystal and whose answer is none, and by how much.

    Args:
        scored: `evaluation.COLUMNS` and `above_lowest`, of one model and sampler, a structure as
            it is and the same relaxed.

    Returns:
        A line for each structure that is none, the one that lies highest first: row, k, phi,
        temperature, md_crystallinity, crystallinity and rdf_mse of it as it is, energy_gap and
        above_lowest of it relaxed.
    """
    crystal = scored[tables.is_crystal(scored["md_crystallinity"])]
    relaxed = crystal["relaxed"].astype(bool)
    named = ["row", "seed"]
    told = ["k", "phi", "temperature", "md_crystallinity", "crystallinity", "rdf_mse"]
    failed = crystal[~relaxed & ~tables.is_crystal(crystal["crystallinity"])]
    at_rest = crystal.loc[relaxed, [*named, "energy_gap", "above_lowest"]]
    found = failed[[*named, *told]].merge(at_rest, on=named)
    found = found.sort_values("energy_gap", ascending=False).drop(columns="seed")
    return found.reset_index(drop=True)


def figure_5(
    data: Dataset,
    scored: "pd.DataFrame",
    levels: Mapping[str, int],
    seed: int = 0,
    trained_on: str = "",
    known: "pd.DataFrame | None" = None,
) -> "pd.DataFrame":
    """Draw conditions at random, the best and the worst beside them, and give all their g(r).

    Args:
        data: the MD data.
        scored: `evaluation.COLUMNS` of all presets.
        levels: of noise, that the samples of each preset's best sampler were drawn with.
        seed: of the draw of four conditions.
        trained_on: file of the data that the presets were trained on; "" for the study's.
        known: what this returned before; samples of it are not drawn again.

    Returns:
        A line for each bin of each curve: `chosen` ("drawn", "best" or "worst" of the preset that
        is best on the test conditions), split, row, k, phi, temperature, curve ("MD", "MD
        replica" or a preset), source, rdf_mse against MD, r [length] and g.

    Source: MDDM figure 5, for the four conditions.
    """
    with optional.packages():
        import pandas as pd

    asked = (scored["task"] == "conditional") & tables.by_best_sampler(scored)
    raw = scored[asked & ~scored["relaxed"] & (scored["seed"] == 0)]
    best_preset = raw[raw["split"] == "test"].groupby("model")["rdf_mse"].mean().idxmin()
    ranked = raw[raw["model"] == best_preset].sort_values("rdf_mse")["row"].tolist()
    drawn = np.random.default_rng(seed).permutation(sorted(ranked[1:-1]))[:4]
    chosen = [("drawn", int(row)) for row in drawn]
    parts, md = [], evaluation.md_source(data)
    for why, row in [*chosen, ("best", ranked[0]), ("worst", ranked[-1])]:
        r, reference = structure.rdf(data.positions[row], data.box_length)
        curves = {"MD": (reference, md)}
        for partner in data.partners(row)[:1]:
            again = structure.rdf(data.positions[partner], data.box_length)[1]
            curves[evaluation.REPLICA] = (again, md)
        for preset in evaluation.MODELS:
            drawn_by = (preset, "conditional", samplers.BEST[preset], levels[preset])
            surrogate = surrogates.Surrogate(*drawn_by, trained_on=trained_on)
            source = f"{surrogate.source}, {samplers.BEST[preset]}, {levels[preset]} levels"
            curve = _known(known, row, preset, source)
            if curve is None:
                final = sampling.last(surrogate.frames(data, row))
                curve = structure.rdf(final.positions.cpu().numpy(), data.box_length)[1]
            curves[preset] = (curve, source)
        named = {"chosen": why, "split": str(data.split[row]), "row": row}
        named |= {"k": data.k[row], "phi": data.phi[row], "temperature": data.temperature[row]}
        for name, (curve, source) in curves.items():
            error = structure.rdf_mse(curve, reference)
            columns = {"curve": name, "source": source, "rdf_mse": error, "r": r, "g": curve}
            parts.append(pd.DataFrame(named | columns))
    return pd.concat(parts, ignore_index=True)


def _known(known: "pd.DataFrame | None", row: int, preset: str, source: str) -> np.ndarray | None:
    if known is None or "source" not in known:
        return None
    same = known[(known["row"] == row) & (known["curve"] == preset) & (known["source"] == source)]
    # A row may be drawn and the best, too.
    return same["g"].to_numpy()[: structure.RDF_BINS] if len(same) else None
