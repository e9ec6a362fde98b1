"""Everything worth a GPU, line by line, each with a time limit; results go into one folder.

    python benchmarks/gpu_run.py --out results              # hours of a CPU, minutes of a GPU
    python benchmarks/gpu_run.py --out results --quick      # seconds of either: does it all run?

The lines, in this order:
  tests    the tests that need a GPU
  check    the forces of `mddm.md` against double precision; a training step of each model
  anneal   the paper's 1,000 training and 25 test conditions in one batch
  train    every model on both MD tasks
  time     training steps and calls of each network a second, beside the device's own rates

A line runs in a process of its own: one that fails or takes too long does not keep the next from
running.  A line that is run again goes on from what it has saved.  Needed are torch,
torch-geometric, numpy, scipy, h5py and safetensors, for the first line pytest.  No file is larger
than 16 MiB.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mddm import __version__, dataset, md, pairs, study, training  # noqa: E402
from mddm.condition import sigma_max  # noqa: E402
from mddm.potential import OscillatingPair, Smoothed, potential_energy  # noqa: E402
from mddm.study import plan  # noqa: E402

LINES = ("tests", "check", "anneal", "train", "time")
# Where a state of the anneal goes: a file each, so that none grows too large.
STATE_PARTS = ("positions", "velocities", "forces")
# Beyond its seconds a line may take so long to start, to compile and to save.
GRACE = 300


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it all run?")
    parser.add_argument(
        "--seconds",
        type=float,
        help="of the anneal, of each network's training, and of each other line",
    )
    parser.add_argument("--steps", type=int, help="MD steps of the anneal")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="of training, when timed")
    parser.add_argument("--train-batch", type=int, help="configurations a training step")
    parser.add_argument(
        "--data",
        type=Path,
        help="what to train on: a data set, or the anneal.npz of an earlier run; "
        "by default the study's data",
    )
    parser.add_argument("--models", nargs="+", choices=tuple(training.PRESETS))
    parser.add_argument("--tasks", nargs="+", choices=("unconditional", "conditional"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    on_gpu = torch.cuda.is_available()
    full, quick = (480.0, 200_000, [4, 32, 128], 32), (5.0, 60, [1], 1)
    if not on_gpu:
        full = (480.0, 200_000, [1, 4], 4)
    names = ("seconds", "steps", "batch_sizes", "train_batch")
    for name, value in zip(names, quick if options.quick else full, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.models = options.models or list(training.PRESETS)
    options.tasks = options.tasks or ["unconditional", "conditional"]
    options.data = options.data or ROOT / study.DATA
    options.device = torch.device("cuda" if on_gpu else "cpu")
    return options


def main():
    options = parse_arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.worker:
        (line,) = options.lines
        globals()[f"run_{line}"](options)
        return 0
    report = {"mddm": __version__, "torch": torch.__version__, "device": device_name(options)}
    print(report, flush=True)
    failed = False
    for line in options.lines:
        networks = len(options.models) * len(options.tasks) if line == "train" else 1
        limit = networks * (options.seconds + GRACE)
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", "--lines", line]
        start = time.perf_counter()
        try:
            status = subprocess.run(command, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            status = "out of time"
        report[line] = {"status": status, "seconds": round(time.perf_counter() - start, 1)}
        print(line, report[line], flush=True)
        failed |= status != 0
        (options.out / "report.json").write_text(json.dumps(report, indent=1))
    return int(failed)


def device_name(options):
    return torch.cuda.get_device_name() if options.device.type == "cuda" else "cpu"


def run_tests(options):
    if options.device.type == "cpu":
        print("no GPU, no tests of one")
        return
    names = ("md", "geometry", "pbcconv", "bragg", "waves")
    files = [ROOT / "tests" / f"test_{name}.py" for name in names]
    subprocess.run([sys.executable, "-m", "pytest", "-q", *files, "-k", "cuda or gpu"], check=True)


def run_check(options):
    conditions = all_conditions()[0][:: 341 if options.quick else 100]
    *_, state = md.anneal(conditions, 20, options.seed, **md_settings(options))
    worst = 0.0
    listed = pairs.make_pairs(conditions, box_length(options), options.device, torch.float32)
    listed.rebuild(state.positions.transpose(1, 2).contiguous())
    forces, energy, _ = listed.sums(state.positions.transpose(1, 2).contiguous(), measure=True)
    for index, (k, phi, _) in enumerate(conditions.tolist()):
        exact = state.positions[index].cpu().double().requires_grad_()
        potential = Smoothed(OscillatingPair(k, phi))
        total = potential_energy(exact, potential, box_length(options)).sum()
        (gradient,) = torch.autograd.grad(total, exact)
        scale = gradient.square().mean().sqrt()
        error = (forces[index].T.cpu() + gradient).abs().max() / scale
        gap = (energy[index].cpu() - total).abs() / total.abs()
        worst = max(worst, error.item(), gap.item())
    print(f"forces and energy of {len(conditions)} systems: off by {worst:.1e} at the worst")
    if not worst < 1e-3:
        raise ArithmeticError(f"forces are off by {worst:.1e}, more than 1e-3 of their mean")
    for model in options.models:
        settings = training.Settings(preset=model, n_steps=2, batch_size=2)
        state = training.TrainingState(settings, options.device)
        losses = [step.loss for step in training.train(state, training_source(options)[0])]
        print(f"{model}: losses {losses}")


def run_anneal(options):
    conditions, split = all_conditions()
    if options.quick:
        rows = slice(None, None, 341)  # the last one is a test condition
        conditions, split = conditions[rows], split[rows]
    previous = load_state(options, len(conditions))
    start = saved = time.perf_counter()
    states = md.anneal(
        conditions,
        options.steps,
        options.seed,
        previous=previous,
        every=max(1, options.steps // 200),
        **md_settings(options),
    )
    state = previous
    for state in states:
        now = time.perf_counter()
        done = state.step == options.steps
        late = now - start > options.seconds
        if done or late or now - saved > 60:
            save_state(options, state)
            saved = now
            print(f"{state.step} of {options.steps} steps after {now - start:.0f} s", flush=True)
        if late and not done:
            raise TimeoutError(f"stopped at step {state.step}; run the line again to go on")
    write(
        options.out / "anneal.npz",
        positions=state.positions,
        conditions=conditions.double(),
        split=np.array(split),
        energy=state.energy,
        kinetic_temperature=state.kinetic_temperature,
        pressure=state.pressure,
        box_length=box_length(options),
        n_steps=options.steps,
        seed=options.seed,
        device=device_name(options),
    )
    for part in STATE_PARTS:
        state_path(options, part).unlink(missing_ok=True)


def run_train(options):
    for task in options.tasks:
        for model in options.models:
            train_one(options, task, model)


def train_one(options, task, model):
    unconditional, conditional, content_hash = training_source(options)
    source = unconditional if task == "unconditional" else conditional
    name = f"{task}-{model}"
    path, unfinished = (options.out / f"{name}{end}.safetensors" for end in ("", ".state"))
    if path.exists():
        print(f"{name}: there already")
        return
    settings = {
        "preset": model,
        "batch_size": options.train_batch,
        **training.RECIPES[model],
        "sigma_max": sigma_max(source.box_length),
        "ranges": source.ranges,
        "seed": options.seed,
        "data": content_hash,
    }
    try:
        _, header = training.checkpoint.read(unfinished, "state")
        settings = training.Settings(**header["settings"])
        state = training.load_state(unfinished, settings, options.device)
    except FileNotFoundError:
        n_steps = steps_in(0.9 * options.seconds, settings, source, options.device)
        settings = training.Settings(n_steps=n_steps, **settings)
        state = training.TrainingState(settings, options.device)
    start = saved = time.perf_counter()
    for step in training.train(state, source):
        now = time.perf_counter()
        late = now - start > options.seconds and step.step < settings.n_steps
        if late or now - saved > 60:
            training.save_state(unfinished, state)
            saved = now
        if late:
            print(f"{name}: stopped at step {step.step} of {settings.n_steps}; run again to go on")
            return
    record = {
        "task": task,
        "data_file": options.data.name,
        "torch": torch.__version__,
        "device": device_name(options),
    }
    training.save_checkpoint(path, state, record)
    unfinished.unlink(missing_ok=True)
    recent = state.losses[-max(1, len(state.losses) // 10) :].mean()
    print(
        f"{name}: {settings.n_steps} steps in {state.seconds:.0f} s, loss {recent:.3f}", flush=True
    )


def run_time(options):
    conditional = training_source(options)[1]
    rates = {"copy_GB_per_s": copy_rate(options), "matmul_TFLOP_per_s": matmul_rate(options)}
    rows = []
    for model in options.models:
        for batch in options.batch_sizes:
            settings = training.Settings(preset=model, n_steps=1000, batch_size=batch)
            state = training.TrainingState(settings, options.device)
            steps = training.train(state, conditional)
            step = median_seconds(lambda steps=steps: next(steps), options)
            generator = torch.Generator(options.device).manual_seed(0)
            x_0, condition = conditional.draw(batch, generator)
            sigma, denoiser = torch.full((batch,), 0.1, device=options.device), state.average.module
            with torch.no_grad():
                call = median_seconds(
                    lambda: denoiser(x_0, sigma, condition, conditional.box_length),  # noqa: B023
                    options,
                )
            rows.append({"model": model, "batch": batch, "step_s": step, "call_s": call})
            print(rows[-1], flush=True)
    timing = {"device": device_name(options), **rates, "rows": rows}
    (options.out / "timing.json").write_text(json.dumps(timing, indent=1))


def all_conditions():
    grid = [
        (k, phi, temperature)
        for k in plan.K_GRID
        for phi in plan.PHI_GRID
        for temperature in plan.TEMPERATURE_GRID
    ]
    drawn = plan.test_conditions()
    return torch.tensor(grid + drawn), ["train"] * len(grid) + ["test"] * len(drawn)


def box_length(options):
    # Twice the reach of the potential must fit.
    return 7.0 if options.quick else 10.0


def md_settings(options):
    edge = box_length(options)
    skin = 0.4 if options.device.type == "cuda" else 0.3
    n_particles = 60 if options.quick else round(edge**3)
    return {
        "n_particles": n_particles,
        "box_length": edge,
        "device": options.device,
        "skin": skin,
        "compile": not options.quick,
    }


def training_source(options):
    """Return the two tasks' configurations and the hash of the data."""
    if options.data.suffix == ".npz":
        with np.load(options.data) as file:
            data = {name: file[name] for name in file}
        train = data["split"] == "train"
        positions = torch.from_numpy(data["positions"][train])
        conditions, edge = torch.from_numpy(data["conditions"][train]), float(data["box_length"])
        content_hash = hashlib.sha256(positions.numpy().tobytes()).hexdigest()[:12]
        wanted = torch.tensor(plan.UNCONDITIONAL)
        row = ((conditions - wanted) / conditions.std(0).clamp(min=1e-9)).norm(dim=1).argmin()
    else:
        md_data = dataset.read(options.data)
        train, edge = md_data.subset("train"), md_data.box_length
        positions = torch.from_numpy(train.positions)
        conditions = torch.from_numpy(train.conditions)
        content_hash = md_data.content_hash
        row = train.nearest(*plan.UNCONDITIONAL)
    if options.quick:
        positions = positions[:, :200]
    positions = positions.to(options.device)
    one = training.Configurations(positions[[int(row)]], None, edge)
    every = training.Configurations(positions, conditions.float().to(options.device), edge)
    return one, every, content_hash


