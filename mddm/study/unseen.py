"""Answers on potentials that no network has learned: what they are worth, and what was to be known.

Each answer is what a budget of seconds buys, and stands beside its candidates; `calibrate` makes of
them how far to believe answers (`mddm.trust`).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mddm import budget, lammps, lammps_process, optional, structure, trust
from mddm.dataset import Dataset
from mddm.study import evaluation, tasks

if TYPE_CHECKING:
    import pandas as pd

# The files of potentials that the network told U has not learned, as a score's `split` names them.
SETS = {"test": "ramps", "any": "any", "named": "named"}
ANSWER = "answer"
SECONDS = 30.0
# To leave one potential out, and another of the rest, there have to be so many.
_FEWEST = 4
COLUMNS = (
    *evaluation.KEYS,
    *("potential", "temperature", "rdf_mse", "replica", "ideal_gas", "energy_gap"),
    *("crystallinity", "md_crystallinity", "agreement", "above_lattice", "calls", "seconds"),
)


def rows_of(data: Dataset, split: str) -> list[int]:
    """Choose what is asked for of a set: the test conditions, or each potential at its coldest.

    Args:
        data: the set.
        split: one of `SETS`.
    """
    if split == "test":
        return np.flatnonzero(data.split == "test").tolist()
    coldest: dict[str, int] = {}
    for row in np.flatnonzero(data.split != "replica").tolist():
        name = str(data.family_of(row))
        if name not in coldest or data.temperature[row] < data.temperature[coldest[name]]:
            coldest[name] = row
    return list(coldest.values())


def answer(
    data: Dataset, row: int, surrogate: evaluation.Surrogate, seconds: float = SECONDS
) -> list[dict]:
    """Score what a number of seconds buys, and each of its candidates.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        surrogate: that draws the sample.
        seconds: of the processor.

    Returns:
        Entries with the `COLUMNS`: the answer, with what `trust.evidence` tells of it, and each
        candidate by its name.  `energy_gap` is between what is at rest, its energy minus MD's.
    """
    calls, potential, box_length = [0], data.potential(row), data.box_length

    def frames():
        for frame in surrogate.frames(data, row):
            calls.append(frame.calls)
            yield frame

    clock = lammps_process.process_time()
    found = budget.within(
        seconds,
        frames(),
        potential,
        float(data.temperature[row]),
        n_particles=data.positions.shape[1],
        box_length=box_length,
        # Not that of any other quench that is scored.
        seed=5_000_000 + row,
        clock=lammps_process.process_time,
    )
    spent = lammps_process.process_time() - clock
    known = trust.evidence(found, potential, box_length)
    at_rest = lammps.minimize(data.positions[row], potential, box_length)[1]
    common = evaluation.Key._field_defaults | {"row": row, "seed": 0, "source": surrogate.source}
    common |= {"potential": str(data.family_of(row)), "temperature": float(data.temperature[row])}
    common["md_crystallinity"] = structure.crystallinity(data.positions[row], box_length)
    entries = []
    for name, each in [(ANSWER, found[0]), *((each.name, each) for each in found)]:
        judged = tasks.evaluate(data, row, each.positions)
        entry = {column: judged[column] for column in ("rdf_mse", "replica", "ideal_gas")}
        entry |= {"model": name, "crystallinity": each.crystallinity}
        entry |= {"energy_gap": each.energy_at_rest - at_rest}
        entry |= {"agreement": math.nan, "above_lattice": math.nan}
        entry |= {"seconds": each.seconds, "calls": each.n_steps or calls[-1]}
        entries.append(common | entry)
    entries[0] |= {"seconds": spent, "calls": calls[-1]}
    if known is not None:
        entries[0] |= {name: getattr(known, name) for name in ("agreement", "above_lattice")}
    return entries


def are_enough(scored: "pd.DataFrame") -> bool:
    """Tell whether scored answers are of enough potentials to be calibrated on, and to judge it."""
    return len(set(_told(scored)[2])) >= _FEWEST


def calibrate(scored: "pd.DataFrame") -> trust.Calibration:
    """Make of scored answers how far to believe the next one.

    Args:
        scored: `COLUMNS`.

    Raises:
        ValueError: answers of fewer than three potentials.
    """
    known, found, potentials = _told(scored)
    sources = "; ".join(sorted(set(scored["source"])))
    return trust.Calibration.fit(known, found, potentials, sources)


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
    known, found, potentials = _told(scored)
    answers, names = _answers(scored), np.array(potentials)
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
        for split in (*dict.fromkeys(answers["split"]), "all"):
            of = within[share][(answers["split"] == split) | (split == "all")]
            lines.append({"share": share, "set": split, "n": len(of), "covered": of.mean()})
    return pd.DataFrame(lines)


def _answers(scored: "pd.DataFrame") -> "pd.DataFrame":
    answers = scored[(scored["model"] == ANSWER) & scored["agreement"].notna()]
    return answers.reset_index(drop=True)


def _told(scored: "pd.DataFrame") -> tuple[list[trust.Evidence], list[float], list[str]]:
    answers = _answers(scored)
    known = [
        trust.Evidence(*each)
        for each in answers[["agreement", "above_lattice", "crystallinity"]].to_numpy().tolist()
    ]
    return known, answers["rdf_mse"].tolist(), answers["potential"].tolist()
