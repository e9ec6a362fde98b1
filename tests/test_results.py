from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mddm import dataset, lammps, results, tasks

SHIPPED = Path(__file__).parents[1] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


def _entry(model="a", row=0, source="now", rdf_mse=0.1, **changes):
    values = dict.fromkeys(results.COLUMNS, 0.0)
    values |= {"model": model, "task": "conditional", "split": "test", "sampler": ""}
    values |= {"row": row, "seed": 0, "relaxed": False, "source": source, "rdf_mse": rdf_mse}
    return values | changes


def _job(done, row, **changes):
    entry = _entry(row=row, **changes)

    def job():
        done.append(row)
        return [entry, entry | {"relaxed": True}]

    return tuple(entry[name] for name in results.KEYS), job


def test_replicated_rows_are_chosen_first(data):
    chosen = results.choose_rows(data, "train", 6)
    assert len(set(chosen)) == 6
    assert all(len(data.partners(row)) for row in chosen[:4])
    assert all(data.split[row] == "train" for row in chosen)
    assert results.choose_rows(data, "train", 4) == chosen[:4]


def test_only_what_is_missing_is_scored(tmp_path):
    path, done = tmp_path / "new" / "scores-a.csv", []
    results.collect(path, [_job(done, 0), _job(done, 1)])
    found = results.collect(path, [_job(done, row) for row in range(3)])
    assert done == [0, 1, 2]
    assert found["row"].tolist() == [0, 0, 1, 1, 2, 2]
    again = results.read_scores(path)
    assert tuple(again.columns) == results.COLUMNS
    assert again["sampler"].tolist() == [""] * 6


def test_what_was_scored_outlives_a_failure(tmp_path):
    path, done = tmp_path / "scores-a.csv", []

    def fails():
        raise KeyboardInterrupt

    key, _ = _job([], 1)
    with pytest.raises(KeyboardInterrupt):
        results.collect(path, [_job(done, 0), (key, fails)])
    assert results.read_scores(path)["row"].tolist() == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["scores-a.csv"]


def test_scores_of_an_older_checkpoint_are_left_behind(tmp_path):
    path, done = tmp_path / "scores-a.csv", []
    results.collect(path, [_job(done, 0, source="before")])
    found = results.collect(path, [_job(done, 0)])
    assert done == [0, 0]
    assert set(found["source"]) == {"now"}


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "scores-a.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"scores-a\.csv has other columns"):
        results.collect(path, [_job([], 0)])


def test_table_gives_means_intervals_and_crystals_apart():
    errors = np.array([0.1, 0.2, 0.3, 0.9])
    order = np.array([0.0, 0.1, 0.2, 0.8])
    scores = pd.DataFrame(
        [
            _entry(row=i, rdf_mse=errors[i], md_crystallinity=order[i], energy_gap=i, seconds=2.0)
            for i in range(4)
        ]
    )
    quoted = pd.DataFrame(
        [{"model": "a", "task": "t", "split": "test", "rdf_mse": 0.5, "source": "them"}]
    )
    found = results.table(scores, quoted).set_index(["model", "reference"])
    everything = found.loc["a", "all"]
    assert everything["rdf_mse"] == pytest.approx(errors.mean())
    assert (everything["ci_low"], everything["ci_high"]) == tasks.bootstrap_interval(errors)
    assert everything["energy_gap"] == 1.5
    assert everything["seconds_per_sample"] == 2
    assert found.loc["a", "glass"]["rdf_mse"] == pytest.approx(0.2)
    assert found.loc["a", "crystal"]["n"] == 1
    assert found.loc["a (paper)", "all"][["rdf_mse", "source"]].tolist() == [0.5, "them"]


def test_yardsticks_are_the_ideal_gas_and_every_replica(data):
    row = results.choose_rows(data, "test", 1)[0]
    gas, *replicas = results.yardsticks(data, row)
    assert gas["model"] == "ideal gas" and gas["rdf_mse"] > 0.1
    assert np.isnan(gas["energy_gap"])
    (partner,) = data.partners(row)
    assert [entry["seed"] for entry in replicas] == [data.seed[partner]]
    assert replicas[0]["energy_gap"] == pytest.approx(
        data.energy[partner] - data.energy[row], abs=1e-5
    )


def test_quench_is_scored_as_it_is_and_relaxed(data, monkeypatch):
    row, seen = results.choose_rows(data, "test", 1)[0], []
    true = lammps.anneal
    monkeypatch.setattr(lammps, "anneal", lambda *a, **b: seen.append(true(*a, **b)) or seen[-1])
    raw, relaxed = results.quench(data, row, 20, seed=3)
    assert (raw["relaxed"], relaxed["relaxed"]) == (False, True)
    assert raw["calls"] == seen[0].n_steps == 20
    assert raw["energy_gap"] == pytest.approx(seen[0].energy - data.energy[row], abs=1e-5)
    assert relaxed["energy_gap"] < raw["energy_gap"]
    assert 0 < raw["seconds"] < relaxed["seconds"]


def test_plans_have_no_job_twice_and_wrong_names_are_refused(data):
    for what in results.GROUPS:
        keys = [key for key, _ in results.jobs_of(data, what, "quick")]
        assert len(set(keys)) == len(keys) > 0
    with pytest.raises(ValueError, match="what must be one of yardsticks"):
        results.jobs_of(data, "quenches", "quick")


def test_command_line_names_what_it_does_not_know(capsys):
    assert results.main(["quenches", "--profile", "quick"]) == 1
    assert "what must be one of yardsticks" in capsys.readouterr().err
