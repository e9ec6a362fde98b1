from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mddm import dataset, lammps, study, trust
from mddm.budget import Candidate
from mddm.sampling import Frame
from mddm.study import evaluation, tables, tasks, unseen

DATA = dataset.read(study.project_root() / "data/opp-small.h5")


def test_each_potential_is_asked_for_where_it_is_coldest():
    tests = unseen.rows_of(DATA, "test")
    assert DATA.split[tests].tolist() == ["test"] * 4
    rows = unseen.rows_of(DATA, "any")
    assert len(rows) == 9 + 4
    assert set(DATA.temperature[rows[:9]]) == {0.014}


def test_an_answer_stands_beside_its_candidates(monkeypatch):
    (row,) = unseen.rows_of(DATA, "test")[:1]
    (partner,) = DATA.partners(row)
    found = [
        Candidate("quench", DATA.positions[partner], -2.5, 0.3, 4.0, 1000),
        Candidate("sample", DATA.positions[row], -2.0, 0.2, 3.0),
    ]

    def within(seconds, frames, *_, **__):
        assert seconds == 7.0 and [frame.calls for frame in frames] == [1, 2]
        return found

    frames = [Frame(1, 0.1, torch.zeros(1, 1, 3), 1), Frame(0, 0.0, torch.zeros(1, 1, 3), 2)]
    surrogate = SimpleNamespace(source="a network", frames=lambda *_: iter(frames))
    monkeypatch.setattr(unseen.budget, "within", within)
    monkeypatch.setattr(lammps, "minimize", lambda positions, *_: (positions, -2.25, True))
    known = trust.Evidence(0.02, 0.1, 0.3)
    monkeypatch.setattr(trust, "evidence", lambda *_: known)
    answer, quench, sample = unseen.answer(DATA, row, surrogate, 7.0)
    assert all(set(entry) >= set(unseen.COLUMNS) - {"task", "split"} for entry in (answer, sample))
    assert [each["model"] for each in (answer, quench, sample)] == ["answer", "quench", "sample"]
    replica = tasks.evaluate(DATA, row, DATA.positions[row])["replica"]
    assert answer["rdf_mse"] == quench["rdf_mse"] == pytest.approx(replica, rel=1e-6)
    assert sample["rdf_mse"] == 0 and answer["energy_gap"] == -0.25 and sample["energy_gap"] == 0.25
    assert (answer["calls"], quench["calls"], sample["calls"]) == (2, 1000, 2)
    assert (answer["agreement"], answer["above_lattice"]) == (0.02, 0.1)
    assert np.isnan([quench["agreement"], sample["agreement"]]).all()


def scored(n=60, noise=0.2, seed=0):
    drawn = np.random.default_rng(seed)
    agreement, above = 10 ** drawn.uniform(-2.5, 0, n), drawn.uniform(0, 0.5, n)
    lines = {"model": "answer", "split": ["test", "any"] * (n // 2), "source": "a network"}
    lines |= {"potential": [f"{i // 2}" for i in range(n)], "crystallinity": 0.5}
    lines |= {"agreement": agreement, "above_lattice": above}
    lines["rdf_mse"] = 2 * agreement * 10 ** drawn.normal(0, noise, n)
    return pd.DataFrame(lines)


def test_answers_are_calibrated_on_and_judged_with_their_potential_left_out():
    lines = scored()
    found = unseen.calibrate(lines)
    assert (found.n, found.n_potentials, found.source) == (60, 30, "a network")
    assert found.slopes["agreement"] == pytest.approx(1, abs=0.1)
    judged = unseen.coverage(lines).set_index(["set", "share"])["covered"]
    for share in (0.5, 0.8, 0.9):
        assert judged["all", share] == pytest.approx(share, abs=0.12)
        halves = judged["test", share] + judged["any", share]
        assert halves / 2 == pytest.approx(judged["all", share])
    assert not unseen.are_enough(lines[:6])
    with pytest.raises(ValueError, match="at least 4 potentials"):
        unseen.coverage(lines[:6])
    # Where there was no second candidate nothing could be told.
    assert not unseen.are_enough(lines.assign(agreement=np.nan))


def test_the_calibration_that_is_shipped_is_that_of_the_committed_scores():
    root = study.project_root()
    committed = tables.read_scores(root / "data/results/scores-unseen.csv")
    shipped = trust.Calibration.read(root / "data/checkpoints" / trust.FILE)
    found = unseen.calibrate(committed)
    assert shipped.slopes == pytest.approx(found.slopes)
    assert (shipped.intercept, shipped.factor) == pytest.approx((found.intercept, found.factor))
    assert (shipped.n, shipped.source) == (found.n, found.source)
    assert set(committed["source"]) == {evaluation.checkpoint_source("potential", evaluation.OURS)}
    covered = pd.read_csv(root / "data/results/coverage.csv").set_index(["set", "share"])
    pd.testing.assert_frame_equal(
        covered, unseen.coverage(committed).set_index(["set", "share"]), rtol=1e-4
    )
    # As many as was said, but for what chance does to so few.
    for share, line in covered.loc["all"].iterrows():
        assert abs(line["covered"] - share) < 3 * (share * (1 - share) / line["n"]) ** 0.5
