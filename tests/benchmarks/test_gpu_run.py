import importlib.util
import json
import sys
from pathlib import Path

import pytest

from mddm import checkpoint

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_run.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_command_that_fails_is_reported_and_the_next_is_run(script, tmp_path, monkeypatch):
    ran = []

    def fake(command, seconds):
        ran.append(" ".join(map(str, command)))
        return "out of time" if "train" in command else int("pytest" in command)

    monkeypatch.setattr(script, "run", fake)
    assert script.main(["--out", str(tmp_path), "--models", "mddm", "--seconds", "5"]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    status = {name: entry["status"] for name, entry in report.items() if "status" in entry}
    assert status == {
        "tests": 1,
        "train unconditional-mddm": "out of time",
        "train conditional-mddm": "out of time",
        "sample unconditional-mddm": 0,
        "sample conditional-mddm": 0,
        "steps": 0,
        "structures": 0,
    }
    assert len(ran) == len(status)


def test_a_model_is_trained_sampled_from_and_not_trained_again(script, tmp_path):
    asked = ["--out", str(tmp_path), "--quick", "--models", "mddm", "--tasks", "unconditional"]
    assert script.main([*asked, "--lines", "train", "sample"]) == 0
    path = tmp_path / "unconditional-mddm.safetensors"
    assert checkpoint.read(path, "checkpoint")[1]["step"] == 2
    assert (tmp_path / "unconditional-mddm.gsd").is_file()
    assert list(script.commands(script.parse_arguments(asked), "train")) == []


def test_what_is_out_of_time_is_interrupted(script, monkeypatch):
    monkeypatch.setattr(script, "GRACE", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    assert script.run([sys.executable, "-c", deaf], 0.5) == "out of time"
    assert script.run([sys.executable, "-c", "raise SystemExit(3)"], 60) == 3
