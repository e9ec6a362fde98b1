"""Checkpoints: trained networks, and runs to be resumed, in safetensors with a JSON header."""

import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mddm import __version__, arguments, files
from mddm.condition import RANGES
from mddm.family import Family
from mddm.presets import Settings
from mddm.training import TrainingState

# Raised whenever files of before could no longer be read, or would be read wrongly.
FORMAT = 3
# What `torch.compile` adds to the names of all that a network is made of.
_COMPILED = "_orig_mod."
_LOSS_POINTS = 200


def save(path: Path | str, state: TrainingState, record: dict | None = None) -> None:
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
    write(path, tensors, _header("checkpoint", state, record) | curve)


def load(path: Path | str, preset: str | None = None) -> tuple[nn.Module, dict]:
    """Read a trained denoiser, ready to sample from.

    Args:
        path: a file that `save` wrote.
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
    tensors, header = read(path, "checkpoint")
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
        header: as `load` gives it.
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
    tensors, header = read(path, "checkpoint")
    settings = state.settings
    if state.step or files.file_hash(path) != settings.start:
        raise ValueError(
            f"{path} is not what the run started with: {settings.start or 'weights of its seed'}"
        )
    with _understanding(path, "checkpoint", header):
        found = Settings(**header["settings"])
        names = ["preset", "sigma_min", "sigma_max", "architecture"]
        told = ["told", "ranges"]
        adopting = hasattr(state.denoiser, "adopt") and any(
            getattr(found, name) != getattr(settings, name) for name in told
        )
        names += [] if adopting else told
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
        _, header = read(path, "checkpoint")
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
    write(path, tensors, _header("state", state, None))


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
    tensors, header = read(path, "state")
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


def write(path: Path | str, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a header; a file that was there stays until the new one is complete.

    Args:
        path: a `.safetensors` file; its folder is made if need be.
        tensors: by name; those of a compiled network are named as if it were not.
        header: JSON types only; its entry "kind" says what the file is.  The versions of the
            package and of the format are added.

    Raises:
        TypeError, ValueError: no path, other than tensors by name, or a header that is no JSON.
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    for name, value in arguments.instance("tensors", tensors, Mapping).items():
        arguments.instance("each name of tensors", name, str)
        arguments.instance("each of tensors", value, Tensor)
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    told = {"format": FORMAT, "mddm": __version__} | arguments.instance("header", header, dict)
    try:
        written = json.dumps(told)
    except TypeError as error:
        raise TypeError(f"header must hold JSON types only: {error}") from error
    files.write_whole(path, safetensors.torch.save(_plain(contiguous), metadata={"mddm": written}))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(_COMPILED, ""): value for name, value in tensors.items()}


def read(path: Path | str, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Read tensors and header.

    Args:
        path: a file that `write` made.
        kind: what its header must say it is.

    Returns:
        tensors: by name, on the CPU.
        header: as it was written, with the version of the package, "mddm", and of the "format".

    Raises:
        FileNotFoundError: no such file.
        OSError: the file is there, but the system does not let it be read.
        ValueError: a file that is truncated, none of ours, of another kind, or of another format.
    """
    path = arguments.path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {kind} at {path}; train a model with "
            "`papermill notebooks/train.ipynb out.ipynb -p task conditional`"
        )
    # What keeps a file from being opened is told by the system alone.
    open(path, "rb").close()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mddm", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is truncated or no checkpoint ({error}); take a good copy of it, name another "
            "file, or move it away and train again"
        ) from error
    found = header.get("kind") if isinstance(header, dict) else None
    if found != kind:
        instead = f", but a {found}" if found else ""
        raise ValueError(f"{path} is no {kind} of this package{instead}; name another file")
    with _understanding(path, kind, header):
        if header.get("format") == 2:
            header = _from_format_2(header)
        elif header.get("format") != FORMAT:
            raise ValueError("of a format that is not known")
    return _plain(tensors), header


def _from_format_2(header: dict) -> dict:
    """Add what files of format 2 leave to be known; all of them are of the study's own tasks."""
    settings = dict(header["settings"])
    said = {"n_particles": None, "box_length": None, "potential": None}
    if settings["preset"] == "mddm":
        # Written when the preset had this one shape.
        shape = {"hidden_channels": None, "first": "learned", "head_channels": None}
        settings["architecture"] = shape | settings["architecture"]
    # A state does not say its task.
    if header["kind"] == "checkpoint":
        record = header["record"]
        task = record.get("task", "unconditional" if "row" in record else "conditional")
        settings["ranges"] = RANGES if task == "conditional" else {}
        said["n_particles"] = 1000
        if task in ("conditional", "unconditional"):
            said["box_length"] = 2 * settings["sigma_max"]
            # The one configuration of the unconditional task.
            fixed = {} if settings["ranges"] else {"k": 6.6, "phi": 4.2}
            if "row" not in record:
                said["potential"] = {"name": "opp", "parameters": fixed}
    return header | said | {"settings": settings}


@contextmanager
def _understanding(path, kind, header):
    # Whatever a header or its tensors lack or have too much, the file is of another version.
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is a {kind} of another version of this package (format "
            f"{header.get('format', 1)}, written by mddm {header.get('mddm', 'of unknown version')}"
            f"; this is format {FORMAT}, mddm {__version__}): use the version that wrote it, or "
            "move it away and train again"
        ) from error
