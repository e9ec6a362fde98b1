import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mddm import lammps
from mddm.crystal import Crystal, energy
from mddm.geometry import minimum_image
from mddm.phonons import by_free_energy, vibrations
from mddm.potential import OscillatingPair, Smoothed, Tabulated, potential_energy

BOX = 4.0
OPP = Smoothed(OscillatingPair(9.0, 4.0), r_on=1.6, r_cut=1.9)
AT = np.zeros((1, 3))
FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def at_rest(cell, basis, potential, box_length=BOX):
    crystal = Crystal(cell, basis, box_length)
    return replace(crystal, energy=energy(crystal, potential))


@pytest.fixture(scope="module")
def fcc():
    """Of 32 particles, nearest neighbours 1.41 apart."""
    return at_rest(2 * FCC, AT, OPP)


@pytest.mark.parametrize(
    ("cell", "basis"),
    [(2 * FCC, AT), (np.diag([2.0, 2.0, 2.0]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]))],
)
def test_frequencies_are_those_of_the_whole_crystal(cell, basis):
    crystal = at_rest(cell, basis, OPP)
    positions = torch.from_numpy(crystal.positions).double()

    def total(flat):
        return potential_energy(flat.view(-1, 3), OPP, BOX).sum()

    hessian = torch.autograd.functional.hessian(total, positions.flatten(), vectorize=True)
    expected = np.linalg.eigvalsh(hessian.numpy())
    found = vibrations(crystal, OPP, 0.02).squared_frequencies
    assert len(found) == len(expected) - 3
    shifts = np.argsort(np.abs(expected))[:3]
    np.testing.assert_allclose(found, np.delete(expected, shifts), atol=1e-3, rtol=1e-5)


def test_a_table_vibrates_like_its_formula(fcc):
    r = np.linspace(0.6, 2.0, 3000)
    table = Tabulated(r, OscillatingPair(9.0, 4.0).energy(torch.from_numpy(r)))
    tabulated = vibrations(fcc, Smoothed(table, r_on=1.6, r_cut=1.9), 0.02).squared_frequencies
    expected = vibrations(fcc, OPP, 0.02).squared_frequencies
    np.testing.assert_allclose(tabulated, expected, rtol=1e-3, atol=1e-2)


def test_the_free_energy_is_that_of_independent_oscillators(fcc):
    cold, warm = (vibrations(fcc, OPP, temperature) for temperature in (0.02, 0.02 + 1e-6))
    # d(F / T) / dT = -(mean energy) / T^2, of which half of 3 T is kinetic.
    slope = (warm.free_energy / warm.temperature - cold.free_energy / cold.temperature) / 1e-6
    modes = len(cold.squared_frequencies) / fcc.n_particles
    assert modes == 3 - 3 / 32
    mean = cold.mean_energy + modes / 2 * 0.02
    assert -slope * 0.02**2 == pytest.approx(mean, rel=1e-3)
    assert cold.mean_energy == pytest.approx(fcc.energy + modes * 0.01)


@pytest.mark.parametrize("temperature", [0.01, 0.05])
def test_md_has_the_mean_energy_and_the_amplitude(fcc, temperature):
    expected = vibrations(fcc, OPP, temperature)
    assert expected.stable
    rest, squared = torch.from_numpy(fcc.positions), []
    now = lammps.hold(OPP, fcc.positions, temperature, 500, 0, box_length=BOX)
    energies = []
    for _ in range(3):
        now = lammps.cool(OPP, now, temperature, 1000, 0, box_length=BOX)
        energies += now.trace[:, 2].tolist()
        away = minimum_image(torch.from_numpy(now.positions) - rest, BOX)
        squared.append((away - away.mean(dim=0)).square().sum(dim=1).mean().item())
    assert np.mean(energies) == pytest.approx(expected.mean_energy, abs=0.1 * temperature)
    assert math.sqrt(np.mean(squared)) == pytest.approx(expected.amplitude, rel=0.15)


def test_crystals_come_in_the_order_of_their_free_energies_unstable_ones_last(fcc):
    # Particles that only repel slip past each other where they sit in rows of squares.
    r = np.linspace(0.3, 2.0, 400)
    repulsion = Smoothed(Tabulated(r, r**-12), r_on=1.6, r_cut=1.9)
    simple = at_rest(np.diag([2.0, 1.0, 1.0]), AT, repulsion)
    close_packed = at_rest(2 * FCC, AT, repulsion)
    best, worst = by_free_energy([simple, close_packed], repulsion, 0.02)
    assert best.crystal is close_packed and best.stable
    assert worst.crystal is simple and not worst.stable
    assert math.isnan(worst.free_energy) and math.isnan(worst.amplitude)
    assert worst.squared_frequencies[0] < 0


def test_at_a_temperature_the_softer_crystal_wins(fcc):
    stiff = vibrations(fcc, OPP, 0.02)
    soft = replace(stiff, squared_frequencies=stiff.squared_frequencies / 4)
    expected = 0.02 * math.log(2) * (3 - 3 / 32)
    assert stiff.free_energy - soft.free_energy == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(fcc, temperature):
    with pytest.raises(ValueError, match="temperature must be"):
        vibrations(fcc, OPP, temperature)


def test_a_crystal_that_is_not_at_rest_is_refused():
    crystal = Crystal(np.eye(3) * 2, np.array([[0, 0, 0], [0.4, 0.5, 0.5]]), BOX)
    with pytest.raises(ValueError, match="not at rest"):
        vibrations(crystal, OPP, 0.02)


def test_a_single_particle_has_no_vibrations():
    with pytest.raises(ValueError, match="single particle"):
        vibrations(Crystal(np.eye(3) * BOX, AT, BOX), OPP, 0.02)
