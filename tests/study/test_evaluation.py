import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import dataset, encoding, lammps, phonons, sampling, shapes, study, training
from mddm.condition import RANGES
from mddm.crystal import Crystal
from mddm.potential import potential_energy
from mddm.study import evaluation, results, tasks

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Untrained checkpoints in place of the study's."""
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    for task in ("unconditional", "conditional", "sphere"):
        ranges = RANGES if task == "conditional" else {}
        state = training.TrainingState(training.Settings(preset="mddm", ranges=ranges))
        training.save_checkpoint(study.checkpoint_path("full", task, "mddm"), state)


def test_yardsticks_are_the_ideal_gas_and_every_replica(data):
    row = results.choose_rows(data, "test", 1)[0]
    gas, *replicas = evaluation.yardsticks(data, row)
    assert gas["model"] == "ideal gas" and gas["rdf_mse"] > 0.1
    assert np.isnan(gas["energy_gap"])
    (partner,) = data.partners(row)
    raw, relaxed = replicas
    assert raw["seed"] == relaxed["seed"] == data.seed[partner]
    elsewhere, _ = evaluation.replica(data, row, data.take([partner]), 0)
    assert elsewhere["rdf_mse"] == raw["rdf_mse"]
    assert elsewhere["source"] != raw["source"]
    assert raw["energy_gap"] == pytest.approx(data.energy[partner] - data.energy[row], abs=1e-5)
    assert relaxed["relaxed"] and relaxed["energy_gap"] < raw["energy_gap"]


def test_look_up_takes_the_nearest_training_condition_as_it_is_and_relaxed(data):
    row = results.choose_rows(data, "test", 1)[0]
    raw, relaxed = evaluation.look_up(data, row)
    known = data.subset("train")
    distance = np.abs(known.conditions - data.conditions[row]) / np.ptp(known.conditions, axis=0)
    nearest = np.flatnonzero(data.split == "train")[np.linalg.norm(distance, axis=1).argmin()]
    found = tasks.evaluate(data, row, data.positions[nearest])
    assert raw["rdf_mse"] == found["rdf_mse"] > 0 and raw["calls"] == 0
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert relaxed["energy_gap"] < raw["energy_gap"]


def test_quench_is_scored_as_it_is_and_relaxed(data, monkeypatch):
    row, seen = results.choose_rows(data, "test", 1)[0], []
    true = lammps.anneal
    monkeypatch.setattr(lammps, "anneal", lambda *a, **b: seen.append(true(*a, **b)) or seen[-1])
    raw, relaxed = evaluation.quench(data, row, 20, seed=3)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert raw["calls"] == raw["n_steps"] == seen[0].n_steps == 20
    assert raw["energy_gap"] == pytest.approx(seen[0].energy - data.energy[row], abs=1e-5)
    assert relaxed["energy_gap"] < raw["energy_gap"]
    assert 0 < raw["seconds"] < relaxed["seconds"]


def test_lattices_are_held_at_the_temperature_and_the_lowest_at_rest_is_chosen(data, monkeypatch):
    row, steps = results.choose_rows(data, "test", 1)[0], 20
    # Two crystals of this condition that are the same but for their axes.
    cell = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 1]])
    found = [Crystal(axes, np.zeros((1, 3)), 10.0) for axes in (cell, cell[:, ::-1])]
    potential, temperature = data.potential(row), float(data.temperature[row])
    tried = [phonons.vibrations(each, potential, temperature) for each in found]
    asked = []
    monkeypatch.setattr(evaluation.lattices, "search", lambda *_, **__: [])
    monkeypatch.setattr(evaluation.lattices, "stable", lambda *_, **to: asked.append(to) or tried)
    monkeypatch.setattr(evaluation, "LATTICE_STEPS", steps)
    true, seen = evaluation._raw_and_relaxed, []
    keep = lambda *given: seen.append(true(*given)) or seen[-1]  # noqa: E731
    monkeypatch.setattr(evaluation, "_raw_and_relaxed", keep)
    first, at_rest, best, best_at_rest = evaluation.lattice_search(data, row)
    assert asked[0]["temperature"] == temperature and asked[0]["n_particles"] == 1000
    assert [entry["relaxed"] for entry in (first, at_rest, best, best_at_rest)] == [0, 1, 0, 1]
    assert first["model"] == at_rest["model"] == "lattice search"
    assert best["model"] == best_at_rest["model"] == "lattice search"
    assert [entry["n_tries"] for entry in (first, at_rest, best, best_at_rest)] == [1, 1, 2, 2]
    assert first["calls"] == steps and best["calls"] == 2 * steps
    assert 0 < first["seconds"] < at_rest["seconds"] < best["seconds"]
    gaps = [relaxed["energy_gap"] for _, relaxed in seen]
    assert at_rest["energy_gap"] == gaps[0] and best_at_rest["energy_gap"] == min(gaps)
    assert gaps[0] != gaps[1]


