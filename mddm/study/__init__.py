"""What the notebooks share: their root, their parameters, seeds, progress and run records.

Heavy packages are imported where they are used, so that a mistyped parameter is answered
before torch is loaded.
"""

import ast
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mddm import optional
from mddm.spelling import did_you_mean

if TYPE_CHECKING:
    import torch
    from IPython.display import Markdown

# What the study's own models are trained on and scored against, relative to the project's root.
DATA = "data/opp.h5"

Item = TypeVar("Item")

# Progress [s]: how often a terminal's line is rewritten; in a log, when the first line comes, and
# the longest time to the next while the time so far doubles from line to line.
_TERMINAL_PAUSE = 0.2
_FIRST_REPORT = 5.0
_LONGEST_SILENCE = 600.0


def project_root() -> Path:
    """Find the folder of the checkout, whatever the working directory is.

    Returns:
        The folder that holds `mddm/`, `notebooks/` and `data/`.

    Raises:
        FileNotFoundError: neither the package nor the working directory lies in a checkout.
    """
    here = Path.cwd().resolve()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise FileNotFoundError(
        f"found no checkout of the study around {here}: clone the repository, run "
        "`pip install -e .` in it, or start from a folder inside it"
    )


def check_parameters(
    namespace: Mapping[str, Any], **expected: type | tuple[str | int | float, ...]
) -> None:
    """Check a notebook's parameters, in the cell right after them.

    papermill enforces no types and injects names that the notebook does not know; this is where
    both are refused.  Nothing is converted: what passes is what was written.

    Args:
        namespace: the notebook's `globals()`.
        expected: every parameter's name with its type (str, int, float or bool) or the tuple of
            its choices.  An int will do for a float.

    Raises:
        ValueError: a value that is no choice, a float that is not finite, a name that no
            parameter has.
        TypeError: a value of another type.
    """
    _check_mapping("namespace", namespace)
    for name in _injected_names(namespace):
        if name not in expected:
            raise ValueError(
                f"unknown parameter '{name}'; this notebook has {', '.join(expected)}"
                f"{did_you_mean(name, expected)}"
            )
    for name, rule in expected.items():
        if name not in namespace:
            raise ValueError(f"{name} is not set: assign it in the cell tagged 'parameters'")
        if isinstance(rule, tuple):
            _check_choice(name, namespace[name], rule)
        else:
            _check_type(name, namespace[name], rule)


def _injected_names(namespace: Mapping[str, Any]) -> list[str]:
    # IPython keeps the source of the cells it has run in `In`; papermill heads its cell so.
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n")]
    assignments = [line for cell in cells for line in ast.parse(cell).body]
    return [line.targets[0].id for line in assignments if isinstance(line, ast.Assign)]


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    # True == 1, so that membership alone would let a bool pass for a number.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
            f"{did_you_mean(value, [choice for choice in choices if isinstance(choice, str)])}"
        )


def _check_type(name: str, value: Any, kind: type) -> None:
    if kind is float and type(value) is int:
        return
    if type(value) is not kind:
        raise TypeError(
            f"{name} must be of type {kind.__name__}, got {value!r} of type "
            f"{type(value).__name__}{_type_remedy(name, value, kind)}"
        )
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of names to values, got {value!r}")


