import numpy as np

from mddm import dataset
from mddm.study import plan


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
