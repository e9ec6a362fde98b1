from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mddm import dataset, phonons
from mddm.crystal import Crystal
from mddm.study import bottom

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


def test_a_particle_has_moved_that_is_half_a_spacing_from_its_site_drift_apart():
    axis = np.arange(4.0)
    sites = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3).astype(np.float32)
    rng = np.random.default_rng(0)
    shaken = sites + rng.normal(0, 0.05, sites.shape).astype(np.float32)
    shaken[:16] += 0.5
    assert bottom.moved(sites, shaken % 4, 4.0) == 16 / 64
    assert bottom.moved(sites, (shaken + 1.7) % 4, 4.0) == 16 / 64


def test_md_keeps_a_stable_lattice_and_heat_ends_it(data, monkeypatch):
    row = int(np.flatnonzero(data.split == "train")[0])
    potential, temperature = data.potential(row), float(data.temperature[row])
    # Cubic: it holds under no such potential for long.
    cubic = Crystal(np.eye(3), np.zeros((1, 3)), data.box_length, energy=-1.0)
    found = phonons.vibrations(cubic, potential, temperature)
    monkeypatch.setattr(bottom.lattices, "stable", lambda *_, **__: [found])
    monkeypatch.setattr(bottom, "HELD_STEPS", 2)
    monkeypatch.setattr(bottom, "HEATED_STEPS", 300)
    monkeypatch.setattr(bottom, "HEATED", (2.0, 3.0))
    lattice, held, *heated = bottom.from_lattice(data, row)
    assert set(bottom.COLUMNS) - {"task", "split"} <= set(lattice)
    assert (lattice["model"], lattice["moved"]) == (bottom.LATTICE, 0)
    assert lattice["energy"] == found.mean_energy
    assert (held["temperature"], held["moved"], held["calls"]) == (temperature, 0, 2)
    (last,) = heated
    assert last["temperature"] == 2 and last["moved"] > bottom.GONE and last["calls"] == 302
    assert last["energy"] > held["energy"]


def test_the_lowest_energy_known_is_that_of_a_lattice_md_or_a_sample_at_rest(data, monkeypatch):
    # The rows are in order of k.
    rows = [0, int(np.flatnonzero(data.k > data.k[0])[0])]
    lines = [
        {"row": row, "relaxed": relaxed, "model": model, "sampler": sampler, "energy_gap": gap}
        for row, relaxed, model, sampler, gap in (
            (0, False, "a", "s", -9.0),
            (0, True, "a", "s", -2.0),
            (0, True, "MD", "", -1.0),
            (rows[1], True, "a", "s", -0.5),
        )
    ]
    lattice = [data.energy[rows[0]] - 1.5, data.energy[rows[1]] - 1.0]
    found = [[Crystal(np.eye(3), np.zeros((1, 3)), 10.0, energy)] for energy in lattice]
    monkeypatch.setattr(bottom.lattices, "search_many", lambda *_, **__: found)
    scored = pd.DataFrame(lines)
    lowest = bottom.lowest_known(data, scored)
    by_row = lowest.set_index(["k", "phi"]).loc[[(data.k[row], data.phi[row]) for row in rows]]
    assert by_row["found_by"].tolist() == ["a, s", bottom.LATTICE]
    assert by_row["energy"].to_numpy() == pytest.approx([data.energy[0] - 2.0, lattice[1]])
    above = bottom.above_lowest(data, scored, lowest)["above_lowest"].to_numpy()
    assert np.isnan(above[0]) and above[1:] == pytest.approx([0, 1.0, 0.5], abs=1e-6)
