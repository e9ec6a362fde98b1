import math

import numpy as np
import pytest
import torch

from mddm import bases, lattices
from mddm.bases import relax, search
from mddm.crystal import Crystal, energy
from mddm.potential import OscillatingPair, Smoothed, Tabulated, potential_energy

FCC = (np.ones((3, 3)) - np.eye(3)) / 2
A15 = [[0, 0, 0], [2, 2, 2], [1, 0, 2], [3, 0, 2], [2, 1, 0], [2, 3, 0], [0, 2, 1], [0, 2, 3]]
A15 = np.array(A15) / 4
OPP = Smoothed(OscillatingPair(9.0, 4.0), r_on=1.6, r_cut=1.9)
SQUARES = {"diamond": np.array([3, 8, 11, 16, 19]) / 4, "bcc": np.array([3, 4, 8, 11]) / 4}
pytestmark = pytest.mark.xdist_group("lattices")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def wells_at(radii, unit=1.0):
    """A potential that is costly everywhere but at the given distances."""
    r = np.linspace(0.5, 2.6, 800)
    u = (0.8 * radii[0] / r) ** 24 + 3
    for radius in radii:
        u -= 4 * np.exp(-(((r - radius) / 0.05) ** 2) / 2)
    return Smoothed(Tabulated(r, unit * u), r_on=2.3, r_cut=2.5, r_core=0.55)


def lennard_jones(r_cut):
    r = np.linspace(0.6, 4.0, 3000)
    return Smoothed(Tabulated(r, 4 * (r**-12 - r**-6)), r_on=r_cut - 0.3, r_cut=r_cut)


@pytest.mark.parametrize(("n_particles", "per_cell"), [(64, 2), (8, 4)])
def test_wells_at_the_shells_of_diamond_make_diamond(n_particles, per_cell):
    potential = wells_at(np.sqrt(SQUARES["diamond"]))
    best = search(potential, n_particles, n_particles ** (1 / 3), per_cell, 1)[0]
    assert best.symmetry().name == "diamond"
    diamond = Crystal(2 * FCC, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), 4.0)
    assert best.energy == pytest.approx(energy(diamond, potential), abs=1e-5)


def test_the_unit_of_energy_makes_no_difference():
    radii, units = np.sqrt(SQUARES["diamond"]), (1.0, 2.0**-30)
    found = [search(wells_at(radii, unit), 8, 2.0, 2, 3) for unit in units]
    plain, small = ([each.energy for each in crystals] for crystals in found)
    assert len(plain) == 3
    assert [2.0**30 * value for value in small] == pytest.approx(plain, abs=1e-4)


def test_wells_at_the_shells_of_a15_make_a15(monkeypatch):
    ideal = Crystal(2 * np.eye(3), A15, 2.0)
    potential = wells_at(ideal.shells(2.3)[0])
    monkeypatch.setattr(bases, "_TRIES", 60)
    best = bases.search(potential, 8, 2.0, 8, 1)[0]
    assert best.symmetry().name == "A15"
    assert best.energy == pytest.approx(energy(ideal, potential), abs=1e-5)


def test_wells_at_the_shells_of_bcc_make_bcc_however_many_there_are_a_cell():
    edge = 2 ** (1 / 3)
    potential = wells_at(edge * np.sqrt(SQUARES["bcc"]))
    best = search(potential, 54, 3 * edge, 2, 1)[0]
    alone = lattices.search(potential, 54, 3 * edge, 1)[0]
    assert best.symmetry().name == alone.symmetry().name == "bcc"
    assert best.energy == pytest.approx(alone.energy, abs=1e-6)


# The cube of 6^3 cells of fcc holds hcp of the same spacing too: energies by sums over both.
@pytest.mark.parametrize(("r_cut", "closest"), [(2.0, "hcp"), (2.2, "fcc"), (3.0, "hcp")])
def test_the_cut_off_decides_between_fcc_and_hcp(r_cut, closest):
    edge, potential = 1.09 * math.sqrt(2), lennard_jones(r_cut)
    hexagonal = edge * np.array([[1 / 2, -1 / 2, 0], [0, 1 / 2, -1 / 2], [2 / 3, 2 / 3, 2 / 3]])
    crystals = {
        "fcc": Crystal(edge * FCC, np.zeros((1, 3)), 6 * edge),
        "hcp": Crystal(hexagonal, np.array([[0, 0, 0], [1 / 3, 2 / 3, 1 / 2]]), 6 * edge),
    }
    energies = {name: energy(crystal, potential) for name, crystal in crystals.items()}
    assert min(energies, key=energies.get) == closest
    for name, crystal in crystals.items():
        assert crystal.symmetry().name == name and crystal.n_particles == 864
        positions = torch.from_numpy(crystal.positions).double()
        summed = potential_energy(positions, potential, 6 * edge).mean().item()
        assert energies[name] == pytest.approx(summed, abs=1e-4)


def test_relaxed_crystals_are_at_rest_and_lower():
    rng = np.random.default_rng(0)
    ideal = Crystal(np.eye(3) * 2, np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2, 4.0)
    moved = [Crystal(ideal.cell, ideal.basis + rng.normal(0, 0.03, (4, 3)), 4.0) for _ in range(3)]
    for before, after in zip(moved, relax(moved, OPP), strict=True):
        assert after.energy < energy(before, OPP)
        assert after.energy == pytest.approx(energy(ideal, OPP), abs=1e-6)
        positions = torch.from_numpy(after.positions).double().requires_grad_()
        potential_energy(positions, OPP, 4.0).sum().backward()
        assert positions.grad.abs().max() < 1e-3


def test_the_seed_decides():
    one, same = (search(OPP, 24, 3.0, 3, 2, seed=3) for _ in range(2))
    assert [each.energy for each in one] == [each.energy for each in same]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((OPP, 1000, 10.0, 3), r"divides n_particles \(1000\), got 3"),
        ((OPP, 64, 4.0, 1), "lattices.search"),
        ((OPP, 64, 4.0, 2.5), "per_cell must be a whole number"),
        ((OPP, 64, 4.0, 2, 0), "n_best must be"),
        ((OPP, 64, 12.0, 2), "must repel"),
    ],
)
def test_what_no_search_can_answer_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        search(*arguments)
