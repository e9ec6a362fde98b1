"""The checkpoint file: safetensors with a JSON header, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mddm import __version__, arguments, files
from mddm.condition import RANGES

# Raised whenever files of before could no longer be read, or would be read wrongly.
FORMAT = 3
# What `torch.compile` adds to the names of all that a network is made of.
_COMPILED = "_orig_mod."


def write(path: Path | str, tensors: dict[str, Tensor], header: dict) -> None:
    """Write a checkpoint; a file that was there stays until the new one is complete.

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
    files.write_whole(path, save(_plain(contiguous), metadata={"mddm": written}))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(_COMPILED, ""): value for name, value in tensors.items()}


def read(path: Path | str, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Read a checkpoint.

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
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mddm", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is truncated or no checkpoint ({error}); take a good copy of it, name another "
            "file, or move it away and train again"
        ) from error
    found = header.get("kind") if isinstance(header, dict) else None
    if found != kind:
        instead = f", but a {found}" if found else ""
        raise ValueError(f"{path} is no {kind} of this package{instead}; name another file")
    try:
        if header.get("format") == 2:
            header = _from_format_2(header)
        elif header.get("format") != FORMAT:
            raise ValueError("of a format that is not known")
    except (KeyError, TypeError, ValueError) as error:
        raise stale(path, kind, header) from error
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


def stale(path: Path | str, kind: str, header: dict) -> ValueError:
    """Make the error for a file that this version of the package does not understand.

    Args:
        path: the file.
        kind: what it is.
        header: its header.
    """
    return ValueError(
        f"{path} is a {kind} of another version of this package (format "
        f"{header.get('format', 1)}, written by mddm {header.get('mddm', 'of unknown version')}; "
        f"this is format {FORMAT}, mddm {__version__}): use the version that wrote it, or move it "
        "away and train again"
    )
