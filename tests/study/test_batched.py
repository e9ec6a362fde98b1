import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mddm import lammps
from mddm.potential import potential_energy
from mddm.study import batched, plan, sweep
from mddm.study.plan import Run

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

WELLS = plan.random_potentials(2)
RUNS = [
    Run("opp", plan.oscillating(6.6, 2.4), (0.2, 0.1), 5, "train", 300, 300, 0.5, n_kept=2),
    Run("wells", WELLS[1], (0.2,), 6, "train", 200, 0, 0.5),
]
# With a thermostat that is quick.
SMALL = {"n_particles": 300, "box_length": 6.7, "damping": 0.1}


def _silent(line):
    pass


def _batch(n, box_length, time_step, drag):
    numbers = {"n": n, "box": box_length, "time_step": time_step, "drag": drag}
    return batched._Batch(RUNS, torch.device("cpu"), numbers)


@pytest.fixture(scope="module")
def made():
    return {
        run.name: harvests for run, harvests in batched.ramps(RUNS, "cpu", **SMALL, report=_silent)
    }


def test_harvests_are_those_of_the_plan_with_energies_of_their_positions(made):
    assert {name: [each.temperature for each in found] for name, found in made.items()} == {
        "opp": [0.2, 0.1],
        "wells": [0.2],
    }
    assert [each.n_steps for each in made["opp"]] == [300, 600]
    for run in RUNS:
        for each in made[run.name]:
            assert each.positions.shape == each.velocities.shape == (300, 3)
            assert each.positions.min() >= 0 and each.positions.max() < SMALL["box_length"]
            positions = torch.from_numpy(each.positions).double()
            energy = potential_energy(positions, run.potential, SMALL["box_length"]).mean()
            assert each.energy == pytest.approx(energy.item(), abs=1e-5)
            assert 0.8 < each.kinetic_temperature / each.temperature < 1.25
            assert each.velocities.mean(axis=0) == pytest.approx(0, abs=1e-4)


def test_the_same_runs_in_another_company_are_the_same(made):
    ((_, alone),) = batched.ramps(RUNS[1:], "cpu", **SMALL, report=_silent)
    assert (alone[0].positions == made["wells"][0].positions).all()
    other = [replace(RUNS[1], seed=7)]
    ((_, another),) = batched.ramps(other, "cpu", **SMALL, report=_silent)
    assert not np.allclose(another[0].positions, alone[0].positions)


def test_forces_and_pressures_are_those_of_lammps():
    batch = _batch(300, 6.7, 0.01, 0.0)
    batch.descend()
    one = np.ones(2)
    for name in ("v", "f", "sums"):
        batch.tensors[name].zero_()
    # Without velocities and forces nothing moves in the first step.
    batch._run(one, one, one, one)
    for number, run in enumerate(RUNS):
        positions = batch.tensors["x"][number].T
        energy, forces = lammps.energy_and_forces(positions, run.potential, 6.7)
        assert batch.tensors["f"][number].T.numpy() == pytest.approx(forces, abs=2e-3)
        assert batch.tensors["sums"][number, 3].item() == pytest.approx(energy, abs=1e-5)


def test_without_a_thermostat_energy_is_kept():
    batch = _batch(300, 6.7, 0.005, 0.0)
    batch.descend()
    batch.tensors["v"].copy_(batch.first_velocities)
    totals = []
    for _ in range(3):
        batch._run(np.ones(2), np.ones(2), 60 * np.ones(2), 10 * np.ones(2))
        kinetic = batch.tensors["v"].double().square().sum((1, 2)) / 600
        totals.append(kinetic + batch.tensors["sums"][:, 3])
    assert torch.stack(totals).std(dim=0).max() < 2e-3


def test_what_blows_up_is_reported_and_left_out():
    said = []
    hot = replace(RUNS[1], name="hot", temperatures=(1e-4,), n_steps_first=10)
    found = list(batched.ramps([hot], "cpu", **SMALL, report=said.append))
    assert not found
    assert any("FAILED hot: it blew up" in line for line in said)


