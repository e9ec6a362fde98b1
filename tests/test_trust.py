import numpy as np
import pytest

from mddm import lattices, structure, trust
from mddm.budget import Candidate
from mddm.family import Family
from mddm.potential import energy_scale
from mddm.trust import Calibration, Evidence

LJ, BOX = Family("lennard-jones").at({}), 5.0


def candidate(name, seed, energy=-3.0):
    points = np.random.default_rng(seed).uniform(0, BOX, (125, 3)).astype(np.float32)
    return Candidate(name, points, energy, 0.25, 1.0)


def test_evidence_is_of_the_answer_and_of_the_next_that_is_no_lattice():
    found = [candidate("sample", 0), candidate("lattice", 1), candidate("quench", 2)]
    known = trust.evidence(found, LJ, BOX)
    curves = [structure.rdf(found[i].positions, BOX)[1] for i in (0, 2)]
    assert known.agreement == pytest.approx(structure.rdf_mse(*curves))
    lowest = lattices.search(LJ, 125, BOX, 1)[0].energy
    assert known.above_lattice == pytest.approx((-3.0 - lowest) / energy_scale(LJ))
    assert known.crystallinity == 0.25
    assert trust.evidence(found[:2], LJ, BOX) is None
    with pytest.raises(ValueError, match="must hold at least one"):
        trust.evidence([], LJ, BOX)


@pytest.fixture(scope="module")
def known():
    """Answers of 40 potentials, two each, whose difference is 3 agreement 10^(above / 2)."""
    drawn = np.random.default_rng(0)
    told = [
        Evidence(10 ** drawn.uniform(-2.5, 0), drawn.uniform(0, 0.5), drawn.uniform())
        for _ in range(80)
    ]
    exact = np.array([3 * each.agreement * 10 ** (each.above_lattice / 2) for each in told])
    return told, exact, [number // 2 for number in range(80)]


def test_differences_that_follow_from_evidence_are_told_exactly(known):
    told, exact, potentials = known
    found = Calibration.fit(told, exact, potentials, "a network")
    assert found.slopes == pytest.approx({"agreement": 1.0, "above_lattice": 0.5})
    assert 10**found.intercept == pytest.approx(3.0) and found.factor == pytest.approx(1.0)
    assert (found.n, found.n_potentials, found.source) == (80, 40, "a network")
    judged = found.judge(Evidence(0.01, 0.2, 0.9))
    assert judged.expected == pytest.approx(0.03 * 10**0.1)
    assert judged.at_most == pytest.approx(judged.expected)
    assert str(judged).startswith("RDF-MSE to MD: about 0.038, and below 0.038 in 90%")


def test_nine_of_ten_differences_of_other_potentials_are_below_what_is_said(known):
    told, exact, potentials = known
    drawn = np.random.default_rng(1)
    noisy = exact * 10 ** drawn.normal(0, 0.3, len(exact))
    found = Calibration.fit(told, noisy, potentials)
    # The quantile of a normal distribution.
    assert np.log10(found.factor) == pytest.approx(1.28 * 0.3, abs=0.12)
    new = exact * 10 ** drawn.normal(0, 0.3, len(exact))
    below = [found.judge(each).at_most >= value for each, value in zip(told, new, strict=True)]
    assert 0.8 <= np.mean(below) <= 0.98


def test_what_is_left_out_is_a_potential_and_not_an_answer(known):
    told, exact, _ = known
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
