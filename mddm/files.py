"""Files that are there whole or not at all, and a look before long work at whether they can be."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mddm import arguments

# More than any page of scores, less than anyone would miss [bytes].
_PROBE = 2**20


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file; one that was there stays until the new one is complete.

    Args:
        path: of the file; its folder is made if need be.
        content: of the file; text is written as UTF-8.

    Raises:
        TypeError, ValueError: no path, or no content.
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    arguments.instance("content", content, (bytes, str))
    with whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give another name to write a file under, which it leaves when the block ends well.

    For libraries that write files themselves; `write_whole` is for content that is there.

    Args:
        path: of the file; its folder is made if need be.

    Raises:
        TypeError, ValueError: no path.
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    with _beside(path) as partial:
        yield partial
        partial.replace(path)


def check_writable(path: str | Path) -> None:
    """Find out whether a file can be written, to be told before the work and not after it.

    Args:
        path: of the file; its folder is made if need be, a file that is there is left alone.

    Raises:
        TypeError, ValueError: no path.
        OSError: the path is a folder, its folder cannot be made or written to, or the disk is full.
    """
    if arguments.path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    with _beside(path) as partial:
        partial.write_bytes(bytes(_PROBE))


def file_hash(path: Path | str) -> str:
    """Return the first 12 hex digits of a file's SHA-256.

    Raises:
        TypeError, ValueError: no path.
        FileNotFoundError: there is no such file.
    """
    with open(arguments.path(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def named_with_hash(path: Path | str) -> str:
    """Return a file's name and its `file_hash`: what a result says it was made from.

    Raises:
        TypeError, ValueError: no path.
        FileNotFoundError: there is no such file.
    """
    return f"{arguments.path(path).name} {file_hash(path)}"


@contextmanager
def _beside(path: str | Path) -> Iterator[Path]:
    path = arguments.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
    except OSError as error:
        # The system names the temporary file, or none at all when the disk is full.
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