def steps_in(seconds, settings, source, device):
    """Return how many training steps fit into so many seconds."""
    state = training.TrainingState(training.Settings(n_steps=13, **settings), device)
    steps = training.train(state, source)
    for _ in range(3):
        next(steps)
    synchronize(device)
    start = time.perf_counter()
    for _ in steps:
        pass
    synchronize(device)
    return max(2, int(10 * seconds / (time.perf_counter() - start)))


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def median_seconds(function, options, repeats=9):
    """Return the median duration of a call, by CUDA events where there is a GPU [s]."""
    repeats = 2 if options.quick else repeats
    for _ in range(1 if options.quick else 3):
        function()
    times = []
    for _ in range(repeats):
        if options.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1000)
        else:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def copy_rate(options):
    size = 2**28 if options.device.type == "cuda" else 2**24
    source = torch.zeros(size, device=options.device)
    target = torch.empty_like(source)
    return 2 * 4 * size / median_seconds(lambda: target.copy_(source), options) / 1e9


def matmul_rate(options):
    size = 8192 if options.device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=options.device)
    return 2 * size**3 / median_seconds(lambda: matrix @ matrix, options) / 1e12


def state_path(options, part):
    return options.out / f"anneal-{part}.npz"


def save_state(options, state):
    scalars = {name: getattr(state, name) for name in ("energy", "kinetic_temperature", "pressure")}
    for part in STATE_PARTS:
        write(state_path(options, part), step=state.step, part=getattr(state, part), **scalars)


def load_state(options, n_systems):
    if not all(state_path(options, part).exists() for part in STATE_PARTS):
        return None
    parts, steps = {}, set()
    for part in STATE_PARTS:
        with np.load(state_path(options, part)) as file:
            parts[part] = torch.from_numpy(file["part"])
            scalars = {
                name: torch.from_numpy(file[name])
                for name in ("energy", "kinetic_temperature", "pressure")
            }
            steps.add(int(file["step"]))
    if len(steps) > 1 or len(parts["positions"]) != n_systems:
        print("what was saved does not fit together; starting anew")
        return None
    return md.State(**parts, **scalars, step=steps.pop())


def write(path, **arrays):
    values = {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in arrays.items()
    }
    partial = path.with_name(f".{path.name}")
    with open(partial, "wb") as file:
        np.savez(file, **values)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
