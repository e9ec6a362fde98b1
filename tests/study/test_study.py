import functools
import json
import random
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mddm import checkpoint, dataset, files, study

EXPECTED = {
    "profile": ("quick", "full"),
    "task": ("conditional", "unconditional"),
    "n_steps": int,
    "sigma_max": float,
    "shuffle": bool,
    "name": str,
    "n_neighbors": (12, 20),
}
VALUES = {
    "profile": "quick",
    "task": "conditional",
    "n_steps": 10,
    "sigma_max": 0.5,
    "shuffle": True,
    "name": "a",
    "n_neighbors": 20,
}


def check(**changed):
    study.check_parameters(VALUES | changed, **EXPECTED)


def test_good_parameters_pass():
    check()
    check(profile="full", n_steps=-3, sigma_max=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "conditionl"}, "did you mean 'conditional'?"),
        ({"profile": "zzz"}, r"profile must be one of 'quick', 'full'; got 'zzz'$"),
        ({"task": 3}, "task must be one of 'conditional', 'unconditional'; got 3"),
        ({"n_neighbors": 13}, "one of 12, 20; got 13"),
        ({"n_neighbors": 20.0}, "one of 12, 20; got 20.0"),
        ({"sigma_max": float("nan")}, "sigma_max must be finite"),
        ({"sigma_max": float("inf")}, "sigma_max must be finite"),
    ],
)
def test_a_wrong_value_is_refused(changed, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        check(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_steps": 1000.0}, "n_steps must be of type int, got 1000.0 .* n_steps = 1000$"),
        ({"n_steps": 1.5}, "n_steps must be of type int, got 1.5 of type float$"),
        ({"n_steps": True}, "n_steps must be of type int, got True"),
        ({"sigma_max": "1"}, "sigma_max must be of type float, got '1'"),
        ({"sigma_max": False}, "sigma_max must be of type float, got False"),
        ({"shuffle": "true"}, "shuffle must be of type bool, .* shuffle = True"),
        ({"shuffle": 1}, "shuffle must be of type bool"),
        ({"name": 7}, "name must be of type str, got 7 .* -r name 7"),
        ({"name": None}, "name must be of type str, got None"),
    ],
)
def test_a_wrong_type_is_refused(changed, message):
    with pytest.raises(TypeError, match=message):
        check(**changed)


def test_an_injected_name_that_no_parameter_has_is_refused():
    cells = ["", "profile: str = 'quick'", "# Parameters\nn_stps = 5\nseed = -3\n"]
    with pytest.raises(ValueError, match=r"unknown parameter 'n_stps'.*did you mean 'n_steps'\?"):
        check(In=cells, n_stps=5)


def test_names_from_other_cells_are_not_taken_for_parameters():
    check(In=["", "n_stps = 5", "# Parameters\nn_steps = 5\n"], n_stps=5)


def test_a_parameter_that_is_not_assigned_is_named():
    with pytest.raises(ValueError, match="seed is not set"):
        study.check_parameters(VALUES, seed=int)


