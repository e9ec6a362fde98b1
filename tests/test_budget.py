import itertools

import numpy as np
import pytest
import torch

from mddm import budget
from mddm.formulas import LennardJones
from mddm.potential import Smoothed
from mddm.sampling import Frame

LJ, N, BOX = Smoothed(LennardJones()), 262, 6.4


class Clock:
    """A clock that the work itself moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def md(monkeypatch):
    """LAMMPS at a thousandth of a second a step; a structure's first number is its energy."""
    clock, ran = Clock(), []

    def run(name, n_steps):
        clock.now += n_steps / 1000
        ran.append((name, n_steps))

    def hold(potential, positions, temperature, n_steps, seed, **how):
        run("hold", n_steps)
        return type("Harvest", (), {"positions": np.array(positions, np.float32)})

    def anneal(potential, temperature, n_steps, seed, **size):
        run("anneal", n_steps)
        clock.now += 3.0
        return type("Harvest", (), {"positions": np.full((N, 3), 2.0, np.float32)})

    def minimize(positions, potential, box_length):
        clock.now += 1.5
        return positions, float(positions[0, 0]), True

    for function in (hold, anneal, minimize):
        monkeypatch.setattr(budget.lammps, function.__name__, function)
    monkeypatch.setattr(budget.structure, "crystallinity", lambda *_: 0.0)
    return clock, ran


def frames(clock, energy, each, n=10):
    """A sampler whose frames take so many seconds each."""
    for left in reversed(range(n)):
        clock.now += each
        yield Frame(left, 0.1, torch.full((1, N, 3), energy), n - left)


def within(clock, seconds, energy=1.0, each=0.5, **changes):
    size = {"n_particles": N, "box_length": BOX, "clock": clock}

    def draw(number):
        return frames(clock, energy - 0.1 * number, each)

    return budget.within(seconds, draw, LJ, 0.1, **size | changes)


def test_what_is_left_goes_to_a_quench_and_the_lower_is_the_answer(md):
    clock, ran = md
    found = within(clock, 25.0)
    assert [each.name for each in found] == ["sample", "quench"]
    assert found[0].seconds == pytest.approx(6.5) and found[0].energy_at_rest == 1.0
    # 0.4 s to learn how long a step takes, 6.5 s for the sample, 3 and 1.5 s about the quench.
    expected = 0.9 * (25 - 0.402 - 6.5) * 1000 - 4500
    assert found[1].n_steps == ran[-1][1] == pytest.approx(expected, abs=2)
    assert clock.now < 25
    worse = within(clock, 25.0, energy=3.0)
    assert [each.name for each in worse] == ["quench", "sample"]


def test_of_half_the_budget_there_are_as_many_samples_as_it_is_enough_for(md):
    clock, _ = md
    found = within(clock, 40.0)
    assert [each.name for each in found] == 3 * ["sample"] + ["quench"]
    assert [each.energy_at_rest for each in found[:3]] == pytest.approx([0.8, 0.9, 1.0])
    assert clock.now < 40


def test_a_sample_that_would_take_too_long_is_left_off(md):
    clock, _ = md
    (only,) = within(clock, 35.0, each=4.0)
    # After five of ten frames.
    assert only.name == "quench" and only.n_steps == pytest.approx(0.9 * 14_598 - 4500, abs=2)
    # Its last frame may hold it for 4,000 steps.
    assert [each.name for each in within(clock, 44.0, each=4.0)] == ["quench"]
    assert within(clock, 47.0, each=4.0)[0].name == "sample"


def test_a_sample_is_not_left_off_at_its_last_frame(md):
    clock, _ = md

    def slower(number):
        for frame in frames(clock, 1.0, 0.5):
            clock.now += 3.0 * (frame.n_left == 1)
            yield frame

    size = {"n_particles": N, "box_length": BOX, "clock": clock}
    assert budget.within(12.0, slower, LJ, 0.1, **size)[-1].name == "sample"


def test_where_nothing_is_left_the_sample_is_the_answer_and_something_always_is(md):
    clock, _ = md
    assert [each.name for each in within(clock, 11.0)] == ["sample"]
    with pytest.warns(UserWarning, match=r"a budget of 1 s took"):
        found = within(clock, 1.0, each=1.0)
    assert [(each.name, each.n_steps) for each in found] == [("quench", 100)]


def test_a_lattice_will_do_where_what_is_stable_is_asked_for(md, monkeypatch):
    clock, _ = md
    crystal = type("Crystal", (), {"positions": np.zeros((N, 3))})
    vibrations = type("Vibrations", (), {"crystal": crystal})
    monkeypatch.setattr(budget.lattices, "stable", lambda *_: [vibrations])
    found = within(clock, 25.0, stable=True)
    assert [each.name for each in found] == ["lattice", "sample", "quench"]


def test_samples_and_quenches_are_of_real_md():
    drawn = (Frame(left, 0.1, torch.rand(1, 40, 3) * BOX, 0) for left in (1, 0))
    size = {"n_particles": 40, "box_length": BOX, "clock": itertools.count(0, 0.04).__next__}
    first, second = budget.within(0.8, lambda _: drawn, LJ, 0.3, **size)
    assert {first.name, second.name} == {"sample", "quench"}
    assert first.energy_at_rest <= second.energy_at_rest < 0
    assert first.positions.shape == (40, 3) and 0 <= first.crystallinity <= 1
