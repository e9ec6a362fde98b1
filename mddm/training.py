"""Algorithm 1: training a denoiser step by step, its running average, its checkpoints.

`train` is a generator, so that the caller decides what to log, when to save and when to stop.
Each step draws from a generator seeded by (seed, step): a run that was killed and resumed takes
the very same steps as one that was not.
"""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mddm import arguments, checkpoint, encoding, files
from mddm.bragg import BraggDenoiser
from mddm.condition import RANGES, SIGMA_MAX, SIGMA_MIN, Conditioning, take_ranges
from mddm.dataset import Dataset
from mddm.family import Family
from mddm.geometry import wrap
from mddm.noise import SCHEDULES, Denoiser, add_noise, estimate, make_schedule
from mddm.pbcconv import PBCConvDenoiser, RadialDenoiser
from mddm.transolver import TransolverDenoiser
from mddm.waves import decoys, rivals

PRESETS = {
    "mddm": PBCConvDenoiser,
    "mddm-rbf": RadialDenoiser,
    "bragg": BraggDenoiser,
    "transolver": TransolverDenoiser,
}

# What a network can be told of a system, and the part of it that understands that.
CONDITIONINGS = {"numbers": Conditioning, "potential": encoding.PotentialConditioning}


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


# Settings of each preset: a learning rate that in short runs is within a few per cent of the best
# (benchmarks/preset.py), and decoys for the one that sees waves (benchmarks/crystal.py).
RECIPES = {
    "mddm": {"learning_rate": 4e-3},
    "mddm-rbf": {"learning_rate": 3e-3},
    "bragg": {"learning_rate": 2e-3, "decoys": 0.6},
    "transolver": {"learning_rate": 1e-3},
}

_WARMUP_STEPS = 100
_MAX_GRADIENT_NORM = 1.0
_LOSS_POINTS = 200


class Source(Protocol):
    """Where training gets its clean configurations from."""

    box_length: float | None
    ranges: Mapping[str, tuple[float, float]]
    potential: Family | None

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw x_0, (batch, n_particles, 3) [length], and their conditions.

        Conditions are (batch, len(ranges)), or None where there are no ranges.
        """


@dataclass(frozen=True)
class Configurations:
    """MD configurations, drawn at random and turned by a random symmetry of the cube.

    Args:
        positions: (n_configurations, n_particles, 3) [length]; any image of a particle will do.
        conditions: (n_configurations, len(ranges)) numbers of each, or (n_configurations, 303)
            where `encoding.encode` made them of potentials; None to train on structures alone.
        box_length: edge of the periodic cube [length].
        ranges: name and range of each number of a condition; by default the study's k, phi and
            temperature.
        potential: what they were made with, for those who ask a trained model for energies; None
            where it is not known.
        told: what a condition is, a key of `CONDITIONINGS`.

    Raises:
        TypeError, ValueError: shapes that do not fit each other, no configuration at all, numbers
            that are not finite, or a box that is not positive.

    Source: MDDM section 5, the augmentation of the unconditional task.
    """

    positions: Tensor
    conditions: Tensor | None
    box_length: float
    ranges: Mapping[str, tuple[float, float]] | None = None
    potential: Family | None = None
    told: str = "numbers"

    @classmethod
    def of(cls, *datasets: Dataset, told: str = "numbers") -> "Configurations":
        """Take all configurations of data sets, with their conditions where these vary.

        Args:
            datasets: one; or several of one box, where conditions are potentials.
            told: what a condition is to be, a key of `CONDITIONINGS`.

        Raises:
            ValueError: several data sets whose conditions are numbers, several boxes or numbers of
                particles, or a potential that `encoding.encode` refuses.
        """
        sizes = {(each.box_length, each.positions.shape[1:]) for each in datasets}
        if len(sizes) != 1 or (told == "numbers" and len(datasets) > 1):
            raise ValueError(
                "datasets must be one, or several of one box and number of particles that are told "
                f"by their potentials, got {len(datasets)} of {len(sizes)} sizes"
            )
        first, box_length = datasets[0], datasets[0].box_length
        positions = np.concatenate([each.positions for each in datasets])
        known = {"potential": first.family if isinstance(first.family, Family) else None}
        if told == "numbers":
            conditions = first.conditions if first.ranges else None
            return cls(positions, conditions, box_length, first.ranges, **known)
        conditions = torch.cat([each.encoded for each in datasets])
        ranges = {"temperature": encoding.SCALED_TEMPERATURES}
        return cls(positions, conditions, box_length, ranges, told=told)

    @classmethod
    def one(cls, dataset: Dataset, row: int) -> "Configurations":
        """Take one configuration of a data set, to train on its structure alone."""
        potential = dataset.family_of(row)
        return replace(cls.of(dataset.take([row])), conditions=None, potential=potential)

    def alone(self) -> "Configurations":
        """Leave their conditions out."""
        return replace(self, conditions=None)

    def __post_init__(self):
        shape, precision = ("n_configurations", "n_particles", 3), torch.get_default_dtype()
        taken = {
            "positions": arguments.positions(self.positions, shape, dtype=precision),
            "box_length": arguments.box(self.box_length),
        }
        ranges = take_ranges(RANGES if self.ranges is None else self.ranges)
        taken["ranges"] = {} if self.conditions is None else ranges
        arguments.choice("told", self.told, CONDITIONINGS)
        if self.potential is not None:
            arguments.instance("potential", self.potential, Family)
        if self.conditions is not None:
            n_numbers = len(ranges) if self.told == "numbers" else encoding.SIZE
            size = {"batch": len(taken["positions"]), "n_numbers": n_numbers}
            taken["conditions"] = arguments.conditions(self.conditions, **size).to(precision)
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw configurations with replacement, each under one of the cube's 48 symmetries.

        Raises:
            TypeError, ValueError: a batch size that is no whole number above 0, or no generator.
        """
        batch_size = arguments.whole("batch_size", batch_size, at_least=1)
        arguments.generator(generator)
        on = {"device": generator.device, "generator": generator}
        chosen = torch.randint(len(self.positions), (batch_size,), **on)
        x_0 = self.positions.to(generator.device)[chosen]
        axes = torch.rand(batch_size, 1, 3, **on).argsort(dim=-1).expand_as(x_0)
        mirrored = torch.rand(batch_size, 1, 3, **on) < 0.5
        x_0 = x_0.gather(2, axes)
        x_0 = wrap(torch.where(mirrored, -x_0, x_0), self.box_length)
        if self.conditions is None:
            return x_0, None
        return x_0, self.conditions.to(generator.device)[chosen]


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
        start: content hash of the checkpoint whose weights the run starts with (`start_from`);
            empty where they are the seed's.
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

        def running_average(average, current, n_averaged):
            # A short memory at first, so that the random start is soon forgotten.
            return average.lerp(
                current, 1 - min(decay, float((1 + n_averaged) / (10 + n_averaged)))
            )

        self.average = AveragedModel(self.denoiser, avg_fn=running_average)
        self.optimizer = torch.optim.Adam(self.denoiser.parameters())


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
        if not torch.isfinite(loss):
            _check_finite(x_0, condition, state.step + 1)
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {state.step + 1}; lower learning_rate "
                f"({settings.learning_rate}) and start again"
            )
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(settings, state.step)
        state.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(state.denoiser.parameters(), _MAX_GRADIENT_NORM)
        state.optimizer.step()
        state.average.update_parameters(state.denoiser)
        state.losses[state.step] = loss.item()
        state.step += 1
        state.seconds += time.perf_counter() - start
        yield Step(state.step, loss.item(), levels, losses.detach())


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


