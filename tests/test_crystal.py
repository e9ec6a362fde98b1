import itertools
import math

import numpy as np
import pytest
import torch

from mddm.crystal import Crystal, bonds, check_potential, energy, symmetry
from mddm.potential import OscillatingPair, Smoothed, Tabulated, potential_energy

OPP = Smoothed(OscillatingPair(9.0, 0.7))
AT = np.zeros((1, 3))
SC = np.eye(3)
BCC = (np.ones((3, 3)) - 2 * np.eye(3)) / 2
FCC = (np.ones((3, 3)) - np.eye(3)) / 2
HEXAGONAL = np.array([[1, 0, 0], [-0.5, math.sqrt(3) / 2, 0], [0, 0, math.sqrt(8 / 3)]])
A15 = np.array(
    [[0, 0, 0], [2, 2, 2], [1, 0, 2], [3, 0, 2], [2, 1, 0], [2, 3, 0], [0, 2, 1], [0, 2, 3]]
) / 4  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "squares", "counts"),
    [
        (SC, [1, 2, 3, 4, 5, 6, 8, 9], [6, 12, 8, 6, 24, 24, 12, 30]),
        (BCC, [0.75, 1, 2, 2.75, 3, 4], [8, 6, 12, 24, 8, 6]),
        (FCC, [0.5, 1, 1.5, 2, 2.5, 3], [12, 6, 24, 12, 24, 8]),
    ],
)
def test_shells_are_those_of_closed_form(cell, squares, counts):
    radii, found = Crystal(2 * cell, AT, 6.0).shells(2 * math.sqrt(squares[-1]) + 0.01)
    np.testing.assert_allclose(radii**2 / 4, squares, rtol=1e-12)
    np.testing.assert_array_equal(found, counts)


def test_shells_of_a_basis_are_means_over_its_particles():
    diamond = Crystal(4 * FCC, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), 8.0)
    radii, counts = diamond.shells(3.4)
    np.testing.assert_allclose(radii, [math.sqrt(3), math.sqrt(8), math.sqrt(11)])
    np.testing.assert_array_equal(counts, [4, 12, 12])
    # Two kinds of particles, with 12 neighbours in one shell, and with 2 + 4 + 8 in three.
    radii, counts = Crystal(4 * SC, A15, 8.0).shells(2.5)
    np.testing.assert_allclose(radii, [2, math.sqrt(5), math.sqrt(6)])
    np.testing.assert_allclose(counts, [6 * 2 / 8, (2 * 12 + 6 * 4) / 8, 6 * 8 / 8])


@pytest.mark.parametrize("basis", [AT, np.random.default_rng(1).random((3, 3)) * 3])
def test_positions_fill_the_box_and_have_the_energy_of_the_cell(basis):
    # A cell askew: 8 of its points in a cube of edge 2, the cube three times along each edge.
    form = np.array([[1, 0, 1], [0, 2, 1], [0, 0, 4]])
    crystal = Crystal(2.4 * np.linalg.inv(form).T, basis, 7.2)
    positions = crystal.positions
    assert positions.shape == (crystal.n_particles, 3) == (216 * len(basis), 3)
    assert positions.dtype == np.float32
    assert (positions >= 0).all() and (positions < 7.2).all()
    shared = potential_energy(torch.from_numpy(positions).double(), OPP, 7.2)
    assert energy(crystal, OPP) == pytest.approx(shared.mean().item(), rel=1e-4)


def test_wave_vectors_are_periodic_in_the_box_and_differ_in_the_crystal():
    form = np.array([[1, 0, 1], [0, 2, 1], [0, 0, 4]])
    crystal = Crystal(2.4 * np.linalg.inv(form).T, AT, 2.4)
    waves = crystal.wave_vectors
    assert len(waves) == 8
    whole = waves * 2.4 / (2 * np.pi)
    np.testing.assert_allclose(whole, whole.round(), atol=1e-9)
    phases = np.exp(1j * waves @ crystal.positions.T)
    np.testing.assert_allclose(phases @ phases.conj().T, 8 * np.eye(8), atol=1e-4)


