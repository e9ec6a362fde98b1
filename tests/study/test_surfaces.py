import math

import numpy as np
import torch

from mddm import checkpoint, presets, shapes, study, training
from mddm.study import surfaces, surrogates


def test_true_clouds_score_best_and_the_best_possible_denoiser_next():
    entries = [surfaces.yardsticks("sphere", 60, 400, seed) for seed in range(3)]
    mean = {
        each[0]["model"]: np.mean([entry["sinkhorn"] for entry in each])
        for each in zip(*entries, strict=True)
    }
    assert mean[surfaces.TRUE_CLOUD] < mean[surfaces.NORMAL_CLOUD] / 2
    assert mean[surfaces.BEST_POSSIBLE] < 1.5 * mean[surfaces.TRUE_CLOUD]
    assert entries[0][0]["distance"] < 1e-6 < entries[0][1]["distance"] < 0.05
    assert math.isnan(entries[0][0]["seconds"])


def test_cloud_of_a_checkpoint_is_scored_by_the_true_surface(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    state = training.TrainingState(presets.Settings(preset="mddm", ranges={}))
    checkpoint.save(study.checkpoint_path("full", "sphere", "mddm"), state)
    surrogate = surrogates.Surrogate("mddm", "sphere", "ancestral", 3)
    (entry,) = surfaces.sample(surrogate, 50, seed=1)
    assert set(surfaces.COLUMNS) <= set(entry)
    assert (entry["task"], entry["model"], entry["calls"]) == ("sphere", "mddm", 3)
    # An untrained network leaves the noise where it was.
    assert entry["sinkhorn"] > 1 and entry["distance"] > 1
    fresh = shapes.Surface("sphere", 50).draw(1, torch.Generator().manual_seed(1))[0]
    assert shapes.sinkhorn_loss(fresh[0], fresh[0]).item() < 1e-3 < entry["sinkhorn"]
