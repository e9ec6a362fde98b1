from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mddm import dataset
from mddm.crystal import Crystal
from mddm.study import bottom

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


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