def test_bonds_are_all_images_within_reach():
    cell = np.array([[1.0, 0, 0], [0.4, 0.9, 0], [-0.3, 0.2, 1.2]])
    basis = np.array([[0.1, 0.2, 0.3], [0.7, -1.4, 0.9]])
    start, end, vectors = bonds(cell, basis, 2.3)
    found = {(i, j, *vector.round(9)) for i, j, vector in zip(start, end, vectors, strict=True)}
    expected = set()
    for i, j in itertools.product(range(2), repeat=2):
        for shift in itertools.product(range(-5, 6), repeat=3):
            vector = (basis[j] + shift - basis[i]) @ cell
            if 1e-9 < np.linalg.norm(vector) <= 2.3:
                expected.add((i, j, *vector.round(9)))
    assert found == expected and len(found) == len(start)


@pytest.mark.parametrize(
    ("cell", "basis", "group", "name"),
    [
        (SC, [[0.3, 0, 0]], 221, "sc"),
        (BCC, [[0, 0, 0]], 229, "bcc"),
        (FCC, [[0, 0, 0]], 225, "fcc"),
        (SC, [[0, 0, 0], [0.5, 0.5, 0.5]], 229, "bcc"),
        (np.diag([1, 1, 1.3]), [[0, 0, 0], [0.5, 0.5, 0.5]], 139, "body-centred tetragonal"),
        (HEXAGONAL, [[0, 0, 0]], 191, "simple hexagonal"),
        (HEXAGONAL, [[0, 0, 0], [1 / 3, 2 / 3, 0.5]], 194, "hcp"),
        (FCC, [[0.1, 0, 0], [0.35, 0.25, 0.25]], 227, "diamond"),
        (SC, A15 + 0.5, 223, "A15"),
        (np.array([[1, 0, 0], [0.1, 1.2, 0], [0.3, -0.2, 1.4]]), [[0, 0, 0]], 2, "triclinic"),
        (SC, [[0, 0, 0], [0.1, 0.23, 0.37]], 2, ""),
    ],
)
def test_spglib_names_what_there_is(cell, basis, group, name):
    found = symmetry(np.asarray(cell), np.array(basis, dtype=float))
    assert (found.number, found.name) == (group, name)


def test_a_strained_crystal_is_named_within_a_tolerance():
    strained = Crystal(2 * BCC @ np.diag([1.5, 1.5, 1.55]), AT, 93.0)
    assert strained.symmetry().name == "body-centred tetragonal"
    assert strained.symmetry(0.1).name == "bcc"


@pytest.mark.parametrize(
    ("cell", "basis", "says"),
    [
        (np.eye(2), AT, r"cell must have the shape \(3, 3\)"),
        (SC, np.zeros(3), r"basis must have the shape \(n, 3\)"),
        (SC, np.zeros((0, 3)), r"basis must have the shape \(n, 3\)"),
        (SC, np.full((1, 3), math.nan), "basis must be finite"),
        (np.ones((3, 3)), AT, "span a volume"),
        (0.9 * SC, AT, "does not fit a cube of edge 6"),
    ],
)
def test_what_is_no_crystal_of_the_box_is_refused(cell, basis, says):
    with pytest.raises(ValueError, match=says):
        Crystal(cell, basis, 6.0)


class _Bare:
    def __init__(self, energy):
        self.energy, self.r_cut = energy, 3.0


@pytest.mark.parametrize(
    ("potential", "error", "says"),
    [
        (OscillatingPair(9.0, 0.7), TypeError, "Smoothed"),
        (None, TypeError, "Smoothed"),
        (_Bare(lambda r: r * math.nan), ValueError, "not finite at r = 0.001"),
        (_Bare(lambda r: torch.where(r > 2, math.nan, 1 / r)), ValueError, "not finite at r = 2"),
        (_Bare(lambda r: -1 / r), ValueError, "must repel"),
        (_Bare(lambda r: 0 * r), ValueError, "must repel"),
        (_Bare(lambda r: 1 / r - 9 * (r - 0.5).abs().lt(0.1)), ValueError, "smaller shortest"),
    ],
)
def test_a_potential_that_no_search_can_answer_is_refused(potential, error, says):
    with pytest.raises(error, match=says):
        check_potential(potential, 0.86)


def test_potentials_of_the_study_are_accepted():
    r = np.linspace(0.6, 3.2, 80)
    for potential in (OPP, Smoothed(OscillatingPair(15.0, 5.9)), Smoothed(Tabulated(r, r**-12))):
        check_potential(potential, 0.86)
