import itertools
import signal
from dataclasses import replace

import pytest
import torch

import mddm
from mddm import __main__ as command
from mddm import checkpoint, files, presets, shapes, study
from mddm.configurations import Configurations
from mddm.study import tasks, train

SMALL = {"channels": 8, "n_layers": 1, "hidden_channels": 4, "head_channels": 4}
LARGER = SMALL | {"channels": 12}
SPHERE = shapes.Surface("sphere", 70)
BOX = Configurations(torch.rand(1, 20, 3), None, 10.0)


class Stopped(shapes.Surface):
    """A surface in the middle of whose third draw Ctrl-C is pressed."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "count", itertools.count(1))

    def draw(self, *arguments):
        if next(self.count) == 3:
            signal.raise_signal(signal.SIGINT)
        return super().draw(*arguments)


def settings(**changes):
    run = {"n_steps": 6, "batch_size": 2, "seed": 0, "architecture": SMALL} | changes
    return train.settings_of("mddm", SPHERE, **run)


def test_budgets_are_those_of_the_studys_own_models():
    steps = {
        (task, model): train.budget("full", task, model)["n_steps"]
        for task in tasks.TASKS
        for model in presets.PRESETS
    }
    assert steps["conditional", "mddm"] == 28_000
    assert steps["conditional", "bragg"] == steps["conditional", "transolver"] == 30_000
    assert steps["unconditional", "mddm"] == 10_000 and steps["torus", "mddm"] == 3_000
    assert steps["torus", "mddm-rbf"] == 5_000
    compared = 0
    for task, model in steps:
        path = study.project_root() / "data" / "checkpoints" / f"{task}-{model}.safetensors"
        if not path.exists():
            continue
        header = checkpoint.read(path, "checkpoint")[1]["settings"]
        if task == "potential":
            # Its last training, on a GPU, is a line of its own.
            asked = f"--n-steps {header['n_steps']} --batch-size {header['batch_size']}"
            asked += f" --learning-rate {header['learning_rate']:g}"
            assert asked in (study.project_root() / "book/reproduce.md").read_text()
            continue
        if header["architecture"].keys() == presets.default_architecture(model).keys():
            source = SPHERE if task in shapes.SURFACES else BOX
            run = train.budget("full", task, model) | {"start": header.get("start", "")}
            wanted = train.settings_of(model, source, **run)
            for name in (
                *("n_steps", "batch_size", "seed", "learning_rate", "schedule", "sigma_max"),
                "architecture",
            ):
                assert header[name] == getattr(wanted, name), (path.name, name)
            compared += 1
    assert compared >= 9


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("ful", "conditional", "mddm"), "did you mean 'full'"),
        (("full", "conditionl", "mddm"), "did you mean 'conditional'"),
        (("full", "conditional", "brag"), "did you mean 'bragg'"),
    ],
)
def test_a_mistyped_run_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        train.budget(*asked)


def test_what_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, interruptible):
    path, whole = tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors"
    unfinished = tmp_path / "stopped.state.safetensors"
    with pytest.raises(KeyboardInterrupt, match=f"at step 3 of 6, kept in {unfinished}"):
        train.run(path, settings(), Stopped("sphere", 70))
    assert list(tmp_path.iterdir()) == [unfinished]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ValueError, match="n_steps was 6, is 7"):
        train.run(path, settings(n_steps=7), SPHERE)
    state = train.run(path, settings(), SPHERE, {"task": "sphere"})
    train.run(whole, settings(), SPHERE)
    assert sorted(tmp_path.iterdir()) == [path, whole]
    assert state.step == 6 and state.losses.isfinite().all()
    tensors, header = checkpoint.read(path, "checkpoint")
    expected, _ = checkpoint.read(whole, "checkpoint")
    assert header["record"] == {"task": "sphere"}
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_another_runs_model_is_replaced_only_where_that_is_meant(tmp_path):
    path = tmp_path / "model.safetensors"
    train.run(path, settings(n_steps=2), SPHERE)
    with pytest.raises(FileExistsError, match="n_steps was 2, is 3"):
        train.run(path, settings(n_steps=3), SPHERE)
    train.run(path, settings(n_steps=3), SPHERE, anew=True)
    assert checkpoint.read(path, "checkpoint")[1]["step"] == 3
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        train.run(tmp_path / "model.pt", settings(), SPHERE)


def test_a_run_may_start_with_the_weights_of_another(tmp_path):
    first, more = tmp_path / "first.safetensors", tmp_path / "more.safetensors"
    train.run(first, settings(n_steps=2), SPHERE)
    weights, _ = checkpoint.read(first, "checkpoint")
    further = replace(settings(n_steps=1, start=files.file_hash(first)), learning_rate=1e-12)
    assert settings(start="known").learning_rate == settings().learning_rate / 2
    train.run(more, further, SPHERE, start=first)
    for name, value in checkpoint.read(more, "checkpoint")[0].items():
        torch.testing.assert_close(value, weights[name], msg=name)
    for changes, path, message in (
        ({}, first, "is not what the run started with: weights of its seed"),
        ({"start": files.file_hash(first), "architecture": LARGER}, first, "architecture differ"),
    ):
        with pytest.raises(ValueError, match=message):
            train.run(tmp_path / "wrong.safetensors", settings(**changes), SPHERE, start=path)


def test_a_session_at_the_command_line(tmp_path, capsys, monkeypatch, interruptible):
    sources = [Stopped("sphere", 70), SPHERE]
    monkeypatch.setattr(tasks, "training_source", lambda *_: sources.pop(0))
    out = tmp_path / "mine.safetensors"
    call = ["train", "--task", "sphere", "--n-steps", "4", "--batch-size", "1", "--out", str(out)]
    assert command.main(call) == 130
    assert capsys.readouterr().err.startswith("mddm: stopped at step 3 of 4, kept in")
    assert command.main(call) == 0
    assert f"wrote {out}: 4 steps" in capsys.readouterr().out
    card = mddm.load(out).card
    assert (card.preset, card.box_length, card.steps) == ("mddm", None, 4)
    _, header = checkpoint.read(out, "checkpoint")
    assert header["record"]["data_file"] == "" and header["settings"]["batch_size"] == 1
