from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mddm import dataset, lammps, samplers, study, trust
from mddm.sampling import Frame
from mddm.study import evaluation, surrogates, tables, tasks, unseen

DATA = dataset.read(study.project_root() / "data/opp-small.h5")


def test_each_potential_is_asked_for_where_it_is_coldest():
    rows = unseen.rows_of(DATA)
    assert len(rows) == 4 and set(DATA.split[rows]) == {"test"}
    several = replace(DATA, split=np.where(DATA.split == "train", "test", "train"))
    rows = unseen.rows_of(several)
    assert len(rows) == 9 and set(DATA.temperature[rows]) == {0.014}


def test_a_sample_and_a_quench_are_judged_alike(monkeypatch):
    row = int(np.flatnonzero(DATA.split == "test")[0])
    (partner,) = DATA.partners(row)
    system = torch.from_numpy(DATA.positions[partner])[None]
    surrogate = SimpleNamespace(
        source="a network", sampler="quick", frames=lambda *_: iter([Frame(0, 0.0, system, 29)])
    )
    # The sample's, MD's and the quench's: MD is relaxed once for both.
    energies = iter([-2.5, -2.25, -2.5])
    monkeypatch.setattr(lammps, "minimize", lambda *_: (None, next(energies), True))
    quenched = SimpleNamespace(positions=DATA.positions[partner])
    monkeypatch.setattr(lammps, "anneal", lambda *_, **__: quenched)
    (sample,), (quench,) = (
        unseen.sample(DATA, row, surrogate, 2),
        unseen.quench(DATA, row, "a network"),
    )
    assert set(unseen.COLUMNS) <= set(sample) == set(quench)
    assert (sample["model"], sample["seed"], sample["calls"]) == ("sample", 2, 29)
    assert (quench["model"], quench["n_steps"]) == ("quench", 10_000)
    replica = tasks.evaluate(DATA, row, DATA.positions[row])["replica"]
    for entry in (sample, quench):
        assert entry["rdf_mse"] == pytest.approx(replica, rel=1e-6)
        assert entry["energy_gap"] == -0.25


def test_the_test_conditions_are_judged_by_the_scores_that_there_are():
    row = int(np.flatnonzero(DATA.split == "test")[0])
    common = evaluation.Key("", "conditional", "test", row, 0, "")._asdict()
    common |= {"temperature": 0.02, "crystallinity": 0.7, "md_crystallinity": 0.9, "calls": 29}
    lines = []
    for model, sampler, n_steps, relaxed, error, gap in (
        (evaluation.TOLD, samplers.BEST_TOLD, 0, False, 0.2, 0.5),
        (evaluation.TOLD, samplers.BEST_TOLD, 0, True, 0.3, 0.1),
        (evaluation.TOLD, "chilled", 0, False, 0.9, 0.9),
        (evaluation.QUENCH, "", 10_000, False, 0.4, 0.6),
        (evaluation.QUENCH, "", 10_000, True, 0.5, 0.2),
        (evaluation.QUENCH, "", 3000, False, 0.7, 0.7),
        (evaluation.LOOKED_UP_IN_ALL, "", 0, False, 0.3, 0.8),
        (evaluation.LOOKED_UP_IN_ALL, "", 0, True, 0.3, 0.0),
        (evaluation.REPLICA, "", 0, False, 0.05, 0.0),
        (evaluation.IDEAL_GAS, "", 0, False, 1.5, np.nan),
        (evaluation.ANNEAL, "", 0, True, 0.1, -0.3),
    ):
        line = {"model": model, "sampler": sampler, "n_steps": n_steps, "relaxed": relaxed}
        line |= {"rdf_mse": error, "energy_gap": gap, "seconds": 3.0 if relaxed else 2.0}
        lines.append(common | line)
    found = unseen.of_tests(DATA, pd.DataFrame(lines))
    assert found["model"].tolist() == ["sample", "quench", evaluation.LOOKED_UP_IN_ALL]
    assert tuple(found.columns) == unseen.COLUMNS
    assert found["rdf_mse"].tolist() == [0.2, 0.4, 0.3] and (found["seconds"] == 3.0).all()
    assert found["energy_gap"].tolist() == pytest.approx([0.4, 0.5, 0.3])
    assert (found["replica"] == 0.05).all() and (found["ideal_gas"] == 1.5).all()


def test_what_is_looked_up_is_the_nearest_of_all_and_never_the_answer(monkeypatch):
    row = int(np.flatnonzero(DATA.split == "test")[0])
    monkeypatch.setattr(lammps, "minimize", lambda *_: (None, -2.5, True))
    alone, all_ = evaluation.LOOKED_UP, evaluation.LOOKED_UP_IN_ALL
    (found,) = unseen.look_up(DATA, row, alone, [DATA])
    nearest = DATA.subset("train").nearest(*DATA.conditions[row])
    expected = evaluation.judge(DATA, row, DATA.subset("train").positions[nearest])
    assert found["rdf_mse"] == expected["rdf_mse"] > 0.001
    # A set in which the condition itself is learned.
    knowing = replace(DATA, split=np.where(DATA.split == "test", "train", "test"))
    (in_all,) = unseen.look_up(DATA, row, all_, [DATA, knowing])
    assert in_all["rdf_mse"] == 0 and in_all["source"] != found["source"]
    lines = scored(4)
    looked_up = lines[:1].assign(model=all_, energy_gap=-99.0)
    both = pd.concat([lines, looked_up], ignore_index=True)
    pd.testing.assert_frame_equal(unseen.answers(both), unseen.answers(lines))
    assert (unseen.lowest_of(both)["energy_gap"] > -99).all()


