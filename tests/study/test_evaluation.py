import math

import numpy as np
import pytest

from mddm import dataset, lammps, study
from mddm.study import evaluation

DATA = dataset.read(study.project_root() / "data/opp-small.h5")
ROW = int(np.flatnonzero(DATA.split == "test")[0])
NAMED = {"model": "mine", "seed": 3, "source": "me", "calls": 5}


def test_md_itself_is_judged_to_be_md():
    judged = evaluation.judge(DATA, ROW, DATA.positions[ROW])
    assert judged["rdf_mse"] == 0 and judged["energy_gap"] == pytest.approx(0, abs=1e-5)
    assert judged["crystallinity"] == judged["md_crystallinity"]
    assert set(evaluation.COLUMNS) - {"model", "seed", "source", "calls"} <= set(judged)


def test_what_is_relaxed_is_judged_again_with_what_that_took(monkeypatch):
    (partner,) = DATA.partners(ROW)
    positions, rest = DATA.positions[partner], DATA.positions[ROW]
    told = []
    keep = lambda given, *_: told.append(given) or (rest, 0.0, True)  # noqa: E731
    monkeypatch.setattr(lammps, "minimize", keep)
    raw, relaxed = evaluation.raw_and_relaxed(DATA, ROW, positions, 7.0, NAMED)
    assert told[0] is positions and set(evaluation.COLUMNS) <= set(raw) == set(relaxed)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert raw["rdf_mse"] > 0 == relaxed["rdf_mse"]
    assert raw["seconds"] == 7.0 <= relaxed["seconds"]
    known = evaluation.raw_and_relaxed(DATA, ROW, positions, math.nan, NAMED, (rest, 9.0))
    assert len(told) == 1 and known[1]["seconds"] == 9.0
    assert known[1]["rdf_mse"] == 0 and math.isnan(known[0]["seconds"])
