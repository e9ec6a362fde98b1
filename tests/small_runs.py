"""Small training runs, for the tests of what they are made of and of the files they leave."""

import itertools

import torch

from mddm import presets, training
from mddm.configurations import Configurations
from mddm.presets import Settings

PRESETS = list(presets.PRESETS)


def small_configurations(n_configurations=3, n_particles=24, box_length=3.0, conditions=True):
    torch.manual_seed(0)
    positions = torch.rand(n_configurations, n_particles, 3) * box_length
    rows = torch.rand(n_configurations, 3) if conditions else None
    return Configurations(positions, rows, box_length)


def settings(**changes):
    return Settings(**({"n_steps": 7, "batch_size": 2, "n_levels": 10, "sigma_max": 1.5} | changes))


def run(state, source, n_steps=None):
    return list(itertools.islice(training.train(state, source), n_steps))


def assert_same_tree(ours, expected):
    assert type(ours) is type(expected)
    if isinstance(ours, dict):
        assert ours.keys() == expected.keys()
        for key in ours:
            assert_same_tree(ours[key], expected[key])
    elif isinstance(ours, list):
        for left, right in zip(ours, expected, strict=True):
            assert_same_tree(left, right)
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == expected.dtype and torch.equal(ours, expected)
    else:
        assert ours == expected


def assert_bitwise_equal(state, expected):
    assert state.step == expected.step
    for part in ("denoiser", "average", "optimizer"):
        ours, theirs = getattr(state, part).state_dict(), getattr(expected, part).state_dict()
        assert_same_tree(dict(ours), dict(theirs))
