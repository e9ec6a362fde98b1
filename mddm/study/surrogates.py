"""The trained models as the study scores them: how their samples are drawn, and their scores.

Each function scores one thing, against MD of one condition, and returns entries with the columns
of `evaluation.COLUMNS`, but for `losses`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mddm import (
    budget,
    checkpoint,
    encoding,
    files,
    lammps_process,
    lattices,
    noise,
    presets,
    samplers,
    sampling,
    seeded,
    study,
    training,
)
from mddm.configurations import Configurations
from mddm.dataset import Dataset
from mddm.relaxing import Relaxing
from mddm.study import evaluation, tasks

N_LEVELS = 40
LOSS_COLUMNS = (*evaluation.KEYS, "sigma", "trained_on", "replica")


def checkpoint_source(task: str, preset: str, trained_on: str = "") -> str:
    """Name the checkpoint of a task and a preset, with its hash.

    Args:
        task: one of `tasks.TASKS`.
        preset: one of `presets.PRESETS`.
        trained_on: file of the data that it was trained on; "" for the study's.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    path = study.checkpoint_path("full", task, preset, trained_on)
    if not path.is_file():
        on = f" -p data {trained_on}" if trained_on and not study.is_own(trained_on) else ""
        raise FileNotFoundError(
            f"there is no checkpoint at {path}; make it with `papermill notebooks/train.ipynb "
            f"out.ipynb -p task {task} -p model {preset} -p profile full{on}`"
        )
    return files.named_with_hash(path)


@dataclass(frozen=True)
class Surrogate:
    """A checkpoint, and how samples are drawn from it.

    Args:
        preset: one of `presets.PRESETS`.
        task: one of `tasks.TASKS`.
        sampler: one of `samplers.SAMPLERS`, or a name of them.
        n_levels: noise levels of the sampler, between the ends that the network was trained on.
        compiled: whether PyTorch compiles the network at its first call, which takes a minute or
            more; worth it for many samples of "bragg" on a CPU.
        trained_on: file of the data that the checkpoint was trained on; "" for the study's.
        what: one of `encoding.ANSWERS`, of a network that is told potentials.
    """

    preset: str
    task: str
    sampler: str | sampling.Sampler
    n_levels: int = N_LEVELS
    compiled: bool = False
    trained_on: str = ""
    what: str = encoding.ANSWERS[0]

    @cached_property
    def _trained(self):
        denoiser, settings = _load(self.task, self.preset, self.trained_on)
        if self.compiled:
            denoiser.compile()
        return denoiser, settings

    @property
    def name(self) -> str:
        """What its scores are filed under."""
        return evaluation.TOLD if self.task == "potential" else self.preset

    @property
    def source(self) -> str:
        """The checkpoint's name and hash; a FileNotFoundError where it has not been made."""
        return checkpoint_source(self.task, self.preset, self.trained_on)

    def conditions(self, data: Dataset, row: int) -> torch.Tensor | None:
        """Give what the network is told of a row, (1, n); None where it is told nothing."""
        _, settings = self._trained
        if not settings.ranges:
            return None
        asked = data.take([row])
        if self.what == "stable":
            told = asked.potential(0), float(asked.temperature[0])
            return encoding.encode(*told, what=self.what)[None]
        if settings.told == "potential":
            return asked.encoded
        return torch.as_tensor(asked.conditions, dtype=torch.float32)

    def frames(
        self, data: Dataset, row: int, seed: int = 0, times: int = 1
    ) -> Iterator[sampling.Frame]:
        """Draw one sample, step by step.

        Args:
            data: the MD data.
            row: whose condition, box and number of particles the sample gets.
            seed: of the sample; another row's sample is another one all the same.
            times: how often the row's box is repeated along each axis, see `samplers.Repeated`.

        Yields:
            The sampler's frames; the last one holds the sample, (1, n_particles, 3).

        Raises:
            FileNotFoundError: the checkpoint has not been made.
        """
        conditions = self.conditions(data, row)
        n_particles, seed = times**3 * data.positions.shape[1], 1000 * row + seed
        box_length = times * data.box_length
        relax = Relaxing(data.potential(row), box_length, float(data.temperature[row]))
        return self._draw(conditions, 1, n_particles, box_length, seed, relax, times)

    def clouds(self, n_clouds: int, n_points: int, seed: int = 0) -> Iterator[sampling.Frame]:
        """Draw clouds from a model of a surface, step by step.

        Args:
            n_clouds: how many, in one batch.
            n_points: points in each.
            seed: of all of them.

        Yields:
            The sampler's frames; the last one holds the clouds, (n_clouds, n_points, 3).

        Raises:
            FileNotFoundError: the checkpoint has not been made.
        """
        return self._draw(None, n_clouds, n_points, None, seed)

    def _draw(self, conditions, n_samples, n_particles, box_length, seed, relax=None, times=1):
        denoiser, settings = self._trained
        ends = settings.sigma_min, settings.sigma_max
        return samplers.draw(
            denoiser,
            samplers.repeated(self.sampler, times),
            noise.make_schedule("log", self.n_levels, *ends),
            conditions,
            n_samples,
            n_particles,
            box_length,
            seed,
            device=study.device(),
            relax=relax,
        )


