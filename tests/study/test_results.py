import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mddm import __main__ as command
from mddm import (
    checkpoint,
    crystal,
    dataset,
    lammps,
    phonons,
    presets,
    samplers,
    sampling,
    structure,
    study,
    training,
    trust,
)
from mddm.budget import Candidate
from mddm.condition import RANGES
from mddm.relaxing import Relaxing
from mddm.sampling import last
from mddm.study import (
    bottom,
    evaluation,
    jobs,
    large,
    results,
    rivals,
    surfaces,
    surrogates,
    tables,
    tasks,
    unseen,
)

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


def fewer_particles(data):
    """The same conditions, of cubic crystals in motion: a third of the particles, in a box of 7."""
    rng, sites = np.random.default_rng(0), np.indices((7, 7, 7)).reshape(3, -1).T
    positions = sites + rng.normal(0, 0.1, (len(data), *sites.shape))
    return replace(data, positions=positions, attributes={**data.attributes, "box_length": 7.0})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The file of a data set that is quickly scored, and beside it that of its replica."""
    path = tmp_path_factory.mktemp("data") / "small.h5"
    dataset.write(path, fewer_particles(dataset.read(SHIPPED)))
    replica = dataset.read(SHIPPED.with_name("opp-replica.h5"))
    dataset.write(path.with_name("opp-replica.h5"), fewer_particles(replica))
    return path


@pytest.fixture(scope="module")
def data(small):
    return dataset.read(small)


def _entry(model="a", row=0, source="now", rdf_mse=0.1, **changes):
    values = dict.fromkeys(evaluation.COLUMNS, 0.0)
    values |= {"model": model, "task": "conditional", "split": "test", "sampler": ""}
    values |= {"row": row, "seed": 0, "relaxed": False, "source": source, "rdf_mse": rdf_mse}
    values |= {"n_steps": 0, "n_tries": 1}
    return values | changes


def _job(done, row, **changes):
    entry = _entry(row=row, **changes)

    def job():
        done.append(row)
        return [entry, entry | {"relaxed": True}]

    return evaluation.Key(**{name: entry[name] for name in evaluation.KEYS}), job


def test_replicated_rows_are_chosen_first(data):
    chosen = jobs.choose_rows(data, "train", 6)
    assert len(set(chosen)) == 6
    assert all(len(data.partners(row)) for row in chosen[:4])
    assert all(data.split[row] == "train" for row in chosen)
    assert jobs.choose_rows(data, "train", 4) == chosen[:4]


def test_only_what_is_missing_is_scored(tmp_path):
    path, done = tmp_path / "new" / "scores-a.csv", []
    results.collect(path, [_job(done, 0), _job(done, 1)])
    found = results.collect(path, [_job(done, row) for row in range(3)])
    assert done == [0, 1, 2]
    assert found["row"].tolist() == [0, 0, 1, 1, 2, 2]
    again = tables.read_scores(path)
    assert tuple(again.columns) == evaluation.COLUMNS
    assert again["sampler"].tolist() == [""] * 6


@pytest.mark.parametrize("line", range(1, 7))
def test_a_torn_line_is_scored_again_with_its_job(tmp_path, line):
    path, done = tmp_path / "scores-a.csv", []
    whole = results.collect(path, [_job(done, row) for row in range(3)])
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line][:40] + "\n" * (line < 6)
    path.write_text("".join(lines))
    found = results.collect(path, [_job(done, row) for row in range(3)])
    assert (line - 1) // 2 in done[3:] and len(done) < 3 + 3
    columns = ["row", "relaxed"]
    found = found.sort_values(columns, ignore_index=True)
    pd.testing.assert_frame_equal(found, whole, check_dtype=False)
    pd.testing.assert_frame_equal(
        tables.read_scores(path).sort_values(columns, ignore_index=True), whole, check_dtype=False
    )


def test_what_was_scored_outlives_a_failure(tmp_path):
    path, done = tmp_path / "scores-a.csv", []

    def fails():
        raise KeyboardInterrupt

    key, _ = _job([], 1)
    with pytest.raises(KeyboardInterrupt):
        results.collect(path, [_job(done, 0), (key, fails)])
    assert tables.read_scores(path)["row"].tolist() == [0, 0]
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


def one_lattice(potentials, n_particles, box_length, n_best):
    found = [two_lattices(each, n_particles, box_length, 0.02) for each in potentials]
    return [[vibrations[0].crystal] for vibrations in found]


def two_lattices(potential, n_particles, box_length, temperature, n_best=2):
    n_cells = round(n_particles ** (1 / 3))
    # About a half, by which layers are shifted; all of them together by whole cells.
    shift = n_cells // 2 / n_cells
    cell = box_length / n_cells * np.array([[1, 0, 0], [0, 1, 0], [shift, shift, 1]])
    sheared = crystal.Crystal(cell, np.zeros((1, 3)), box_length)
    energy = crystal.energy(sheared, potential)
    sheared = crystal.Crystal(cell, np.zeros((1, 3)), box_length, energy)
    return [phonons.vibrations(sheared, potential, temperature)] * 2


def answered(seconds, draw, *_, **__):
    """What is found within a budget: the sample."""
    return [Candidate("sample", last(draw(0)).positions[0].numpy(), 0.0, 0.0, 1.0)]


@pytest.fixture
def project(tmp_path, monkeypatch, small):
    """A project of its own, with untrained checkpoints and little to score."""
    (tmp_path / "data" / "results").mkdir(parents=True)
    for name in ("paper-table1.csv", "paper-table-a1.csv"):
        shutil.copy(SHIPPED.parent / "results" / name, tmp_path / "data" / "results")
    shutil.copy(small.with_name("opp-replica.h5"), tmp_path / "data")
    for name in ("any.h5", "opp-tests.h5"):
        shutil.copy(small, tmp_path / "data" / name)
    (tmp_path / "README.md").write_text(f"before\n{tables.BEGIN}\n{tables.END}\nafter\n")
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    for task, preset in product(tasks.TASKS, evaluation.MODELS):
        told = {"ranges": RANGES if task == "conditional" else {}}
        if task == "potential":
            told = {"told": task, "ranges": {"temperature": (0.005, 0.1)}}
        state = training.TrainingState(presets.Settings(preset=preset, **told))
        checkpoint.save(study.checkpoint_path("full", task, preset), state)
    few = {"train": 1, "test": 2, "unconditional": 1, "surfaces": 2, "others": {"train": 0}}
    few |= {"quenched": 1, "quenches": 1, "levels": 2, "best levels": 2, "draws": 1, "tries": 2}
    few |= {"lattices": 1, "drawn": 1, "bottom": 1, "answers": 1, "unseen": 1, "large": 1}
    few |= {"tests": 1}
    # It has tests of its own, and takes seconds to list all lattices.
    monkeypatch.setattr(surrogates.lattices, "search", lambda *_, **__: [])
    monkeypatch.setattr(surrogates.lattices, "search_many", one_lattice)
    monkeypatch.setattr(surrogates.lattices, "stable", two_lattices)
    monkeypatch.setattr(surrogates.budget, "within", answered)
    monkeypatch.setattr(evaluation, "LATTICE_STEPS", 5)
    monkeypatch.setattr(unseen, "N_SAMPLES", 1)
    monkeypatch.setattr(large, "CONDITIONS", (0,))
    monkeypatch.setattr(large, "SAMPLED", {1: 1, 2: 1})
    monkeypatch.setattr(large, "ANNEALED", {1: 1})
    monkeypatch.setattr(large, "N_STEPS", 10)
    monkeypatch.setattr(trust, "QUENCH_STEPS", 10)
    monkeypatch.setattr(bottom, "HELD_STEPS", 5)
    monkeypatch.setattr(bottom, "HEATED_STEPS", 4)
    monkeypatch.setattr(jobs, "LONG_QUENCH", 10)
    monkeypatch.setattr(jobs, "PROFILES", {"quick": few, "full": few})
    monkeypatch.setattr(jobs, "POINTS", 60)
    # It has tests of its own.
    monkeypatch.setattr(lammps, "minimize", lambda positions, *_, **__: (positions, 0.0, True))
    monkeypatch.setattr(Relaxing, "__call__", lambda _, positions, **__: positions)
    return tmp_path


def test_plans_have_no_job_twice_and_wrong_names_are_refused(data, project):
    for what in jobs.GROUPS:
        keys = [key for key, _ in jobs.jobs_of(data, what, "quick")]
        assert len(set(keys)) == len(keys) > 0
    with pytest.raises(ValueError, match="what must be one of yardsticks"):
        jobs.jobs_of(data, "quenches", "quick")


def test_samplers_other_than_the_best_are_asked_for_fewer_conditions(data, project):
    asked = [key.sampler for key, _ in jobs.jobs_of(data, "mddm", "full") if key.split == "train"]
    assert asked.count(samplers.BEST["mddm"]) == 3
    assert asked.count("ancestral") == asked.count("paper") == 1
    assert asked[0] == samplers.BEST["mddm"]
    wanted = jobs.jobs_of(data, "transolver", "full")
    asked = [key.sampler for key, _ in wanted if key.split == "train"]
    assert asked == ["ancestral", "ancestral", "paper"]


def test_several_samples_of_a_condition_are_asked_for_where_the_potential_is(data, project):
    for preset, split in product(("transolver", "mddm"), ("train", "test")):
        wanted = jobs.jobs_of(data, preset, "full")
        keys = [key for key, _ in wanted if (key.task, key.split) == ("conditional", split)]
        assert all(key.seed == 0 or key.sampler == samplers.BEST[preset] for key in keys)
        assert len({key.seed for key in keys}) == (2 if preset == "mddm" else 1)


def test_checkpoint_that_is_missing_is_named_with_the_command_that_makes_it(data, project):
    study.checkpoint_path("full", "torus", "mddm").unlink()
    with pytest.raises(FileNotFoundError, match="-p task torus -p model mddm -p profile full"):
        jobs.jobs_of(data, "surfaces", "quick")


def test_one_command_scores_everything_and_a_second_one_nothing(
    project, small, capsys, monkeypatch
):
    monkeypatch.setattr(study, "DATA", str(small))
    assert command.main(["results"]) == 0
    folder = project / "data" / "results"
    assert capsys.readouterr().out.split() == [
        "wrote",
        *("data/results/lowest.csv,", "data/results/table1.csv,"),
        *("data/results/figure5.csv,", "data/results/unseen.csv,"),
        *("data/results/distributions.csv,", "data/results/table-a1.csv"),
    ]
    in_box = pd.read_csv(folder / "table1.csv")
    marks = {evaluation.IDEAL_GAS, evaluation.LOOKED_UP, evaluation.RELAXED_NOISE, "MD replica"}
    assert {*evaluation.MODELS, *marks, "mddm (paper)"} <= set(in_box["model"])
    assert {*samplers.BEST.values(), "paper", "ancestral"} <= set(in_box["sampler"])
    tries = in_box[in_box["n_tries"] == 2]
    several = {name for name in samplers.BEST.values() if samplers.SAMPLERS[name].asks_potential}
    several |= {samplers.BEST_TOLD, "cooled", ""}
    assert set(tries["sampler"].fillna("")) == several
    assert set(in_box[in_box["model"] == "quench"]["n_steps"]) == {100}
    at_rest = in_box[in_box["relaxed"].astype(bool)]
    assert (at_rest["above_lowest"] >= -1e-9).all() and in_box["above_lowest"].isna().any()
    assert {"seeded", "seeded at the lowest"} <= set(in_box["sampler"])
    assert {"answer in 10 s", "bragg, told U"} <= set(in_box["model"])
    judged = set(pd.read_csv(folder / "unseen.csv")["model"])
    assert judged == {"quench", "sample", evaluation.LOOKED_UP}
    more = pd.read_csv(folder / "scores-tests.csv")
    assert set(more["model"]) == {"quench", "answer in 10 s"} and set(more["split"]) == {"tests"}
    held = pd.read_csv(folder / "scores-bottom.csv")
    assert held["model"].tolist()[:2] == ["lattice", "MD from the lattice"]
    clouds = pd.read_csv(folder / "table-a1.csv").set_index(["task", "model"])
    assert set(surfaces.MODELS) <= set(clouds.loc["torus"].index)
    assert clouds.loc[("torus", "true cloud"), "n"] == 2
    curves = pd.read_csv(folder / "figure5.csv")
    assert set(curves["chosen"]) == {"drawn", "best", "worst"}
    assert {"MD", *evaluation.MODELS} <= set(curves["curve"])
    losses = pd.read_csv(folder / "scores-losses.csv").groupby(["task", "model"])
    assert (losses.size() == losses.size().max()).all() and len(losses) == 2 * len(
        evaluation.MODELS
    )
    readme = (project / "README.md").read_text()
    assert "| ideal gas | " in readme
    assert readme.startswith("before\n") and readme.endswith("\nafter\n")

    def fails(*_):
        raise AssertionError("scored twice")

    for name in ("sample", "seeded_sample", "answer", "losses"):
        monkeypatch.setattr(surrogates, name, fails)
    for name in ("sample", "yardsticks"):
        monkeypatch.setattr(surfaces, name, fails)
    of_rivals = ("yardsticks", "look_up", "relaxed_noise", "quench", "lattice_search")
    for name in (*of_rivals, "anneal_at_rest", "replica"):
        monkeypatch.setattr(rivals, name, fails)
    # Nor is a curve of figure 5 drawn again.
    monkeypatch.setattr(surrogates.Surrogate, "frames", fails)
    assert command.main(["results"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(folder / "figure5.csv"), curves)


@pytest.mark.parametrize(
    ("own", "options", "folder"),
    [
        (True, ["--profile", "quick"], "quick"),
        (False, [], "mine"),
        (False, ["--profile", "quick"], "mine/quick"),
    ],
)
def test_quick_scores_and_other_data_leave_the_study_alone(
    project, small, monkeypatch, own, options, folder
):
    if own:
        monkeypatch.setattr(study, "DATA", str(small))
    else:
        (project / "data" / "mine.h5").symlink_to(small)
        options = [*options, "--data", "data/mine.h5"]
    before = (project / "README.md").read_text()
    assert command.main(["results", "yardsticks", *options]) == 0
    results_of_the_study = {path.name for path in (project / "data" / "results").glob("*.csv")}
    assert results_of_the_study == {"paper-table1.csv", "paper-table-a1.csv"}
    assert (project / "data" / "results" / folder / "table1.csv").exists()
    assert (project / "README.md").read_text() == before


def test_models_of_other_data_are_scored_against_it(project, small, capsys):
    mine = "data/mine.h5"
    (project / mine).symlink_to(small)
    assert command.main(["results", "losses", "--data", mine]) == 1
    told = capsys.readouterr().err
    assert "checkpoints/mine/unconditional-mddm.safetensors; make it with" in told
    assert "-p task unconditional -p model mddm -p profile full -p data data/mine.h5" in told
    for task, preset in product(("unconditional", "conditional"), evaluation.MODELS):
        ranges = RANGES if task == "conditional" else {}
        state = training.TrainingState(presets.Settings(preset=preset, ranges=ranges, seed=1))
        checkpoint.save(study.checkpoint_path("full", task, preset, mine), state)
    sources = {}
    for own in (False, True):
        of = "" if own else mine
        data = dataset.read(project / mine)
        for what in (*evaluation.MODELS, "losses"):
            wanted = jobs.jobs_of(data, what, "quick", trained_on=of)
            sources[own, what] = {key.source for key, _ in wanted}
            for _, job in wanted if what in ("mddm", "losses") else ():
                (entry, *_) = job()
                assert entry["source"] in sources[own, what]
                break
    for what in (*evaluation.MODELS, "losses"):
        assert not sources[True, what] & sources[False, what]


def test_a_page_without_a_place_for_results_is_told_before_the_work(
    project, small, monkeypatch, capsys
):
    monkeypatch.setattr(study, "DATA", str(small))
    (project / "README.md").write_text("no marks")
    assert command.main(["results", "yardsticks"]) == 1
    assert "no place for the results" in capsys.readouterr().err
    assert not list((project / "data" / "results").glob("scores-*"))


def test_command_line_names_what_it_does_not_know(capsys):
    assert command.main(["results", "quenches", "--profile", "quick"]) == 1
    assert "what must be one of yardsticks" in capsys.readouterr().err


@pytest.fixture(scope="module")
def committed(root):
    """The study's own scores, by group."""
    folder = root / "data" / "results"
    return {what: tables.read_scores(folder / f"scores-{what}.csv") for what in jobs.GROUPS}


