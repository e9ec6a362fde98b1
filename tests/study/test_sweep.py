import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import LocalCluster

from mddm import dataset, lammps
from mddm.family import Family
from mddm.protocol import Harvest
from mddm.study import plan, sweep
from mddm.study.plan import Run

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"
RUNS = [
    Run(
        f"run-{i}",
        plan.oscillating(3.8 + i, 0.6),
        (0.3, 0.2, 0.1),
        i,
        "train",
        100,
        60,
        0.5,
        n_kept=2,
    )
    for i in range(3)
]
SCRIPT = """
import sys
from test_sweep import RUNS
from mddm.study.sweep import sweep
if __name__ == "__main__":
    sweep(RUNS, sys.argv[1], n_workers=2, report=lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module")
def scheduler():
    """A scheduler with one worker in this process, which has imported all that it needs."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


def _start(folder, script):
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, script, folder], stdout=subprocess.PIPE, text=True, env=environment
    )


def _children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold blanks: count the fields from behind it.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _workers(pid):
    return [
        child
        for child in _children(pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _read_harvests(process, n):
    found = []
    while len(found) < n:
        line = process.stdout.readline()
        assert line, "the sweep ended early"
        if " at T = " in line:
            found.append(line)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_killed_sweep_loses_nothing_and_resumes(tmp_path, scheduler):
    folder = tmp_path / "pieces"
    process = _start(folder, tmp_path / "run.py")
    _read_harvests(process, 1)
    # A worker dies; the sweep goes on without it being started anew.
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    _read_harvests(process, 2)
    process.kill()
    process.wait()
    pieces = [path for path in folder.rglob("*.npz") if not path.name.startswith(".")]
    assert pieces
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    reported = []
    sweep.sweep(RUNS, folder, scheduler=scheduler, report=reported.append)
    assert sum(" at T = " in line for line in reported) < 9
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    found = sweep.assemble(RUNS, folder, "test")
    assert found.temperature.tolist() == [0.2, 0.1] * 3
    # What was broken off twice is what it would have been in one go.
    for row, run in enumerate(RUNS):
        whole = list(lammps.ramp(run.potential, run.temperatures, 100, 60, run.seed))
        np.testing.assert_array_equal(found.positions[2 * row + 1], whole[-1].positions)
    assert not list((folder / "unfinished").glob("*.npz"))
    # A second sweep has nothing to do, and does nothing.
    again = []
    sweep.sweep(RUNS, folder, report=again.append)
    assert again == ["3 of 3 runs were finished before"]


def put_down(folder, run):
    """Finish a run with particles anywhere, the same ones each time."""
    rng = np.random.default_rng(run.seed)
    harvests = []
    for number, temperature in enumerate(run.temperatures, start=1):
        points = rng.uniform(0, 10, (8, 3)).astype(np.float32)
        measured = rng.normal(size=4).tolist()
        steps = run.steps_after(number)
        harvests.append(
            Harvest(points, points, temperature, *measured, steps, 0.0, np.zeros((0, 4)))
        )
    sweep._finish(folder, run, harvests, "an engine")


def test_files_of_another_sweep_are_refused(tmp_path, monkeypatch):
    run = Run("one", plan.oscillating(3.8, 0.6), (0.3,), 0, "train", 50, 0, 0.5)
    put_down(tmp_path, run)
    other = replace(run, seed=1)
    with pytest.raises(ValueError, match=r"one\.npz was made with other settings"):
        sweep.sweep([other], tmp_path)
    (tmp_path / "one.npz").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"one\.npz is damaged; move it away"):
        sweep.sweep([run], tmp_path)

    def denied(_):
        raise PermissionError(errno.EACCES, "Permission denied", "one.npz")

    monkeypatch.setattr(np, "load", denied)
    with pytest.raises(PermissionError, match=r"one\.npz"):
        sweep.sweep([run], tmp_path)


def test_missing_runs_are_counted(tmp_path):
    with pytest.raises(ValueError, match="3 of 3 runs are missing"):
        sweep.assemble(RUNS, tmp_path, "mddm data make small")


def test_runs_of_several_potentials_are_one_set(tmp_path):
    kinds = [Family("lennard-jones"), Family("yukawa")]
    runs = [Run(f"run-{i}", kind, (0.1,), i, "test", 50, 0, 0.5) for i, kind in enumerate(kinds)]
    for run in runs:
        put_down(tmp_path, run)
    found = sweep.assemble(runs, tmp_path, "test")
    assert found.family == tuple(kinds) and found.seed.tolist() == [0, 1]


def test_a_lattice_is_held_at_each_temperature(tmp_path, monkeypatch):
    held, sites = [], np.zeros((8, 3))
    vibrations = SimpleNamespace(crystal=SimpleNamespace(positions=sites))
    monkeypatch.setattr(sweep.lattices, "stable", lambda *by: held.append(by[3]) or [vibrations])

    def hold(potential, positions, temperature, n_steps, seed, **_):
        points = positions.astype(np.float32)
        return Harvest(points, points, temperature, *[0.0] * 4, n_steps, 0.0, np.zeros((0, 4)))

    monkeypatch.setattr(sweep.lammps, "hold", hold)
    run = replace(plan.stable_runs(plan.any_runs(17))[0], temperatures=(0.2, 0.1), n_kept=2)
    harvests = [sweep._next_harvest(run, None)]
    harvests.append(sweep._next_harvest(run, harvests[0]))
    assert held == [0.2, 0.1] and [each.temperature for each in harvests] == held
    sweep._finish(tmp_path, run, harvests, "an engine")
    found = sweep.assemble([run], tmp_path, "test")
    assert found.attributes["start"] == "lattice" and found.steps.tolist() == [3000, 3000]
    assert found.encoded[:, 2].tolist() == [1, 1]


def test_failing_run_does_not_stop_the_others(tmp_path, scheduler):
    bad = Run("bad", plan.oscillating(3.8, 0.6), (0.1, 0.3), 0, "train", 50, 50, 0.5)
    good = Run("good", plan.oscillating(3.8, 0.6), (0.3,), 0, "train", 50, 0, 0.5)
    with pytest.raises(RuntimeError, match=r"1 runs failed: bad .*temperatures must fall"):
        sweep.sweep([bad, good], tmp_path, scheduler=scheduler, report=lambda line: None)
    assert (tmp_path / "good.npz").exists()


def test_unwritable_folder_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        sweep.sweep(RUNS, tmp_path / "file")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_workers": 0}, "at least 1, or None for one a core, got 0$"),
        ({"n_workers": 2, "scheduler": "tcp://a:1"}, "got 2 with the scheduler tcp://a:1"),
    ],
)
def test_numbers_of_workers_that_make_no_sense_are_refused(tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        sweep.sweep(RUNS, tmp_path / "new", **asked)
    assert not (tmp_path / "new").exists()


def test_a_scheduler_that_is_dead_or_idle_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_ANSWER", 0.5)
    monkeypatch.setattr(sweep, "_FIRST_WORKER", 0.2)
    for address in ("tcp://127.0.0.1:9", "what"):
        with pytest.raises(ConnectionError, match=rf"no Dask scheduler answers at {address} \("):
            sweep.sweep(RUNS, tmp_path, scheduler=address)
    reported = []
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(TimeoutError, match=f"{address} has had no workers for 0.2 s; start"):
            sweep.sweep(RUNS, tmp_path, scheduler=address, report=reported.append)
    assert reported[-1] == f"waiting for workers: start some with `dask worker {address}`"


def test_what_is_in_the_way_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "sweep", lambda *_, **__: pytest.fail("it has begun"))
    mine = tmp_path / "mine.h5"
    mine.write_text("somebody's notes")
    with pytest.raises(FileExistsError, match=rf"{mine} was made by something else, not by"):
        sweep.make("small", tmp_path, output=mine)
    assert mine.read_text() == "somebody's notes"
    mine.write_bytes(SHIPPED.read_bytes())
    with pytest.raises(FileExistsError, match=r"made by python -m mddm\.sweep small, not by"):
        sweep.make("replica", tmp_path, output=mine)
    with pytest.raises(OSError, match="/proc/none"):
        sweep.make("small", tmp_path, output="/proc/none/mine.h5")
    with pytest.raises(ValueError, match=r"20 of 20 runs are missing in .*ramps"):
        sweep.make("lengths", tmp_path)
    with pytest.raises(ValueError, match="as it is, nothing is run: leave out"):
        sweep.make("small", tmp_path, output=tmp_path / "new.h5", device="cuda", as_is=True)
    # Its own may be made anew.
    with pytest.raises(ValueError, match="30 of 30 runs are missing"):
        monkeypatch.setattr(sweep, "sweep", lambda *_, **__: None)
        sweep.make("small", tmp_path, output=mine)


def test_longest_anneals_come_from_the_ramps_or_from_what_was_assembled_of_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "N_LENGTHS", 2)
    fast = replace(RUNS[0], name="fast", temperatures=(0.3,), n_kept=1)
    monkeypatch.setattr(plan, "length_runs", lambda: [fast])
    ramps = [replace(run, temperatures=(0.3, 0.2)) for run in RUNS[:2]]
    monkeypatch.setattr(plan, "ramp_runs", lambda: ramps)
    for run in (*ramps, fast):
        put_down(tmp_path, run)
    pieces = sweep.assemble_lengths(tmp_path, tmp_path)
    assert pieces.k.tolist() == [3.8, 3.8, 4.8] and set(pieces.split) == {"test"}
    assert set(pieces.temperature) == {0.3}
    dataset.write(tmp_path / "all.h5", sweep.assemble(ramps, tmp_path, "command"))
    whole = sweep.assemble_lengths(tmp_path, tmp_path / "all.h5")
    assert whole.content_hash == pieces.content_hash
