"""Many ramps side by side on a GPU, each system a block of its threads: batched.cu.

Integrator and thermostat are those of `lammps.ramp`; the noise is another, and so is the way down
from the random start.  All numbers are of single precision.  Compiled as C++ the same code runs on
a processor, far more slowly than LAMMPS.
"""

import ctypes
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from mddm import arguments, protocol
from mddm.geometry import wrap
from mddm.potential import Smoothed, energy_unit, tabulate
from mddm.protocol import Harvest, Stage
from mddm.study.plan import Run

_SOURCE = Path(__file__).with_suffix(".cu")
# Particles of a system at most, neighbours of one of them, pieces of a potential's table, and
# threads of a block.
_MOST, _NEAR, _PIECES, _THREADS = 1024, 512, 1024, 1024
# A batch has so many systems for each multiprocessor of a GPU, or core of a processor.
_EACH = 2
# How often progress is told [s].
_TOLD_EVERY = 10
# The way down from a random start: so many steps, and so many shorter ones [length].
_DESCENT = {0.03: 300, 0.003: 300, 0.0003: 300}
_SKIN = 0.3
_FIELDS = {
    "n_systems": ctypes.c_int, "n": ctypes.c_int, "box": ctypes.c_float, "skin": ctypes.c_float,
    "time_step": ctypes.c_float, "drag": ctypes.c_float, "forces": ctypes.c_void_p,
    "energies": ctypes.c_void_p, "shapes": ctypes.c_void_p, "x": ctypes.c_void_p,
    "v": ctypes.c_void_p, "f": ctypes.c_void_p, "temperatures": ctypes.c_void_p,
    "steps": ctypes.c_void_p, "seeds": ctypes.c_void_p, "reference": ctypes.c_void_p,
    "near": ctypes.c_void_p, "sums": ctypes.c_void_p, "overflow": ctypes.c_void_p,
    "descent": ctypes.c_float,
}  # fmt: skip


class _Arguments(ctypes.Structure):
    _fields_ = list(_FIELDS.items())


def version(device: torch.device | str) -> str:
    """Return the engine's name and where it runs, as data sets record it.

    Args:
        device: "cuda", or "cpu".

    Raises:
        TypeError, ValueError: another device, or one that this machine lacks.
    """
    on = _device(device)
    return f"batched.cu on {torch.cuda.get_device_name(on) if on.type == 'cuda' else 'a processor'}"


def ramps(
    runs: Sequence[Run],
    device: torch.device | str,
    *,
    n_particles: int = 1000,
    box_length: float = 10.0,
    time_step: float = 0.01,
    damping: float = 1.0,
    report: Callable[[str], None] = print,
) -> Iterator[tuple[Run, list[Harvest]]]:
    """Cool many systems side by side, as `lammps.ramp` does one, and yield each with its harvests.

    They are yielded batch by batch: two systems for each multiprocessor of a GPU, which takes one
    system at a time.  A system that blows up, or whose particles fall into each other, is reported
    and not yielded.

    Args:
        runs: what is to be cooled, from random starts, the most urgent first.
        device: "cuda", or "cpu" for the same code on a processor.
        n_particles: of each system, at most 1024.
        box_length: edge of the periodic cubes [length].
        time_step: of the velocity Verlet integrator [time].
        damping: relaxation time of the Langevin thermostat [time].
        report: called with a line of text every ten seconds, and for each system that is lost.

    Yields:
        Harvests as those of `lammps.ramp`, but without their wall time, and with a trace of steps
        and energies alone since the hold began.

    Raises:
        TypeError, ValueError: a run that starts at a lattice, too many particles, another number
            out of its range, a device that is not there, or a potential that is not fit for MD or
            whose energies are not of order 1.
        RuntimeError: the code cannot be compiled or run.
    """
    if any(run.start != "random" for run in runs):
        raise ValueError("runs must start at random; make those of lattices without a device")
    on = _device(device)
    numbers = {
        "n": arguments.whole("n_particles", n_particles, at_least=2, at_most=_MOST),
        "box": arguments.box(box_length),
        "time_step": arguments.number("time_step", time_step, above=0),
        "drag": 1 / arguments.number("damping", damping, above=0, at_most=math.inf),
    }
    total, before, size = sum(map(_n_steps, runs)), 0, _batch_size(on)
    clock = told = time.perf_counter()

    def progress(of_batch: int) -> None:
        nonlocal told
        now, done = time.perf_counter(), before + of_batch
        if done and now - told >= _TOLD_EVERY:
            told, minutes = now, (now - clock) * (total - done) / done / 60
            report(
                f"{time.strftime('%H:%M:%S')} {done / total:.0%} of all steps; about "
                f"{minutes:,.1f} min to go"
            )

    for first in range(0, len(runs), size):
        together = sorted(runs[first : first + size], key=_n_steps, reverse=True)
        yield from _cooled(together, _Batch(together, on, numbers), report, progress)
        before += sum(map(_n_steps, together))
        report(f"{time.strftime('%H:%M:%S')} {first + len(together)} of {len(runs)} runs are over")


