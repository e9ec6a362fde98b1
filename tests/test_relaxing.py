import numpy as np
import pytest

from mddm import lammps
from mddm.potential import OscillatingPair, Smoothed
from mddm.relaxing import Relaxing

POTENTIAL = Smoothed(OscillatingPair(6.6, 2.4))


def test_relaxing_is_what_samplers_do_to_a_system():
    positions = np.random.default_rng(0).uniform(0, 6.7, (60, 3))
    relax = Relaxing(POTENTIAL, 6.7, 0.02)
    at_rest = lammps.minimize(positions, POTENTIAL, 6.7)[0]
    np.testing.assert_array_equal(relax(positions), at_rest)
    part, *_ = lammps.minimize(positions, POTENTIAL, 6.7, tolerance=1.0)
    np.testing.assert_array_equal(relax(positions, tolerance=1.0), part)
    held = lammps.hold(POTENTIAL, part, 0.02, 20, 5, box_length=6.7).positions
    asked = {"tolerance": 1.0, "n_steps": 20, "seed": 5}
    np.testing.assert_array_equal(relax(positions, **asked), held)
    with pytest.raises(ValueError, match="temperature is not known, at which to hold"):
        Relaxing(POTENTIAL, 6.7)(positions, n_steps=20)
