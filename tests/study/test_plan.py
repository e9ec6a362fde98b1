from pathlib import Path

import numpy as np
import pytest

from mddm import dataset, structure
from mddm.potential import energy_scale
from mddm.study import plan


@pytest.fixture(scope="module")
def shipped() -> dataset.Dataset:
    return dataset.read(Path(__file__).parents[2] / plan.FILES["ramps"])


def test_plans_are_complete_and_distinct():
    ramps = plan.ramp_runs()
    train = [run for run in ramps if run.split == "train"]
    conditions = [(run.k, run.phi, t) for run in train for t in run.temperatures]
    assert len(set(conditions)) == len(conditions) == 1000
    assert min(k for k, _, _ in conditions) == 1.0
    assert max(t for _, _, t in conditions) < 0.05
    tests = [run for run in ramps if run.split == "test"]
    assert len({(run.k, run.phi, run.temperatures[-1]) for run in tests}) == 25
    assert all(run.n_kept == 1 for run in tests)
    assert len({run.name for run in ramps}) == len({run.seed for run in ramps}) == len(ramps)
    assert min(run.n_steps_first for run in ramps) >= 300_000
    replicated = [run for run in ramps if run.split == "replica"]
    assert sum(run.n_kept for run in replicated) >= 125
    known = {(run.k, run.phi) for run in ramps if run.split != "replica"}
    assert {(run.k, run.phi) for run in replicated} == known & {
        (run.k, run.phi) for run in replicated
    }


def test_any_beginning_of_the_ramps_spans_the_plane():
    train = [run for run in plan.ramp_runs() if run.split == "train"]
    for n, largest in ((10, 0.55), (25, 0.35), (50, 0.25)):
        begun = np.array([[(run.k - 1) / 14, run.phi / 6] for run in train[:n]])
        every = np.array([[(run.k - 1) / 14, run.phi / 6] for run in train])
        gaps = np.linalg.norm(every[:, None] - begun, axis=-1).min(axis=1)
        assert gaps.max() < largest


def test_lengths_are_the_first_ramps_but_faster():
    lengths, ramps = plan.length_runs(), plan.ramp_runs()[:20]
    assert all(run.split == "train" for run in ramps)
    for run, ramp in zip(lengths, ramps * 4, strict=True):
        assert (run.k, run.phi, run.start_temperature) == (ramp.k, ramp.phi, 0.5)
        assert run.temperatures == ramp.temperatures[:1]
        assert run.n_steps_first < ramp.n_steps_first
    seeds = {run.seed for run in lengths} | {run.seed for run in plan.ramp_runs()}
    assert len(seeds) == len(lengths) + len(plan.ramp_runs())


def test_replica_of_the_one_configuration_is_its_ramp_with_another_seed():
    (run,) = plan.replica_runs()
    (ramp,) = (
        ramp
        for ramp in plan.ramp_runs()
        if (ramp.k, ramp.phi, ramp.split) == (*plan.UNCONDITIONAL[:2], "train")
    )
    assert (run.k, run.phi, run.temperatures[-1]) == plan.UNCONDITIONAL
    n = len(run.temperatures)
    assert run.temperatures == ramp.temperatures[:n]
    assert run.steps_after(n) == ramp.steps_after(n)
    taken = plan.ramp_runs() + plan.length_runs()
    assert run.split == "replica" and run.n_kept == 1
    assert run.seed not in {other.seed for other in taken}
    assert run.name not in {other.name for other in taken}


def test_small_plan_has_a_partner_for_every_test_row():
    runs = plan.small_runs()
    conditions = {
        split: {(run.k, run.phi, run.temperatures) for run in runs if run.split == split}
        for split in dataset.SPLITS
    }
    assert len(conditions["train"]) == 18
    assert conditions["test"] <= conditions["replica"]
    assert len(conditions["replica"] & conditions["train"]) >= 4


def test_other_potentials_are_annealed_to_the_same_part_of_their_scale():
    for runs, n, kept in ((plan.any_runs(32), 32, 3), (plan.named_runs(), 30, 2)):
        assert len({run.name for run in runs}) == len({run.seed for run in runs}) == n
        assert all(run.n_kept == len(run.temperatures) == kept for run in runs)
        parts = [run.temperatures[-1] / energy_scale(run.potential) for run in runs]
        assert min(parts) == pytest.approx(max(parts), rel=0.01)
    apart = plan.any_runs(16)
    assert {run.split for run in apart} == {"test"}
    lattices = plan.RUNS["any-stable"]() + plan.RUNS["any-stable-rest"]()
    assert len({run.name for run in lattices}) == len({run.seed for run in lattices}) == 284
    assert {run.split for run in lattices} == {"train"}
    assert not {str(run.family) for run in lattices} & {str(run.family) for run in apart}
    names = {run.family.name for run in plan.named_runs()}
    assert len(plan.NAMED) == 10 and "wells" not in names and "opp" not in names


def test_any_beginning_of_the_random_potentials_is_that_of_more_and_covers_their_ranges():
    first, more = plan.random_potentials(16), plan.random_potentials(64)
    assert more[:16] == first
    for name, (low, high) in plan._WELLS.items():
        drawn = np.array([family.parameters[name] for family in first])
        parts = np.floor((drawn - low) / (high - low) * 8)
        # Of a Sobol sequence each eighth of a range gets two of sixteen.
        assert np.unique(parts, return_counts=True)[1].tolist() == [2] * 8


def test_further_test_conditions_and_replicas_are_new():
    known = plan.ramp_runs()
    tests, again = plan.more_test_runs(), plan.more_replica_runs()
    assert len(tests) == 150 and len(again) == 8 * 16
    everything = [*known, *tests, *again]
    assert len({run.seed for run in everything}) == len(everything)
    of_crystals = {(run.k, run.phi, run.temperatures) for run in again}
    assert of_crystals < {(run.k, run.phi, run.temperatures) for run in known}
    assert not {(run.k, run.phi) for run in tests} & {(run.k, run.phi) for run in known}


def test_the_crystals_are_those_of_the_data(shipped):
    found = []
    for i, condition in enumerate(plan.test_conditions()):
        (row,) = np.flatnonzero(
            (shipped.split == "test") & np.isclose(shipped.conditions, condition).all(axis=1)
        )
        ordered = structure.crystallinity(shipped.positions[row], shipped.box_length)
        found += [i] if ordered > structure.CRYSTAL else []
    assert tuple(found) == plan.CRYSTALS
