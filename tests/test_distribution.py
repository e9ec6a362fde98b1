import numpy as np
import pytest

from mddm import distribution, structure

BOX = 6.0


def lattice(seed, spread=0.03):
    """A simple cubic crystal of spacing 1 with thermal motion."""
    sites = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), axis=-1).reshape(-1, 3)
    return sites + np.random.default_rng(seed).normal(0, spread, sites.shape)


def gas(seed):
    return np.random.default_rng(seed).uniform(0, BOX, (216, 3))


def test_the_energy_distance_of_one_distribution_is_zero_on_average():
    rng = np.random.default_rng(0)
    found = [
        distribution.energy_distance(rng.normal(size=(4, 50)), rng.normal(size=(3, 50)))
        for _ in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20 and min(found) < 0 < max(found)


def test_the_energy_distance_is_what_its_formula_says():
    samples, references = [[0.0], [1.0]], [[3.0], [5.0]]
    # Pairs are 3, 5, 2 and 4 apart; within the sets 1 and 2.
    assert distribution.energy_distance(samples, references) == pytest.approx(2 * 3.5 - 1 - 2)
    # Of two components it is the root of the mean square.
    doubled = [np.repeat(each, 2, axis=1) for each in (samples, references)]
    assert distribution.energy_distance(*doubled) == pytest.approx(4)


def test_surroundings_of_a_simple_cubic_lattice():
    found = distribution.surroundings(lattice(0, 1e-3), BOX)
    # Six neighbours at 1, and none of those at 1.41 within 1.4.
    assert (found[:, 2] == 6).all() and found.shape == (216, 3)
    order = structure.bond_order(lattice(0, 1e-3), BOX, degree=4)
    np.testing.assert_allclose(found[:, 0], order)


def test_a_classifier_tells_a_crystal_from_a_gas_and_not_from_itself():
    pytest.importorskip("sklearn")
    crystals, gases = ([make(seed) for seed in range(4)] for make in (lattice, gas))
    assert distribution.distinguishability(crystals, gases, BOX) > 0.99
    again = [lattice(seed) for seed in (7, 8, 9)]
    assert distribution.distinguishability(crystals, again, BOX) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distribution.energy_distance([[1.0]], [[1.0], [2.0]]), "samples must be at least"),
        (lambda: distribution.energy_distance(np.ones((2, 3)), np.ones((2, 4))), "one length"),
        (
            lambda: distribution.distinguishability([gas(0)], [gas(1)] * 2, BOX),
            "samples must be at least two",
        ),
        (lambda: structure.coordination(gas(0), BOX, 3.0), "r_max must be"),
    ],
)
def test_too_little_to_compare_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
