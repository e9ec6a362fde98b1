import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from mddm import lammps, lammps_process, lammps_system, protocol
from mddm.formulas import LennardJones
from mddm.potential import (
    OscillatingPair,
    Smoothed,
    Tabulated,
    energy_scale,
    potential_energy,
)

POTENTIAL = Smoothed(OscillatingPair(6.6, 2.4))
SMALL = {"n_particles": 300, "box_length": 6.7}


@pytest.fixture(scope="module")
def quench():
    return lammps.anneal(POTENTIAL, 0.02, 600, seed=3, **SMALL)


def test_forces_and_energy_are_the_analytic_ones(quench):
    for pair in (OscillatingPair(1.0, 0.0), OscillatingPair(14.99, 5.9)):
        potential = Smoothed(pair)
        positions = torch.from_numpy(quench.positions).double().requires_grad_()
        energy = potential_energy(positions, potential, 6.7)
        (slope,) = torch.autograd.grad(energy.sum(), positions)
        table_energy, table_forces = lammps.energy_and_forces(positions, potential, 6.7)
        assert np.abs(table_forces + slope.numpy()).max() < 1e-4
        assert table_energy == pytest.approx(energy.mean().item(), abs=1e-6)


@pytest.mark.parametrize("k", [1.0, 15.0])
def test_pair_forces_are_exact_from_contact_to_the_cutoff(k):
    potential = Smoothed(OscillatingPair(k, 1.0))
    # A row of pairs, far from one another, one distance each.
    r = torch.linspace(0.85, 3.0, 64, dtype=torch.float64)
    y, z = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    corner = torch.stack([torch.zeros(64), 4 * y.flatten(), 4 * z.flatten()], dim=1).double()
    other = corner.clone()
    other[:, 0] = r
    _, forces = lammps.energy_and_forces(torch.cat([corner, other]), potential, 32.0)
    assert np.abs(forces[64:, 0] - potential.force(r).numpy()).max() < 1e-4


def test_any_tabulated_potential_will_do():
    r = np.linspace(0.5, 3.2, 300)
    potential = Smoothed(Tabulated(r, 4 * (r**-12 - r**-6)))
    pair = [[0.1, 0.0, 0.0], [6.7 - 1.1, 0.0, 0.0]]
    _, forces = lammps.energy_and_forces(torch.tensor(pair), potential, 6.7)
    assert forces[0, 0] == pytest.approx(24 * (2 * 1.2**-13 - 1.2**-7), abs=2e-4)


def test_anneal_returns_what_it_says(quench):
    assert quench.positions.dtype == np.float32
    assert quench.positions.shape == (300, 3)
    assert quench.positions.min() >= 0
    assert quench.positions.max() < 6.7
    positions = torch.from_numpy(quench.positions).double()
    recomputed = potential_energy(positions, POTENTIAL, 6.7).mean().item()
    assert quench.energy == pytest.approx(recomputed, abs=1e-5)
    assert quench.n_steps == quench.trace[-1, 0] == 600
    hot, cold = quench.trace[15], quench.trace[-1]
    assert hot[1] > 3 * cold[1]
    assert hot[2] > cold[2]


def test_thermostat_holds_the_target():
    harvest = lammps.anneal(POTENTIAL, 0.05, 4000, seed=1, start_temperature=0.05, **SMALL)
    assert harvest.kinetic_temperature == pytest.approx(0.05, rel=0.06)


def test_trace_does_not_disturb_the_run(quench, monkeypatch):
    # Each interruption that sets LAMMPS up anew would draw the thermostat's noise once more.
    monkeypatch.setattr(protocol, "PIECES", 1)
    straight = lammps.anneal(POTENTIAL, 0.02, 600, seed=3, **SMALL)
    assert len(straight.trace) < len(quench.trace)
    np.testing.assert_array_equal(straight.positions, quench.positions)


def test_energy_is_conserved_without_thermostat(quench):
    free = {"box_length": 6.7, "damping": math.inf}
    drifts = []
    for time_step in (0.01, 0.0025):
        n_steps = round(10 / time_step)
        run = lammps.cool(POTENTIAL, quench, 0.02, n_steps, 0, time_step=time_step, **free)
        energy = run.trace[:, 2] + 1.5 * run.trace[:, 1] * (1 - 1 / 300)
        drifts.append(energy.std())
    assert drifts[0] < 1e-4
    assert drifts[1] < drifts[0] / 4


