import numpy as np
import pytest

from mddm import trust
from mddm.family import Family
from mddm.trust import Calibration, Evidence

LJ = Family("lennard-jones").at({})


def test_evidence_is_how_many_samples_are_crystals_and_how_their_energies_spread():
    ordered, energies = [0.9, 0.1, 0.6, 0.0], [-3.0, -2.8, -3.0, -2.8]
    known = trust.evidence(ordered, energies, -2.9, LJ)
    assert (known.crystalline, known.sampled) == (0.5, 1)
    assert trust.evidence(ordered, energies, -3.1, LJ).sampled == 0
    double = Family("lennard-jones", {"epsilon": 2.0}).at({})
    again = trust.evidence(ordered, 2 * np.array(energies), -6.0, double)
    assert again.spread == pytest.approx(known.spread, rel=1e-6)
    # The well of a Lennard-Jones potential is one deep, and rises to zero.
    assert known.spread == pytest.approx(0.1, rel=0.02)
    for wrong in ((ordered[:2], energies[:2]), (ordered, energies[:3])):
        with pytest.raises(ValueError, match="of at least 3 samples"):
            trust.evidence(*wrong, -3.0, LJ)


def test_the_answer_is_the_lowest_crystal_where_most_samples_are_crystals_and_else_the_quench():
    # The last one is the quench.
    energies = [-3.0, -2.0, -2.1, -2.2, -2.05]
    assert trust.answer([0.9, 0.8, 0.9, 0.2, 0.0], energies) == 0
    assert trust.answer([0.2, 0.8, 0.9, 0.9, 0.0], energies) == 3
    assert trust.answer([0.9, 0.8, 0.9, 0.2, 0.9], [*energies[:4], -4.0]) == 4
    assert trust.answer([0.9, 0.1, 0.0, 0.2, 0.0], energies) == 4
    # Of a crystal that half of them are MD seldom has enough.
    assert trust.answer([0.9, 0.8, 0.0, 0.2, 0.0], energies) == 4
    with pytest.raises(ValueError, match="of samples and a quench"):
        trust.answer([0.9], [-3.0])


def test_without_a_quench_the_answer_is_the_lowest_of_those_that_agree_with_most_samples():
    assert trust.answer([0.9, 0.1, 0.0], [-3.0, -2.0, -2.1], quenched=False) == 2
    assert trust.answer([0.9, 0.1, 0.8], [-3.0, -3.5, -2.1], quenched=False) == 0
    assert trust.answer([0.9], [-3.0], quenched=False) == 0
    with pytest.raises(ValueError, match="must be of samples, got 2 and 1"):
        trust.answer([0.9, 0.1], [-3.0], quenched=False)


@pytest.fixture(scope="module")
def known():
    """Answers of 40 potentials, two each: 3 spread 10^(sampled / 2 - crystalline)."""
    drawn = np.random.default_rng(0)
    told = [
        Evidence(drawn.integers(5) / 4, 10 ** drawn.uniform(-2.5, 0), drawn.integers(2))
        for _ in range(80)
    ]
    exact = np.array(
        [3 * each.spread * 10 ** (each.sampled / 2 - each.crystalline) for each in told]
    )
    return told, exact, [number // 2 for number in range(80)]


def test_differences_that_follow_from_evidence_are_told_exactly(known):
    told, exact, potentials = known
    apart = exact > 1e-3
    told = [each for each, one in zip(told, apart, strict=True) if one]
    potentials = [each for each, one in zip(potentials, apart, strict=True) if one]
    found = Calibration.fit(told, exact[apart], potentials, "a network")
    assert found.slopes == pytest.approx({"spread": 1.0, "crystalline": -1.0, "sampled": 0.5})
    assert 10**found.intercept == pytest.approx(3.0) and found.factor == pytest.approx(1.0)
    assert (found.n, found.source) == (len(told), "a network")
    judged = found.judge(Evidence(0.5, 0.04, 0.0), "a network")
    assert judged.expected == pytest.approx(0.12 * 10**-0.5)
    assert judged.at_most == pytest.approx(judged.expected)
    assert str(judged).startswith("RDF-MSE to MD: about 0.038, and below 0.038 in 90%")
    assert str(judged).endswith("samples are crystals, the lowest at rest is the quench)")
    elsewhere = found.judge(Evidence(0.5, 0.04, 0.0), "another network")
    assert np.isnan([elsewhere.expected, elsewhere.at_most]).all()
    assert str(elsewhere).startswith("RDF-MSE to MD: not known; that was measured on samples of an")


def test_nine_of_ten_differences_of_other_potentials_are_below_what_is_said(known):
    told, exact, potentials = known
    drawn = np.random.default_rng(1)
    exact = 10 * exact
    noisy = exact * 10 ** drawn.normal(0, 0.3, len(exact))
    found = Calibration.fit(told, noisy, potentials)
    # The quantile of a normal distribution.
    assert np.log10(found.factor) == pytest.approx(1.28 * 0.3, abs=0.12)
    new = exact * 10 ** drawn.normal(0, 0.3, len(exact))
    below = [found.judge(each, "").at_most >= value for each, value in zip(told, new, strict=True)]
    assert 0.8 <= np.mean(below) <= 0.98


def test_what_is_left_out_is_a_potential_and_not_an_answer(known):
    told, exact, _ = known
    exact = 10 * exact
    # A potential of its own kind: no other tells of it.
    shifted = np.append(exact[:10], [1000 * exact[10], 1000 * exact[11]])
    potentials = [*range(10), "odd", "odd"]
    missed = trust.left_out(told[:12], shifted, potentials)
    assert missed[10:] == pytest.approx([3.0, 3.0])


def test_a_calibration_comes_back_from_its_file(tmp_path, known):
    found = Calibration.fit(*known)
    found.write(tmp_path / trust.FILE)
    assert Calibration.read(tmp_path / trust.FILE) == found
    for wrong, message in (
        ((known[0], known[1][:3], known[2]), "of one length, got 80, 3 and 80"),
        ((known[0][:4], known[1][:4], known[2][:4]), "at least three, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            Calibration.fit(*wrong)
