from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mddm import dataset, encoding
from mddm.family import Family
from mddm.study import plan, tasks

SHIPPED = Path(__file__).parents[2] / "data" / "opp-small.h5"


@pytest.fixture(scope="module")
def data():
    return dataset.read(SHIPPED)


def test_sources_hold_what_their_task_is_about(data):
    row = tasks.unconditional_row(data)
    one = tasks.training_source("unconditional", data, row)
    np.testing.assert_array_equal(one.positions[0], data.positions[row])
    assert one.conditions is None
    every = tasks.training_source("conditional", data)
    assert len(every.positions) == (data.split == "train").sum()
    train = data.subset("train")
    named = replace(
        train.take([0, 1]),
        parameters={},
        family=[Family("lennard-jones"), Family("yukawa")],
        ranges=None,
        attributes={"box_length": data.box_length},
    )
    potentials = tasks.training_source("potential", [data, named])
    assert potentials.told == "potential" and len(potentials.positions) == len(train) + 2
    torch.testing.assert_close(potentials.conditions[:-2], train.encoded)
    steps = int(train.steps[1])
    expected = encoding.encode(Family("yukawa").at({}), float(train.temperature[1]), steps)
    torch.testing.assert_close(potentials.conditions[-1], expected)
    assert tasks.training_source("torus", n_points=7).draw(2, torch.Generator())[0].shape[1] == 7


def test_unconditional_row_is_a_training_row_near_the_named_condition(data):
    row = tasks.unconditional_row(data)
    assert data.split[row] == "train"
    assert data.conditions[row].tolist() == pytest.approx(plan.UNCONDITIONAL)
    others = data.take([*np.flatnonzero(data.split != "train"), 0])
    assert tasks.unconditional_row(others) == len(others) - 1


def test_replicas_elsewhere_have_the_condition_and_the_length_and_another_seed(data):
    (row,) = np.flatnonzero(data.split == "test")[:1]
    assert tasks.replicas(data, row, data).tolist() == data.partners(row).tolist()
    longer = replace(data, steps=data.steps + 1)
    assert not len(tasks.replicas(data, row, longer))
    assert not len(tasks.replicas(data, row, data.take([row])))


def test_wrong_tasks_are_refused(data):
    with pytest.raises(
        ValueError, match=r"task must be one of 'unconditional', .*did you mean 'conditional'"
    ):
        tasks.training_source("conditionel", data)
    with pytest.raises(ValueError, match="needs a dataset"):
        tasks.training_source("conditional")
    with pytest.raises(ValueError, match="'unconditional' a row of it"):
        tasks.training_source("unconditional", data)


def test_md_scores_zero_against_itself_and_its_yardsticks_stand_beside(data):
    (row,) = np.flatnonzero(data.split == "test")[:1]
    score = tasks.evaluate(data, row, data.positions[row])
    assert score["rdf_mse"] == 0
    assert score["energy_gap"] == pytest.approx(0, abs=1e-6)
    assert 0 < score["replica"] < score["ideal_gas"]
    noise = np.random.default_rng(0).uniform(0, data.box_length, data.positions[row].shape)
    worse = tasks.evaluate(data, row, noise)
    assert worse["rdf_mse"] == pytest.approx(score["ideal_gas"], rel=0.2)
    assert worse["energy_gap"] > 1


def test_a_row_without_replica_has_no_such_yardstick(data):
    alone = next(row for row in range(len(data)) if not len(data.partners(row)))
    assert np.isnan(tasks.evaluate(data, alone, data.positions[alone])["replica"])


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = rng.exponential(1.0, (200, 40))
    hits = [low < 1 < high for low, high in map(tasks.bootstrap_interval, draws)]
    assert 0.88 < np.mean(hits) < 0.99


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0]])
def test_bootstrap_interval_is_not_made_up(values):
    assert np.isnan(tasks.bootstrap_interval(values)).all()


def test_scores_of_one_group_are_resampled_together():
    rng = np.random.default_rng(1)
    # Ten scores of each group are all but the same one.
    draws = np.repeat(rng.exponential(1.0, (100, 40)), 10, axis=1)
    groups = np.repeat(np.arange(40), 10).tolist()
    apart = [tasks.bootstrap_interval(draw[::10]) for draw in draws]
    together = [tasks.bootstrap_interval(draw, groups=groups) for draw in draws]
    np.testing.assert_allclose(together, apart)


def test_a_group_counts_as_often_as_it_has_scores():
    values, groups = [0.0, 0.0, 0.0, 4.0, 8.0, 1.0], ["a", "a", "a", "b", "b", "c"]
    low, high = tasks.bootstrap_interval(values, groups=groups)
    assert 0 <= low < np.mean(values) < high <= 6


@pytest.mark.parametrize(("values", "groups"), [([1.0, 2.0], ["a", "a"]), ([1.0, 1.0], ["a", "b"])])
def test_an_interval_over_groups_is_not_made_up(values, groups):
    assert np.isnan(tasks.bootstrap_interval(values, groups=groups)).all()
