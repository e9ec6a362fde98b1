import itertools

import numpy as np
import pytest
import torch

from mddm import budget
from mddm.formulas import LennardJones
from mddm.potential import Smoothed
from mddm.samplers import SAMPLERS
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
    """LAMMPS at a thousandth of a second a step.

    A structure's first number is its energy, and its second one how ordered it is: a quench is a
    glass, of energy 2, each hold brings an ordered structure a tenth down, and healing by two
    tenths, but for one of energy 0.4, which melts.
    """
    clock, ran = Clock(), []

    def run(name, n_steps):
        clock.now += n_steps / 1000
        ran.append((name, n_steps))

    def hold(potential, positions, temperature, n_steps, seed, **how):
        run("hold", n_steps)
        held = np.array(positions, np.float32)
        held[0, 0] -= 0.1
        return type("Harvest", (), {"positions": held})

    def heal(potential, positions, temperature, n_steps, seed, **how):
        run("heal", n_steps)
        healed = np.array(positions, np.float32)
        healed[0, :2] -= (0.2, 0.8 if healed[0, 0] < 0.45 else 0.0)
        return type("Harvest", (), {"positions": healed})

    def anneal(potential, temperature, n_steps, seed, **size):
        run("anneal", n_steps)
        clock.now += 3.0
        return type("Harvest", (), {"positions": structure_of(2.0, 0.0)[0].numpy()})

    def minimize(positions, potential, box_length, tolerance):
        clock.now += 0.4
        return positions, float(positions[0, 0]), True

    for function in (hold, heal, anneal, minimize):
        monkeypatch.setattr(budget.lammps, function.__name__, function)
    monkeypatch.setattr(budget.structure, "crystallinity", lambda positions, _: positions[0, 1])
    return clock, ran


def structure_of(energy, ordered):
    made = torch.zeros(1, N, 3)
    made[0, 0, :2] = torch.tensor([energy, ordered])
    return made


def within(clock, seconds, ordered=None, each=0.5, **changes):
    """Samples of energies 1, 0.9, ..., whose ten frames take so many seconds each."""
    size = {"n_particles": N, "box_length": BOX, "clock": clock}
    drawn = iter(ordered or itertools.repeat(0.0))

    def draw(number):
        sample = structure_of(1 - 0.1 * number, next(drawn))
        for left in reversed(range(10)):
            clock.now += each
            yield Frame(left, 0.1, sample, 10 - left)

    return budget.within(seconds, draw, LJ, 0.1, **size | changes)


def test_where_samples_are_no_crystals_the_answer_is_a_quench_in_what_is_left(md):
    clock, ran = md
    found = within(clock, 25.0)
    # Though the sample is lower.
    assert [(each.name, each.energy_at_rest) for each in found] == [("quench", 2), ("sample", 1)]
    assert found[1].seconds == pytest.approx(5.4)
    # 0.2 s to learn how long a step takes, 5.4 s for the sample, 3 and 0.4 s about the quench.
    expected = 0.9 * (25 - 0.202 - 5.4) * 1000 - 3400
    assert found[0].n_steps == ran[-1][1] == pytest.approx(expected, abs=2)
    assert clock.now < 25


def test_where_samples_are_crystals_all_seconds_are_for_them(md):
    clock, ran = md
    found = within(clock, 40.0, itertools.repeat(0.9))
    assert [each.name for each in found] == 6 * ["sample"]
    assert found[0].energy_at_rest == pytest.approx(0.5) and not {"anneal", "heal"} & set(dict(ran))
    assert clock.now < 40


@pytest.fixture
def lattice(monkeypatch):
    """The lattice of lowest free energy, of energy 0.8."""
    crystal = type("Crystal", (), {"positions": structure_of(0.8, 0.9)[0].numpy()})
    vibrations = type("Vibrations", (), {"crystal": crystal})
    monkeypatch.setattr(budget.lattices, "stable", lambda *_: [vibrations])


def test_of_what_is_stable_the_best_sample_is_healed_in_what_is_left(md, lattice):
    clock, ran = md
    found = within(clock, 80.0, itertools.repeat(0.9), stable=True)
    assert [each.name for each in found] == ["healed", "lattice", *4 * ["sample"]]
    assert [each.energy_at_rest for each in found[:3]] == pytest.approx([0.5, 0.7, 0.7])
    expected = 0.9 * (80 - 4.4 - 0.202 - 4 * 5.4) * 1000 - 400
    assert found[0].n_steps == ran[-1][1] == pytest.approx(expected / 2, abs=2)
    # Four of seven are a lead of one.
    ordered = [0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.9, *10 * [0.0]]
    within(clock, 80.0, ordered, stable=True)
    assert ran[-1][0] == "anneal"


