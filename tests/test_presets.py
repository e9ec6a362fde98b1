import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from small_runs import PRESETS, assert_same_tree

from mddm import presets
from mddm.presets import Settings


def test_settings_keep_pythons_numbers():
    plain = Settings(n_steps=7, seed=3, learning_rate=0.5, architecture={"n_neighbors": 4})
    given = {"n_steps": np.int64(7), "seed": np.int64(3), "learning_rate": np.float64(0.5)}
    others = Settings(**given, architecture={"n_neighbors": np.int64(4)})
    assert json.dumps(asdict(others)) == json.dumps(asdict(plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"preset": "transolvr"},
            "must be one of 'mddm', .*'transolvr'; did you mean 'transolver'",
        ),
        ({"preset": "zzz"}, "preset must be one of 'mddm', .*'transolver', got 'zzz'$"),
        ({"schedule": "lgo"}, "did you mean 'log'"),
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1, got -1"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number above 0, got nan"),
        (
            {"ema_decay": 1.0},
            "ema_decay must be a finite number of at least 0 and below 1, got 1.0",
        ),
        ({"ema_decay": math.nan}, "ema_decay"),
        ({"n_levels": 1}, "n_steps must be a whole number of at least 2|n_levels"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_max": 0.001}, "sigma_max"),
        ({"seed": -1}, "seed"),
        (
            {"architecture": {"n_neighbours": 4}},
            "of .mddm. must be one of .channels., .*'n_neighbours'; did you mean 'n_neighbors'",
        ),
        ({"preset": "transolver", "architecture": {"basis": 4}}, "got 'basis'$"),
        ({"decoys": 1.5}, "decoys must be a finite number of at least 0 and at most 1, got 1.5"),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bfloat16', got 'float16'"),
    ],
)
def test_settings_refuse_what_makes_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_new_denoiser_is_decided_by_the_seed(preset):
    first, again, other = (Settings(preset=preset, seed=s).new_denoiser() for s in (3, 3, 4))
    assert_same_tree(dict(first.state_dict()), dict(again.state_dict()))
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)
    model = Settings(preset=preset, sigma_min=0.02, sigma_max=2.0).new_denoiser()
    assert (model.conditioning.sigma_min, model.conditioning.sigma_max) == (0.02, 2.0)


def test_the_architecture_decides_the_network_and_is_filled_in():
    plain = Settings()
    assert plain.architecture == presets.default_architecture("mddm")
    changed = Settings(architecture={"n_neighbors": 9, "channels": 8})
    assert changed.architecture == plain.architecture | {"n_neighbors": 9, "channels": 8}
    model = changed.new_denoiser()
    assert model.n_neighbors == 9 and model.layers[-1].mix.out_features == 8


def test_the_presets_are_the_papers():
    counts = {
        preset: sum(p.numel() for p in Settings(preset=preset).new_denoiser().parameters())
        for preset in ("mddm", "transolver")
    }
    assert counts == {"mddm": 101_891, "transolver": 128_867}