def save_checkpoint(path: Path | str, state: TrainingState, record: dict | None = None) -> None:
    """Write the averaged weights, all that sampling needs, and how they came about.

    Args:
        path: a `.safetensors` file; written whole or not at all.
        state: the run.
        record: what else to keep, such as the hash of the data; JSON types only.
    """
    tensors = state.average.module.state_dict()
    # Enough of the loss curve to be drawn, and to tell whether it was flat at the end.
    parts = state.losses[: state.step].tensor_split(min(_LOSS_POINTS, max(state.step, 1)))
    curve = {"losses": [round(part.mean().item(), 5) for part in parts if len(part)]}
    checkpoint.write(path, tensors, _header("checkpoint", state, record) | curve)


def load_checkpoint(path: Path | str, preset: str | None = None) -> tuple[nn.Module, dict]:
    """Read a trained denoiser, ready to sample from.

    Args:
        path: a file that `save_checkpoint` wrote.
        preset: which preset it must be of; None takes any.

    Returns:
        denoiser: on the CPU, in evaluation mode, built as the header says.
        header: preset, settings with the architecture and the ranges of conditions, n_particles
            box_length and potential of the training data, step, seconds of training, the training
            loss in means of up to 200 equal parts of the run, record.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is truncated or none of ours, of another version of this package,
            or of another preset.
    """
    tensors, header = checkpoint.read(path, "checkpoint")
    if preset is not None and header["preset"] != preset:
        raise ValueError(
            f"{path} holds a checkpoint of the preset {header['preset']!r}, but {preset!r} is "
            f"wanted; name another file, or train one with -p model {preset}"
        )
    with _understanding(path, "checkpoint", header):
        denoiser = Settings(**header["settings"]).new_denoiser()
        denoiser.load_state_dict(tensors)
    return denoiser.eval().requires_grad_(False), header


def potential_of(header: Mapping[str, Any]) -> Family | None:
    """Return the potential of the data that a file's training ran on; None where it is not known.

    Args:
        header: as `load_checkpoint` gives it.
    """
    return Family(**header["potential"]) if header["potential"] else None