def test_what_melts_when_it_is_healed_is_not_the_answer(md, lattice):
    clock, ran = md
    ordered = [0.0, 0.0, *10 * [0.9]]
    found = within(clock, 140.0, ordered, each=0.4, stable=True)
    assert ran[-1][0] == "heal" and found[0].name == "sample"
    assert found[0].energy_at_rest == pytest.approx(0.3)
    assert found[1].name == "healed" and found[1].energy_at_rest == pytest.approx(0.1)


def test_most_samples_say_which_it_is(md):
    clock, _ = md
    # A crystal, and then two that are none, for which half and a quarter of the budget were enough.
    found = within(clock, 40.0, [0.9, 0.0, 0.0])
    assert [each.name for each in found] == ["quench", *3 * ["sample"]]
    found = within(clock, 46.0, [0.0, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0])
    assert [each.name for each in found] == 7 * ["sample"]
    # The two that are lower are none.
    assert found[0].energy_at_rest == pytest.approx(0.6) and found[0].crystallinity > 0.5


def test_what_may_become_a_crystal_is_held_on(md):
    clock, ran = md
    found = within(clock, 12.0, [0.6], held_on=3400)
    assert ran[-1] == ("hold", 3400) and found[0].energy_at_rest == pytest.approx(0.9)
    # For as long as there is time.
    within(clock, 7.0, [0.6], held_on=3400)
    assert ran[-1][1] == pytest.approx(1000 * (7 - 0.202 - 5) - 400, abs=2)
    n_runs = len(ran)
    within(clock, 7.0, [0.1], held_on=3400)
    assert len(ran) == n_runs + 2


def test_few_of_the_steps_that_a_sampler_holds_for_tell_what_to_hold_on():
    held = SAMPLERS["held"]
    first, left = budget.brief(held)
    assert first.start == held.start and first.n_steps + left == held.n_steps
    assert 0 < first.n_steps < left
    assert budget.brief(first) == (first, 0)
    assert budget.brief(SAMPLERS["quick"]) == (SAMPLERS["quick"], 0)


def test_a_sample_that_would_take_too_long_is_left_off(md):
    clock, _ = md
    (only,) = within(clock, 35.0, each=4.0)
    # After five of ten frames.
    assert only.name == "quench" and only.n_steps == pytest.approx(0.9 * 14_798 - 3400, abs=2)
    # Its last frame may hold it for some steps.
    assert [each.name for each in within(clock, 40.9, each=4.0)] == ["quench"]
    assert within(clock, 43.0, each=4.0)[0].name == "sample"


def test_a_sample_is_not_left_off_where_a_quench_instead_would_take_longer(md):
    clock, _ = md
    with pytest.warns(UserWarning, match=r"a budget of 3 s took 8 s"):
        found = within(clock, 3.0, each=0.7)
    # Five frames are left where a fifth one has come, and a quench of 100 steps takes 3.5 s.
    assert [each.name for each in found] == ["sample"]


def test_a_sample_is_not_left_off_at_its_last_frame(md):
    clock, _ = md

    def slower(number):
        for left in reversed(range(10)):
            clock.now += 0.5 + 3.0 * (left == 1)
            yield Frame(left, 0.1, structure_of(1.0, 0.0), 10 - left)

    size = {"n_particles": N, "box_length": BOX, "clock": clock}
    assert budget.within(9.0, slower, LJ, 0.1, **size)[-1].name == "sample"


def test_where_nothing_is_left_the_sample_is_the_answer_and_something_always_is(md):
    clock, _ = md
    assert [each.name for each in within(clock, 9.0)] == ["sample"]
    with pytest.warns(UserWarning, match=r"a budget of 1 s took"):
        found = within(clock, 1.0, each=1.0)
    assert [(each.name, each.n_steps) for each in found] == [("quench", 100)]


def test_a_lattice_will_do_where_what_is_stable_is_asked_for(md, lattice):
    clock, _ = md
    found = within(clock, 25.0, stable=True)
    assert [each.name for each in found] == ["lattice", "sample", "quench"]
    assert found[0].n_steps == 4000


def test_samples_and_quenches_are_of_real_md():
    drawn = (Frame(left, 0.1, torch.rand(1, 40, 3) * BOX, 0) for left in (1, 0))
    size = {"n_particles": 40, "box_length": BOX, "clock": itertools.count(0, 0.04).__next__}
    first, second = budget.within(0.8, lambda _: drawn, LJ, 0.3, **size)
    assert {first.name, second.name} == {"sample", "quench"}
    assert first.energy_at_rest < 0 and second.energy_at_rest < 0
    assert first.positions.shape == (40, 3) and 0 <= first.crystallinity <= 1