def test_root_is_found_from_anywhere(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert study.project_root() == root


def test_root_of_an_installed_package_is_looked_for_upwards(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(
        study, "__file__", str(tmp_path / "elsewhere" / "mddm" / "study" / "__init__.py")
    )
    monkeypatch.chdir(tmp_path / "notebooks")
    assert study.project_root() == tmp_path.resolve()
    (tmp_path / "pyproject.toml").unlink()
    with pytest.raises(FileNotFoundError, match="clone the repository"):
        study.project_root()


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_seed_repeats_every_generator():
    study.seed_everything(3)
    first = draw()
    study.seed_everything(4)
    other = draw()
    study.seed_everything(3)
    assert draw() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        study.seed_everything(seed)


def test_record_says_what_ran_and_can_be_written():
    record = json.loads(json.dumps(study.run_record(5, preset="mddm", n_steps=7)))
    assert record["seed"] == 5
    assert record["preset"] == "mddm"
    assert record["n_steps"] == 7
    assert record["torch"] == torch.__version__
    assert record["mddm"]
    assert (record["device"] == "cpu") == (not torch.cuda.is_available())


def test_record_is_not_overwritten_by_a_detail():
    with pytest.raises(ValueError, match="torch is recorded already"):
        study.run_record(0, torch="3")


class Clock:
    """A clock that the loop under test moves by hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(study.time, "monotonic", lambda: self.now)

    def loop(self, items, seconds):
        for _ in items:
            self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_progress_passes_every_item_on():
    assert list(study.progress(iter("abc"))) == ["a", "b", "c"]
    assert list(study.progress([])) == []


def test_progress_is_silent_about_short_work(clock, capsys):
    clock.loop(study.progress(range(100)), 0.04)
    assert capsys.readouterr() == ("", "")


def test_progress_in_a_log_says_the_time_to_go_in_a_handful_of_lines(clock, capsys):
    clock.loop(study.progress(range(1000), label="train"), 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 5/1000, 5 s so far, 16 min 35 s to go"
    assert lines[1].startswith("train: 10/1000, 10 s so far")
    assert lines[-1] == "train: 1000 in 16 min 40 s"
    assert len(lines) < 12


def test_progress_without_a_length_counts(clock, capsys):
    clock.loop(study.progress(iter(range(6))), 2000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1, 33 min 20 s so far"
    assert lines[-1] == "6 in 3 h 20 min"


def test_progress_takes_a_total_for_a_generator(clock, capsys):
    clock.loop(study.progress(iter(range(4)), total=4), 10)
    assert "1/4, 10 s so far, 30 s to go" in capsys.readouterr().err


def test_progress_on_a_terminal_rewrites_one_line(clock, capsys, monkeypatch):
    monkeypatch.setattr(study.sys.stderr, "isatty", lambda: True)
    clock.loop(study.progress(range(30), label="sample"), 0.1)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert shown.count("\r") > 5


def test_progress_ends_its_line_when_the_loop_is_left(clock, capsys, monkeypatch):
    monkeypatch.setattr(study.sys.stderr, "isatty", lambda: True)
    items = study.progress(range(30))
    for item in items:
        clock.now += 1
        if item == 3:
            break
    items.close()
    assert capsys.readouterr().err.rstrip(" \n").endswith("4 in 4 s")


def parts(block):
    text = block.data
    assert text.startswith("<details><summary>") and text.endswith("</details>")
    entries = [line[2:] for line in text.splitlines() if line.startswith("- ")]
    return entries, text.split("```")[1].strip()


def test_provenance_has_the_command_that_does_it_again():
    parameters = {"profile": "quick", "seed": 3, "n_steps": 40, "data": "a b.h5", "checkpoint": ""}
    entries, command = parts(study.provenance("shapes", parameters, 75.2))
    assert "seed: 3" in entries
    assert "run time: 1 min 15 s" in entries
    program, notebook, out, *rest = shlex.split(command)
    assert (program, notebook, out) == ("papermill", "notebooks/shapes.ipynb", "out.ipynb")
    assert rest[::3] == ["-p"] * 5
    assert dict(zip(rest[1::3], rest[2::3], strict=True)) == {
        name: str(value) for name, value in parameters.items()
    }


def test_provenance_names_data_and_models_by_their_hashes(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    monkeypatch.setattr(dataset, "read", lambda path: SimpleNamespace(content_hash=f"of {path}"))
    model = tmp_path / "m.safetensors"
    checkpoint.write(model, {"w": torch.ones(1)}, {"kind": "checkpoint", "step": 1200})
    entries, _ = parts(study.provenance("train", {"seed": 0}, 1, "some.h5", [model]))
    assert entries[0] == f"data: `some.h5`, content `of {tmp_path / 'some.h5'}`"
    assert entries[1] == (
        f"model: `m.safetensors`, hash `{files.file_hash(model)}`, 1,200 steps of training"
    )


def test_provenance_names_a_model_outside_of_the_clone_by_its_whole_path(tmp_path):
    model = tmp_path / "m.safetensors"
    checkpoint.write(model, {"w": torch.ones(1)}, {"kind": "checkpoint", "step": 1200})
    entries, _ = parts(study.provenance("sample", {"seed": 0}, 1, checkpoints=[model]))
    assert entries[0].startswith(f"model: `{model}`, hash `{files.file_hash(model)}`")


def test_provenance_refuses_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="must contain the seed, got profile"):
        study.provenance("train", {"profile": "quick"}, 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        study.provenance("train", {"seed": 0}, 1, checkpoints=[tmp_path / "none"])


def test_models_of_other_data_have_a_folder_of_their_own(root):
    own = root / "data" / "checkpoints"
    name = "conditional-mddm.safetensors"
    path = functools.partial(study.checkpoint_path, task="conditional", model="mddm")
    assert path("full") == path("full", data=study.DATA) == own / name
    assert path("full", data=str(root / study.DATA)) == own / name
    assert path("full", data="data/../data/opp.h5") == own / name
    assert path("full", data="data/mine.h5") == own / "mine" / name
    assert path("quick", data="data/mine.h5") == own / "quick" / "mine" / name
    # Equal names in other places are other data.
    assert path("full", data="elsewhere/mine.h5") == own / "elsewhere-mine" / name
    assert path("full", data="/else/where/mine.h5") == own / "else-where-mine" / name


@pytest.mark.parametrize("data", ["", ".", "data", "/"])
def test_what_is_no_file_names_no_folder(data):
    with pytest.raises(ValueError, match=rf"data must name a file, .* got '{data}'"):
        study.name_of(data)


def test_runs_that_are_not_the_studys_own_have_a_folder_of_their_own(root):
    own = root / "data" / "checkpoints"
    place = functools.partial(study.checkpoint_path, task="torus", model="mddm")
    assert place("full", changes={}) == own / "torus-mddm.safetensors"
    assert place("full", changes={"n_steps": 5, "seed": 1}) == (
        own / "n_steps=5,seed=1" / "torus-mddm.safetensors"
    )
    assert place("quick", data="data/mine.h5", changes={"seed": 1}) == (
        own / "quick" / "mine" / "seed=1" / "torus-mddm.safetensors"
    )
