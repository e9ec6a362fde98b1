import numpy as np
import pandas as pd
import pytest

from mddm.study import evaluation, surfaces, tables, tasks


def _entry(model="a", row=0, rdf_mse=0.1, columns=evaluation.COLUMNS, **changes):
    values = dict.fromkeys((*columns, "above_lowest"), 0.0)
    values |= {"model": model, "task": "conditional", "split": "test", "sampler": ""}
    values |= {"row": row, "seed": 0, "relaxed": False, "source": "now", "rdf_mse": rdf_mse}
    values |= {"n_steps": 0, "n_tries": 1, "k": float(row)}
    return values | changes


def test_table_gives_means_intervals_and_crystals_apart():
    errors = np.array([0.1, 0.2, 0.3, 0.9])
    order = np.array([0.0, 0.1, 0.2, 0.8])
    scores = pd.DataFrame(
        [
            _entry(row=i, rdf_mse=errors[i], md_crystallinity=order[i], energy_gap=i, seconds=2.0)
            # At half it is no crystal yet.
            | {"above_lowest": i + 1, "crystallinity": (0.1, 0.5, 0.6, 0.9)[i]}
            for i in range(4)
        ]
    )
    quoted = pd.DataFrame(
        [{"model": "a", "task": "t", "split": "test", "rdf_mse": 0.5, "source": "them"}]
    )
    found = tables.table_1(scores, quoted).set_index(["model", "reference"])
    everything = found.loc["a", "all"]
    assert everything["rdf_mse"] == pytest.approx(errors.mean())
    assert (everything["ci_low"], everything["ci_high"]) == tasks.bootstrap_interval(errors)
    assert everything["energy_gap"] == 1.5 and everything["above_lowest"] == 2.5
    assert everything["seconds_per_sample"] == 2
    assert found.loc["a", "glass"]["rdf_mse"] == pytest.approx(0.2)
    assert found.loc["a", "crystal"]["n"] == 1
    assert (everything["above_lowest_mean"], everything["crystalline"]) == (2.5, 0.5)
    ends = everything[["above_lowest_mean_low", "above_lowest_mean_high"]]
    assert tuple(ends) == tasks.bootstrap_interval([1.0, 2.0, 3.0, 4.0])
    ends = everything[["crystalline_low", "crystalline_high"]]
    assert tuple(ends) == tasks.bootstrap_interval([0.0, 0.0, 1.0, 1.0])
    assert found.loc["a", "crystal"]["crystalline"] == 1
    assert found.loc["a (paper)", "all"][["rdf_mse", "source"]].tolist() == [0.5, "them"]