def test_runs_that_it_cannot_make_are_refused():
    with pytest.raises(ValueError, match="start at random"):
        next(batched.ramps([replace(RUNS[0], start="lattice")], "cpu"))
    for name, value in (("n_particles", 2000), ("time_step", 0), ("damping", -1)):
        with pytest.raises(ValueError, match=name):
            next(batched.ramps(RUNS, "cpu", **{name: value}))
    with pytest.raises(ValueError, match="device must be 'cuda', the first GPU, or 'cpu'"):
        batched.version("meta")


def test_a_sweep_that_is_stopped_keeps_the_batches_that_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_SETTINGS", sweep._SETTINGS | SMALL)
    monkeypatch.setattr(batched, "_batch_size", lambda device: 2)
    monkeypatch.setattr(batched, "_TOLD_EVERY", 0)
    runs = [replace(RUNS[1], name=f"run{i}", n_steps_first=20 + 10 * i) for i in range(3)]
    said = []

    def stop(line):
        said.append(line)
        if "2 of 3 runs are over" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(runs, tmp_path, device="cpu", report=stop)
    assert {path.stem for path in tmp_path.glob("*.npz")} == {"run0", "run1"}
    # 50 of 90 steps are those of the first two.
    assert any("56% of all steps" in line and "min to go" in line for line in said)
    said.clear()
    sweep.sweep(runs, tmp_path, device="cpu", report=said.append)
    assert said[0] == "2 of 3 runs were finished before"
    assert "100% of all steps; about 0.0 min to go" in said[-2] and "1 of 1 runs" in said[-1]


def test_a_sweep_that_loses_a_run_keeps_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_SETTINGS", sweep._SETTINGS | SMALL)
    hot = replace(RUNS[1], name="hot", temperatures=(1e-4,), n_steps_first=10)
    with pytest.raises(RuntimeError, match="1 runs failed: hot; the others are finished"):
        sweep.sweep([hot, RUNS[1]], tmp_path, device="cpu", report=_silent)
    assert [path.stem for path in tmp_path.glob("*.npz")] == ["wells"]


@pytest.mark.parametrize(
    "compiler", [None, "#!/bin/sh\necho 'x: error: no such target' >&2\nexit 1\n"]
)
def test_a_compiler_that_is_not_there_or_fails_is_told_in_one_line(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    if compiler:
        (tmp_path / "g++").write_text(compiler)
        (tmp_path / "g++").chmod(0o755)
    told = r"does not compile: x: error: no such target$" if compiler else r"^g\+\+ is needed"
    with pytest.raises(RuntimeError, match=told):
        batched._library.__wrapped__("cpu")


@pytest.mark.parametrize("how", [{"scheduler": "tcp://here:1"}, {"n_workers": 2}])
def test_a_device_takes_no_scheduler_and_no_workers(how, tmp_path):
    with pytest.raises(ValueError, match="the device 'cpu' runs all by itself"):
        sweep.sweep(RUNS, tmp_path / "none", device="cpu", **how)
    assert not (tmp_path / "none").exists()


def test_a_sweep_side_by_side_has_the_files_of_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_SETTINGS", sweep._SETTINGS | SMALL)
    sweep.sweep(RUNS, tmp_path, device="cpu", report=_silent)
    said = []
    sweep.sweep(RUNS, tmp_path, report=said.append)
    assert said == ["2 of 2 runs were finished before"]
    whole = sweep.assemble(RUNS[:1], tmp_path, "made", rounded=True)
    assert whole.temperature.tolist() == [0.2, 0.1]
    assert "batched.cu" in whole.attributes["engine"]
    assert (whole.positions * 4096 == (whole.positions * 4096).round()).all()


def test_a_system_whose_particles_fall_into_each_other_is_lost_alone():
    batch = _batch(600, 8.4, 0.01, 1.0)
    batch.tensors["x"][0] *= 0.05
    batch._run(np.ones(2), np.ones(2), np.ones(2), np.ones(2))
    assert batch.lost.tolist() == [True, False]
    assert "more than 512 neighbours" in batch.losses[0]
