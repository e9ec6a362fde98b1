"""The checkpoint file: safetensors with a JSON header, written whole or not at all."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mddm import __version__

# Raised whenever files of before could no longer be read, or would be read wrongly.
FORMAT = 2


def write(path: Path | str, tensors: dict[str, Tensor], header: dict) -> None:
    """Write a checkpoint; a file that was there stays until the new one is complete.

    Args:
        path: a `.safetensors` file; its folder is made if need be.
        tensors: by name.
        header: JSON types only; its entry "kind" says what the file is.  The versions of the
            package and of the format are added.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    told = {"format": FORMAT, "mddm": __version__} | header
    try:
        save_file(contiguous, partial, metadata={"mddm": json.dumps(told)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
        ValueError: a file that is truncated, none of ours, of another kind, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {kind} at {path}; train a model with "
            "`papermill notebooks/train.ipynb out.ipynb -p task conditional`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mddm", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is truncated or no checkpoint ({error}); delete it and train again"
        ) from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise ValueError(f"{path} is no {kind} of this package; delete it and train again")
    if header.get("format") != FORMAT:
        raise stale(path, kind, header)
    return tensors, header


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
        f"this is format {FORMAT}, mddm {__version__}): delete it and train again, or use the "
        "version that wrote it"
    )