def test_conditions_of_one_potential_do_not_count_as_independent():
    errors = [0.1, 0.2, 0.9, 0.8]
    lines = [_entry(row=row, rdf_mse=error, k=row // 2) for row, error in enumerate(errors)]
    quoted = pd.DataFrame(
        [{"model": "a", "task": "t", "split": "test", "rdf_mse": 0.5, "source": "them"}]
    )
    found = tables.table_1(pd.DataFrame(lines), quoted).iloc[0]
    wanted = tasks.bootstrap_interval(errors, groups=[0, 0, 1, 1])
    assert (found["ci_low"], found["ci_high"]) == wanted
    assert (found["rdf_mse"], found["median"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_of_several_samples_of_a_condition_the_mean_and_the_lowest_at_rest_count():
    def entries(row, errors, gaps):
        found = []
        for i, (error, gap) in enumerate(zip(errors, gaps, strict=True)):
            drawn = {"seed": i, "sampler": "s", "calls": 7.0, "seconds": 3.0}
            # As it is, the other one of each condition is the lowest.
            found.append(_entry("m", row, error, energy_gap=-gap, **drawn))
            drawn |= {"relaxed": True, "seconds": 4.0}
            found.append(_entry("m", row, 2 * error, energy_gap=gap, **drawn))
        return found

    lines = entries(0, [0.2, 0.4], [3.0, 1.0]) + entries(1, [0.6, 0.8], [0.5, 0.7])
    lines += entries(2, [5.0], [0.0])
    # Of quenches of one length, too.
    for seed, gap in enumerate((2.0, 1.0)):
        quench = {"n_steps": 10, "seed": seed, "energy_gap": gap, "seconds": 3.0}
        lines += [_entry("quench", **quench, rdf_mse=gap, relaxed=at_rest) for at_rest in (0, 1)]
    quoted = pd.DataFrame(
        [{"model": "a", "task": "t", "split": "test", "rdf_mse": 0.5, "source": "them"}]
    )
    summed = tables.table_1(pd.DataFrame(lines), quoted)
    by_length = summed[(summed["model"] == "quench") & (summed["reference"] == "all")]
    by_length = by_length[by_length["relaxed"] == 0].set_index("n_tries")
    assert by_length["rdf_mse"].to_dict() == {1: 1.5, 2: 1.0}
    assert by_length["seconds_per_sample"].to_dict() == {1: 3, 2: 6}
    found = summed[summed["model"] == "m"].set_index(["sampler", "n_tries", "relaxed", "reference"])
    mean, best = found.loc["s", 1, False, "all"], found.loc["s", 2, False, "all"]
    assert (mean["rdf_mse"], mean["n"]) == (pytest.approx((0.3 + 0.7 + 5) / 3), 3)
    assert (best["rdf_mse"], best["n"]) == (pytest.approx((0.4 + 0.6) / 2), 2)
    assert found.loc["s", 2, True, "all"]["rdf_mse"] == pytest.approx(0.4 + 0.6)
    assert (mean["calls"], best["calls"]) == (7, 14)
    assert (mean["seconds_per_sample"], best["seconds_per_sample"]) == (3, 8)


def test_surfaces_are_summed_up_by_model_task_and_sampler():
    losses = [0.1, 0.3, 0.5]
    scored = pd.DataFrame(
        [
            _entry(columns=surfaces.COLUMNS, task="torus", seed=i, sinkhorn=loss, distance=i)
            for i, loss in enumerate(losses)
        ]
    )
    quoted = pd.DataFrame([{"model": "a", "task": "torus", "sinkhorn": 0.9, "source": "them"}])
    ours, theirs = tables.table_a1(scored, quoted).to_dict("records")
    assert ours["sinkhorn"] == pytest.approx(0.3) and ours["n"] == 3 and ours["distance"] == 1
    assert (ours["ci_low"], ours["ci_high"]) == tasks.bootstrap_interval(losses)
    assert (theirs["model"], theirs["sinkhorn"], theirs["source"]) == ("a (paper)", 0.9, "them")


def test_summary_shows_raw_samples_of_each_models_best_sampler_with_their_intervals():
    lines = [
        _entry("mddm", row, error, sampler="corrected") for row, error in enumerate((0.1, 0.3))
    ]
    lines += [_entry("mddm", sampler="paper", rdf_mse=9.0)]
    lines += [_entry("mddm", sampler="polished", rdf_mse=0.05)]
    lines += [_entry("mddm", sampler="corrected", rdf_mse=8.0, relaxed=True)]
    lines += [_entry("ideal gas", rdf_mse=0.6)]
    lines += [_entry("quench", rdf_mse=1 / n, n_steps=n) for n in (2000, 8, 10)]
    lines += [_entry("lattice search", rdf_mse=4 / n, n_tries=n) for n in (1, 3)]
    paper = {"model": "mddm", "task": "conditional", "split": "test", "rdf_mse": 0.126}
    summed = tables.table_1(pd.DataFrame(lines), pd.DataFrame([paper | {"source": "them"}]))
    rows = tables.summary(summed).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    shown = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in rows}
    assert shown["mddm"].startswith("0.200 (0.1") and shown["mddm"].endswith("); 0.200")
    assert (shown["mddm (paper)"], shown["ideal gas"]) == ("0.126", "0.600")
    assert "transolver" not in shown
    # What asks the potential is told apart.
    asking = {name: error for name, error in shown.items() if name.endswith(tables.ASKS)}
    assert asking == {
        "mddm\u00a0†": "0.050",
        "quench, 8 steps\u00a0†": "0.125",
        "quench, 2,000 steps\u00a0†": "0.001",
        "lattice search\u00a0†": "4.000",
    }


def test_labels_say_what_and_how_and_samplers_that_ask_the_potential_are_told():
    lines = pd.DataFrame(
        [
            _entry("quench", n_steps=1000),
            _entry("lattice search", n_tries=3),
            _entry("bragg", sampler="polished"),
            _entry("bragg", sampler="cooled", n_tries=4),
            _entry("bragg", sampler="cooled"),
            _entry("bragg", sampler="cooled", relaxed=True),
            _entry("look-up"),
        ]
    )
    what = ["quench, 1,000 steps", "lattice search, best of 3", *4 * ["bragg"], "look-up"]
    assert tables.labels(lines).tolist() == what
    how = ["", "", "polished", "cooled, best of 4", "cooled", "cooled", ""]
    assert tables.sampler_labels(lines).tolist() == how
    asks = [True, True, True, True, False, True, False]
    assert tables.asks_potential(lines).tolist() == asks
    assert tables.marked(lines["model"], lines).str.endswith(tables.ASKS).tolist() == asks
    assert tables.by_best_sampler(lines).tolist() == [i == 2 for i in range(7)]


def test_summary_finds_its_place_and_says_so_when_there_is_none():
    page = f"a\n{tables.BEGIN}\nold | table\n{tables.END}\nb"
    new = tables.with_summary(page, "new \\1 table")
    assert new == f"a\n{tables.BEGIN}\n\nnew \\1 table\n\n{tables.END}\nb"
    assert tables.with_summary(new, "new \\1 table") == new
    with pytest.raises(ValueError, match="no place for the results"):
        tables.with_summary("a page", "table")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, small_disk):
    path = tmp_path / "table.csv"
    tables.write_csv(path, pd.DataFrame({"a": [1]}))
    with small_disk(5):
        with pytest.raises(OSError, match=rf"'{path}'"):
            tables.write_csv(path, pd.DataFrame({"a": [2, 3]}))
        with pytest.raises(OSError, match=rf"'{path}'"):
            tables.append_line(path, {"a": 23})
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "a\n1\n"


def test_lines_are_added_below_one_line_of_names(tmp_path):
    path = tmp_path / "lines.csv"
    for value in (1, 2):
        tables.append_line(path, {"a": value, "b": "x, y"})
    assert path.read_text() == 'a,b\n1,"x, y"\n2,"x, y"\n'
    assert np.array_equal(pd.read_csv(path)["a"], [1, 2])
    # Someone's disk was full in the middle of one.
    path.write_text('a,b\n1,"x, y"\n2,"x')
    tables.append_line(path, {"a": 3, "b": "z"})
    assert path.read_text() == 'a,b\n1,"x, y"\n3,z\n'


@pytest.mark.parametrize(
    ("lines", "whole", "torn"),
    [
        ('1,"x, y"\n2,"x, y"\n', [1, 2], []),
        ('1,"x, y"\n2,"x, y"', [1], [1]),
        ('1,"x, y"\n2', [1], [1]),
        ('1,"x\n2,"x, y"\n3\n4,z,5\n6,\n', [2, 6], [0, 1, 1]),
        ("", [], []),
    ],
)
def test_lines_that_were_torn_are_left_out_and_counted(tmp_path, lines, whole, torn):
    path = tmp_path / "lines.csv"
    path.write_text("a,b\n" + lines)
    assert tables.read_scores(path)["a"].tolist() == whole
    assert tables.torn_lines(path) == torn


def test_a_file_of_scores_that_is_missing_or_empty_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(FileNotFoundError, match=rf"no scores at {path}; `mddm results`"):
        tables.read_scores(path)
    for content in ("", "model,ta"):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"{path} is empty"):
            tables.read_scores(path)
