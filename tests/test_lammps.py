import math
import sys

import numpy as np
import pytest
import torch

from mddm import lammps
from mddm.potential import OscillatingPair, Smoothed, Tabulated, potential_energy

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
    monkeypatch.setattr(lammps, "_PIECES", 1)
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
    relaxed, energy = lammps.minimize(given, POTENTIAL, 6.7)
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
    with pytest.raises(ValueError, match="n_steps must be at least 10"):
        lammps.anneal(POTENTIAL, 0.02, 5, 0)
    with pytest.raises(ValueError, match="temperatures must be positive"):
        lammps.anneal(POTENTIAL, -0.02, 100, 0, start_temperature=0.1)
    with pytest.raises(ValueError, match="temperatures must fall"):
        next(lammps.ramp(POTENTIAL, (0.1, 0.2), 100, 100, 0))
    with pytest.raises(ValueError, match="positions must be finite"):
        lammps.minimize(np.full((10, 3), np.nan), POTENTIAL, 7.0)


def test_missing_lammps_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(ImportError, match="pip install lammps mpich"):
        lammps.version()