def test_momentum_does_not_drift(quench):
    assert np.abs(quench.velocities.sum(axis=0)).max() < 1e-3


def test_equal_seeds_give_equal_bits(quench):
    again = lammps.anneal(POTENTIAL, 0.02, 600, seed=3, **SMALL)
    other = lammps.anneal(POTENTIAL, 0.02, 600, seed=4, **SMALL)
    np.testing.assert_array_equal(again.positions, quench.positions)
    np.testing.assert_array_equal(again.velocities, quench.velocities)
    assert again.energy == quench.energy
    assert np.abs(other.positions - quench.positions).max() > 0.1


def test_broken_ramp_goes_on_as_if_unbroken():
    temperatures = (0.3, 0.2, 0.1)
    whole = list(lammps.ramp(POTENTIAL, temperatures, 200, 100, 5, **SMALL))
    assert [harvest.n_steps for harvest in whole] == [200, 300, 400]
    assert [harvest.temperature for harvest in whole] == [0.3, 0.2, 0.1]
    rest = list(lammps.ramp(POTENTIAL, temperatures, 200, 100, 5, previous=whole[0], **SMALL))
    assert len(rest) == 2
    for expected, found in zip(whole[1:], rest, strict=True):
        np.testing.assert_array_equal(found.positions, expected.positions)
        np.testing.assert_array_equal(found.velocities, expected.velocities)


def test_minimisation_ends_where_forces_vanish(quench):
    given = quench.positions + np.float32(6.7)
    before = given.copy()
    relaxed, energy, converged = lammps.minimize(given, POTENTIAL, 6.7)
    assert converged
    np.testing.assert_array_equal(given, before)
    assert energy < quench.energy
    found, forces = lammps.energy_and_forces(relaxed, POTENTIAL, 6.7)
    assert found == energy
    _, forces_before = lammps.energy_and_forces(given, POTENTIAL, 6.7)
    assert np.abs(forces).max() < 1e-3 < np.abs(forces_before).max()
    moved = relaxed - quench.positions
    moved -= 6.7 * np.round(moved / 6.7)
    assert np.linalg.norm(moved, axis=1).mean() < 0.3


def test_no_table_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lammps.energy_and_forces(np.random.default_rng(0).uniform(0, 7, (10, 3)), POTENTIAL, 7.0)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="box_length must be above twice the cut-off"):
        lammps.anneal(POTENTIAL, 0.02, 100, 0, n_particles=50, box_length=5.0)
    with pytest.raises(ValueError, match="n_steps must be a whole number of at least 10, got 5"):
        lammps.anneal(POTENTIAL, 0.02, 5, 0)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        lammps.anneal(POTENTIAL, -0.02, 100, 0, start_temperature=0.1)
    with pytest.raises(ValueError, match="temperatures must fall"):
        next(lammps.ramp(POTENTIAL, (0.1, 0.2), 100, 100, 0))
    with pytest.raises(ValueError, match="positions must be finite"):
        lammps.minimize(np.full((10, 3), np.nan), POTENTIAL, 7.0)


@pytest.fixture
def fresh_process():
    """Start LAMMPS in the environment of the test, and leave none that was."""
    kept, lammps_process._idle[:] = list(lammps_process._idle), []
    yield
    for process in lammps_process._idle:
        process.end()
    lammps_process._idle[:] = kept


