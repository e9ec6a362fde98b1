from dataclasses import replace

import pytest

from mddm.card import Card
from mddm.condition import RANGES
from mddm.family import Family
from mddm.formulas import LennardJones
from mddm.potential import Smoothed, energy_scale

ASKED = {"k": 9.0, "phi": 0.75, "temperature": 0.02}
CARD = Card("mine", "mddm", RANGES, Family("opp"), 1000, 10.0, n_parameters=1, steps=1)
CLOUD = replace(CARD, ranges={}, potential=None, box_length=None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 9.0, "phi": 0.75}, "has to be told k, phi, temperature; temperature not given"),
        (ASKED | {"phi": 6.2}, r"phi = 6.2 lies outside of \[0, 6\].*extrapolate=True"),
        (ASKED | {"phi": -0.1}, r"phi = 6\.18319 lies outside"),
        (ASKED | {"temperature": 2.4}, "temperature = 2.4 lies outside"),
        (ASKED | {"k": float("nan")}, "k must be a finite number"),
        (ASKED | {"k": [9.0, 8.0]}, "k must be one number"),
        (ASKED | {"pressure": 1.0}, "knows k, phi, temperature alone; leave out pressure"),
    ],
)
def test_a_condition_that_is_not_known_is_refused(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CARD.take_condition(given)


def test_a_model_of_one_structure_takes_no_condition():
    assert CLOUD.take_condition({"k": None}) == {}
    with pytest.raises(ValueError, match="one structure and takes no condition; leave out k, phi"):
        CLOUD.take_condition(ASKED)


def test_outside_of_training_is_a_guess_that_is_told():
    with pytest.warns(UserWarning, match=r"k = 16 lies outside of \[1, 15\].*a guess"):
        assert CARD.take_condition(ASKED | {"k": 16}, extrapolate=True)["k"] == 16
    with pytest.raises(ValueError, match="temperature must be above 0"):
        CARD.take_condition(ASKED | {"temperature": -1}, extrapolate=True)


def test_the_temperature_beside_a_potential_is_in_its_units():
    told = replace(CARD, ranges={"temperature": (0.005, 0.1)}, told="potential")
    mine = Smoothed(LennardJones(epsilon=2.0))
    warm = {"temperature": 0.09 * energy_scale(mine)}
    assert told.take_condition(warm, mine) == warm
    with pytest.raises(ValueError, match=r"temperature = .* lies outside"):
        told.take_condition(warm, Smoothed(LennardJones()))


def test_number_and_box_give_the_density_of_training():
    assert CARD.take_size() == (1000, 10.0)
    assert CARD.take_size(8000) == (8000, pytest.approx(20.0))
    assert CARD.take_size(box_length=5.0) == (125, 5.0)
    assert CLOUD.take_size(50) == (50, None)
    for size, message in (
        ((500, 10.0), "knows the number density 1 alone, and 500 particles in a box of 10"),
        ((None, -3), "box_length must be"),
        ((1, None), "n_particles must be a whole number of at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            CARD.take_size(*size)
    with pytest.raises(ValueError, match="points in free space; leave out box_length"):
        CLOUD.take_size(box_length=10.0)


@pytest.mark.parametrize(
    ("size", "times"), [((8000, 20.0), 2), ((8100, 20.0), 1), ((1728, 12.0), 1), ((27, None), 1)]
)
def test_a_box_is_made_of_whole_ones_of_training(size, times):
    assert CARD.times_training(*size) == times
