"""Clouds of points on a surface: a model's, and what no model can beat and each should."""

import math

import torch

from mddm import lammps_process, noise, samplers, sampling, shapes
from mddm.condition import SIGMA_MIN, sigma_max
from mddm.study import evaluation
from mddm.study.surrogates import Surrogate

COLUMNS = (*evaluation.KEYS, "sinkhorn", "distance", "calls", "seconds")
# "bragg" has no waves to look for there.
MODELS = ("mddm", "mddm-rbf", "transolver")
BEST_POSSIBLE, TRUE_CLOUD, NORMAL_CLOUD = "best possible", "true cloud", "normal cloud"
CLOSED_FORM = "closed form"


def sample(surrogate: Surrogate, n_points: int, seed: int = 0) -> list[dict]:
    """Score one cloud of a model of a surface against fresh points of it.

    Args:
        surrogate: its task is one of `shapes.SURFACES`.
        n_points: points of the cloud.
        seed: of the cloud, and of the one that it is scored against.

    Returns:
        One entry with the `COLUMNS`.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    clock = lammps_process.process_time()
    final = sampling.last(surrogate.clouds(1, n_points, seed))
    seconds = lammps_process.process_time() - clock
    named = {"model": surrogate.preset, "sampler": surrogate.sampler, "calls": final.calls}
    named |= {"seconds": seconds, "source": surrogate.source}
    return [_evaluate_cloud(surrogate.task, final.positions[0].cpu(), seed) | named]


def yardsticks(surface: str, n_levels: int, n_points: int, seed: int = 0) -> list[dict]:
    """Score what no model can beat, and what each should.

    Returns:
        Entries with the `COLUMNS`: another true cloud, a sample by the best possible
        denoiser, and a normal cloud with the surface's variance along each axis.
    """
    source = shapes.Surface(surface, n_points)
    generator = torch.Generator().manual_seed(2_000_000 + seed)
    true = source.draw(1, generator)[0]
    sigmas = noise.make_schedule("log", n_levels, SIGMA_MIN, sigma_max(None))
    frames = samplers.draw(
        source.ideal_denoiser, "ancestral", sigmas, None, 1, n_points, None, seed
    )
    ideal = sampling.last(frames)
    clouds = {
        TRUE_CLOUD: (true[0], "", 0),
        BEST_POSSIBLE: (ideal.positions[0], "ancestral", ideal.calls),
        NORMAL_CLOUD: (shapes.normal_cloud(true, generator)[0], "", 0),
    }
    return [
        _evaluate_cloud(surface, cloud, seed)
        | {"model": model, "sampler": sampler, "calls": calls, "seconds": math.nan}
        | {"source": CLOSED_FORM}
        for model, (cloud, sampler, calls) in clouds.items()
    ]


def _evaluate_cloud(surface: str, cloud: torch.Tensor, seed: int) -> dict:
    source = shapes.Surface(surface, len(cloud))
    fresh = source.draw(1, torch.Generator().manual_seed(1_000_000 + seed))[0][0]
    entry = {"task": surface, "split": "", "row": 0, "seed": seed, **evaluation.Key._field_defaults}
    entry |= {"sinkhorn": shapes.sinkhorn_loss(cloud, fresh).item()}
    return entry | {"distance": source.distance(cloud).mean().item()}
