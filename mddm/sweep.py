"""Many anneals and ramps at once: what is missing is run, what is finished is left alone.

`python -m mddm.sweep small` makes data/opp-small.h5; `python -m mddm.sweep ramps` makes the slow
ramps in data/ramps.  Either can be killed at any moment and started again.
"""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mddm import dataset, lammps
from mddm.potential import CONVENTION, OscillatingPair, Smoothed

# The paper's ranges, closed on the left: ten values each.
K_GRID = tuple(round(1 + 1.4 * i, 1) for i in range(10))
PHI_GRID = tuple(round(0.6 * i, 1) for i in range(10))
TEMPERATURE_GRID = tuple(round(0.01 + 0.004 * i, 3) for i in range(10))
_RANGES = ((1.0, 15.0), (0.0, 6.0), (0.01, 0.05))
_TEST_SEED = 250131
_SETTINGS = {"n_particles": 1000, "box_length": 10.0, "time_step": 0.01, "damping": 1.0}


@dataclass(frozen=True)
class Run:
    """One system to be cooled from a random start.

    Args:
        name: of its file; unique in a sweep.
        k: spatial frequency of the potential [1 / length].
        phi: phase of the potential [rad].
        temperatures: the harvests' targets, hottest first [energy].
        seed: of the start and of the thermostat.
        split: "train", "test" or "replica".
        n_steps_first: MD steps from the random start to the first harvest.
        n_steps_between: MD steps from each harvest to the next.
        start_temperature: where the cooling begins [energy].
        n_kept: how many of the last harvests are part of the data set.
    """

    name: str
    k: float
    phi: float
    temperatures: tuple[float, ...]
    seed: int
    split: str
    n_steps_first: int
    n_steps_between: int
    start_temperature: float
    n_kept: int = 1

    @property
    def potential(self) -> Smoothed:
        """The smoothed potential."""
        return Smoothed(OscillatingPair(self.k, self.phi))

    def steps_after(self, n_harvests: int) -> int:
        """Return the MD steps behind the given number of harvests."""
        return self.n_steps_first + (n_harvests - 1) * self.n_steps_between if n_harvests else 0


def test_conditions(n: int = 25) -> list[tuple[float, float, float]]:
    """Return the first n of the test set's (k, phi, temperature), drawn uniformly once for all."""
    low, high = np.array(_RANGES).T
    drawn = np.random.default_rng(_TEST_SEED).uniform(low, high, (n, 3))
    return [tuple(row) for row in drawn.round(4).tolist()]


def small_runs(n_steps: int = 20_000) -> list[Run]:
    """Return the anneals of data/opp-small.h5: 18 training, 4 test and 8 replica runs."""

    def run(name, condition, seed, split):
        k, phi, temperature = condition
        return Run(name, k, phi, (temperature,), seed, split, n_steps, 0, 10 * temperature)

    grid = [
        (k, phi, temperature)
        for k in K_GRID[0::4]
        for phi in PHI_GRID[1::3]
        for temperature in TEMPERATURE_GRID[1::7]
    ]
    tests = test_conditions(4)
    # Every fifth training point: another k, phi and temperature each time.
    again = grid[::5] + tests
    runs = [run(f"train-{i:02}", row, i, "train") for i, row in enumerate(grid)]
    runs += [run(f"test-{i:02}", row, 100 + i, "test") for i, row in enumerate(tests)]
    runs += [run(f"replica-{i:02}", row, 200 + i, "replica") for i, row in enumerate(again)]
    return runs


def ramp_runs(n_steps_first: int = 300_000, n_steps_between: int = 12_000) -> list[Run]:
    """Return the slow ramps from T = 0.5, in an order whose every beginning spans (k, phi) evenly.

    A ramp a grid point of (k, phi), harvested at the ten grid temperatures; the same again with
    another seed for ten of them; and two ramps, harvested at their end, for each of the 25 test
    conditions.
    """
    steps = (n_steps_first, n_steps_between, 0.5)
    cooling = TEMPERATURE_GRID[::-1]
    points = _spread_out([(i, j) for i in range(10) for j in range(10)])
    grid, replicas, tests, tests_again = [], [], [], []
    for i, j in points:
        name, seed = f"k{i}-phi{j}", 1000 + 10 * i + j
        grid.append(Run(name, K_GRID[i], PHI_GRID[j], cooling, seed, "train", *steps, 10))
    for run in grid[:10]:
        values = asdict(run) | {"seed": run.seed + 1000, "split": "replica"}
        replicas.append(Run(**(values | {"name": f"{run.name}-again"})))
    for i, (k, phi, temperature) in enumerate(test_conditions()):
        stations = (*(station for station in cooling if station > temperature), temperature)
        tests.append(Run(f"test{i:02}", k, phi, stations, 3000 + i, "test", *steps))
        again = f"test{i:02}-again"
        tests_again.append(Run(again, k, phi, stations, 4000 + i, "replica", *steps))
    # Each group advances at the same pace from the first ramp to the last.
    groups = (grid, replicas, tests, tests_again)
    paced = [
        ((i + 0.5) / len(group), order, run)
        for order, group in enumerate(groups)
        for i, run in enumerate(group)
    ]
    return [run for _, _, run in sorted(paced, key=lambda entry: entry[:2])]


