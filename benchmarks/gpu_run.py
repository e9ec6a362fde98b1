"""Everything worth a GPU, one command after the other; results go into one folder.

    python benchmarks/gpu_run.py --out results              # hours of a CPU, minutes of a GPU
    python benchmarks/gpu_run.py --out results --quick      # minutes of either: does it all run?

tests    the tests that need a GPU
train    every model on both MD tasks: `mddm train`
sample   structures of a condition from each of them: `mddm sample`
time     a training step of each network, and what a structure costs: the other benchmarks

Each command has a time limit, and one that fails or runs out of time does not keep the next from
running.  Run again, a training that ran out of time goes on.  report.json says what took how long.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from mddm import files, presets, study

ROOT = study.project_root()
LINES = ("tests", "train", "sample", "time")
# How long a command that is out of time may take to save what it has [s].
GRACE = 60


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--models", nargs="+", default=tuple(presets.PRESETS))
    parser.add_argument("--tasks", nargs="+", default=("unconditional", "conditional"))
    parser.add_argument(
        "--data", nargs="+", default=[ROOT / study.DATA], help="to train on; all for `potential`"
    )
    parser.add_argument("--seconds", type=float, default=900, help="of each command")
    parser.add_argument("--quick", action="store_true", help="two steps of each: does it run?")
    return parser.parse_args(arguments)


def commands(options, line):
    """Give what a line runs, by name; where a model is there already it is not trained again."""
    device = str(study.device())
    mddm, python = [sys.executable, "-m", "mddm"], [sys.executable]
    if line == "tests":
        yield "tests", [*python, "-m", "pytest", "-q", ROOT / "tests", "-k", "cuda or gpu"]
    elif line == "time":
        few = ["--repeats", "2"] if options.quick else []
        models = ["--models", *options.models, "--devices", device, *few]
        yield "steps", [*python, ROOT / "benchmarks/pbcconv.py", *models]
        table = ["--data", options.data[0], "--output", options.out.resolve() / "timing.csv"]
        yield "structures", [*python, ROOT / "benchmarks/timing.py", *table, *few]
    else:
        for task in options.tasks:
            for model in options.models:
                name = f"{task}-{model}"
                path = options.out / f"{name}.safetensors"
                if line == "train" and not path.exists():
                    few = ["--n-steps", "2", "--batch-size", "1"] if options.quick else []
                    data = options.data if task == "potential" else options.data[:1]
                    asked = ["--task", task, "--model", model, "--data", *data, *few]
                    yield f"train {name}", [*mddm, "train", *asked, "--out", path]
                if line == "sample":
                    asked = ["--model", path, "--out", options.out / f"{name}.gsd"]
                    asked += ["--device", device, "--n-samples", "1" if options.quick else "16"]
                    asked += ["--sampler", "ancestral", "--n-levels", "2"] if options.quick else []
                    if task == "conditional":
                        asked += ["--k", "9", "--phi", "0.75", "--temperature", "0.02"]
                    if task == "potential":
                        asked += ["--potential", "opp:k=9,phi=0.75", "--temperature", "0.02"]
                    yield f"sample {name}", [*mddm, "sample", *asked]


def run(command, seconds):
    """Run a command to its end, or interrupt it; give its exit status."""
    process = subprocess.Popen(list(map(str, command)))
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # `mddm train` keeps its state.
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return "out of time"


def main(arguments=None):
    options = parse_arguments(arguments)
    report = {"torch": torch.__version__, "device": study.run_record(0)["device"]}
    for line in options.lines:
        for name, command in commands(options, line):
            print(f"-- {name}", flush=True)
            start = time.perf_counter()
            status = run(command, options.seconds)
            report[name] = {"status": status, "seconds": round(time.perf_counter() - start, 1)}
            files.write_whole(options.out / "report.json", json.dumps(report, indent=1) + "\n")
    failed = [name for name, entry in report.items() if isinstance(entry, dict) and entry["status"]]
    print(f"failed: {', '.join(failed)}" if failed else "all ran")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