@pytest.fixture(scope="module")
def scored_data(root):
    return dataset.read(root / study.DATA)


def test_every_committed_score_is_of_this_data_and_of_these_checkpoints(committed, scored_data):
    for what, scored in committed.items():
        wanted = {key.source for key, _ in jobs.jobs_of(scored_data, what, "full")}
        assert set(scored["source"]) == wanted, f"run `mddm results {what}`"


# One network by its best sampler, another in figure 5 below, the third by its losses, and the
# fourth on a surface.
def test_committed_score_of_a_model_is_what_its_checkpoint_gives(committed, scored_data):
    scored, sampler = committed["mddm"], samplers.BEST["mddm"]
    asked = (scored["task"] == "conditional") & (scored["sampler"] == sampler)
    raw, relaxed = scored[asked & (scored["split"] == "test")].iloc[:2].to_dict("records")
    levels = jobs.levels_of(sampler, jobs.PROFILES["full"])
    surrogate = surrogates.Surrogate("mddm", "conditional", sampler, levels)
    again = surrogates.sample(scored_data, raw["row"], surrogate, raw["seed"])
    for found, expected in zip(again[:2], (raw, relaxed), strict=True):
        # Another processor rounds otherwise, and a sample is not the same to the last digit.
        assert found["rdf_mse"] == pytest.approx(expected["rdf_mse"], rel=0.05)
        assert found["energy_gap"] == pytest.approx(expected["energy_gap"], rel=0.1, abs=0.02)
        assert found["calls"] == expected["calls"]


