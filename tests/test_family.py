"""Potentials by name and parameters, as files and commands have them."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from mddm import formulas
from mddm.family import TABULATED, Family, parse
from mddm.potential import OscillatingPair, Smoothed

R = torch.linspace(0.8, 2.9, 50).double()


def test_a_condition_sets_what_is_not_fixed():
    family = Family("opp")
    assert family.free == family.needs == ("k", "phi")
    expected = Smoothed(OscillatingPair(6.6, 2.4)).energy(R)
    asked = {"k": 6.6, "phi": 2.4, "temperature": 0.02}
    assert torch.equal(family.at(asked).energy(R), expected)
    fixed = family.fix(asked)
    assert fixed.parameters == {"k": 6.6, "phi": 2.4} and fixed.free == ()
    assert torch.equal(fixed.at({}).energy(R), expected)
    with pytest.raises(ValueError, match="'opp' needs k, phi in its condition"):
        family.at({"k": 6.6})
    # Defaults may vary and need not.
    wells = Family("morse", {"alpha": 8.0})
    assert wells.needs == () and wells.free == ("epsilon", "r_0")
    twice = wells.at({"epsilon": 2.0}).energy(R)
    torch.testing.assert_close(twice, 2 * wells.at({}).energy(R))


def test_a_family_goes_through_json(tmp_path):
    table = tmp_path / "mine.table"
    values = formulas.LennardJones().energy(R)
    np.savetxt(table, np.stack([R.numpy(), values.numpy()], axis=1))
    for family in (Family("yukawa", {"kappa": 3}, 1.5, 2.0, 0.6), parse(str(table))):
        again = Family(**json.loads(json.dumps(asdict(family))))
        assert again == family
        assert torch.equal(again.at({}).energy(R), family.at({}).energy(R))
    # A table is smoothed as far as it goes.
    assert family.name == TABULATED
    assert (family.r_on, family.r_cut, family.r_core) == pytest.approx((2.4, 2.9, 0.8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("morse:alfa=2", "did you mean 'alpha'"),
        ("morsel", "did you mean 'morse'"),
        ("morse:2", "not a name and parameters"),
        ("morse:alpha=-2", "alpha must be"),
        ("morse:alpha=nan", "alpha must be"),
        ("nowhere.table", "no file nowhere.table"),
        (3, "potential must be a str"),
    ],
)
def test_what_is_no_potential_is_refused(text, message):
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        parse(text)


def test_radii_are_those_of_a_smoothed_potential():
    with pytest.raises(ValueError, match="0 < r_core < r_on < r_cut"):
        Family("morse", r_cut=2.0)


def test_a_potential_is_told_in_a_line_a_table_too():
    r = np.linspace(0.5, 3.0, 50)
    told = str(Family("tabulated", {"r": r, "energy": r**-12.0}))
    assert told == "tabulated (50 values from r = 0.5 to 3), smoothed from 2.5 to 3"
    told = str(Family("opp", {"k": 9.0}))
    assert told == "opp (k = 9, any phi), smoothed from 2.5 to 3"
    assert str(Family("lennard-jones")) == "lennard-jones, smoothed from 2.5 to 3"


def _written(path, r, energy):
    np.savetxt(path, np.stack([r, np.broadcast_to(energy, r.shape)], axis=1))
    return str(path)


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        # In Angstrom, and in nanometres.
        (2.0, 12.0, "from r = 2 to 12, and must go from below 1.12 to above 2.5; lengths are in"),
        (0.2, 1.2, "from r = 0.2 to 1.2, and must go from below 1.12 to above 1.2; lengths are in"),
    ],
)
def test_a_table_must_hold_the_distances_at_which_particles_meet(tmp_path, first, last, words):
    r = np.linspace(first, last, 100)
    with pytest.raises(ValueError, match=rf"mine goes {words} units in which the number density"):
        parse(_written(tmp_path / "mine", r, r**-6))


def test_what_smoothing_takes_from_a_table_is_told(tmp_path, recwarn):
    r = np.linspace(0.7, 4.0, 331)
    parse(_written(tmp_path / "short", r[:231], r[:231] ** -12.0))
    parse(_written(tmp_path / "ended", r, np.where(r < 3, (3 - r.clip(max=3)) ** 3, 0)))
    assert not recwarn.list
    parse(_written(tmp_path / "far", r, r**-12.0))
    parse(_written(tmp_path / "high", r[:231], r[:231] ** -12.0 + 5))
    beyond, high = (str(told.message) for told in recwarn)
    assert "far: what lies beyond r = 3 is left out; lengths are in units" in beyond
    assert "high: U is 5 at r = 3, and brought to 0 from 2.5" in high


def test_a_name_that_is_a_file_too_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    r = np.linspace(0.7, 3.0, 100)
    _written("morse", r, r**-12.0)
    with pytest.raises(
        ValueError, match=r"'morse' is a formula, .* give \./morse .* or morse: for"
    ):
        parse("morse")
    assert (parse("./morse").name, parse("morse:").name) == (TABULATED, "morse")
