"""The networks by name, and the settings that decide what a training run of one computes."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mddm import arguments
from mddm.bragg import BraggDenoiser
from mddm.condition import RANGES, SIGMA_MAX, SIGMA_MIN, take_ranges
from mddm.encoding import CONDITIONINGS
from mddm.noise import SCHEDULES, make_schedule
from mddm.pbcconv import PBCConvDenoiser, RadialDenoiser
from mddm.transolver import TransolverDenoiser

PRESETS = {
    "mddm": PBCConvDenoiser,
    "mddm-rbf": RadialDenoiser,
    "bragg": BraggDenoiser,
    "transolver": TransolverDenoiser,
}
# Settings of each preset: a learning rate that in short runs is within a few per cent of the best
# (benchmarks/preset.py), and decoys for the one that sees waves (benchmarks/crystal.py).
RECIPES = {
    "mddm": {"learning_rate": 4e-3},
    "mddm-rbf": {"learning_rate": 3e-3},
    "bragg": {"learning_rate": 2e-3, "decoys": 0.6},
    "transolver": {"learning_rate": 1e-3},
}


def default_architecture(preset: str) -> dict[str, Any]:
    """Return the sizes that make up a preset: the keyword arguments of its network.

    Args:
        preset: a key of `PRESETS`.

    Raises:
        ValueError: no such preset.
    """
    network = PRESETS[arguments.choice("preset", preset, PRESETS)]
    return {
        name: argument.default
        for name, argument in inspect.signature(network).parameters.items()
        if name != "conditioning"
    }


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run computes, besides its data.

    Args:
        preset: a key of `PRESETS`.
        n_steps: optimiser steps of the whole run; the learning rate falls to zero over them.
        batch_size: configurations a step.
        learning_rate: Adam's, at its highest.
        ema_decay: decay of the running average of the weights, reached after a warm-up.
        schedule: name of the noise schedule; its levels are trained on equally often.
        n_levels: noise levels, the paper's number of diffusion steps.
        sigma_min, sigma_max: lowest and highest noise level [length].
        ranges: name and range of each number of a condition, those of the training data; none to
            train on structures alone.
        seed: of the weights and of every draw.
        data: hash of the training data, so that a run is not resumed on other data; empty
            where the data is made up on the fly.
        precision: "float32", or "bfloat16" for matrix products in half precision, which are
            faster where the hardware has them (benchmarks/pbcconv.py); weights stay float32.
        decoys: part of all systems in a box whose noise gets waves besides, which the network
            is to see through (`waves.decoys`).
        rivals: part of them that gets those of another structure of the batch (`waves.rivals`).
        jitter: by how much potentials that are told differ from those of the data, in units of
            their scale (`jittered` of `encoding.PotentialConditioning`).
        start: content hash of the checkpoint whose weights the run starts with
            (`checkpoint.start_from`); empty where they are the seed's.
        told: what a condition is: "numbers", those of `ranges`, or "potential", any pair potential
            and a temperature (`encoding.encode`).
        architecture: keyword arguments of the preset's network that differ from its defaults.
            The defaults are filled in, so that a file that keeps the settings says what was
            trained, whatever the defaults are when it is read.

    Raises:
        TypeError, ValueError: an unknown preset or part of its architecture, or a number of
            another kind or out of range.
    """

    preset: str = "mddm"
    n_steps: int = 10_000
    batch_size: int = 4
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    schedule: str = "log_normal"
    n_levels: int = 500
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=RANGES.copy)
    seed: int = 0
    data: str = ""
    precision: str = "float32"
    decoys: float = 0.0
    rivals: float = 0.0
    jitter: float = 0.0
    start: str = ""
    told: str = "numbers"
    architecture: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        whole, number = arguments.whole, arguments.number
        taken = {
            "preset": arguments.choice("preset", self.preset, PRESETS),
            "n_steps": whole("n_steps", self.n_steps, at_least=1),
            "batch_size": whole("batch_size", self.batch_size, at_least=1),
            "learning_rate": number("learning_rate", self.learning_rate, above=0),
            "ema_decay": number("ema_decay", self.ema_decay, at_least=0, below=1),
            "schedule": arguments.choice("schedule", self.schedule, SCHEDULES),
            "n_levels": whole("n_levels", self.n_levels, at_least=2),
            "sigma_min": number("sigma_min", self.sigma_min, above=0),
            "sigma_max": number("sigma_max", self.sigma_max, above=0),
            "ranges": take_ranges(self.ranges),
            "seed": arguments.seed(self.seed, bits=32),
            "data": arguments.instance("data", self.data, str),
            "precision": arguments.choice("precision", self.precision, ("float32", "bfloat16")),
            "decoys": number("decoys", self.decoys, at_least=0, at_most=1),
            "rivals": number("rivals", self.rivals, at_least=0, at_most=1),
            "jitter": number("jitter", self.jitter, at_least=0),
            "start": arguments.instance("start", self.start, str),
            "told": arguments.choice("told", self.told, CONDITIONINGS),
            "architecture": default_architecture(self.preset),
        }
        for name, value in arguments.instance("architecture", self.architecture, Mapping).items():
            arguments.choice(f"architecture of {self.preset!r}", name, taken["architecture"])
            # Files keep Python's numbers, and not NumPy's.
            value = value.item() if isinstance(value, np.generic) else value
            taken["architecture"][name] = value
        for name, value in taken.items():
            object.__setattr__(self, name, value)
        if self.jitter and self.told == "numbers":
            raise ValueError("jitter is of potentials that are told; leave it out")
        self.sigmas()

    def sigmas(self) -> Tensor:
        """Return the noise levels, (n_levels + 1,) float64 [length], starting at zero."""
        return make_schedule(self.schedule, self.n_levels, self.sigma_min, self.sigma_max)

    def new_denoiser(self) -> nn.Module:
        """Build the preset with the weights that the seed gives."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            told = CONDITIONINGS[self.told](self.ranges, self.sigma_min, self.sigma_max)
            return PRESETS[self.preset](conditioning=told, **self.architecture)
