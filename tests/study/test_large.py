"""Samples and anneals of more particles than the data has."""

from functools import partial

import numpy as np
import pytest

from mddm import checkpoint, dataset, presets, samplers, study, training
from mddm.condition import RANGES
from mddm.study import distributions, evaluation, jobs, large, surrogates


@pytest.fixture(scope="module")
def data():
    return dataset.read(study.project_root() / "data" / "opp-small.h5")


def test_a_sample_of_eight_boxes_is_measured_like_md_and_the_largest_is_kept(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    monkeypatch.setattr(large, "SHOWN", 2)
    monkeypatch.setattr(large, "N_STEPS", 10)
    state = training.TrainingState(presets.Settings(preset="mddm", ranges=RANGES))
    checkpoint.save(study.checkpoint_path("full", "conditional", "mddm"), state)
    row = int(np.flatnonzero(data.split == "test")[0])
    surrogate = surrogates.Surrogate("mddm", "conditional", "ancestral", 2)
    key = large.key_of(data, row, 2, seed=1, surrogate=surrogate)
    path = tmp_path / "kept.npz"
    (drawn,) = large.sample(data, row, surrogate, 2, key, path)
    (kept,) = distributions.kept(path, surrogate.source, row, 2 * data.box_length)
    assert kept.shape == (8000, 3)
    (run,) = large.anneal(data, row, 1, large.key_of(data, row, 1, seed=0))
    assert set(drawn) == set(run) == set(large.COLUMNS)
    assert (drawn["model"], run["model"]) == ("mddm, 8,000 particles", "MD, 1,000 particles")
    # Two levels, and two below the noise that is added to the copies.
    assert (drawn["calls"], drawn["n_particles"], run["calls"]) == (4, 8000, 10)
    # MD has few long waves even after ten steps, and this network draws noise.
    assert run["long_waves"] < 0.5 < drawn["long_waves"] < 1.5
    assert drawn["copies"] < 2
    assert run["energy"] < drawn["energy"] and run["rdf_mse"] < drawn["rdf_mse"]


def test_the_structure_that_md_had_is_zero_apart_from_it(data):
    row = int(np.flatnonzero(data.split == "test")[0])
    measured = large._measured(data, row, data.positions[row], 1)
    assert measured["rdf_mse"] == 0 and measured["n_particles"] == 1000
    assert measured["energy"] == pytest.approx(data.energy[row], abs=1e-3)
    repeated = np.concatenate(
        [data.positions[row] + data.box_length * np.array(at) for at in np.ndindex(2, 2, 2)]
    )
    twice = large._measured(data, row, repeated, 2)
    assert twice["energy"] == pytest.approx(measured["energy"], rel=1e-5)
    assert twice["rdf_mse"] < 0.01
    # Copies that are equal have no other waves, and these are as much stronger as they are fewer.
    assert twice["copies"] > 1e6 and np.isnan(measured["copies"])
    assert twice["long_waves"] == pytest.approx(measured["long_waves"], rel=0.3)


def test_each_size_is_asked_for_once_and_the_largest_of_the_crystal_alone(monkeypatch):
    data = dataset.read(study.project_root() / study.DATA)
    asked = jobs.jobs_of(data, "large", "full")
    assert len({key for key, _ in asked}) == len(asked)
    crystal, glass = (np.flatnonzero(data.split == "test")[i] for i in large.CONDITIONS)
    largest = f"{evaluation.TOLD}, {1000 * large.SHOWN**3:,} particles"
    assert [key.row for key, _ in asked if key.model == largest] == [crystal]
    assert {key.row for key, _ in asked} == {crystal, glass}
    assert {key.sampler for key, _ in asked} == {samplers.BEST_TOLD, ""}
    assert all(isinstance(job, partial) for _, job in asked)
    assert jobs.jobs_of(data, "large", "quick") == []