def sample(
    data: Dataset,
    row: int,
    surrogate: Surrogate,
    seed: int = 0,
    keep: Callable[[np.ndarray], None] | None = None,
) -> list[dict]:
    """Score the sample that `Surrogate.frames` ends with.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        surrogate: that draws it.
        seed: of the sample.
        keep: is given the sample, (n_particles, 3) [length].

    Returns:
        Two entries, as it is and relaxed; of a sample that was relaxed on the way two more, of what
        it was before, by the name of the sampler that drew that.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    clock, ends = lammps_process.process_time(), {}
    for frame in surrogate.frames(data, row, seed):
        ends[frame.stage] = frame, lammps_process.process_time() - clock
    if keep is not None:
        keep(frame.positions[0].cpu().numpy())
    named = {"model": surrogate.name, "task": surrogate.task, "seed": seed}
    named |= {"source": surrogate.source}

    def entries_of(sampler, stage, at_rest=None):
        final, seconds = ends[stage]
        drawn_by = named | {"sampler": sampler, "calls": final.calls}
        positions = final.positions[0].cpu().numpy()
        return evaluation.raw_and_relaxed(data, row, positions, seconds, drawn_by, at_rest)

    entries = entries_of(surrogate.sampler, frame.stage)
    if "relaxed" in ends:
        relaxed, seconds = ends["relaxed"]
        polished = samplers.SAMPLERS[surrogate.sampler]
        at_rest = relaxed.positions[0].cpu().numpy(), seconds
        # What was relaxed in part is not at rest.
        known = at_rest if polished.force is None else None
        entries += entries_of(samplers.name_of(polished.start), "sampled", known)
    return entries


def seeded_sample(data: Dataset, row: int, surrogate: Surrogate, seed: int = 0) -> list[dict]:
    """Score a sample that begins at a lattice.

    The list of the lattices that fit the box is made once for all rows and does not count.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        surrogate: a conditional one; its sampler is one of `evaluation.SEEDED`.
        seed: of the sample, and of the draw of its lattice.

    Returns:
        Two entries, as it is and relaxed.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    potential, temperature = data.potential(row), float(data.temperature[row])
    box = {"n_particles": data.positions.shape[1], "box_length": data.box_length}
    lattices.search(potential, **box)
    denoiser, settings = surrogate._trained
    sigmas = noise.make_schedule("log", surrogate.n_levels, settings.sigma_min, settings.sigma_max)
    clock = lammps_process.process_time()
    frames = seeded.draw(
        denoiser,
        potential,
        **box,
        temperature=temperature,
        sigmas=sigmas,
        condition=surrogate.conditions(data, row),
        seed=1000 * row + seed,
        spread=evaluation.SEEDED[surrogate.sampler],
        device=study.device(),
    )
    final = sampling.last(frames)
    seconds = lammps_process.process_time() - clock
    named = {"model": surrogate.preset, "sampler": surrogate.sampler, "seed": seed}
    named |= {"calls": final.calls, "source": surrogate.source}
    return evaluation.raw_and_relaxed(data, row, final.positions[0].cpu().numpy(), seconds, named)