def sweep(
    runs: Sequence[Run],
    folder: str | Path,
    *,
    scheduler: str | None = None,
    n_workers: int | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Run what is missing of a sweep, on all cores or on any Dask cluster.

    Each finished run is one file in `folder`, never written again; the harvests of unfinished
    runs wait in `folder`/unfinished, which git ignores.  Both are written by this process alone,
    so workers need no shared file system, and a worker that dies costs the harvest it was at.

    Args:
        runs: what there is to be, the most urgent first.
        folder: where the files go; made if it is not there.
        scheduler: address of a running Dask scheduler; None starts a local cluster with one
            single-threaded process a worker.
        n_workers: processes of that local cluster, one a core by default.
        report: called with a line of text after each harvest.

    Raises:
        ValueError: a file in the folder belongs to another sweep.
        OSError: the folder cannot be written to.
        RuntimeError: some runs failed; the others are finished.
    """
    from distributed import Client, LocalCluster, as_completed

    folder = Path(folder)
    unfinished = folder / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    _write_whole(unfinished / ".gitignore", b"*\n")
    missing = [run for run in runs if not _is_finished(folder, run)]
    report(f"{len(runs) - len(missing)} of {len(runs)} runs were finished before")
    if not missing:
        return
    harvests = {run.name: _read_unfinished(folder, run) for run in missing}
    total = sum(
        run.steps_after(len(run.temperatures)) - run.steps_after(len(harvests[run.name]))
        for run in missing
    )
    clock, done, left, failed = time.perf_counter(), 0, len(missing), []
    with ExitStack() as stack:
        cluster = scheduler or stack.enter_context(
            LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0")
        )
        client = stack.enter_context(Client(cluster))

        def submit(run, urgency):
            found = harvests[run.name]
            # A ramp that has begun goes on before a later one begins.
            future = client.submit(
                _next_harvest, run, found[-1] if found else None, pure=False, priority=-urgency
            )
            waiting[future.key] = run, urgency
            return future

        waiting = {}
        pool = as_completed([submit(run, urgency) for urgency, run in enumerate(missing)])
        for future in pool:
            run, urgency = waiting.pop(future.key)
            if future.status != "finished":
                left -= 1
                failed.append(f"{run.name} ({future.exception()})")
                report(f"FAILED {failed[-1]}")
                continue
            harvest = future.result()
            future.release()
            found = harvests[run.name]
            found.append(harvest)
            if len(found) == len(run.temperatures):
                _finish(folder, run, harvests.pop(run.name))
                left -= 1
            else:
                _write_unfinished(folder, run, len(found) - 1, harvest)
                pool.add(submit(run, urgency))
            done += run.steps_after(len(found)) - run.steps_after(len(found) - 1)
            hours = (time.perf_counter() - clock) * (total - done) / done / 3600
            report(
                f"{time.strftime('%H:%M:%S')} {run.name} at T = {harvest.temperature:g}: energy "
                f"{harvest.energy:.4f}; {left} runs and about {hours:.1f} h to go"
            )
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {'; '.join(failed)}")


def assemble(
    runs: Sequence[Run], folder: str | Path, command: str, *, partial: bool = False
) -> dataset.Dataset:
    """Gather the finished runs of a sweep into a data set.

    Args:
        runs: of the sweep.
        folder: with their files.
        command: that made them, to be recorded.
        partial: leave out what is missing instead of refusing.

    Raises:
        ValueError: runs are missing, or a file belongs to another sweep.
    """
    finished = [run for run in runs if _is_finished(Path(folder), run)]
    if not finished or (len(finished) < len(runs) and not partial):
        raise ValueError(
            f"{len(runs) - len(finished)} of {len(runs)} runs are missing in {folder}; run "
            f"`{command}` to make them"
        )
    parts = []
    for run in finished:
        with np.load(_path(Path(folder), run)) as file:
            part = {name: file[name][-run.n_kept :] for name in file.files if name != "run"}
        n = len(part["positions"])
        fixed = {"k": run.k, "phi": run.phi, "seed": run.seed, "split": run.split}
        parts.append(part | {name: np.full(n, value) for name, value in fixed.items()})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    engines = sorted(set(columns.pop("engine").tolist()))
    smoothed = finished[0].potential
    attributes = {
        "box_length": _SETTINGS["box_length"],
        "r_on": smoothed.r_on,
        "r_cut": smoothed.r_cut,
        "time_step": _SETTINGS["time_step"],
        "n_steps": int(columns["steps"].min()),
        "thermostat": f"Langevin, damping time {_SETTINGS['damping']}",
        "engine": ", ".join(engines),
        "convention": CONVENTION,
        "command": command,
    }
    return dataset.Dataset(**columns, attributes=attributes)


def _next_harvest(run: Run, previous: lammps.Harvest | None) -> lammps.Harvest:
    settings = dict(_SETTINGS, start_temperature=run.start_temperature, previous=previous)
    steps = (run.n_steps_first, run.n_steps_between, run.seed)
    return next(lammps.ramp(run.potential, run.temperatures, *steps, **settings))


def _spread_out(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    places = np.array(points, dtype=float)
    order = [int(((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(order) < len(points):
        distance = np.minimum(distance, ((places - places[order[-1]]) ** 2).sum(axis=1))
        order.append(int(distance.argmax()))
    return [points[index] for index in order]


def _description(run: Run) -> str:
    return json.dumps(asdict(run) | _SETTINGS, sort_keys=True)


def _path(folder: Path, run: Run) -> Path:
    return folder / f"{run.name}.npz"


def _is_finished(folder: Path, run: Run) -> bool:
    path = _path(folder, run)
    return path.exists() and _open_checked(path, run) is not None


def _open_checked(path: Path, run: Run) -> dict:
    try:
        with np.load(path) as file:
            content = {name: file[name] for name in file.files}
        made_for = str(content["run"])
    except Exception as error:
        raise ValueError(f"{path} is damaged; remove it and run the sweep again") from error
    if made_for != _description(run):
        raise ValueError(
            f"{path} was made with other settings; remove it, or choose another folder"
        )
    return content


def _read_unfinished(folder: Path, run: Run) -> list[lammps.Harvest]:
    harvests = []
    for index in range(len(run.temperatures)):
        path = folder / "unfinished" / f"{run.name}.{index}.npz"
        if not path.exists():
            break
        content = _open_checked(path, run)
        del content["run"]
        harvests.append(
            lammps.Harvest(**{k: v.item() if v.ndim == 0 else v for k, v in content.items()})
        )
    return harvests


def _write_unfinished(folder: Path, run: Run, index: int, harvest: lammps.Harvest) -> None:
    path = folder / "unfinished" / f"{run.name}.{index}.npz"
    _write_whole(path, _packed(run=_description(run), **asdict(harvest)))


def _finish(folder: Path, run: Run, harvests: list[lammps.Harvest]) -> None:
    names = ("positions", "temperature", "energy", "kinetic_temperature", "pressure", "n_steps")
    columns = {name: np.array([getattr(harvest, name) for harvest in harvests]) for name in names}
    columns["steps"] = columns.pop("n_steps")
    columns["engine"] = np.full(len(harvests), lammps.version())
    _write_whole(_path(folder, run), _packed(run=_description(run), **columns))
    for index in range(len(run.temperatures)):
        (folder / "unfinished" / f"{run.name}.{index}.npz").unlink(missing_ok=True)


def _packed(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m mddm.sweep", description=__doc__)
    parser.add_argument("what", choices=("small", "ramps"))
    parser.add_argument("--folder", help="of the runs' files (data/small or data/ramps)")
    parser.add_argument("--scheduler", help="address of a Dask scheduler; default: all cores here")
    parser.add_argument("--workers", type=int, help="processes to start here")
    parser.add_argument("--output", help="assemble into this file (small: data/opp-small.h5)")
    parser.add_argument("--as-is", action="store_true", help="assemble what there is; run nothing")
    options = parser.parse_args(arguments)
    runs = small_runs() if options.what == "small" else ramp_runs()
    folder = options.folder or f"data/{options.what}"
    output = options.output or ("data/opp-small.h5" if options.what == "small" else None)
    command = f"python -m mddm.sweep {options.what}"
    try:
        if not options.as_is:
            sweep(
                runs,
                folder,
                scheduler=options.scheduler,
                n_workers=options.workers,
                report=lambda line: print(line, flush=True),
            )
        if output:
            dataset.write(output, assemble(runs, folder, command, partial=options.as_is))
            print(f"wrote {output}")
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