def _device(device: torch.device | str) -> torch.device:
    found = arguments.device(device)
    if found.type not in ("cpu", "cuda") or found.index:
        raise ValueError(
            f"device must be 'cuda', the first GPU, or 'cpu', got {str(device)!r}; "
            "CUDA_VISIBLE_DEVICES says which GPU is the first"
        )
    return found


def _batch_size(device: torch.device) -> int:
    if device.type == "cpu":
        return _EACH * torch.get_num_threads()
    return _EACH * torch.cuda.get_device_properties(device).multi_processor_count


def _n_steps(run: Run) -> int:
    return run.steps_after(len(run.temperatures))


def _cooled(runs, batch: "_Batch", report, progress) -> Iterator[tuple[Run, list[Harvest]]]:
    plans = [_stages(run) for run in runs]
    harvests, told = [[] for _ in runs], np.zeros(len(runs), dtype=bool)
    batch.descend()
    for now in zip_longest(*plans, fillvalue=(None, False)):
        stages, ends = zip(*now, strict=True)
        trace = batch.stage(stages, progress)
        batch.lose_what_blew_up(stages)
        for i in np.flatnonzero(batch.lost & ~told):
            report(f"FAILED {runs[i].name}: {batch.losses[i]} before step {batch.before[i]:,}")
        told |= batch.lost
        cut = np.array(ends) & ~batch.lost
        positions, velocities, energies, means = batch.harvest() if any(cut) else (None,) * 4
        for i in np.flatnonzero(cut):
            drift = stages[i].drift(*trace[:, i].T)
            harvests[i].append(
                Harvest(
                    positions[i], velocities[i], stages[i].end, energies[i], *means[i], drift,
                    int(batch.before[i]), math.nan, trace[:, i],
                )
            )  # fmt: skip
    for i in np.flatnonzero(~batch.lost):
        yield runs[i], harvests[i]


def _stages(run: Run) -> list[tuple[Stage, bool]]:
    """Give each stage of a run, and whether a harvest follows."""
    ways = [protocol.anneal(run.start_temperature, run.temperatures[0], run.n_steps_first)]
    ways += [protocol.cool(*pair, run.n_steps_between) for pair in pairwise(run.temperatures)]
    return [(stage, stage is way[-1]) for way in ways for stage in way]