def _type_remedy(name: str, value: Any, kind: type) -> str:
    if kind is int and isinstance(value, float) and value.is_integer():
        return f": write it without a point or an exponent: {name} = {int(value)}"
    if kind is bool:
        return f": write {name} = True or {name} = False"
    if kind is str:
        return f": quote it, or with papermill pass it as -r {name} {value}"
    return ""


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators.

    Args:
        seed: any integer in [0, 2**32).

    Raises:
        TypeError, ValueError: the seed is no whole number, or out of range.
    """
    import random

    import numpy as np
    import torch

    from mddm import arguments

    seed = arguments.seed(seed, bits=32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def device() -> "torch.device":
    """Return the device to compute on: the first CUDA GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_record(seed: int, **details: Any) -> dict[str, Any]:
    """Say what a result was computed with, for the file that keeps it.

    Args:
        seed: the run's seed.
        details: whatever else tells this run from others: preset, steps, hash of the data.

    Returns:
        Versions of the package, Python, torch and numpy, the device and its number of CPU
        threads, the seed, then `details`; it can be written as JSON if they can.

    Raises:
        TypeError, ValueError: no seed, or a detail has the name of an entry that is recorded
            anyway.
    """
    import torch

    from mddm import arguments

    on = device()
    record = {
        "mddm": version("mddm"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else on.type,
        "threads": torch.get_num_threads(),
        "seed": arguments.seed(seed),
    }
    taken = sorted(record.keys() & details)
    if taken:
        raise ValueError(f"{taken[0]} is recorded already: give that detail another name")
    return record | details


def provenance(
    notebook: str,
    parameters: Mapping[str, Any],
    seconds: float,
    data: str = "",
    checkpoints: Iterable[Path | str] = (),
) -> "Markdown":
    """Say how a chapter's results were made, in a folded block for its last cell.

    Args:
        notebook: the chapter's file, without folder and ending.
        parameters: every parameter of the run with its value, `seed` among them.
        seconds: how long the chapter has run [s].
        data: the data set that it read, relative to the project's root; "" for none.
        checkpoints: the trained models that it read or wrote.

    Returns:
        Content hash of the data, hash and training steps of each checkpoint, seed, device,
        versions, run time, and the command that does it all again.

    Raises:
        FileNotFoundError: the data set or a checkpoint is not there.
        TypeError, ValueError: an argument of another kind, `parameters` has no seed, or a file is
            not what it should be.
    """
    with optional.packages():
        from IPython.display import Markdown

    from mddm import arguments, checkpoint, dataset, files

    for name, value in {"notebook": notebook, "data": data}.items():
        arguments.instance(name, value, str)
    seconds = arguments.number("seconds", seconds, at_least=0)
    checkpoints = arguments.several("checkpoints", checkpoints, (str, Path))
    if "seed" not in arguments.instance("parameters", parameters, Mapping):
        raise ValueError(f"parameters must contain the seed, got {', '.join(parameters)}")
    root = project_root()
    entries = []
    if data:
        entries.append(f"data: `{data}`, content `{dataset.read(root / data).content_hash}`")
    for path in checkpoints:
        _, header = checkpoint.read(path, "checkpoint")
        entries.append(
            f"model: `{_from_root(path)}`, hash `{files.file_hash(path)}`, "
            f"{header['step']:,} steps of training"
        )
    record = run_record(parameters["seed"])
    entries.append(f"seed: {record['seed']}")
    entries.append(f"machine: {record['device']}, CPU threads: {record['threads']}")
    entries.append(", ".join(f"{name} {record[name]}" for name in ("mddm", "python", "torch")))
    entries.append(f"run time: {_clock(seconds)}")
    command = ["papermill", f"notebooks/{notebook}.ipynb", "out.ipynb"]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    lines = ["<details><summary>How this was made</summary>", ""]
    lines += [f"- {entry}" for entry in entries]
    lines += ["", "```", shlex.join(command), "```", "", "</details>"]
    return Markdown("\n".join(lines))


def _from_root(path: Path | str) -> Path:
    root, path = project_root(), Path(path)
    return path.relative_to(root) if path.is_relative_to(root) else path


def progress(iterable: Iterable[Item], total: int | None = None, label: str = "") -> Iterator[Item]:
    """Pass items on and say on stderr how far along they are, with the time to go.

    A terminal gets one line that is rewritten; a notebook or a log file gets a line after 5 s,
    10 s, 20 s and so on, and one at the end if it took longer than that.

    Args:
        iterable: what to loop over.
        total: number of items; by default the iterable's length, if it has one.
        label: what is going on.

    Raises:
        TypeError: nothing to loop over, or a total that is no whole number.
    """
    if not isinstance(iterable, Iterable):
        raise TypeError(f"iterable must be something to loop over, got {iterable!r}")
    if total is not None:
        _check_type("total", total, int)
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    on_terminal = sys.stderr.isatty()
    start = time.monotonic()
    due = first = _TERMINAL_PAUSE if on_terminal else _FIRST_REPORT
    done = 0
    try:
        for done, item in enumerate(iterable, start=1):
            yield item
            seconds = time.monotonic() - start
            if seconds >= due:
                _report(_progress_line(label, done, total, seconds), on_terminal)
                due = seconds + (first if on_terminal else min(seconds, _LONGEST_SILENCE))
    finally:
        if due > first:
            _report(f"{_head(label)}{done} in {_clock(time.monotonic() - start)}", on_terminal)
            if on_terminal:
                print(file=sys.stderr)


def _progress_line(label: str, done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{_head(label)}{done}, {_clock(seconds)} so far"
    to_go = _clock(seconds / done * max(total - done, 0))
    return f"{_head(label)}{done}/{total}, {_clock(seconds)} so far, {to_go} to go"


def _head(label: str) -> str:
    return f"{label}: " if label else ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _report(line: str, on_terminal: bool) -> None:
    # Blanks cover what a longer line left there.
    text, end = (f"\r{line:<70}", "") if on_terminal else (line, "\n")
    print(text, end=end, file=sys.stderr, flush=True)


def is_own(data: str) -> bool:
    """Tell whether a data file is the one that the study's own models and scores belong to."""
    return _place(data) == _place(DATA)


def _place(data: str) -> Path:
    _check_type("data", data, str)
    # What a link leads to is not asked: it is named where it lies.
    return Path(os.path.normpath(project_root() / data))


def name_of(data: str) -> str:
    """Name the folders of what belongs to a data file: by its place, from data/ or the root on.

    Args:
        data: the file, relative to the project's root.

    Raises:
        TypeError, ValueError: that is no file's name.
    """
    place = _from_root(_place(data))
    parts = [part for part in (place.parent / place.stem).parts if part != place.root]
    named = "-".join(parts[1:] if parts[:1] == ["data"] else parts)
    if not named:
        raise ValueError(f"data must name a file, such as {DATA}, got {data!r}")
    return named


def checkpoint_path(
    profile: str, task: str, model: str, data: str = "", changes: Mapping[str, Any] | None = None
) -> Path:
    """Return where a run's checkpoint goes: the study's own for full runs, scratch for quick ones.

    Args:
        profile: "quick" or "full".
        task: one of `tasks.TASKS`.
        model: one of `presets.PRESETS`.
        data: file that is trained on, where there is one. Models of other data than `DATA` have
            a folder of its name.
        changes: parameters by which the run is another than its profile's: it has a folder of
            their names and values.

    Raises:
        TypeError, ValueError: none of the choices, or an argument of another kind.
    """
    _check_choice("profile", profile, ("quick", "full"))
    for name, value in {"task": task, "model": model, "data": data}.items():
        _check_type(name, value, str)
    _check_mapping("changes", {} if changes is None else changes)
    folder = project_root() / "data" / "checkpoints"
    if profile == "quick":
        folder = folder / "quick"
    if data and not is_own(data):
        folder = folder / name_of(data)
    if changes:
        folder = folder / ",".join(f"{name}={value}" for name, value in changes.items())
    return folder / f"{task}-{model}.safetensors"