def test_missing_lammps_is_told_with_the_remedy(monkeypatch, tmp_path, fresh_process):
    (tmp_path / "lammps.py").write_text("raise ImportError('it is not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportError, match=r"it is not here.*pip install lammps mpich"):
        lammps.version()


def test_variables_of_a_job_scheduler_do_no_harm(monkeypatch, fresh_process):
    # MPI would take itself for one of two processes, whose starter it cannot find.
    for name, value in {"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": "5"}.items():
        monkeypatch.setenv(name, value)
    assert lammps.version().startswith("LAMMPS 2")


def test_numbers_of_other_types_will_do():
    tiny = {"n_particles": 50, "box_length": 6.7}
    plain = lammps.anneal(POTENTIAL, 0.02, 20, 3, **tiny)
    potential = Smoothed(OscillatingPair(np.float64(6.6), np.array(2.4)))
    tiny = {"n_particles": torch.tensor(50), "box_length": np.float64(6.7)}
    again = lammps.anneal(potential, np.float64(0.02), np.int64(20), 3.0, **tiny)
    np.testing.assert_array_equal(again.positions, plain.positions)
    tail = lammps.cool(potential, again, np.float64(0.01), np.int64(20), np.int64(0),
                       box_length=np.float32(6.7), damping=np.inf)  # fmt: skip
    assert tail.temperature == 0.01
    energy, _ = lammps.energy_and_forces(again.positions.tolist(), potential, np.float64(6.7))
    assert energy == again.energy


def test_particles_in_one_place_are_named(quench):
    positions = quench.positions.copy()
    positions[17] = positions[5] + np.float32([6.7, 0, 5e-4])
    for use in (lammps.energy_and_forces, lammps.minimize):
        with pytest.raises(ValueError, match=r"1 pairs .* 5 and 17, which are 0\.0005 apart: move"):
            use(positions, POTENTIAL, 6.7)


class Altered(OscillatingPair):
    """A potential whose force or energy is not what it should be."""

    def __init__(self, energy=1.0, force=1.0):
        super().__init__(6.6, 2.4)
        object.__setattr__(self, "factors", (energy, force))

    def energy(self, r):
        return self.factors[0] * super().energy(r)

    def force(self, r):
        return self.factors[1] * super().force(r)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (Altered(force=-1.0), r"force of potential must be -dU/dr: at r = .* it is -"),
        (Altered(force=1.1), r"force of potential must be -dU/dr: at r = .* it is"),
        (Altered(energy=math.nan), "must be finite up to its cut-off: its energy is nan at r = "),
        (Altered(energy=math.inf), "must be finite up to its cut-off: its energy is inf at r = "),
        (OscillatingPair(torch.ones(2, 1), 0.0), "potential must be that of one system"),
        (Tabulated([0.5, 1, 2, 3], [-3.0, -2.0, -1.0, 0.0]), "must repel at contact"),
    ],
)
def test_potentials_that_are_not_fit_for_md_are_refused(potential, message):
    with pytest.raises(ValueError, match=message):
        lammps.anneal(Smoothed(potential), 0.02, 100, 0, **SMALL)


def test_a_potential_must_be_smoothed(quench):
    with pytest.raises(TypeError, match=r"potential must be a Smoothed, .*Smoothed\(potential\)"):
        lammps.minimize(quench.positions, OscillatingPair(6.6, 2.4), 6.7)


def test_the_unit_of_energy_makes_no_difference(quench):
    # A power of four has a root without rounding.
    small, low = _in_unit(2.0**-10, quench.positions)
    large, high = _in_unit(2.0**10, quench.positions)
    assert np.array_equal(large, small)
    assert np.array_equal(high, low)
    # In the study's unit nothing is scaled, and it is another run of the same system.
    _, plain = _in_unit(1.0, quench.positions)
    assert high == pytest.approx(plain, rel=0.15)


def _in_unit(unit, positions):
    potential = Smoothed(LennardJones(unit))
    at_rest, lowest, converged = lammps.minimize(positions, potential, 6.7, tolerance=5.0)
    assert converged
    held = lammps.hold(potential, at_rest, 0.3 * unit, 200, 0, box_length=6.7)
    energy, forces = lammps.energy_and_forces(held.positions, potential, 6.7)
    assert held.energy == pytest.approx(energy, rel=1e-6)
    assert held.trace[-1, 2] == pytest.approx(energy, rel=1e-6)
    temperatures = [held.kinetic_temperature, held.velocities.var()]
    found = [*temperatures, lowest, energy, held.pressure, np.abs(forces).mean()]
    return held.positions, np.array(found) / unit


def test_blow_ups_are_errors():
    # What gets out of the box in one step, and what does not yet.
    for n_steps, how in ((10, "Lost atoms"), (20, "its kinetic temperature is 80\\.45")):
        with pytest.raises(FloatingPointError, match=rf"blew up .*{how}.* take a (smaller )?time"):
            lammps.anneal(POTENTIAL, 0.5, n_steps, 0, time_step=0.03, **SMALL)


def test_what_is_not_relaxed_is_told(quench, monkeypatch):
    monkeypatch.setattr(lammps, "_ITERATIONS", 3)
    with pytest.warns(UserWarning, match=r"forces of .*, above its tolerance of 0\.0001"):
        *_, converged = lammps.minimize(quench.positions, POTENTIAL, 6.7)
    assert converged is False