def test_committed_losses_of_bragg_are_what_its_checkpoint_gives(committed, scored_data):
    """Rounding alone turns a sample of it into another, but not these."""
    expected = committed["losses"][lambda found: found["model"] == "bragg"]
    expected = expected[expected["task"] == "conditional"]
    denoiser, _ = checkpoint.load(study.checkpoint_path("full", "conditional", "bragg"), "bragg")
    # Where it looks for waves and sites is among them.
    sigmas = torch.tensor(expected["sigma"].to_numpy()[:9], dtype=torch.float32)
    source = tasks.training_source("conditional", scored_data)
    found = training.level_losses(denoiser, source, sigmas, jobs.PROFILES["full"]["draws"])
    assert found.tolist() == pytest.approx(expected["trained_on"].tolist()[:9], rel=0.01)


def test_committed_score_of_a_cloud_is_what_its_checkpoint_gives(committed):
    scored, surface = committed["surfaces"], "torus"
    asked = (scored["task"] == surface) & (scored["sampler"] == samplers.BEST_IN_FREE_SPACE)
    first = scored[asked & (scored["model"] == "transolver")].iloc[0]
    surrogate = surrogates.Surrogate("transolver", surface, samplers.BEST_IN_FREE_SPACE)
    (again,) = surfaces.sample(surrogate, jobs.POINTS, int(first["seed"]))
    assert again["sinkhorn"] == pytest.approx(first["sinkhorn"], rel=0.05)


