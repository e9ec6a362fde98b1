import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from mddm.condition import RANGES
from mddm.formulas import InversePower, LennardJones
from mddm.potential import (
    OscillatingPair,
    Smoothed,
    Tabulated,
    energy_scale,
    energy_unit,
    potential_energy,
)

BOX = 10.0
# Corners and middle of the study's (k, phi) plane.
PARAMETERS = [(1.0, 0.0), (1.0, 5.9), (7.3, 2.0), (14.9, 0.0), (14.9, 5.9)]


def oscillating_pair_energy(r, k, phi):
    return 1 / r**15 + math.cos(k * (r - 1.25) - phi) / r**3


def oscillating_pair_force(r, k, phi):
    angle = k * (r - 1.25) - phi
    return 15 / r**16 + 3 * math.cos(angle) / r**4 + k * math.sin(angle) / r**3


def xplor(r, r_on, r_cut):
    """HOOMD-blue's smoothing function, from its documentation."""
    if r < r_on:
        return 1.0
    if r > r_cut:
        return 0.0
    numerator = (r_cut**2 - r**2) ** 2 * (r_cut**2 + 2 * r**2 - 3 * r_on**2)
    return numerator / (r_cut**2 - r_on**2) ** 3


def force_by_autograd(potential, r):
    r = r.clone().requires_grad_()
    (slope,) = torch.autograd.grad(potential.energy(r).sum(), r)
    return -slope


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


# --- the oscillating pair potential ------------------------------------------------------------


@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_energy_is_the_formula(k, phi):
    r = torch.linspace(0.8, 4, 200, dtype=torch.float64)
    expected = [oscillating_pair_energy(float(distance), k, phi) for distance in r]
    torch.testing.assert_close(OscillatingPair(k, phi).energy(r), float64(*expected))


@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_force_is_minus_the_gradient_of_the_energy(k, phi):
    r = torch.linspace(0.8, 4, 200, dtype=torch.float64)
    potential = OscillatingPair(k, phi)
    torch.testing.assert_close(
        potential.force(r), force_by_autograd(potential, r), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_force_vanishes_at_the_minimum_that_scipy_finds(k, phi):
    grid = np.linspace(0.8, 9, 1000)
    lowest = grid[np.argmin([oscillating_pair_energy(r, k, phi) for r in grid])]
    found = minimize_scalar(
        oscillating_pair_energy,
        bracket=(lowest - 0.01, lowest, lowest + 0.01),
        args=(k, phi),
        tol=1e-12,
    )
    potential, r = OscillatingPair(k, phi), float64(found.x)
    assert potential.energy(r).item() == pytest.approx(found.fun, rel=1e-12)
    assert potential.force(r).abs().item() < 1e-5
    assert potential.force(r - 0.01) > 0 > potential.force(r + 0.01)


def test_hoomd_writes_the_phase_without_an_offset():
    k, phi = 7.3, 2.0
    r = torch.linspace(0.9, 3, 50, dtype=torch.float64)
    phi_hoomd = phi + 1.25 * k
    hoomd = 1 / r**15 + torch.cos(k * r - phi_hoomd) / r**3
    torch.testing.assert_close(OscillatingPair(k, phi).energy(r), hoomd)


def test_parameters_may_be_tensors_one_for_each_system():
    k, phi = torch.tensor(PARAMETERS, dtype=torch.float64).T[:, :, None]
    r = torch.linspace(0.9, 3, 20, dtype=torch.float64)
    together = Smoothed(OscillatingPair(k, phi))
    assert together.energy(r).shape == (len(PARAMETERS), 20)
    for row, (k, phi) in enumerate(PARAMETERS):
        alone = Smoothed(OscillatingPair(k, phi))
        torch.testing.assert_close(together.energy(r)[row], alone.energy(r))
        torch.testing.assert_close(together.force(r)[row], alone.force(r))


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor([1.0, math.nan])])
def test_parameters_must_be_finite(value):
    with pytest.raises(ValueError, match=r"k must be (a finite number, got|finite; some)"):
        OscillatingPair(k=value, phi=1.0)
    with pytest.raises(ValueError, match=r"phi must be (a finite number, got|finite; some)"):
        OscillatingPair(k=1.0, phi=value)