def scored(n=60, noise=0.2, seed=0):
    """Three samples of each condition and a quench above them, two conditions a potential."""
    drawn = np.random.default_rng(seed)
    lines = []
    for row in range(n):
        spread = 10 ** drawn.uniform(-2, 0)
        error = 2 * spread * 10 ** drawn.normal(0, noise)
        common = {"split": ("test", "any")[row % 2], "row": row, "scale": 1.0, "seconds": 2.0}
        common |= {"potential": f"{row // 2}"}
        for seed, (height, crystal) in enumerate(((-1, 1), (0, 0), (1, 1))):
            line = {"model": "sample", "seed": seed, "source": "a network", "sampler": "held"}
            line |= {"energy_gap": 1.5**0.5 * spread * height, "crystallinity": 0.9 * crystal}
            lines.append(common | line | {"rdf_mse": error if height < 0 else 9.0})
        quench = {"model": "quench", "seed": 0, "source": "MD", "energy_gap": 5.0}
        lines.append(common | quench | {"crystallinity": 0.0, "rdf_mse": 0.5})
    return pd.DataFrame(lines)


def test_the_answer_is_what_most_samples_are_and_the_others_tell_of_it():
    lines = scored(4)
    found = unseen.answers(lines)
    assert found["seed"].tolist() == [0] * 4 and (found["rdf_mse"] < 9).all()
    np.testing.assert_allclose(found["crystalline"], 2 / 3)
    np.testing.assert_allclose(found["spread"], -found["energy_gap"] / 1.5**0.5)
    assert found["seconds"].tolist() == [8.0] * 4 and found["sampled"].tolist() == [1] * 4
    # Too few samples, and no quench.
    assert unseen.answers(lines[1:])["row"].tolist() == [1, 2, 3]
    assert unseen.answers(lines[:-1])["row"].tolist() == [0, 1, 2]
    assert unseen.answers(lines[:2]).empty and not unseen.are_enough(lines[:2])
    lines.loc[3, "energy_gap"] = -9.0
    found = unseen.answers(lines)
    # The lowest is the quench, and no crystal; most samples are.
    assert found["sampled"].tolist() == [0, 1, 1, 1] and found["seed"][0] == 0
    assert found["rdf_mse"][0] < 9 and unseen.lowest_of(lines)["rdf_mse"].iloc[0] == 0.5
    lines.loc[3, "crystallinity"] = 0.9
    assert unseen.answers(lines)["rdf_mse"][0] == 0.5


def test_answers_are_calibrated_on_and_judged_with_their_potential_left_out():
    lines = scored()
    found = unseen.calibrate(lines)
    assert (found.n, found.n_potentials, found.source) == (60, 30, "a network, held")
    assert found.slopes["spread"] == pytest.approx(1, abs=0.1)
    judged = unseen.coverage(lines).set_index(["set", "share"])["covered"]
    for share in (0.5, 0.8, 0.9):
        assert judged["all", share] == pytest.approx(share, abs=0.12)
        halves = judged["test", share] + judged["any", share]
        assert halves / 2 == pytest.approx(judged["all", share])
    few = lines[lines["row"] < 6]
    assert not unseen.are_enough(few)
    with pytest.raises(ValueError, match="at least 4 potentials"):
        unseen.coverage(few)


def test_the_calibration_that_is_shipped_is_that_of_the_committed_scores():
    root = study.project_root()
    committed = tables.read_scores(root / "data/results/unseen.csv")
    shipped = trust.Calibration.read(root / "data/checkpoints" / trust.FILE)
    found = unseen.calibrate(committed)
    assert shipped.slopes == pytest.approx(found.slopes)
    assert (shipped.intercept, shipped.factor) == pytest.approx((found.intercept, found.factor))
    assert (shipped.n, shipped.source) == (found.n, found.source)
    drawn = committed[committed["model"] == unseen.SAMPLE]
    assert set(drawn["source"]) == {surrogates.checkpoint_source("potential", evaluation.OURS)}
    covered = pd.read_csv(root / "data/results/coverage.csv").set_index(["set", "share"])
    pd.testing.assert_frame_equal(
        covered, unseen.coverage(committed).set_index(["set", "share"]), rtol=1e-4
    )
    # As many as was said, but for what chance does to so few.
    for share, line in covered.loc["all"].iterrows():
        assert abs(line["covered"] - share) < 3 * (share * (1 - share) / line["n"]) ** 0.5
