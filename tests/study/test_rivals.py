from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from mddm import dataset, lammps, phonons
from mddm.crystal import Crystal
from mddm.study import evaluation, jobs, rivals, tasks

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


def test_yardsticks_are_the_ideal_gas_and_every_replica(data):
    row = jobs.choose_rows(data, "test", 1)[0]
    gas, *replicas = rivals.yardsticks(data, row)
    assert gas["model"] == "ideal gas" and gas["rdf_mse"] > 0.1
    assert np.isnan(gas["energy_gap"])
    (partner,) = data.partners(row)
    raw, relaxed = replicas
    assert raw["seed"] == relaxed["seed"] == data.seed[partner]
    elsewhere, _ = rivals.replica(data, row, data.take([partner]), 0)
    assert elsewhere["rdf_mse"] == raw["rdf_mse"]
    assert elsewhere["source"] != raw["source"]
    assert raw["energy_gap"] == pytest.approx(data.energy[partner] - data.energy[row], abs=1e-5)
    assert relaxed["relaxed"] and relaxed["energy_gap"] < raw["energy_gap"]


def test_look_up_takes_the_nearest_training_condition_as_it_is_and_relaxed(data):
    row = jobs.choose_rows(data, "test", 1)[0]
    raw, relaxed = rivals.look_up(data, row)
    known = data.subset("train")
    distance = np.abs(known.conditions - data.conditions[row]) / np.ptp(known.conditions, axis=0)
    nearest = np.flatnonzero(data.split == "train")[np.linalg.norm(distance, axis=1).argmin()]
    found = tasks.evaluate(data, row, data.positions[nearest])
    assert raw["rdf_mse"] == found["rdf_mse"] > 0 and raw["calls"] == 0
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert relaxed["energy_gap"] < raw["energy_gap"]


def test_quench_is_scored_as_it_is_and_relaxed(data, monkeypatch):
    row, seen = jobs.choose_rows(data, "test", 1)[0], []
    true = lammps.anneal
    monkeypatch.setattr(lammps, "anneal", lambda *a, **b: seen.append(true(*a, **b)) or seen[-1])
    raw, relaxed = rivals.quench(data, row, 20, seed=3)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert raw["calls"] == raw["n_steps"] == seen[0].n_steps == 20
    assert raw["energy_gap"] == pytest.approx(seen[0].energy - data.energy[row], abs=1e-5)
    assert relaxed["energy_gap"] < raw["energy_gap"]
    assert 0 < raw["seconds"] < relaxed["seconds"]


def test_lattices_are_held_at_the_temperature_and_the_lowest_at_rest_is_chosen(data, monkeypatch):
    row, steps = jobs.choose_rows(data, "test", 1)[0], 20
    # Two crystals of this condition that are the same but for their axes.
    cell = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 1]])
    found = [Crystal(axes, np.zeros((1, 3)), 10.0) for axes in (cell, cell[:, ::-1])]
    potential, temperature = data.potential(row), float(data.temperature[row])
    tried = [phonons.vibrations(each, potential, temperature) for each in found]
    asked = []
    monkeypatch.setattr(rivals.lattices, "search", lambda *_, **__: [])
    monkeypatch.setattr(rivals.lattices, "stable", lambda *_, **to: asked.append(to) or tried)
    monkeypatch.setattr(evaluation, "LATTICE_STEPS", steps)
    true, seen = evaluation.raw_and_relaxed, []
    keep = lambda *given: seen.append(true(*given)) or seen[-1]  # noqa: E731
    monkeypatch.setattr(evaluation, "raw_and_relaxed", keep)
    first, at_rest, best, best_at_rest = rivals.lattice_search(data, row)
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


def test_md_itself_is_scored_at_rest(data):
    row = jobs.choose_rows(data, "test", 1)[0]
    (entry,) = rivals.anneal_at_rest(data, row)
    assert entry["model"] == "MD" and entry["relaxed"]
    assert entry["energy_gap"] < 0 < entry["rdf_mse"]
    assert entry["calls"] == data.steps[row]


def test_of_the_structures_of_several_potentials_the_lowest_at_rest_is_looked_up(data, monkeypatch):
    monkeypatch.setattr(lammps, "minimize", lambda positions, *_: (positions, 0.0, True))
    # One whose second structure is the lowest.
    row = jobs.choose_rows(data, "test", 3)[2]
    best, at_rest = rivals.look_up(data, row, n_tries=3)
    assert (best["n_tries"], at_rest["n_tries"]) == (3, 3)
    # By hand: the nearest row of each potential, of the three that come first.
    known = data.subset("train")
    scale = np.ptp(known.conditions, axis=0)
    far = np.linalg.norm((known.conditions - data.conditions[row]) / scale, axis=1)
    nearest = {}
    for i in far.argsort():
        nearest.setdefault(tuple(known.conditions[i, :2]), i)
    judged = [tasks.evaluate(data, row, known.positions[i]) for i in list(nearest.values())[:3]]
    lowest = min(judged, key=lambda entry: entry["energy_gap"])
    assert at_rest["energy_gap"] == lowest["energy_gap"] < judged[0]["energy_gap"]
    assert best["rdf_mse"] == lowest["rdf_mse"]
    assert best["seconds"] == at_rest["seconds"] > rivals.look_up(data, row)[0]["seconds"]


def test_noise_is_scored_once_it_is_at_rest(data, monkeypatch):
    row, given = jobs.choose_rows(data, "test", 1)[0], []
    rest = data.positions[row]
    keep = lambda positions, *_: given.append(positions) or (rest, 0.0, True)  # noqa: E731
    monkeypatch.setattr(lammps, "minimize", keep)
    raw, relaxed = rivals.relaxed_noise(data, row)
    assert raw["rdf_mse"] == 0 and raw["energy_gap"] == pytest.approx(0, abs=1e-5)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert raw | {"relaxed": True} == relaxed
    rivals.relaxed_noise(data, row, seed=1)
    noise, other = given
    assert noise.shape == rest.shape and not np.allclose(noise, other)
    assert kstest(noise.ravel() / data.box_length, "uniform").pvalue > 0.01
