"""Many anneals and ramps at once: what is missing is run, what is finished is left alone.

`mddm data make small` makes data/opp-small.h5, `ramps` the slow ramps of data/opp.h5,
`replica` one more of these for the one configuration of the unconditional task, and `lengths` the
faster anneals that some of them are held against.  `any` anneals random potentials, `named` those
of the literature, `drawn` more oscillating ones, `tests` and `again` more of the study's test
conditions and more often; `opp-stable` and `any-stable` hold the lowest lattices of training
potentials.  Each can be killed at any moment and started again.
"""

import io
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mddm import arguments, dataset, files, lammps, lattices, optional
from mddm.condition import RANGES
from mddm.potential import CONVENTION, Smoothed
from mddm.protocol import Harvest
from mddm.study import batched, plan
from mddm.study.plan import Run

if TYPE_CHECKING:
    from distributed import Client

COMMAND = "mddm data make"
_SETTINGS = {"n_particles": 1000, "box_length": 10.0, "time_step": 0.01, "damping": 1.0}
# Rounded positions are multiples of this [length].
_ROUND = 1 / 4096
# How long a scheduler may take to answer, and its first worker to come [s].
_ANSWER, _FIRST_WORKER = 5, 60


def sweep(
    runs: Sequence[Run],
    folder: str | Path,
    *,
    scheduler: str | None = None,
    n_workers: int | None = None,
    device: str | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Run what is missing of a sweep, on all cores, on any Dask cluster or side by side on a GPU.

    Each finished run is one file in `folder`, never written again; the harvests of unfinished
    runs wait in `folder`/unfinished, which git ignores.  Both are written by this process alone,
    so workers need no shared file system, and a worker that dies costs the harvest it was at.

    Args:
        runs: what there is to be, the most urgent first.
        folder: where the files go; made if it is not there.
        scheduler: address of a running Dask scheduler; None starts a local cluster with one
            single-threaded process a worker.
        n_workers: processes of that local cluster, one a core by default.
        device: "cuda" runs hundreds at once on a GPU (`batched.ramps`), "cpu" the same code here,
            which is slower than LAMMPS; None runs LAMMPS.
        report: called with a line of text after each harvest, or on a device now and then.

    Raises:
        ValueError: a file in the folder belongs to another sweep, no workers are asked for, or a
            device that is not there, or one and a scheduler or workers.
        OSError: the folder cannot be written to, the scheduler does not answer or has no workers.
        RuntimeError: some runs failed; the others are finished.
    """
    if device is not None and (scheduler or n_workers is not None):
        raise ValueError(
            f"the device {str(device)!r} runs all by itself: name no scheduler and no workers, "
            "or no device"
        )
    if device is None:
        with optional.packages():
            from distributed import LocalCluster, as_completed
    else:
        # That it is not there is told before anything is written.
        engine = batched.version(device)

    if n_workers is not None and (scheduler or n_workers < 1):
        raise ValueError(
            f"n_workers is of processes here, at least 1, or None for one a core, got {n_workers}"
            f"{f' with the scheduler {scheduler}, which has its own' if scheduler else ''}"
        )
    folder = Path(folder)
    files.write_whole(folder / "unfinished" / ".gitignore", "*\n")
    missing = [run for run in runs if not _is_finished(folder, run)]
    report(f"{len(runs) - len(missing)} of {len(runs)} runs were finished before")
    if not missing:
        return
    if device is not None:
        _side_by_side(missing, folder, device, engine, report)
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
        client = stack.enter_context(_connected(cluster, report))
        # Ramps that have begun go on before others begin.
        queue = deque(sorted(missing, key=lambda run: not harvests[run.name]))
        pool, running = as_completed(), {}

        def submit(run):
            found = harvests[run.name]
            future = client.submit(_next_harvest, run, found[-1] if found else None, pure=False)
            running[future.key] = run
            pool.add(future)

        def fill():
            # Nothing waits at a worker: it would start before the ramp that has just come back.
            while queue and len(running) < max(1, sum(client.nthreads().values())):
                submit(queue.popleft())

        fill()
        for future in pool:
            run = running.pop(future.key)
            if future.status == "finished":
                harvest = future.result()
                future.release()
                found = harvests[run.name]
                found.append(harvest)
                if len(found) == len(run.temperatures):
                    _finish(folder, run, harvests.pop(run.name), lammps.version())
                    left -= 1
                else:
                    _write_unfinished(folder, run, len(found) - 1, harvest)
                    submit(run)
                done += run.steps_after(len(found)) - run.steps_after(len(found) - 1)
                hours = (time.perf_counter() - clock) * (total - done) / done / 3600
                report(
                    f"{time.strftime('%H:%M:%S')} {run.name} at T = {harvest.temperature:g}: "
                    f"energy {harvest.energy:.4f}; {left} runs and about {hours:.1f} h to go"
                )
            else:
                left -= 1
                failed.append(f"{run.name} ({future.exception()})")
                report(f"FAILED {failed[-1]}")
            fill()
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {'; '.join(failed)}")


def _side_by_side(runs, folder, device, engine, report):
    left = {run.name for run in runs}
    for run, harvests in batched.ramps(runs, device, **_SETTINGS, report=report):
        _finish(folder, run, harvests, engine)
        left.remove(run.name)
    if left:
        raise RuntimeError(
            f"{len(left)} runs failed: {', '.join(sorted(left))}; the others are finished"
        )


def _connected(cluster, report: Callable[[str], None]) -> "Client":
    from distributed import Client

    try:
        client = Client(cluster, timeout=_ANSWER)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {cluster} ({error}); start one with `dask scheduler`, "
            "which prints its address"
        ) from error
    try:
        if not client.nthreads():
            report(f"waiting for workers: start some with `dask worker {cluster}`")
        client.wait_for_workers(1, timeout=_FIRST_WORKER)
    except TimeoutError as error:
        client.close()
        message = f"the scheduler {cluster} has had no workers for {_FIRST_WORKER} s"
        raise TimeoutError(f"{message}; start some with `dask worker {cluster}`") from error
    return client


def assemble(
    runs: Sequence[Run],
    folder: str | Path,
    command: str,
    *,
    partial: bool = False,
    rounded: bool = False,
) -> dataset.Dataset:
    """Gather the finished runs of a sweep into a data set.

    Args:
        runs: of the sweep.
        folder: with their files.
        command: that made them, to be recorded.
        partial: leave out what is missing instead of refusing.
        rounded: to round positions to multiples of 1/4096, which takes half as much space.

    Raises:
        ValueError: runs are missing, or a file belongs to another sweep.
    """
    finished = _finished(runs, folder, command, partial)
    made = _joined([_columns(run, folder, slice(-run.n_kept, None)) for run in finished], command)
    if not rounded:
        return made
    return replace(made, positions=np.round(made.positions / _ROUND) * _ROUND % made.box_length)


def assemble_lengths(
    folder: str | Path, ramps: str | Path, *, partial: bool = False
) -> dataset.Dataset:
    """Gather the anneals of `plan.length_runs`, and the first harvests of the ramps they belong to.

    Args:
        folder: with the files of the anneals.
        ramps: folder with the files of the ramps, or the data set that was assembled of them.
        partial: leave out what is missing instead of refusing.

    Returns:
        A data set of "test" rows, five lengths of each potential.

    Raises:
        ValueError: runs are missing, or a file belongs to another sweep.
    """
    finished = _finished(plan.length_runs(), folder, f"{COMMAND} lengths", partial)
    parts = [_columns(run, folder, slice(0, 1)) for run in finished] + _slowest(ramps, partial)
    for part in parts:
        part["split"] = np.full(len(part["split"]), "test")
    return _joined(parts, f"{COMMAND} lengths")


def _slowest(ramps: str | Path, partial: bool) -> list[dict]:
    runs = plan.ramp_runs()[: plan.N_LENGTHS]
    if Path(ramps).is_file():
        whole = dataset.read(ramps)
        return [_first_harvest(whole, run) for run in runs]
    finished = _finished(runs, ramps, f"{COMMAND} ramps", partial)
    return [_columns(run, ramps, slice(0, 1)) for run in finished]


def _first_harvest(whole: dataset.Dataset, run: Run) -> dict:
    of_run = (whole.k == run.k) & (whole.phi == run.phi) & (whole.seed == run.seed)
    harvest = whole.take(of_run & (whole.temperature == run.temperatures[0]))
    columns = {name: column for name, column in harvest.columns.items() if name not in ("k", "phi")}
    told = {"engine": whole.attributes["engine"], "family": run.family, "start": run.start}
    return columns | {name: np.full(len(harvest), value) for name, value in told.items()}


def _finished(runs, folder, command, partial) -> list[Run]:
    finished = [run for run in runs if _is_finished(Path(folder), run)]
    if len(finished) < len(runs) and not partial:
        raise ValueError(
            f"{len(runs) - len(finished)} of {len(runs)} runs are missing in {folder}; run "
            f"`{command}` to make them"
        )
    return finished


def _columns(run: Run, folder: str | Path, kept: slice) -> dict:
    content = _open_checked(_path(Path(folder), run), run)
    part = {name: column[kept] for name, column in content.items() if name != "run"}
    n = len(part["positions"])
    part |= {"seed": np.full(n, run.seed), "split": np.full(n, run.split)}
    return part | {"family": np.full(n, run.family), "start": np.full(n, run.start)}


def _joined(parts: list[dict], command: str) -> dataset.Dataset:
    if not parts:
        raise ValueError(f"no run is finished yet; run `{command}`")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    engines = sorted(set(columns.pop("engine").tolist()))
    families, (start,) = columns.pop("family").tolist(), set(columns.pop("start").tolist())
    attributes = {
        "box_length": _SETTINGS["box_length"],
        "time_step": _SETTINGS["time_step"],
        "n_steps": int(columns["steps"].min()),
        "thermostat": f"Langevin, damping time {_SETTINGS['damping']}",
        "engine": ", ".join(engines),
        "command": command,
    }
    if start != "random":
        attributes["start"] = start
    if any(family.name != "opp" for family in families):
        # Stations are in units of each potential's own scale.
        reached = (*RANGES["temperature"], *columns["temperature"].tolist())
        known = {"family": families, "ranges": {"temperature": (min(reached), max(reached))}}
        return dataset.Dataset(**columns, **known, attributes=attributes)
    radii = {name: getattr(Smoothed, name) for name in ("r_core", "r_on", "r_cut")}
    names = ("k", "phi")
    values = np.array([[each.parameters[name] for name in names] for each in families])
    known = {"parameters": dict(zip(names, values.T, strict=True)), "ranges": RANGES}
    attributes |= {**radii, "convention": CONVENTION}
    return dataset.Dataset(**columns, **known, attributes=attributes)


def _next_harvest(run: Run, previous: Harvest | None) -> Harvest:
    if run.start == "lattice":
        before = -1 if previous is None else run.temperatures.index(previous.temperature)
        return _held(run, before + 1)
    settings = dict(_SETTINGS, start_temperature=run.start_temperature, previous=previous)
    steps = (run.n_steps_first, run.n_steps_between, run.seed)
    return next(lammps.ramp(run.potential, run.temperatures, *steps, **settings))


def _held(run: Run, index: int) -> Harvest:
    temperature, box_length = run.temperatures[index], _SETTINGS["box_length"]
    size = (_SETTINGS["n_particles"], box_length, temperature)
    crystal = lattices.stable(run.potential, *size, 1)[0].crystal
    asked = (run.potential, crystal.positions, temperature, run.n_steps_first, run.seed + 7 * index)
    how = {name: _SETTINGS[name] for name in ("box_length", "time_step", "damping")}
    return lammps.hold(*asked, **how)


def _description(run: Run) -> str:
    told = asdict(run) | _SETTINGS
    if run.family.name == "opp":
        # As files said it when there were no others.
        told |= told.pop("family")["parameters"]
    if run.start == "random":
        del told["start"]
    return json.dumps(told, sort_keys=True)


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
        if getattr(error, "errno", None):
            raise
        raise ValueError(
            f"{path} is damaged; move it away and run the sweep again, or choose another folder"
        ) from error
    if made_for != _description(run):
        raise ValueError(
            f"{path} was made with other settings; choose another folder, or move it away"
        )
    return content


def _read_unfinished(folder: Path, run: Run) -> list[Harvest]:
    harvests = []
    for index in range(len(run.temperatures)):
        path = folder / "unfinished" / f"{run.name}.{index}.npz"
        if not path.exists():
            break
        content = _open_checked(path, run)
        del content["run"]
        harvests.append(Harvest(**{k: v.item() if v.ndim == 0 else v for k, v in content.items()}))
    return harvests


def _write_unfinished(folder: Path, run: Run, index: int, harvest: Harvest) -> None:
    path = folder / "unfinished" / f"{run.name}.{index}.npz"
    files.write_whole(path, _packed(run=_description(run), **asdict(harvest)))


def _finish(folder: Path, run: Run, harvests: list[Harvest], engine: str) -> None:
    names = ("positions", "temperature", "energy", "kinetic_temperature", "pressure", "drift")
    names = (*names, "n_steps")
    columns = {name: np.array([getattr(harvest, name) for harvest in harvests]) for name in names}
    columns["steps"] = columns.pop("n_steps")
    columns["engine"] = np.full(len(harvests), engine)
    files.write_whole(_path(folder, run), _packed(run=_description(run), **columns))
    for index in range(len(run.temperatures)):
        (folder / "unfinished" / f"{run.name}.{index}.npz").unlink(missing_ok=True)


def _packed(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def make(
    what: str,
    root: str | Path = ".",
    *,
    folder: str | Path | None = None,
    output: str | Path | None = None,
    scheduler: str | None = None,
    n_workers: int | None = None,
    device: str | None = None,
    as_is: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Run what is missing of one of the study's sweeps and assemble its data set.

    Args:
        what: a key of `plan.FILES`.
        root: of the project, that all default paths start from.
        folder: of the runs' files; data/<what> by default.
        output: the data set's file; that of `plan.FILES` by default.
        scheduler, n_workers, device, report: as for `sweep`.
        as_is: assemble what there is and run nothing.

    Returns:
        The data set's file.

    Raises:
        FileExistsError: the output is there, and not of this sweep.
        ValueError: no such sweep, or as it is and said how to run it.
        ValueError, OSError, RuntimeError: as `sweep` and `assemble`.
    """
    runs, root = plan.RUNS[arguments.choice("what", what, plan.RUNS)](), Path(root)
    command = f"{COMMAND} {what}"
    folder = Path(folder or root / "data" / what)
    output = Path(output or root / plan.FILES[what])
    _check_output(output, command)
    how = {"scheduler": scheduler, "n_workers": n_workers, "device": device}
    if as_is and set(how.values()) != {None}:
        raise ValueError("as it is, nothing is run: leave out scheduler, workers and device")
    if what == "lengths":
        whole = root / plan.FILES["ramps"]
        ramps = whole if whole.exists() else root / "data" / "ramps"
        # Told before the sweep if they are missing.
        _slowest(ramps, partial=as_is)
    if not as_is:
        sweep(runs, folder, **how, report=report)
    if what == "lengths":
        made = assemble_lengths(folder, ramps, partial=as_is)
    else:
        made = assemble(runs, folder, command, partial=as_is, rounded=what in plan.ROUNDED)
    dataset.write(output, made)
    return output


def _check_output(output: Path, command: str) -> None:
    """Find out, before a sweep, whether its data set may be written."""
    files.check_writable(output)
    if not output.exists():
        return
    try:
        found = dataset.read(output).attributes["command"]
    except ValueError:
        found = "something else"
    # The study's own files were made before the command was called so.
    if found not in (command, command.replace(COMMAND, "python -m mddm.sweep")):
        raise FileExistsError(
            f"{output} was made by {found}, not by `{command}`: name another output, or move it "
            "away"
        )