def start_from(path: Path | str, state: TrainingState) -> None:
    """Give a run that has not begun the weights of a checkpoint, to train them further.

    A network that is told something else may `adopt` them: "bragg" does.

    Args:
        path: of a checkpoint of the same network.
        state: the run, whose settings name the checkpoint as their `start`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a run that has begun, a file that is truncated or none of ours, a checkpoint of
            another network, or another one than the settings say.
    """
    arguments.instance("state", state, TrainingState)
    tensors, header = checkpoint.read(path, "checkpoint")
    settings = state.settings
    if state.step or files.file_hash(path) != settings.start:
        raise ValueError(
            f"{path} is not what the run started with: {settings.start or 'weights of its seed'}"
        )
    with _understanding(path, "checkpoint", header):
        found = Settings(**header["settings"])
        names = ["preset", "sigma_min", "sigma_max", "architecture"]
        adopting = hasattr(state.denoiser, "adopt")
        names += [] if adopting else ["told", "ranges"]
        changed = [name for name in names if getattr(found, name) != getattr(settings, name)]
    if changed:
        raise ValueError(
            f"{path} is of another network than the run's: {', '.join(changed)} differ; start with "
            "a checkpoint of the same preset and conditions"
        )
    if adopting:
        known = found.new_denoiser()
        known.load_state_dict(tensors)
        state.denoiser.adopt(known)
    else:
        state.denoiser.load_state_dict(tensors)
    state.average.module.load_state_dict(state.denoiser.state_dict())


def check_replaceable(path: Path | str, settings: Settings) -> None:
    """Find out, before a run, whether its checkpoint may take the place of what is there.

    Args:
        path: of the checkpoint.
        settings: of the run.

    Raises:
        FileExistsError: what is there is of a run with other settings, or no checkpoint at all.
        OSError: the checkpoint could not be written.
    """
    files.check_writable(path)
    if not Path(path).exists():
        return
    try:
        _, header = checkpoint.read(path, "checkpoint")
        changed = _differences(asdict(Settings(**header["settings"])), asdict(settings))
    except (KeyError, TypeError, ValueError) as error:
        changed = [str(error)]
    if changed:
        raise FileExistsError(
            f"{path} is not of a run with these settings ({'; '.join(changed)}); give those, or "
            "move the file away"
        )


def save_state(path: Path | str, state: TrainingState) -> None:
    """Write everything that resuming a run needs.

    Args:
        path: a `.safetensors` file; written whole or not at all.
        state: the run.
    """
    tensors = {f"denoiser.{name}": value for name, value in state.denoiser.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    for index, entries in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
    tensors["losses"] = state.losses
    checkpoint.write(path, tensors, _header("state", state, None))


def load_state(
    path: Path | str, settings: Settings, device: torch.device | str = "cpu"
) -> TrainingState:
    """Read a run back to the step at which it was saved.

    Args:
        path: a file that `save_state` wrote.
        settings: what the run is to be; the file must agree.
        device: where it goes on.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is truncated or none of ours, of another version of this package,
            or of a run with other settings.
    """
    tensors, header = checkpoint.read(path, "state")
    with _understanding(path, "state", header):
        # Files of format 2 do not say.
        saved = Settings(**{"ranges": settings.ranges} | header["settings"])
    changed = _differences(asdict(saved), asdict(settings))
    if changed:
        raise ValueError(
            f"{path} belongs to a run with other settings ({'; '.join(changed)}); "
            "restore them, or move the file away to start anew"
        )
    with _understanding(path, "state", header):
        seen = {name: header[name] for name in ("step", "seconds", "n_particles", "box_length")}
        seen["potential"] = potential_of(header)
        return _restore(TrainingState(settings, device, **seen), tensors)


def _restore(state, tensors):
    state.losses = tensors.pop("losses")
    groups: dict[str, dict] = {"denoiser": {}, "average": {}, "optimizer": {}}
    for name, value in tensors.items():
        group, rest = name.split(".", 1)
        groups[group][rest] = value
    state.denoiser.load_state_dict(groups["denoiser"])
    state.average.load_state_dict(groups["average"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["optimizer"].items():
        index, entry = name.split(".", 1)
        moments.setdefault(int(index), {})[entry] = value
    param_groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": param_groups})
    return state


def _differences(saved: dict, wanted: dict) -> list[str]:
    found = []
    for name, value in wanted.items():
        if name == "architecture":
            # Of another preset nothing compares, and that the preset is another has been said.
            if value.keys() == saved[name].keys():
                found += _differences(saved[name], value)
        elif saved[name] != value:
            found.append(f"{name} was {saved[name]!r}, is {value!r}")
    return found


@contextmanager
def _understanding(path, kind, header):
    # Whatever a header or its tensors lack or have too much, the file is of another version.
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoint.stale(path, kind, header) from error


def _header(kind: str, state: TrainingState, record: dict | None) -> dict:
    return {
        "kind": kind,
        "preset": state.settings.preset,
        "settings": asdict(state.settings),
        "step": state.step,
        "seconds": state.seconds,
        "n_particles": state.n_particles,
        "box_length": state.box_length,
        "potential": asdict(state.potential) if state.potential else None,
        "record": record or {},
    }
