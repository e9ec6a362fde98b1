import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from mddm import protocol
from mddm.protocol import Stage


def test_stages_join_and_spend_all_steps():
    for n_steps in (10, 197, 300_000):
        anneal = protocol.anneal(0.5, 0.02, n_steps)
        cool = protocol.cool(anneal[-1].end, 0.01, n_steps)
        assert sum(stage.n_steps for stage in anneal) == n_steps
        assert sum(stage.n_steps for stage in cool) == n_steps
        assert all(one.end == then.begin for one, then in pairwise(anneal + cool))
        hot, _, hold = anneal
        assert (hot.begin, hot.end) == (0.5, 0.5) and hot.n_steps == n_steps // 10
        assert (hold.begin, hold.end) == (0.02, 0.02) and hold.n_steps == n_steps // 10
        assert (cool[-1].begin, cool[-1].end, cool[-1].n_steps) == (0.01, 0.01, n_steps // 2)


def test_a_start_is_uniform_and_has_the_temperature_and_the_seed():
    starts = [
        protocol.random_start(1000, 10.0, 0.5, protocol.generator(*which))
        for which in ((3,), (3, 0), (3, 1), (4,))
    ]
    for each in starts:
        assert stats.kstest(each.positions.ravel(), "uniform", (0, 10.0)).pvalue > 1e-3
        assert stats.kstest(each.velocities.ravel(), "norm", (0, 0.5**0.5)).pvalue > 1e-3
        assert each.temperature == 0.5 and each.n_steps == 0 and math.isnan(each.energy)
    first, again, *others = (each.positions for each in starts)
    assert (again == first).all()
    assert not any((other == first).any() for other in others)
    # Velocities are drawn after the positions.
    rng = protocol.generator(3)
    rng.random(3000)
    assert (protocol.start(first, 0.5, rng).velocities == starts[0].velocities).all()


@pytest.mark.parametrize("temperature", [5.0, math.inf, math.nan])
def test_what_is_ten_times_as_hot_as_its_thermostat_has_blown_up(temperature):
    for stage in (Stage(0.5, 0.1, 10), Stage(0.1, 0.5, 10)):
        assert stage.has_blown_up(temperature)
        assert not stage.has_blown_up(4.9)


def test_drift_is_the_slope_times_the_steps():
    steps = np.arange(5, 105, 5)
    assert Stage(0.1, 0.1, 200).drift(steps, 3 - 0.01 * steps) == pytest.approx(-2)
    assert math.isnan(Stage(0.1, 0.1, 1).drift(steps[:1], steps[:1]))


def test_a_stage_is_sampled_a_hundred_times_or_at_every_tenth_step():
    assert [Stage(0.1, 0.1, n).every for n in (1, 199, 600, 5000)] == [1, 1, 6, 10]
