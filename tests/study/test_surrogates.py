from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import checkpoint, dataset, encoding, lammps, presets, sampling, study, training
from mddm.condition import RANGES
from mddm.crystal import Crystal
from mddm.potential import potential_energy
from mddm.study import evaluation, jobs, surrogates, tasks

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Untrained checkpoints in place of the study's."""
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    for task in ("unconditional", "conditional"):
        ranges = RANGES if task == "conditional" else {}
        state = training.TrainingState(presets.Settings(preset="mddm", ranges=ranges))
        checkpoint.save(study.checkpoint_path("full", task, "mddm"), state)


def test_a_seeded_sample_is_drawn_from_a_lattice_of_its_condition(data, checkpoints, monkeypatch):
    row, asked = jobs.choose_rows(data, "test", 1)[0], []
    chosen = Crystal(np.eye(3), np.zeros((1, 3)), 10.0)
    monkeypatch.setattr(lammps, "minimize", lambda positions, *_: (positions, 0.0, True))
    monkeypatch.setattr(surrogates.lattices, "search", lambda *_, **__: [])
    monkeypatch.setattr(surrogates.seeded, "choose", lambda *_, **by: asked.append(by) or chosen)
    named = ("mddm", "conditional", "seeded at the lowest", 5)
    raw, relaxed = surrogates.seeded_sample(data, row, surrogates.Surrogate(*named), seed=2)
    assert asked[0]["temperature"] == float(data.temperature[row]) and asked[0]["spread"] == 0
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert (raw["model"], raw["sampler"], raw["seed"]) == ("mddm", "seeded at the lowest", 2)
    # Of five levels and zero these and the noise that is added itself lie at or below it.
    levels = np.geomspace(0.005, 5.0, 5)
    assert raw["calls"] == (levels < 0.15).sum() + 1
    assert 0 < raw["seconds"] < relaxed["seconds"]


def test_sample_is_scored_as_drawn_and_relaxed(data, checkpoints, monkeypatch):
    monkeypatch.setattr(lammps, "minimize", lambda positions, *_: (positions, 0.0, True))
    row = jobs.choose_rows(data, "test", 1)[0]
    surrogate = surrogates.Surrogate("mddm", "conditional", "ancestral", 3)
    raw, relaxed = surrogates.sample(data, row, surrogate, seed=2)
    assert set(evaluation.COLUMNS) - {"split"} <= set(raw)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert (raw["model"], raw["task"], raw["sampler"]) == ("mddm", "conditional", "ancestral")
    assert raw["calls"] == 3
    assert raw["source"] == surrogates.checkpoint_source("conditional", "mddm")
    again = sampling.last(surrogate.frames(data, row, seed=2))
    assert again.positions.shape == (1, 1000, 3)
    # The energy of the very same particles.
    energy = raw["energy_gap"] + data.energy[row]
    system = again.positions[0].double()
    expected = potential_energy(system, data.potential(row), data.box_length).mean()
    assert energy == pytest.approx(expected.item(), rel=1e-6)


def test_polished_sample_is_scored_and_so_is_what_it_was_before(data, checkpoints, monkeypatch):
    row, told = jobs.choose_rows(data, "test", 1)[0], []
    # As if all came to rest where MD did.
    rest = data.positions[row]
    monkeypatch.setattr(lammps, "minimize", lambda _, *of: told.append(of) or (rest, 0.0, True))
    surrogate = surrogates.Surrogate("mddm", "conditional", "polished", 5)
    ends = {frame.stage: frame for frame in surrogate.frames(data, row, seed=2)}
    assert np.array_equal(ends["relaxed"].positions[0], rest)
    entries = surrogates.sample(data, row, surrogate, seed=2)
    assert told == 3 * [(data.potential(row), data.box_length)]
    named = [(entry["sampler"], entry["relaxed"]) for entry in entries]
    assert named == [("polished", 0), ("polished", 1), ("cooled", 0), ("cooled", 1)]
    assert entries[0]["rdf_mse"] > entries[1]["rdf_mse"] == entries[3]["rdf_mse"] == 0
    calls, _, calls_before, _ = (entry["calls"] for entry in entries)
    assert calls > calls_before > 5
    seconds, _, seconds_before, seconds_relaxed = (entry["seconds"] for entry in entries)
    assert 0 < seconds_before < seconds_relaxed < seconds
    plain = surrogates.Surrogate("mddm", "conditional", "cooled", 5)
    alone, _ = surrogates.sample(data, row, plain, seed=2)
    assert entries[2]["rdf_mse"] == alone["rdf_mse"] and calls_before == alone["calls"]


def test_what_was_relaxed_in_part_is_relaxed_to_the_end_before_it_is_judged_at_rest(
    data, checkpoints, monkeypatch
):
    told = []

    def minimize(positions, potential, box_length, **how):
        told.append(list(how))
        return positions, 0.0, True

    monkeypatch.setattr(lammps, "minimize", minimize)
    row = jobs.choose_rows(data, "test", 1)[0]
    entries = surrogates.sample(data, row, surrogates.Surrogate("mddm", "conditional", "quick"))
    assert [entry["sampler"] for entry in entries] == 2 * ["quick"] + 2 * ["chilled"]
    assert [entry["calls"] for entry in entries] == [29, 29, 26, 26]
    assert told == [["tolerance"], [], []]


def test_samples_of_other_seeds_and_rows_are_others(data, checkpoints):
    surrogate = surrogates.Surrogate("mddm", "unconditional", "ancestral", 2)
    drawn = [
        sampling.last(surrogate.frames(data, row, seed)).positions
        for row, seed in ((0, 0), (0, 1), (1, 0))
    ]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_losses_of_a_network_that_guesses_nothing_are_one_at_every_level(data, checkpoints):
    state = training.TrainingState(presets.Settings(preset="mddm", ranges={}))
    for parameter in state.average.module.parameters():
        parameter.detach().zero_()
    path = study.checkpoint_path("full", "unconditional", "mddm")
    checkpoint.save(path, state)
    replicas = data.take(data.partners(tasks.unconditional_row(data)))
    entries = surrogates.losses(data, replicas, "mddm", "unconditional", 3, 1)
    assert [set(surrogates.LOSS_COLUMNS) <= set(entry) for entry in entries] == [True] * 3
    assert [entry["sigma"] for entry in entries] == pytest.approx([0.005, 0.158, 5], rel=0.01)
    for entry in entries:
        assert entry["trained_on"] == pytest.approx(1, abs=0.2)
        assert entry["replica"] == pytest.approx(1, abs=0.2)
    alone = surrogates.losses(data, data.take([]), "mddm", "unconditional", 2, 1)
    assert np.isnan(alone[0]["replica"])


def test_a_model_of_potentials_is_told_that_of_the_row(data, monkeypatch):
    settings = presets.Settings(
        ranges={"temperature": encoding.SCALED_TEMPERATURES}, told="potential"
    )
    monkeypatch.setattr(surrogates, "_load", lambda *_: (None, settings))
    surrogate = surrogates.Surrogate("mddm", "potential", "ancestral")
    steps = int(data.steps[1])
    expected = encoding.encode(data.potential(1), float(data.temperature[1]), steps)
    assert torch.equal(surrogate.conditions(data, 1), expected[None])
