import itertools
import math

import numpy as np
import pytest
import torch

from mddm import __main__ as command
from mddm import lattices, sublattices
from mddm.crystal import energy
from mddm.lattices import search, search_many, stable
from mddm.potential import OscillatingPair, Smoothed, Tabulated

OPP = Smoothed(OscillatingPair(9.0, 0.7), r_on=1.6, r_cut=1.9)
OTHER = Smoothed(OscillatingPair(4.0, 3.0), r_on=1.6, r_cut=1.9)
# Two test conditions of the study.
GLASSY = Smoothed(OscillatingPair(13.8746, 1.012))
CRYSTAL = Smoothed(OscillatingPair(6.7589, 3.1758))
pytestmark = pytest.mark.xdist_group("lattices")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for kept in (sublattices._listed, sublattices._reduced, lattices._neighbors):
            kept.cache_clear()
        yield


def every_energy(n, box_length, potential, shortest):
    """Energies of all lattices by the sites that each has, no two nearer than `shortest`."""
    images = np.array(list(itertools.product((0, -1), repeat=3)))
    values = []
    for d1, d2 in itertools.product(range(1, n + 1), repeat=2):
        if n % (d1 * d2):
            continue
        d3 = n // (d1 * d2)
        steps = np.array(list(itertools.product(range(d1), range(d2), range(d3))))
        for p, q, r in itertools.product(range(d2), range(d3), range(d3)):
            waves = np.array([[d1, p, q], [0, d2, r], [0, 0, d3]])
            points = steps @ np.linalg.inv(waves).T % 1
            # All neighbours that are nearer than a box edge.
            r = np.linalg.norm((points % (1 - 1e-9))[:, None] + images, axis=-1) * box_length
            r = r[(r > 1e-6) & (r < box_length)]
            if r.min() >= shortest:
                values.append(potential.energy(torch.from_numpy(r)).sum().item() / 2)
    return np.unique(np.round(values, 9))


@pytest.mark.parametrize("n", [8, 27])
def test_the_lowest_are_those_of_an_exhaustive_search(n):
    box_length = 1.02 * n ** (1 / 3)
    expected = every_energy(n, box_length, OPP, 0.86 * 1.02)
    found = [each.energy for each in search(OPP, n, box_length, 4)]
    np.testing.assert_allclose(np.unique(np.round(found, 6)), expected[:4].round(6), atol=2e-6)


def test_in_a_box_of_64_none_of_all_lattices_is_lower():
    vectors, values = lattices.energies([OPP, OTHER], 64, 4.0)
    for which, potential in enumerate((OPP, OTHER)):
        expected = every_energy_of_forms(sublattices.all_lattices(64), potential)
        assert values[:, which].min() == pytest.approx(expected.min(), abs=1e-9)
        assert set(values[:, which].round(6)) == set(expected.round(6))
    assert vectors.shape == (len(values), 3, 3)


def every_energy_of_forms(forms, potential):
    grid = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    # Of sites beyond half the box the nearest image is this side of the origin.
    grid = grid[np.linalg.norm(np.minimum(grid, 64 - grid), axis=1) <= 32]
    r = torch.from_numpy(np.linalg.norm(np.minimum(grid, 64 - grid), axis=1) / 16)
    worth = potential.energy(r).numpy() * (r.numpy() > 0)
    return np.array([worth[(grid @ form.T % 64 == 0).all(axis=1)].sum() / 2 for form in forms])