# --- smoothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("r_on", "r_cut"), [(2.5, 3.0), (1.0, 3.0), (2.9, 3.0)])
@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_smoothed_energy_is_the_energy_times_xplor(k, phi, r_on, r_cut):
    r = torch.linspace(0.75, 3.5, 400, dtype=torch.float64)
    expected = [oscillating_pair_energy(float(x), k, phi) * xplor(x, r_on, r_cut) for x in r]
    smoothed = Smoothed(OscillatingPair(k, phi), r_on=r_on, r_cut=r_cut)
    torch.testing.assert_close(smoothed.energy(r), float64(*expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_smoothed_force_is_minus_the_gradient_everywhere(k, phi):
    smoothed = Smoothed(OscillatingPair(k, phi), r_core=0.8)
    # From the core through the smoothing to beyond the cut-off, none on a joint.
    r = torch.linspace(0.0101, 3.4999, 700, dtype=torch.float64)
    torch.testing.assert_close(
        smoothed.force(r), force_by_autograd(smoothed, r), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("joint", ["r_core", "r_on", "r_cut"])
@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_energy_and_force_are_continuous_at_the_joints(k, phi, joint):
    smoothed = Smoothed(OscillatingPair(k, phi))
    step = 1e-7
    r = getattr(smoothed, joint) + float64(-step, 0.0, step)
    for curve in (smoothed.energy, smoothed.force, lambda r: force_by_autograd(smoothed, r)):
        values = curve(r)
        # A jump would not shrink with the step; the largest slope is that of the wall.
        steepest = 300 * 0.7**-17
        assert values.diff().abs().max() < (steepest if joint == "r_core" else 3000) * step


@pytest.mark.parametrize("r", [3.0, 3.0001, 100.0])
def test_nothing_is_left_beyond_the_cut_off(r):
    smoothed = Smoothed(OscillatingPair(7.3, 2.0))
    assert smoothed.energy(float64(r)) == 0 and smoothed.force(float64(r)) == 0


def test_the_core_is_a_straight_line_and_finite_at_contact():
    potential = OscillatingPair(7.3, 2.0)
    smoothed = Smoothed(potential, r_core=0.7)
    r = torch.linspace(0, 0.7, 8)
    slope = -potential.force(torch.tensor(0.7))
    torch.testing.assert_close(
        smoothed.energy(r), potential.energy(torch.tensor(0.7)) + slope * (r - 0.7)
    )
    torch.testing.assert_close(smoothed.force(r), -slope.expand(8))


def test_at_the_default_core_every_potential_of_the_study_repels():
    k = torch.linspace(*RANGES["k"], 200)[:, None]
    phi = torch.linspace(*RANGES["phi"], 200)
    smoothed = Smoothed(OscillatingPair(k, phi))
    assert smoothed.force(torch.tensor(0.0)).min() > 0
    assert smoothed.energy(torch.tensor(0.0)).min() > 100


@pytest.mark.parametrize(
    "radii",
    [
        {"r_on": 3.0},
        {"r_on": 3.5},
        {"r_core": 0.0},
        {"r_core": 2.6},
        {"r_on": -1.0},
    ],
)
def test_radii_must_be_in_order(radii):
    with pytest.raises(ValueError, match="0 < r_core < r_on < r_cut, got r_core="):
        Smoothed(OscillatingPair(1.0, 1.0), **radii)
    with pytest.raises(ValueError, match="r_cut must be a finite number, got inf"):
        Smoothed(OscillatingPair(1.0, 1.0), r_cut=math.inf)


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "phi"), PARAMETERS)
def test_a_table_follows_the_analytic_curve(k, phi):
    knots = np.linspace(0.65, 3.1, 4000)
    table = Tabulated(knots, [oscillating_pair_energy(r, k, phi) for r in knots])
    r = torch.linspace(0.7, 3.05, 997, dtype=torch.float64)
    analytic = OscillatingPair(k, phi)
    torch.testing.assert_close(table.energy(r), analytic.energy(r), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(table.force(r), analytic.force(r), rtol=1e-6, atol=1e-5)
    smoothed_table, smoothed = Smoothed(table), Smoothed(analytic)
    r = torch.linspace(0.0, 3.5, 700, dtype=torch.float64)
    torch.testing.assert_close(smoothed_table.energy(r), smoothed.energy(r), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(smoothed_table.force(r), smoothed.force(r), rtol=1e-5, atol=1e-4)


def test_a_table_goes_through_its_points_and_keeps_shape_and_dtype():
    r, energy = [0.5, 0.7, 1.0, 1.5, 2.0], [3.0, 1.0, -1.0, -0.5, 0.0]
    table = Tabulated(r, energy)
    for dtype in (torch.float32, torch.float64):
        values = table.energy(torch.tensor(r, dtype=dtype).reshape(5, 1))
        assert values.dtype == dtype
        torch.testing.assert_close(values, torch.tensor(energy, dtype=dtype).reshape(5, 1))
    assert table.energy(torch.zeros(0)).shape == (0,)


def test_a_table_that_ends_where_its_smoothing_does_works_in_both_precisions():
    knots = np.linspace(0.7, 3.0, 500)
    table = Tabulated(knots, [oscillating_pair_energy(r, 7.3, 2.0) for r in knots])
    smoothed = Smoothed(table, r_core=0.7, r_cut=3.0)
    for dtype in (torch.float32, torch.float64):
        r = torch.tensor([0.3, 0.7, 1.0, 2.9, 3.0, 4.0], dtype=dtype)
        assert torch.isfinite(smoothed.energy(r)).all()
        assert torch.isfinite(smoothed.force(r)).all()


@pytest.mark.parametrize(
    ("r", "energy", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "at least 4 points"),
        ([1, 2, 3, 4], [1, 2, 3], r"got shapes \(4,\) and \(3,\)"),
        (np.ones((4, 2)), np.ones((4, 2)), "r must have the shape"),
        ([1, 2, 2, 3], [1, 2, 3, 4], "strictly increasing"),
        ([4, 3, 2, 1], [1, 2, 3, 4], "sort it first"),
        ([0, 1, 2, 3], [1, 2, 3, 4], "above 0, got 0"),
        ([1, 2, 3, 4], [1, math.nan, 3, 4], "finite"),
        ([1, 2, 3, math.inf], [1, 2, 3, 4], "finite"),
    ],
)
def test_a_table_refuses_bad_points(r, energy, message):
    with pytest.raises(ValueError, match=message):
        Tabulated(r, energy)


@pytest.mark.parametrize("r", [0.49, 2.01, math.nan])
def test_a_table_is_not_extrapolated(r):
    table = Tabulated([0.5, 1.0, 1.5, 2.0], [1.0, 0.0, 0.0, 0.0])
    for curve in (table.energy, table.force):
        with pytest.raises(ValueError, match=r"within the table, 0.5 to 2.0; got .* Smoothed"):
            curve(torch.tensor([1.0, r]))


# --- a whole configuration ---------------------------------------------------------------------


def potential_by_kind(kind, k=7.3, phi=2.0):
    if kind == "analytic":
        return Smoothed(OscillatingPair(k, phi))
    knots = np.linspace(0.6, 3.1, 3000)
    return Smoothed(Tabulated(knots, [oscillating_pair_energy(r, k, phi) for r in knots]))


def random_configuration(n_particles, seed=0):
    torch.manual_seed(seed)
    return torch.rand(n_particles, 3, dtype=torch.float64) * BOX


def brute_force_pairs(positions):
    for i, j in itertools.combinations(range(len(positions)), 2):
        delta = positions[j] - positions[i]
        delta -= BOX * np.round(delta / BOX)
        yield i, j, delta, float(np.sqrt((delta**2).sum()))


def test_the_scale_of_the_energy_is_its_range_beyond_close_packed_neighbours():
    assert energy_scale(Smoothed(LennardJones(epsilon=2.0))) == pytest.approx(2)
    assert energy_scale(Smoothed(InversePower())) == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match=r"r_cut must be above 1\.122"):
        energy_scale(Smoothed(InversePower(), r_on=0.9, r_cut=1.1))


def test_the_unit_of_energy_is_one_for_what_is_of_order_one():
    weak = Smoothed(LennardJones(epsilon=0.01))
    assert energy_unit(weak) == energy_scale(weak) == pytest.approx(0.01)
    assert energy_unit(weak, hottest=0.05) == 0.05
    assert energy_unit(weak, hottest=0.5) == energy_unit(Smoothed(LennardJones())) == 1
    assert energy_unit(Smoothed(LennardJones(epsilon=300.0))) == pytest.approx(300)
    assert energy_unit(Smoothed(LennardJones(epsilon=0.0))) == 1
    assert energy_unit(Smoothed(InversePower(), r_on=0.9, r_cut=1.1)) == 1


def test_energy_equals_a_double_loop_over_pairs():
    positions, k, phi = random_configuration(60), 7.3, 2.0
    smoothed = Smoothed(OscillatingPair(k, phi))
    expected = np.zeros(60)
    for i, j, _, r in brute_force_pairs(positions.numpy()):
        if r < 0.7:
            wall = oscillating_pair_force(0.7, k, phi) * (0.7 - r)
            energy = oscillating_pair_energy(0.7, k, phi) + wall
        else:
            energy = oscillating_pair_energy(r, k, phi) * xplor(r, 2.5, 3.0)
        expected[[i, j]] += energy / 2
    energies = potential_energy(positions, smoothed, BOX)
    np.testing.assert_allclose(energies, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["analytic", "table"])
def test_forces_by_autograd_equal_the_sum_of_pair_forces(kind):
    positions, smoothed = random_configuration(60), potential_by_kind(kind)
    expected = np.zeros((60, 3))
    for i, j, delta, r in brute_force_pairs(positions.numpy()):
        push = smoothed.force(float64(r)).item() * delta / r
        expected[j] += push
        expected[i] -= push
    positions.requires_grad_()
    (gradient,) = torch.autograd.grad(potential_energy(positions, smoothed, BOX).sum(), positions)
    np.testing.assert_allclose(-gradient, expected, rtol=1e-5, atol=1e-6)
    assert gradient.sum(0).abs().max() < 1e-9 * gradient.abs().max()


def test_energy_of_one_pair_is_shared_evenly_across_the_boundary():
    smoothed = Smoothed(OscillatingPair(7.3, 2.0))
    positions = float64(0.2, 5.0, 9.9, 9.1, 5.0, 9.9).reshape(2, 3)
    energies = potential_energy(positions, smoothed, BOX)
    torch.testing.assert_close(energies, smoothed.energy(float64(1.1, 1.1)) / 2)


def test_energy_is_invariant_under_translation_through_the_boundary():
    positions, smoothed = random_configuration(200), Smoothed(OscillatingPair(1.0, 4.0))
    energies = potential_energy(positions, smoothed, BOX)
    for shift in (float64(3.3, -7.1, 25.0), float64(9.99, 0.0, 0.0)):
        torch.testing.assert_close(
            potential_energy(positions + shift, smoothed, BOX), energies, rtol=1e-9, atol=1e-9
        )


def test_a_dilute_or_single_particle_has_no_energy():
    smoothed = Smoothed(OscillatingPair(1.0, 4.0))
    for positions in (torch.zeros(1, 3), torch.tensor([[0.0, 0, 0], [4.0, 4, 4]])):
        assert torch.equal(potential_energy(positions, smoothed, BOX), torch.zeros(len(positions)))


def test_coincident_particles_have_a_finite_energy_and_gradient():
    positions = torch.ones(2, 3, requires_grad=True)
    smoothed = Smoothed(OscillatingPair(7.3, 2.0))
    energy = potential_energy(positions, smoothed, BOX).sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    assert torch.isfinite(energy) and torch.isfinite(gradient).all()


def test_energy_refuses_a_cut_off_of_half_the_box():
    smoothed = Smoothed(OscillatingPair(1.0, 4.0))
    with pytest.raises(ValueError, match="half the box edge"):
        potential_energy(torch.rand(5, 3) * 6, smoothed, 6.0)