def test_a_seeded_sample_is_drawn_from_a_lattice_of_its_condition(data, checkpoints, monkeypatch):
    row, asked = results.choose_rows(data, "test", 1)[0], []
    chosen = Crystal(np.eye(3), np.zeros((1, 3)), 10.0)
    monkeypatch.setattr(evaluation.lattices, "search", lambda *_, **__: [])
    monkeypatch.setattr(evaluation.seeded, "choose", lambda *_, **by: asked.append(by) or chosen)
    named = ("mddm", "conditional", "seeded at the lowest", 5)
    raw, relaxed = evaluation.seeded_sample(data, row, evaluation.Surrogate(*named), seed=2)
    assert asked[0]["temperature"] == float(data.temperature[row]) and asked[0]["spread"] == 0
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert (raw["model"], raw["sampler"], raw["seed"]) == ("mddm", "seeded at the lowest", 2)
    # Of five levels and zero these and the noise that is added itself lie at or below it.
    levels = np.geomspace(0.005, 5.0, 5)
    assert raw["calls"] == (levels < 0.15).sum() + 1
    assert 0 < raw["seconds"] < relaxed["seconds"]


def test_md_itself_is_scored_at_rest(data):
    row = results.choose_rows(data, "test", 1)[0]
    (entry,) = evaluation.anneal_at_rest(data, row)
    assert entry["model"] == "MD" and entry["relaxed"]
    assert entry["energy_gap"] < 0 < entry["rdf_mse"]
    assert entry["calls"] == data.steps[row]


def test_sample_is_scored_as_drawn_and_relaxed(data, checkpoints):
    row = results.choose_rows(data, "test", 1)[0]
    surrogate = evaluation.Surrogate("mddm", "conditional", "ancestral", 3)
    raw, relaxed = evaluation.sample(data, row, surrogate, seed=2)
    assert set(evaluation.COLUMNS) - {"split"} <= set(raw)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert (raw["model"], raw["task"], raw["sampler"]) == ("mddm", "conditional", "ancestral")
    assert raw["calls"] == 3
    assert raw["source"] == evaluation.checkpoint_source("conditional", "mddm")
    again = sampling.last(surrogate.frames(data, row, seed=2))
    assert again.positions.shape == (1, 1000, 3)
    # The energy of the very same particles.
    energy = raw["energy_gap"] + data.energy[row]
    system = again.positions[0].double()
    expected = potential_energy(system, data.potential(row), data.box_length).mean()
    assert energy == pytest.approx(expected.item(), rel=1e-6)


def test_polished_sample_is_scored_and_so_is_what_it_was_before(data, checkpoints):
    row = results.choose_rows(data, "test", 1)[0]
    surrogate = evaluation.Surrogate("mddm", "conditional", "polished", 5)
    entries = evaluation.sample(data, row, surrogate, seed=2)
    named = [(entry["sampler"], entry["relaxed"]) for entry in entries]
    assert named == [("polished", 0), ("polished", 1), ("cooled", 0), ("cooled", 1)]
    calls, _, calls_before, _ = (entry["calls"] for entry in entries)
    assert calls > calls_before > 5
    seconds, _, seconds_before, seconds_relaxed = (entry["seconds"] for entry in entries)
    assert 0 < seconds_before < seconds_relaxed < seconds
    plain = evaluation.Surrogate("mddm", "conditional", "cooled", 5)
    alone = evaluation.sample(data, row, plain, seed=2)
    for entry, expected in zip(entries[2:], alone, strict=True):
        assert entry["rdf_mse"] == expected["rdf_mse"]
        assert entry["calls"] == expected["calls"]