def test_the_end_of_lammps_is_an_error(quench, fresh_process):
    # Two that fall into each other, at which LAMMPS aborts.
    r = np.linspace(0.5, 3.2, 300)
    attractive = Smoothed(Tabulated(r, -(r**-6.0)))
    with pytest.raises(FloatingPointError, match=r"Pair distance < table inner cutoff.*repels"):
        with lammps_system.build(quench.positions, attractive, 6.7) as (system, _):
            system.command("minimize 0.0 1e-4 1000 1000")
    with pytest.raises(RuntimeError, match="the process of LAMMPS ended by SIGKILL"):
        with lammps_process.instance() as system:
            os.kill(system.process.pid, signal.SIGKILL)
            system.version()
    with pytest.raises(RuntimeError, match="Unknown command: nonsense"):
        with lammps_process.instance() as system:
            system.command("nonsense")
    assert lammps.version().startswith("LAMMPS 2")


def test_a_crystal_is_healed_hot_and_ends_cold(quench):
    # One particle is missing.
    positions = np.delete(quench.positions, 0, axis=0)
    start = lammps.minimize(positions, POTENTIAL, 6.7)[0]
    healed = lammps.heal(POTENTIAL, start, 0.02, 1500, 0, box_length=6.7, damping=0.1)
    hottest = lammps.HEALING * energy_scale(POTENTIAL)
    kinetic = healed.trace[:, 1]
    assert kinetic[10] == pytest.approx(hottest, rel=0.2)
    assert kinetic[-1] < 0.1 * hottest and healed.temperature == 0.02
    # At a temperature above that it is held.
    warm = lammps.heal(POTENTIAL, start, 1.0, 300, 0, box_length=6.7, damping=0.1)
    assert warm.kinetic_temperature == pytest.approx(1.0, rel=0.1)
    with pytest.raises(ValueError, match=r"hottest must be .* at least 0\.02"):
        lammps.heal(POTENTIAL, start, 0.02, 300, 0, hottest=0.01, box_length=6.7)


def test_what_ran_before_makes_no_difference(quench, fresh_process):
    def hold():
        held = lammps.hold(POTENTIAL, quench.positions, 0.02, 30, 1, box_length=6.7)
        return held.positions, held.velocities, held.energy, held.trace

    first = hold()
    # Another number of particles in the same LAMMPS, and one with another table.
    lammps.anneal(POTENTIAL, 0.02, 40, 0, start_temperature=0.1, n_particles=200, box_length=6.7)
    again = hold()
    lammps.minimize(quench.positions, Smoothed(OscillatingPair(5.0, 1.0)), 6.7)
    assert all(map(np.array_equal, first, again))
    assert all(map(np.array_equal, first, hold()))
    assert len(lammps_process._idle) == 1


def test_a_table_is_read_once(quench, fresh_process, monkeypatch):
    reads = []
    real = lammps_system._set_up
    monkeypatch.setattr(lammps_system, "_set_up", lambda *given: reads.append(real(*given)))
    for time_step in (0.01, 0.005):
        hot = {"box_length": 6.7, "time_step": time_step}
        lammps.hold(POTENTIAL, quench.positions, 0.02, 10, 1, **hot)
    lammps.minimize(quench.positions, POTENTIAL, 6.7)
    assert len(reads) == 1
    lammps.minimize(quench.positions, POTENTIAL, 6.8)
    lammps.minimize(quench.positions, Smoothed(OscillatingPair(5.0, 1.0)), 6.8)
    assert len(reads) == 3


def test_ctrl_c_is_heard_at_once(fresh_process, interruptible):
    lammps.version()
    (running,) = lammps_process._idle
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        lammps.anneal(POTENTIAL, 0.02, 1_000_000, 0, **SMALL)
    assert running.process.returncode == -signal.SIGKILL


def test_lammps_ends_with_its_python():
    code = (
        "from mddm import lammps_process as p\n"
        "with p.instance() as system: print(system.process.pid, flush=True); p.os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{int(done.stdout)}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_cpu_time_of_lammps_is_counted(quench):
    own, both = time.process_time(), lammps_process.process_time()
    lammps.cool(POTENTIAL, quench, 0.02, 1000, 0, box_length=6.7)
    own, both = time.process_time() - own, lammps_process.process_time() - both
    assert both > 2 * own
