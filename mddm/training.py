"""Algorithm 1: training a denoiser step by step, and its loss level by level.

`train` is a generator, so that the caller decides what to log, when to save and when to stop.
Each step draws from a generator seeded by (seed, step): a run that was killed and resumed takes
the very same steps as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mddm import arguments
from mddm.configurations import Source
from mddm.family import Family
from mddm.noise import Denoiser, add_noise, estimate
from mddm.presets import Settings
from mddm.waves import decoys, rivals

_WARMUP_STEPS = 100
_MAX_GRADIENT_NORM = 1.0


@dataclass
class TrainingState:
    """A training run at one moment: weights, their average, the optimiser, the losses so far.

    Args:
        settings: what the run is to be.
        device: where it runs.
        step: steps taken.
        seconds: time spent on them.
        n_particles: in each configuration that it has seen; None before the first step.
        box_length: edge of their periodic cube [length]; None for free space.
        potential: what they were made with; None where it is not known.

    Raises:
        TypeError, ValueError: other settings than `Settings`, or a device that is not there.
    """

    settings: Settings
    device: torch.device | str = "cpu"
    step: int = 0
    seconds: float = 0.0
    n_particles: int | None = None
    box_length: float | None = None
    potential: Family | None = None
    losses: Tensor = field(init=False)
    denoiser: nn.Module = field(init=False)
    average: AveragedModel = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self):
        arguments.instance("settings", self.settings, Settings)
        self.device = arguments.device(self.device)
        self.losses = torch.full((self.settings.n_steps,), torch.nan)
        self.denoiser = self.settings.new_denoiser().to(self.device)
        decay = self.settings.ema_decay

        def running_average(averages, currents, _):
            # On the CPU, and so a GPU need not be waited for.
            n_averaged = self.average.n_averaged
            # A short memory at first, so that the random start is soon forgotten.
            weight = 1 - min(decay, float((1 + n_averaged) / (10 + n_averaged)))
            torch._foreach_lerp_(averages, currents, weight)

        self.average = AveragedModel(self.denoiser, multi_avg_fn=running_average)
        # On a GPU one kernel for all weights, in place of many for each.
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), fused=fused)


@dataclass(frozen=True)
class Step:
    """What one training step reports.

    Args:
        step: number of the step, from 1.
        loss: mean squared error of the unit noise; 1 means nothing has been learned.
        sigmas: (batch,) noise levels of the configurations [length].
        losses: (batch,) the loss of each.
    """

    step: int
    loss: float
    sigmas: Tensor
    losses: Tensor


def train(state: TrainingState, source: Source) -> Iterator[Step]:
    """Take training steps until the run's `n_steps` are done.

    Args:
        state: the run, which every step changes in place.
        source: where x_0 and the conditions come from.

    Yields:
        A report after each step.

    Raises:
        TypeError: no training state, or no source.
        ValueError: the source has other conditions than the settings say, or another box or number
            of particles than the run has seen; or it has drawn what is not finite.
        FloatingPointError: the loss is no longer finite; the state keeps the last good weights.

    Source: MDDM algorithm 1.
    """
    settings = arguments.instance("state", state, TrainingState).settings
    _check_source(source)
    _check_ranges(settings.ranges, source.ranges)
    told = getattr(source, "told", settings.told)
    if told != settings.told:
        raise ValueError(
            f"the conditions of the source are {told}, and the settings say {settings.told}; make "
            "them with Settings(told=source.told)"
        )
    sigmas = settings.sigmas()[1:].to(state.device, torch.float32)
    generator = torch.Generator(state.device)
    lowered = settings.precision == "bfloat16"
    state.denoiser.train()
    while state.step < settings.n_steps:
        start = time.perf_counter()
        _seed(generator, settings.seed, state.step)
        x_0, condition = source.draw(settings.batch_size, generator)
        _check_size(state, x_0.shape[1], source.box_length)
        if settings.jitter:
            conditioning = state.denoiser.conditioning
            condition = conditioning.jittered(condition, settings.jitter, generator)
        state.potential = source.potential
        try:
            with torch.autocast(generator.device.type, torch.bfloat16, enabled=lowered):
                losses, levels = _noise_losses(
                    state.denoiser,
                    x_0,
                    condition,
                    sigmas,
                    source.box_length,
                    generator,
                    settings.decoys,
                    settings.rivals,
                )
        except ValueError:
            _check_finite(x_0, condition, state.step + 1)
            raise
        loss = losses.mean()
        value = loss.item()
        if not math.isfinite(value):
            _check_finite(x_0, condition, state.step + 1)
            raise FloatingPointError(
                f"the loss is {value} at step {state.step + 1}; lower learning_rate "
                f"({settings.learning_rate}) and start again"
            )
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(settings, state.step)
        state.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(state.denoiser.parameters(), _MAX_GRADIENT_NORM)
        state.optimizer.step()
        state.average.update_parameters(state.denoiser)
        state.losses[state.step] = value
        state.step += 1
        state.seconds += time.perf_counter() - start
        yield Step(state.step, value, levels, losses.detach())


def level_losses(
    denoiser: Denoiser, source: Source, sigmas: Tensor, n_draws: int = 8, seed: int = 0
) -> Tensor:
    """Measure a denoiser's loss level by level, on data that it need not have seen.

    Args:
        denoiser: a network, left in the mode in which it came, or any function like one.
        source: where x_0 and the conditions come from; an MD replica tells learning from
            memorising.
        sigmas: (n_levels,) noise levels [length].
        n_draws: configurations a level.
        seed: of the draws.

    Returns:
        (n_levels,) mean squared errors of the unit noise.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, or out of its range.
    """
    arguments.instance("denoiser", denoiser, Callable)
    _check_source(source)
    sigmas = arguments.sigma(sigmas, ("n_levels",), name="sigmas")
    n_draws = arguments.whole("n_draws", n_draws, at_least=1)
    seed = arguments.seed(seed)
    weights = denoiser.parameters() if isinstance(denoiser, nn.Module) else iter(())
    device = next((weight.device for weight in weights), torch.device("cpu"))
    generator = torch.Generator(device)
    losses = []
    with _evaluating(denoiser), torch.no_grad():
        for index, sigma in enumerate(sigmas):
            _seed(generator, seed, index)
            x_0, condition = source.draw(n_draws, generator)
            level = sigma.to(device, torch.float32)[None]
            drawn, _ = _noise_losses(denoiser, x_0, condition, level, source.box_length, generator)
            losses.append(drawn.mean().cpu())
    return torch.stack(losses)


def _check_source(source: Source) -> None:
    known = all(hasattr(source, name) for name in ("box_length", "ranges", "potential"))
    if not (known and callable(getattr(source, "draw", None))):
        raise TypeError(
            "source must draw configurations of a box, as tasks.training_source gives them, got "
            f"{type(source).__name__}"
        )


def _check_ranges(told: Mapping, known: Mapping) -> None:
    if dict(told) != dict(known):
        told, known = (
            ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
            or "none"
            for ranges in (told, known)
        )
        raise ValueError(
            f"the source has other conditions ({known}) than the settings ({told}); make them with "
            "Settings(ranges=source.ranges)"
        )


def _check_size(state: TrainingState, n_particles: int, box_length: float | None) -> None:
    seen = (state.n_particles, state.box_length)
    if state.n_particles is not None and seen != (n_particles, box_length):
        raise ValueError(
            f"the run has seen {seen[0]} particles in a box of {seen[1]}, and the source has "
            f"{n_particles} in one of {box_length}; train on one size"
        )
    state.n_particles, state.box_length = n_particles, box_length


def _check_finite(x_0: Tensor, condition: Tensor | None, step: int) -> None:
    for name, drawn in (("positions", x_0), ("conditions", condition)):
        if drawn is not None and not torch.isfinite(drawn).all():
            raise ValueError(f"the source has drawn {name} that are nan or infinite at step {step}")


@contextmanager
def _evaluating(denoiser):
    was_training = getattr(denoiser, "training", False)
    if was_training:
        denoiser.eval()
    try:
        yield
    finally:
        if was_training:
            denoiser.train()


def _noise_losses(
    denoiser, x_0, condition, sigmas, box_length, generator, with_decoys=0.0, with_rivals=0.0
):
    on = {"device": generator.device, "generator": generator}
    # Algorithm 1, lines 3 to 6
    levels = sigmas[torch.randint(len(sigmas), (len(x_0),), **on)]
    eps = torch.randn(x_0.shape, **on)
    if with_decoys and box_length is not None:
        chosen = torch.rand(len(x_0), 1, 1, **on) < with_decoys
        in_noise = x_0 + levels[:, None, None] * eps
        added = decoys(in_noise, levels, box_length, generator) / levels[:, None, None]
        eps = eps + chosen * added
    if with_rivals and box_length is not None and len(x_0) > 1:
        chosen = torch.rand(len(x_0), 1, 1, **on) < with_rivals
        in_noise = x_0 + levels[:, None, None] * eps
        added = rivals(in_noise, x_0.roll(1, dims=0), levels, box_length, generator)
        eps = eps + chosen * added / levels[:, None, None]
    x_t = add_noise(x_0, levels[:, None, None], eps, box_length)
    found = estimate(denoiser, x_t, levels, condition, box_length)
    return (found - eps).square().mean(dim=(1, 2)), levels


def _seed(generator: torch.Generator, seed: int, step: int) -> None:
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    generator.manual_seed(int(mixed >> np.uint64(1)))


def _learning_rate(settings: Settings, step: int) -> float:
    warmup = min(1.0, (step + 1) / min(_WARMUP_STEPS, settings.n_steps / 10))
    return settings.learning_rate * warmup * (1 + math.cos(math.pi * step / settings.n_steps)) / 2