def test_a_thousand_particles_a_crystal_that_md_does_not_find():
    glassy, crystal = search_many([GLASSY, CRYSTAL], 1000, 10.0, 3)
    assert sublattices.count(1000) == 3_147_430
    # Some lie in the cube in several ways that its symmetries do not take to each other.
    assert len(sublattices.all_lattices(1000)) == 26_979
    assert len(sublattices.cells(1000)) == 23_643
    # MD of 350,000 steps ends at -2.57.
    assert glassy[0].energy == pytest.approx(-3.950, abs=5e-4)
    assert crystal[0].energy == pytest.approx(-1.526, abs=5e-4)
    for found, potential in ((glassy, GLASSY), (crystal, CRYSTAL)):
        assert [each.energy for each in found] == sorted(each.energy for each in found)
        for each in found:
            assert each.n_particles == len(each.positions) == 1000
            assert energy(each, potential) == pytest.approx(each.energy)


def test_many_potentials_at_once_find_what_each_finds_alone():
    together = search_many([OPP, OTHER], 54, 3.9, 3)
    for found, potential in zip(together, (OPP, OTHER), strict=True):
        alone = search(potential, 54, 3.9, 3)
        assert [each.energy for each in found] == pytest.approx([each.energy for each in alone])
        np.testing.assert_array_equal(found[0].cell, alone[0].cell)


def lennard_jones(r_cut=1.7):
    r = np.linspace(0.6, 2.0, 2000)
    return Smoothed(Tabulated(r, 4 * (r**-12 - r**-6)), r_on=r_cut - 0.2, r_cut=r_cut)


def test_lennard_jones_particles_are_fcc_where_that_fits():
    best = search(lennard_jones(), 108, 3 * 1.1 * math.sqrt(2), 1)[0]
    assert best.symmetry() == ("Fm-3m", 225, "fcc")
    assert best.shells(1.2)[1].tolist() == [12]


def test_at_a_temperature_stable_crystals_come_in_order_of_free_energy():
    found = stable(lennard_jones(), 108, 3 * 1.1 * math.sqrt(2), 0.05, 3)
    assert len(found) == 3 and found[0].crystal.symmetry().name == "fcc"
    free = [each.free_energy for each in found if each.stable]
    assert free == sorted(free)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((OPP, 8000, 20.0), ValueError, "8000 sites have .* lattices, more than can be listed"),
        ((OPP, 3, 1.5), ValueError, "no lattice with 3 sites .* smaller shortest, or another"),
        ((OPP, 0, 1.5), ValueError, "n_particles must be a whole number"),
        ((OPP, 27.5, 3.0), ValueError, "n_particles must be a whole number"),
        ((OPP, 27, -3.0), ValueError, "box_length must be"),
        ((OPP, 27, 3.0, 0), ValueError, "n_best must be"),
        ((OPP, 27, 9.0), ValueError, "must repel wherever r is below shortest, 2.58"),
        ((OscillatingPair(9.0, 0.7), 27, 3.0), TypeError, "wrap it: Smoothed"),
    ],
)
def test_what_no_search_can_answer_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        search(*arguments)
    with pytest.raises(ValueError, match="at least one"):
        search_many([], 27, 3.0)


def test_the_command_prints_the_lowest(capsys, tmp_path):
    asked = ["lattices", "--n-particles", "54", "--box-length", "3.9", "-n", "2"]
    asked += ["--potential", "opp:k=9,phi=0.7"]
    assert command.main([*asked, "--out", str(tmp_path / "lowest.extxyz")]) == 0
    heading, *lines, wrote = capsys.readouterr().out.splitlines()
    expected = search(Smoothed(OscillatingPair(9.0, 0.7)), 54, 3.9, 2)
    assert heading.split()[0] == "energy"
    assert [line.split()[0] for line in lines] == [f"{each.energy:.5g}" for each in expected]
    assert "wrote the first to" in wrote and (tmp_path / "lowest.extxyz").is_file()
    assert f"energy_per_particle={expected[0].energy}" in (tmp_path / "lowest.extxyz").read_text()
    assert command.main([*asked, "--temperature", "0.02", "--per-cell", "2"]) == 0
    assert "free energy" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(capsys):
    assert command.main(["lattices", "--potential", "opp:k=nan,phi=1"]) == 1
    assert "k must be a finite number" in capsys.readouterr().err