def test_polishing_goes_through_a_minimum_of_the_energy(data, checkpoints):
    row = results.choose_rows(data, "test", 1)[0]
    surrogate = evaluation.Surrogate("mddm", "conditional", "polished", 5)
    ends = {frame.stage: frame for frame in surrogate.frames(data, row, seed=2)}
    expected, *_ = lammps.minimize(
        ends["sampled"].positions[0].numpy(), data.potential(row), data.box_length
    )
    assert np.allclose(ends["relaxed"].positions[0], expected, atol=1e-4)


def test_samples_of_other_seeds_and_rows_are_others(data, checkpoints):
    surrogate = evaluation.Surrogate("mddm", "unconditional", "ancestral", 2)
    drawn = [
        sampling.last(surrogate.frames(data, row, seed)).positions
        for row, seed in ((0, 0), (0, 1), (1, 0))
    ]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_true_clouds_score_best_and_the_best_possible_denoiser_next():
    entries = [evaluation.surface_yardsticks("sphere", 60, 400, seed) for seed in range(3)]
    mean = {
        each[0]["model"]: np.mean([entry["sinkhorn"] for entry in each])
        for each in zip(*entries, strict=True)
    }
    assert mean[evaluation.TRUE_CLOUD] < mean[evaluation.NORMAL_CLOUD] / 2
    assert mean[evaluation.BEST_POSSIBLE] < 1.5 * mean[evaluation.TRUE_CLOUD]
    assert entries[0][0]["distance"] < 1e-6 < entries[0][1]["distance"] < 0.05
    assert math.isnan(entries[0][0]["seconds"])


def test_cloud_of_a_checkpoint_is_scored_by_the_true_surface(checkpoints):
    surrogate = evaluation.Surrogate("mddm", "sphere", "ancestral", 3)
    (entry,) = evaluation.surface_sample(surrogate, 50, seed=1)
    assert set(evaluation.SURFACE_COLUMNS) <= set(entry)
    assert (entry["task"], entry["model"], entry["calls"]) == ("sphere", "mddm", 3)
    # An untrained network leaves the noise where it was.
    assert entry["sinkhorn"] > 1 and entry["distance"] > 1
    fresh = shapes.Surface("sphere", 50).draw(1, torch.Generator().manual_seed(1))[0]
    assert shapes.sinkhorn_loss(fresh[0], fresh[0]).item() < 1e-3 < entry["sinkhorn"]


def test_losses_of_a_network_that_guesses_nothing_are_one_at_every_level(data, checkpoints):
    state = training.TrainingState(training.Settings(preset="mddm", ranges={}))
    for parameter in state.average.module.parameters():
        parameter.detach().zero_()
    path = study.checkpoint_path("full", "unconditional", "mddm")
    training.save_checkpoint(path, state)
    replicas = data.take(data.partners(tasks.unconditional_row(data)))
    entries = evaluation.losses(data, replicas, "mddm", "unconditional", 3, 1)
    assert [set(evaluation.LOSS_COLUMNS) <= set(entry) for entry in entries] == [True] * 3
    assert [entry["sigma"] for entry in entries] == pytest.approx([0.005, 0.158, 5], rel=0.01)
    for entry in entries:
        assert entry["trained_on"] == pytest.approx(1, abs=0.2)
        assert entry["replica"] == pytest.approx(1, abs=0.2)
    alone = evaluation.losses(data, data.take([]), "mddm", "unconditional", 2, 1)
    assert np.isnan(alone[0]["replica"])


def test_a_model_of_potentials_is_told_that_of_the_row(data, monkeypatch):
    settings = training.Settings(
        ranges={"temperature": encoding.SCALED_TEMPERATURES}, told="potential"
    )
    monkeypatch.setattr(evaluation, "_load", lambda *_: (None, settings))
    surrogate = evaluation.Surrogate("mddm", "potential", "ancestral")
    steps = int(data.steps[1])
    expected = encoding.encode(data.potential(1), float(data.temperature[1]), steps)
    assert torch.equal(surrogate.conditions(data, 1), expected[None])