class _Batch:
    """The state of all systems, and the memory that the code works in."""

    def __init__(self, runs: Sequence[Run], device: torch.device, numbers: dict[str, float]):
        n_systems, n_particles, self.device = len(runs), numbers["n"], device
        self.library = _library(device.type)
        tables = [_tables(run.potential) for run in runs]
        starts = [_start(run, n_particles, numbers["box"]) for run in runs]
        positions, self.first_velocities = map(torch.stack, zip(*starts, strict=True))
        seeds = [np.random.SeedSequence(run.seed).generate_state(2, np.uint32) for run in runs]
        self.before = np.zeros(n_systems, dtype=np.int64)
        self.losses = np.full(n_systems, "", dtype=object)

        def new(*shape, dtype=torch.float32):
            return torch.zeros(n_systems, *shape, dtype=dtype, device=device)

        self.tensors = {
            **{
                name: torch.stack([table[name] for table in tables]).float().to(device)
                for name in ("forces", "energies", "shapes")
            },
            "x": positions.to(device),
            **{name: new(3, n_particles) for name in ("v", "f", "reference")},
            "near": new(_NEAR // 4, n_particles, dtype=torch.int64),
            "sums": new(4, dtype=torch.float64),
            "overflow": new(dtype=torch.int32),
            "seeds": torch.from_numpy(np.stack(seeds).astype(np.int64)).to(torch.uint32).to(device),
        }
        self.numbers = {"n_systems": n_systems, "skin": _SKIN, "descent": 0.0} | numbers

    @property
    def lost(self) -> np.ndarray:
        return self.losses != ""

    def descend(self):
        """Go down from the random starts, and give the particles their velocities."""
        ones = np.ones(len(self.before))
        for longest, n_steps in _DESCENT.items():
            self._run(ones, ones, n_steps * ones, 10 * ones, descent=longest)
        self.tensors["v"].copy_(self.first_velocities)
        self.before[:] = 0

    def stage(self, stages, progress: Callable[[int], None]) -> np.ndarray:
        """Run a stage of each system that has one; give steps and energies on the way."""
        self.tensors["sums"].zero_()
        runs = np.array([stage is not None for stage in stages]) & ~self.lost
        stages = [stage or Stage(0.0, 0.0, 0) for stage in stages]
        begin, end, n_steps = np.array(stages, dtype=float).T
        every = np.array([stage.every for stage in stages])
        trace, done = [], np.zeros(len(stages))
        for piece in range(1, protocol.PIECES + 1):
            after = np.floor(n_steps * piece / protocol.PIECES)
            part = np.stack([done, after]) / np.maximum(n_steps, 1)
            hot, cold = begin + (end - begin) * part
            self._run(hot, cold, np.where(runs, after - done, -1), every)
            done = after
            trace.append(np.stack([self.before, self.tensors["sums"][:, 3].cpu()], axis=-1))
            progress(int(self.before.sum()))
        return np.stack(trace)

    def harvest(self):
        """Positions and velocities of all, energies of these positions, means over the stage."""
        box_length, kept = self.numbers["box"], self.tensors["sums"].cpu().numpy()
        positions = wrap(self.tensors["x"], box_length).transpose(1, 2).contiguous().cpu().numpy()
        velocities = self.tensors["v"].transpose(1, 2).contiguous().cpu().numpy()
        means = kept[:, :2] / np.maximum(kept[:, 2:3], 1)
        return positions, velocities, kept[:, 3].tolist(), means.tolist()

    def lose_what_blew_up(self, stages):
        kinetic = self.tensors["v"].square().mean((1, 2)).tolist()
        for i in np.flatnonzero(~self.lost):
            if stages[i] and stages[i].has_blown_up(kinetic[i]):
                self.losses[i] = "it blew up"

    def _run(self, begin, end, n_steps, every, descent=0.0):
        def on_device(columns, dtype):
            return torch.from_numpy(np.stack(columns, axis=-1).astype(dtype)).to(self.device)

        given = {
            "temperatures": on_device([begin, end], np.float32),
            "steps": on_device([self.before, n_steps, every], np.int32),
        }
        pointers = {name: each.data_ptr() for name, each in (self.tensors | given).items()}
        asked = _Arguments(**pointers, **self.numbers | {"descent": descent})
        error = self.library.batched_run(ctypes.byref(asked))
        if error:
            raise RuntimeError(f"CUDA could not run the systems: its error is {error}")
        crowded = self.tensors["overflow"].cpu().numpy() > 0
        self.losses[~self.lost & crowded] = f"a particle has more than {_NEAR} neighbours"
        self.before += np.maximum(n_steps, 0).astype(np.int64)


def _start(run: Run, n_particles: int, box_length: float) -> tuple[Tensor, Tensor]:
    rng = protocol.generator(run.seed)
    start = protocol.random_start(n_particles, box_length, run.start_temperature, rng)
    velocities = start.velocities - start.velocities.mean(axis=0)
    x, v = (torch.from_numpy(each).float().T.contiguous() for each in (start.positions, velocities))
    return wrap(x, box_length), v


def _tables(potential: Smoothed) -> dict[str, Tensor]:
    """Cubics of F(r) / r and U(r), piece by piece of r squared, and what is below them."""
    if energy_unit(potential) != 1:
        raise ValueError("potential must have energies of order 1")
    squares = np.linspace(potential.r_core**2, potential.r_cut**2, _PIECES + 1)
    r = torch.from_numpy(squares).sqrt()
    energy, force = tabulate(potential, r)
    if force[0] <= 0:
        raise ValueError("potential must repel at contact")
    step = squares[1] - squares[0]

    def cubics(values):
        found = CubicSpline(squares, values).c * step ** np.arange(3, -1, -1)[:, None]
        return torch.from_numpy(found.T.copy())

    shape = [squares[0], squares[-1], energy[0].item(), force[0].item()]
    return {
        "forces": cubics((force / r).numpy()),
        "energies": cubics(energy.numpy()),
        "shapes": torch.tensor(shape),
    }


@lru_cache(maxsize=2)
def _library(kind: str) -> ctypes.CDLL:
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability()
        compiler = ["nvcc", f"-arch=sm_{major}{minor}", "-Xcompiler", "-fPIC"]
    else:
        compiler = ["g++", "-march=native", "-fopenmp", "-fPIC", "-x", "c++"]
    sizes = {"MOST": _MOST, "NEAR": _NEAR, "PIECES": _PIECES, "THREADS": _THREADS}
    compiler += [f"-D{name}={value}" for name, value in sizes.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batched.so"
        command = [*compiler, "-O3", "-shared", str(_SOURCE), "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeError(
                f"{command[0]} is needed to compile {_SOURCE.name}: put it on the PATH, or name no "
                "device, which runs LAMMPS"
            ) from error
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.splitlines() if "error" in line] or [str(error)]
            raise RuntimeError(f"{_SOURCE.name} does not compile: {said[0].strip()}") from error
        return ctypes.CDLL(str(path))