def answer(data: Dataset, row: int, surrogate: Surrogate, name: str, seed: int = 0) -> list[dict]:
    """Score what a number of seconds buys.

    Args:
        data: the MD data.
        row: the condition, and the configuration to score against.
        surrogate: a conditional one.
        name: one of `evaluation.ANSWERS`.
        seed: of the sample and of the quench.

    Returns:
        Two entries, as it is and relaxed; calls are of the network, whatever the answer is.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    found, calls, seconds = within(data, row, surrogate, evaluation.ANSWERS[name], seed)
    named = {"model": name, "seed": seed, "calls": calls, "source": surrogate.source}
    return evaluation.raw_and_relaxed(data, row, found[0].positions, seconds, named)


def within(
    data: Dataset, row: int, surrogate: Surrogate, budget_of: float, seed: int = 0
) -> tuple[list[budget.Candidate], int, float]:
    """Find structures for a row's condition within some seconds of the processor.

    Args:
        data: the MD data.
        row: the condition.
        surrogate: that draws samples; of one that is asked for what is stable, lattices count too.
        budget_of: seconds.
        seed: of the sample and of the quench.

    Returns:
        The candidates as from `budget.within`, calls of the network, and the seconds that it took.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    clock, calls = lammps_process.process_time(), {}
    sampler, held_on = budget.brief(samplers.SAMPLERS[surrogate.sampler])
    drawn_by = replace(surrogate, sampler=sampler)

    def draw(number):
        for frame in drawn_by.frames(data, row, seed + number):
            calls[number] = frame.calls
            yield frame

    found = budget.within(
        budget_of,
        draw,
        data.potential(row),
        float(data.temperature[row]),
        n_particles=data.positions.shape[1],
        box_length=data.box_length,
        # Not that of a quench that is scored by itself.
        seed=3_000_000 + 1000 * row + seed,
        held_on=held_on,
        stable=surrogate.what == "stable",
        clock=lammps_process.process_time,
    )
    return found, sum(calls.values()), lammps_process.process_time() - clock


def losses(
    data: Dataset,
    replicas: Dataset,
    preset: str,
    task: str,
    n_levels: int,
    n_draws: int,
    trained_on: str = "",
) -> list[dict]:
    """Measure a checkpoint's loss level by level, on what it was trained on and on MD replicas.

    Args:
        data: the MD data.
        replicas: MD of what the checkpoint was trained on, from other seeds; there may be none.
        preset: one of `presets.PRESETS`.
        task: "unconditional" or "conditional".
        n_levels: noise levels, evenly spaced in log sigma between the checkpoint's own ends.
        n_draws: configurations a level.
        trained_on: file of the data that the checkpoint was trained on; "" for the study's.

    Returns:
        One entry a level, with the `LOSS_COLUMNS`; the loss on replicas is nan without them.

    Raises:
        FileNotFoundError: the checkpoint has not been made.
    """
    denoiser, settings = _load(task, preset, trained_on)
    row = tasks.unconditional_row(data) if task == "unconditional" else None
    known = tasks.training_source(task, data, row)
    sigmas = noise.log_schedule(n_levels, settings.sigma_min, settings.sigma_max)[1:]
    columns = {
        "trained_on": training.level_losses(denoiser, known, sigmas, n_draws).tolist(),
        "replica": [math.nan] * n_levels,
    }
    if len(replicas):
        unseen = Configurations.of(replicas)
        unseen = unseen if row is None else unseen.alone()
        columns["replica"] = training.level_losses(denoiser, unseen, sigmas, n_draws).tolist()
    source = checkpoint_source(task, preset, trained_on)
    named = evaluation.Key(preset, task, "", 0, 0, source)._asdict()
    return [
        named | dict(zip(("sigma", *columns), values, strict=True))
        for values in zip(sigmas.tolist(), *columns.values(), strict=True)
    ]


def _load(task: str, preset: str, trained_on: str) -> tuple[Callable, presets.Settings]:
    path = study.checkpoint_path("full", task, preset, trained_on)
    denoiser, header = checkpoint.load(path, preset)
    return denoiser.to(study.device()), presets.Settings(**header["settings"])
