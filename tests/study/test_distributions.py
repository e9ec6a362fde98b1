"""Samples that are kept, and compared with MD as a distribution."""

import numpy as np
import pandas as pd
import pytest

from mddm import dataset, study
from mddm.study import distributions, evaluation
from mddm.study.evaluation import Key

KEY = Key("a model", "conditional", "test", 0, 0, "net.safetensors 1")


@pytest.fixture(scope="module")
def data():
    return dataset.read(study.project_root() / "data" / "opp-small.h5")


@pytest.fixture
def row(data):
    return int(np.flatnonzero(data.split == "test")[0])


def test_what_is_kept_comes_back_finer_than_it_moves(tmp_path, data):
    path = tmp_path / "kept.npz"
    for seed, row in enumerate((3, 3, 5)):
        distributions.keep(path, "net 1", row, seed, data.positions[seed], data.box_length)
    found = distributions.kept(path, "net 1", 3, data.box_length)
    off = found - data.positions[:2]
    assert np.abs(off - 10 * np.round(off / 10)).max() < 1e-4 and found.dtype == np.float32
    assert found.min() >= 0 and found.max() < data.box_length
    # Those of another checkpoint are not mixed with these.
    distributions.keep(path, "net 2", 5, 0, data.positions[0], data.box_length)
    for source, row in (("net 1", 3), ("net 2", 3)):
        with pytest.raises(ValueError, match=r"has no samples of net \d for row 3"):
            distributions.kept(path, source, row, data.box_length)


def test_md_is_no_other_distribution_and_noise_is(tmp_path, data, row):
    runs = data.positions[[row, *data.partners(row)]]
    path, noise = tmp_path / "kept.npz", np.random.default_rng(0).uniform(0, 10, (2, 1000, 3))
    for seed, positions in enumerate(noise):
        distributions.keep(path, KEY.source, row, seed, positions, data.box_length)
    same = distributions.compared(data, row, runs)
    (other,) = distributions.sampled(data, row, path, KEY)
    assert set(other) == set(distributions.COLUMNS)
    # Of the same runs the distance is what they are apart, too little by that: without bias it is
    # zero of others alone.
    assert same["rdf"] == pytest.approx(-same["rdf_md"])
    for name in ("rdf", "surroundings"):
        assert other[name] > 2 * same[f"{name}_md"] == 2 * other[f"{name}_md"] > 0
    assert other["auc"] > 0.9 and (other["n"], other["n_md"]) == (2, 2)
    (nearest,) = distributions.looked_up(data, row, 2, KEY)
    assert nearest["n"] == 2 and 0 < nearest["rdf"] < other["rdf"]


def test_crystals_and_glasses_are_summed_up_apart():
    lines = [
        {"model": evaluation.TOLD, "k": k, "phi": 0.0, "md_crystallinity": ordered, "auc": 0.5 + k}
        | {"rdf": k, "rdf_md": 0.5, "surroundings": 2 * k, "surroundings_md": 1.0}
        for k, ordered in ((0.1, 0.9), (0.3, 0.8), (0.2, 0.0))
    ]
    found = distributions.summary(pd.DataFrame(lines)).set_index("reference")
    assert found["n"].to_dict() == {"crystal": 2, "glass": 1}
    assert found.loc["crystal", ["rdf", "surroundings", "auc"]].tolist() == [0.2, 0.4, 0.7]
    assert found.loc["crystal", "rdf_low"] < 0.2 < found.loc["crystal", "rdf_high"]
    assert np.isnan(found.loc["glass", "rdf_low"])


def _runs(n_conditions, shift=0.0, seed=0):
    """Runs of two engines of which some are crystals, of low energy; the first is always one."""
    rng, lines = np.random.default_rng(seed), []
    for row in range(n_conditions):
        crystal = np.append(True, rng.random(9) < 0.4)
        engine = np.repeat([1, 2], [2, 8])
        energy = rng.normal(size=10) - 3 * crystal + shift * (engine == 1)
        noise = rng.normal(size=(10, 3))
        for i in range(10):
            line = {
                "row": row,
                "engine": engine[i],
                "energy": energy[i],
                "crystallinity": crystal[i],
            }
            line |= {"kinetic_temperature": noise[i, 0], "pressure": noise[i, 1], "g": noise[i]}
            lines.append(line)
    return pd.DataFrame(lines).astype({"crystallinity": float})


def test_engines_are_told_apart_by_what_differs_and_not_by_how_conditions_were_chosen():
    alike = distributions.told_apart(_runs(20))
    assert list(alike.index) == list(distributions.MEASURED)
    assert alike["p"].between(0.02, 1).all()
    # The first engine has more crystals, for that its conditions were chosen.
    assert alike.loc["energy", "shift"] < -0.3
    with pytest.raises(ValueError, match="row 0 has 3 and 7, and its first is a crystal"):
        distributions.told_apart(_runs(1).assign(engine=[1] * 3 + [2] * 7))
    other = distributions.told_apart(_runs(20, shift=4.0))
    assert other.loc["energy", "p"] < 0.001 < other.drop("energy")["p"].min()
    assert other.loc["energy", "low"] < other.loc["energy", "shift"] < other.loc["energy", "high"]


def test_runs_of_two_engines_are_listed_by_condition(data, row):
    rows = [row, *data.partners(row)]
    found = distributions.engines(data, data.take(rows))
    assert found["engine"].tolist() == [1] * len(rows) + [2] * len(rows)
    assert set(found["row"]) == {row} and set(distributions.MEASURED) <= set(found)
    assert distributions.engines(data, data, 1)["row"].unique().tolist() == [row]
    assert found["energy"].tolist() == 2 * data.energy[rows].tolist()
    assert found["kinetic_temperature"].between(0.95, 1.05).all()