def test_committed_curve_is_what_the_checkpoint_gives(root, scored_data):
    curves = pd.read_csv(root / "data" / "results" / "figure5.csv")
    curve = curves[(curves["curve"] == "mddm-rbf") & (curves["chosen"] == "best")]
    row = int(curve["row"].iloc[0])
    surrogate = surrogates.Surrogate("mddm-rbf", "conditional", samplers.BEST["mddm-rbf"])
    final = sampling.last(surrogate.frames(scored_data, row))
    r, g = structure.rdf(final.positions.numpy(), scored_data.box_length)
    assert curve["r"].to_numpy() == pytest.approx(r, rel=1e-4)
    assert structure.rdf_mse(curve["g"].to_numpy(), g) < 0.05 * curve["rdf_mse"].iloc[0]


def test_committed_tables_and_the_readme_are_sums_of_the_committed_scores(
    root, committed, scored_data
):
    folder = root / "data" / "results"
    in_box = [scored for what, scored in committed.items() if what not in jobs.COLUMNS]
    quoted = pd.read_csv(folder / "paper-table1.csv")
    scored = pd.concat(in_box, ignore_index=True)
    lowest = bottom.lowest_known(scored_data, scored)
    summed = tables.table_1(bottom.above_lowest(scored_data, scored, lowest), quoted)
    told = tables.read_scores(folder / "table1.csv")
    assert len(told) == len(summed)
    for name in ("rdf_mse", "crystalline", "above_lowest_mean"):
        wanted = pytest.approx(summed[name].to_numpy(), rel=1e-4, nan_ok=True)
        assert told[name].to_numpy() == wanted, name
    assert told["model"].tolist() == summed["model"].tolist()
    found_by = pd.read_csv(folder / "lowest.csv")["found_by"]
    assert found_by.tolist() == lowest["found_by"].tolist()
    quoted = pd.read_csv(folder / "paper-table-a1.csv")
    summed = tables.table_a1(committed["surfaces"], quoted)
    told = tables.read_scores(folder / "table-a1.csv")
    assert told["model"].tolist() == summed["model"].tolist()
    assert told["sinkhorn"].to_numpy() == pytest.approx(summed["sinkhorn"].to_numpy(), rel=1e-4)
    readme = (root / "README.md").read_text()
    summary = tables.summary(tables.read_scores(folder / "table1.csv"))
    assert tables.with_summary(readme, summary) == readme, "run `mddm results`"
