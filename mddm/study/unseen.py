"""Samples for potentials that the network told U has not learned: what they are worth.

Of several samples of a condition and a quench one is the answer (`trust.answer`); `calibrate`
makes of what the others are like how far to believe it (`mddm.trust`).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mddm import lammps, lammps_process, optional, samplers, sampling, structure, trust
from mddm.dataset import Dataset
from mddm.potential import energy_scale
from mddm.study import evaluation, rivals, surrogates

if TYPE_CHECKING:
    import pandas as pd

# The test conditions, whose scores there are for other purposes, and the sets of `plan.FILES` with
# other potentials that the network told U has not learned, as a score's `split` names them.
TESTS, SETS = "test", ("any", "named", "tests")
# Samples of each; the quench beside them takes about as long as two.
N_SAMPLES = 4
SAMPLE = "sample"
# Where potentials are of the kind that a training set has.
LOOKED_UP = (evaluation.LOOKED_UP, evaluation.LOOKED_UP_IN_ALL)
# The answer to what is stable, the seconds that it is given, and of which sets.
STABLE, STABLE_SECONDS, STABLE_SETS = "stable", 100.0, ("named",)
COLUMNS = (
    *evaluation.KEYS,
    *("potential", "temperature", "scale", "rdf_mse", "replica", "ideal_gas", "energy_gap"),
    *("crystallinity", "md_crystallinity", "calls", "seconds"),
)
# To leave one potential out, and another of the rest, there have to be so many.
_FEWEST = 4


def of_tests(data: Dataset, scored: "pd.DataFrame") -> "pd.DataFrame":
    """Take from the scores of the test conditions what the others are judged by.

    Args:
        data: the MD data.
        scored: `evaluation.COLUMNS` of `evaluation.TOLD`, of quenches and of the yardsticks.

    Returns:
        `COLUMNS`, a line for each sample and for a quench of each condition.
    """
    tests = scored[(scored["task"] == "conditional") & (scored["split"] == TESTS)]
    tests = tests[tests["n_tries"] == 1]
    drawn = (tests["model"] == evaluation.TOLD) & (tests["sampler"] == samplers.BEST_TOLD)
    drawn &= tests["seed"] < N_SAMPLES
    quenched = (tests["model"] == evaluation.QUENCH) & (tests["n_steps"] == trust.QUENCH_STEPS)
    # One, as beside all other answers, however many have been run.
    drawn |= quenched & (tests["seed"] == 0) | tests["model"].isin(LOOKED_UP)
    relaxed = tests["relaxed"].astype(bool)
    by_row = {
        name: tests[(tests["model"] == model) & (relaxed == at_rest)].groupby("row")[column].mean()
        for name, model, at_rest, column in (
            ("replica", evaluation.REPLICA, False, "rdf_mse"),
            ("ideal_gas", evaluation.IDEAL_GAS, False, "rdf_mse"),
            ("md", evaluation.ANNEAL, True, "energy_gap"),
        )
    }
    raw, named = tests[drawn & ~relaxed], ["model", "row", "seed"]
    at_rest = tests[drawn & relaxed].set_index(named)[["energy_gap", "seconds"]]
    found = raw.drop(columns=["energy_gap", "seconds"]).join(at_rest, on=named)
    rows = found["row"].unique().tolist()
    scale = {row: energy_scale(data.potential(row)) for row in rows}
    return found.assign(
        model=found["model"].replace(evaluation.TOLD, SAMPLE),
        potential=found["row"].map({row: str(data.family_of(row)) for row in rows}),
        scale=found["row"].map(scale),
        energy_gap=found["energy_gap"] - found["row"].map(by_row["md"]),
        replica=found["row"].map(by_row["replica"]),
        ideal_gas=found["row"].map(by_row["ideal_gas"]),
    )[list(COLUMNS)]


def rows_of(data: Dataset) -> list[int]:
    """Choose what is asked for of a set: each potential where it is coldest."""
    coldest: dict[str, int] = {}
    for row in np.flatnonzero(data.split == "test").tolist():
        name = str(data.family_of(row))
        if name not in coldest or data.temperature[row] < data.temperature[coldest[name]]:
            coldest[name] = row
    return list(coldest.values())


def sample(data: Dataset, row: int, surrogate: surrogates.Surrogate, seed: int) -> list[dict]:
    """Score a sample.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        surrogate: that draws it.
        seed: of the sample.

    Returns:
        One entry with the `COLUMNS`; `energy_gap` is between what is at rest, its energy minus
        MD's, and `scale` is `potential.energy_scale`.
    """
    clock = lammps_process.process_time()
    final = sampling.last(surrogate.frames(data, row, seed))
    seconds = lammps_process.process_time() - clock
    named = {"model": SAMPLE, "seed": seed, "sampler": surrogate.sampler, "calls": final.calls}
    named |= {"source": surrogate.source}
    return [_judged(data, row, final.positions[0].cpu().numpy(), seconds, named)]


def quench(data: Dataset, row: int, source: str) -> list[dict]:
    """Score a quench of `trust.QUENCH_STEPS`, like `sample`.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        source: of the samples beside it.
    """
    n_steps = trust.QUENCH_STEPS
    # Not that of any other quench that is scored.
    positions, seconds = rivals.quenched(data, row, n_steps, 5_000_000 + row)
    named = {"model": evaluation.QUENCH, "seed": 0, "calls": n_steps, "source": source}
    return [_judged(data, row, positions, seconds, named | {"n_steps": n_steps})]


def look_up(data: Dataset, row: int, name: str, known: Sequence[Dataset]) -> list[dict]:
    """Score the structure of the training potential that is nearest, like `sample`.

    Args:
        data: the MD data of the condition.
        row: the condition, and the configuration to score against.
        name: what to call it, one of `LOOKED_UP`.
        known: the data sets that are looked at.
    """
    clock = lammps_process.process_time()
    (positions,) = rivals.nearest(data, row, 1, *known)
    seconds = lammps_process.process_time() - clock
    named = {"model": name, "seed": 0, "calls": 0, "source": rivals.look_up_source(*known)}
    return [_judged(data, row, positions, seconds, named)]


def stable(data: Dataset, row: int, surrogate: surrogates.Surrogate) -> list[dict]:
    """Score the answer to what is stable, in `STABLE_SECONDS`, like `sample`.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        surrogate: that is asked for what is stable.
    """
    found, calls, seconds = surrogates.within(data, row, surrogate, STABLE_SECONDS)
    named = {"model": STABLE, "seed": 0, "calls": calls, "source": surrogate.source}
    return [_judged(data, row, found[0].positions, seconds, named)]


def _judged(data, row, positions, seconds, named) -> dict:
    potential, clock = data.potential(row), lammps_process.process_time()
    at_rest = lammps.minimize(positions, potential, data.box_length)[1]
    seconds += lammps_process.process_time() - clock
    entry = evaluation.judge(data, row, positions) | {"seconds": seconds}
    entry |= {"potential": str(data.family_of(row)), "temperature": float(data.temperature[row])}
    entry |= {"scale": energy_scale(potential), "energy_gap": at_rest - _md_at_rest(data, row)}
    return entry | named


# The samples of a condition and its quench are scored one after another.
@lru_cache(maxsize=1)
def _md_at_rest(data: Dataset, row: int) -> float:
    return lammps.minimize(data.positions[row], data.potential(row), data.box_length)[1]


def answers(scored: "pd.DataFrame") -> "pd.DataFrame":
    """Take the answer for each condition, and what the others tell of it.

    Args:
        scored: `COLUMNS`.

    Returns:
        A line for each condition of enough samples and a quench, with the `COLUMNS` of what is
        chosen and those of `trust.Evidence`; seconds are those of all.
    """
    condition = ["split", "row"]
    scored = scored[scored["model"].isin((SAMPLE, evaluation.QUENCH))]
    samples = scored["model"] == SAMPLE
    by = [scored[name] for name in condition]
    enough = samples.groupby(by).transform("sum") >= trust.FEWEST
    scored = scored[enough & (~samples).groupby(by).transform("any")]
    # The quench comes last.
    scored = scored.sort_values("model", key=lambda model: model != SAMPLE, kind="stable")
    drawn, groups = scored[scored["model"] == SAMPLE], scored.groupby(condition, sort=False)
    chosen = [
        each.index[trust.answer(each["crystallinity"], each["energy_gap"])] for _, each in groups
    ]
    chosen = scored.loc[chosen].set_index(condition)
    lowest = lowest_of(scored).set_index(condition)["model"]
    crystals = (drawn["crystallinity"] > structure.CRYSTAL).astype(float)
    found = chosen.assign(
        seconds=groups["seconds"].sum(),
        crystalline=crystals.groupby([drawn[name] for name in condition]).mean(),
        spread=drawn.groupby(condition)["energy_gap"].std(ddof=0) / chosen["scale"],
        sampled=(lowest == SAMPLE).astype(float),
    )
    return found.reset_index()


def lowest_of(scored: "pd.DataFrame") -> "pd.DataFrame":
    """Take of each condition the lowest at rest of samples and quench, a line of `COLUMNS`."""
    scored = scored[scored["model"].isin((SAMPLE, evaluation.QUENCH))]
    by_condition = scored.groupby(["split", "row"], sort=False)["energy_gap"]
    return scored.loc[by_condition.idxmin()]


def are_enough(scored: "pd.DataFrame") -> bool:
    """Tell whether scored answers are of enough potentials to be calibrated on, and to judge it."""
    return len(set(evidence_of(scored)[2])) >= _FEWEST


def calibrate(scored: "pd.DataFrame") -> trust.Calibration:
    """Make of scored answers how far to believe the next one.

    Args:
        scored: `COLUMNS`.

    Raises:
        ValueError: answers of fewer than three potentials.
    """
    known, found, potentials = evidence_of(scored)
    drawn = scored[scored["model"] == SAMPLE]
    sources = {
        trust.source_of(*each) for each in zip(drawn["source"], drawn["sampler"], strict=True)
    }
    return trust.Calibration.fit(known, found, potentials, "; ".join(sorted(sources)))


def coverage(scored: "pd.DataFrame", shares: Sequence[float] = (0.5, 0.8, 0.9)) -> "pd.DataFrame":
    """Tell how often the difference from MD is below what was said, by what other potentials say.

    Each potential is left out in turn, the factors of its answers too.

    Args:
        scored: `COLUMNS`.
        shares: how often it is to be.

    Returns:
        A line for each share and set, and for all: `share`, `set`, `n`, `covered`.

    Raises:
        ValueError: answers of fewer than four potentials.
    """
    with optional.packages():
        import pandas as pd

    if not are_enough(scored):
        raise ValueError(f"scored must have answers of at least {_FEWEST} potentials")
    known, found, potentials = evidence_of(scored)
    sets, names = answers(scored)["split"], np.array(potentials)
    missed = trust.left_out(known, found, potentials)
    within = {share: np.empty(len(found), dtype=bool) for share in shares}
    for name in np.unique(names):
        out, others = names == name, np.flatnonzero(names != name)
        of_others = trust.left_out(
            [known[i] for i in others], [found[i] for i in others], names[others].tolist()
        )
        for share in shares:
            within[share][out] = missed[out] <= np.quantile(of_others, share)
    lines = []
    for share in shares:
        for split in (*dict.fromkeys(sets), "all"):
            of = within[share][(sets == split) | (split == "all")]
            lines.append({"share": share, "set": split, "n": len(of), "covered": of.mean()})
    return pd.DataFrame(lines)


def evidence_of(
    scored: "pd.DataFrame",
) -> tuple[list[trust.Evidence], list[float], list[str]]:
    """Give what is known of each answer, what it differs from MD by, and of which potential it is.

    Args:
        scored: `COLUMNS`.
    """
    found = answers(scored)
    known = [trust.Evidence(*each) for each in found[list(trust.SEEN)].to_numpy().tolist()]
    return known, found["rdf_mse"].tolist(), found["potential"].tolist()
