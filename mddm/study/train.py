"""A training run of the study: what is trained and how long, and a loop that can be stopped.

`mddm train` and notebooks/train.ipynb are both this.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mddm import arguments, checkpoint, presets, study, training
from mddm.condition import sigma_max
from mddm.configurations import Source
from mddm.study import tasks

PROFILES = ("quick", "full")
# Steps of the full profile, four configurations each, as a CPU can do; "potential", and "mddm" on
# the torus, start with weights that have been trained before.  The last training of "potential",
# on a GPU, had batches and steps of its own (book/reproduce.md).
_N_STEPS = {"unconditional": 10_000, "conditional": 30_000, "potential": 8_000}
_N_STEPS_SURFACE = 5_000
# Where the study's own model was given another number, so that it can be made again.
_N_STEPS_OF = {
    ("conditional", "mddm"): 28_000,
    ("sphere", "mddm"): 2_000,
    ("torus", "mddm"): 3_000,
}
# On a surface this network has nothing but a maximum over neighbours to tell the noise by: give it
# as many of them as it takes.
_ON_SURFACES = {"mddm": {"n_neighbors": 64}}
# Two fifths of how far potentials that are neighbours on the grid are apart.
_JITTER = 0.05
# How much of a run a crash may cost [s].
_SAVED_EVERY = 60


def budget(profile: str, task: str, model: str) -> dict[str, int]:
    """Tell what a run of a profile takes: its `n_steps`, `batch_size` and `seed`.

    Args:
        profile: "quick", minutes on a CPU, or "full", the study's own on a CPU.
        task: one of `tasks.TASKS`.
        model: one of `presets.PRESETS`.

    Raises:
        ValueError: none of the choices.
    """
    arguments.choice("task", task, tasks.TASKS)
    arguments.choice("model", model, presets.PRESETS)
    if arguments.choice("profile", profile, PROFILES) == "quick":
        return {"n_steps": 1200, "batch_size": 1, "seed": 0}
    usual = _N_STEPS.get(task, _N_STEPS_SURFACE)
    return {"n_steps": _N_STEPS_OF.get((task, model), usual), "batch_size": 4, "seed": 0}


def settings_of(model: str, source: Source, data: str = "", **run: Any) -> presets.Settings:
    """Give the settings by which the study trains a model: what is not asked of its user.

    Args:
        model: one of `presets.PRESETS`.
        source: what it is trained on.
        data: hash of the training data, if there is any.
        run: `n_steps`, `batch_size`, `seed` and whatever else of `presets.Settings` is of the run.

    Raises:
        TypeError, ValueError: an unknown model, or settings that mean nothing.
    """
    arguments.choice("model", model, presets.PRESETS)
    recipe = dict(presets.RECIPES[model])
    if getattr(source, "told", "numbers") != "numbers":
        recipe["jitter"] = _JITTER
    if source.box_length is None:
        recipe["architecture"] = _ON_SURFACES.get(model, {})
    if run.get("start"):
        # What has been learned is not to be lost at the first steps.
        recipe["learning_rate"] /= 2
    return presets.Settings(
        preset=model,
        schedule="log" if source.box_length is None else "log_normal",
        sigma_max=sigma_max(source.box_length),
        ranges=source.ranges,
        told=getattr(source, "told", "numbers"),
        data=data,
        **recipe | run,
    )


def run(
    path: str | Path,
    settings: presets.Settings,
    source: Source,
    record: dict[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
    compiled: bool = False,
    start: str | Path | None = None,
    anew: bool = False,
    label: str = "",
) -> training.TrainingState:
    """Train a model and write its checkpoint; a run that was stopped before goes on.

    The run's state lies beside the checkpoint, at `path` with the ending .state.safetensors, until
    it is done: saved every minute, and between two steps when it is interrupted.

    Args:
        path: of the checkpoint, a `.safetensors` file.
        settings: what the run is to be.
        source: where x_0 and the conditions come from.
        record: what else the checkpoint is to keep.
        device: where to compute.
        compiled: whether PyTorch is to compile the network first, a minute or more.
        start: checkpoint whose weights are trained further, as the settings' `start` says.
        anew: whether to begin at the first step, and to replace whatever is there.
        label: what to call the run where its progress is shown.

    Returns:
        The run at its end, with its losses.

    Raises:
        FileExistsError: a checkpoint of other settings is there.
        ValueError: the path has another ending, or a state of other settings is there.
        OSError: the files cannot be written.
        FloatingPointError: the loss is no longer finite.
        KeyboardInterrupt: as it came; the message says where the run goes on from.
    """
    path = arguments.path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    unfinished = path.with_suffix(".state.safetensors")
    if not anew:
        checkpoint.check_replaceable(path, settings)
    if unfinished.exists() and not anew:
        state = checkpoint.load_state(unfinished, settings, device)
    else:
        state = training.TrainingState(settings, device)
        if start is not None:
            checkpoint.start_from(start, state)
    # That it cannot be kept is to be known before, not after.
    checkpoint.save_state(unfinished, state)
    if compiled:
        state.denoiser.compile()
    saved = state.seconds
    try:
        left = settings.n_steps - state.step
        for _ in study.progress(_whole(training.train(state, source)), left, label):
            if state.seconds - saved > _SAVED_EVERY:
                checkpoint.save_state(unfinished, state)
                saved = state.seconds
    except KeyboardInterrupt:
        checkpoint.save_state(unfinished, state)
        raise KeyboardInterrupt(
            f"stopped at step {state.step} of {settings.n_steps}, kept in {unfinished}; run the "
            "same again to go on"
        ) from None
    checkpoint.save(path, state, record)
    unfinished.unlink(missing_ok=True)
    return state


def _whole(steps: Iterator[training.Step]) -> Iterator[training.Step]:
    # Weights that are half a step on could not be told from those of the step before.
    while True:
        with _uninterrupted():
            step = next(steps, None)
        if step is None:
            return
        yield step


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
