"""Every notebook runs from top to bottom in a tiny setting, wherever it is started."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Settings that make each finish in seconds.
TINY = {
    "background": [{}],
    "when_md": [{}],
    "wrapped_gaussian": [{}],
    "posterior": [{}],
    "generate_data": [{"n_steps": 200, "n_compared": 2}],
    "ground_truth": [{"n_conditions": 1}],
    "bottom": [{"n_candidates": 2}],
    "models": [{"n_particles": 125}],
    "shapes": [{"n_points": 70}],
    "train": [
        {"task": "conditional", "n_steps": 3, "n_sample_steps": 3},
        {"task": "unconditional", "n_steps": 3, "n_sample_steps": 3, "model": "transolver"},
        {"task": "torus", "n_steps": 3, "n_sample_steps": 3, "profile": "full"},
    ],
    "sample": [{"n_sample_steps": 5, "compared": "ancestral, quick"}],
    "crystals": [{"n_sample_steps": 4, "n_asked": 2}],
    "evaluate": [{"n_levels": 4, "n_shown": 1}],
    "use": [{"n_levels": 4, "budget": 0.1}],
    "any_potential": [{"n_quench_steps": 20}],
}
# What a shell or a desktop may name for figures; none of them draws on a page. Each has a kernel,
# which imports what notebooks need once, and one process that asks it.
BACKENDS = itertools.cycle(["agg", "pdf", "qtagg", ""])


def settings():
    for path in NOTEBOOKS:
        for parameters in TINY.get(path.stem, [None]):
            label = "-".join(str(value) for value in (parameters or {}).values())
            label, backend = f"{path.stem}-{label}".rstrip("-"), next(BACKENDS)
            group = pytest.mark.xdist_group(f"kernel {backend}")
            yield pytest.param(path.name, parameters, backend, id=label, marks=group)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout of its own for what the notebooks write; its package is the one they import."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name in ("mddm", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    scratch = shutil.ignore_patterns("small", "lengths", "ramps", "replica", "quick")
    shutil.copytree(ROOT / "data", copy / "data", ignore=scratch, copy_function=os.symlink)
    path = os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        yield copy


@pytest.fixture(scope="module")
def kernels(checkout):
    """A kernel for each backend, started when it is asked for."""
    with contextlib.ExitStack() as stack:
        started = {}

        def kernel(backend):
            if backend not in started:
                started[backend] = manager = AsyncKernelManager(kernel_name="python3")
                environment = os.environ | {"MPLBACKEND": backend}
                run_sync(manager.start_kernel)(env=environment)
                stack.callback(run_sync(manager.shutdown_kernel), now=True)
            return started[backend]

        yield kernel


def execute(path, parameters, kernel, folder):
    """Run a notebook as papermill does, in a kernel that has forgotten the last one."""
    notebook = parameterize_notebook(load_notebook_node(str(path)), parameters)
    forget = f"%reset -f\n%reset -f in\n%cd -q {folder}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(forget))
    client = NotebookClient(notebook, km=kernel, timeout=None)
    try:
        return client.execute()
    finally:
        client.kc.stop_channels()


def figures_without_a_picture(notebook):
    """The names of captioned figures whose cells have put out none."""
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        shown = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if figure and not shown & {"image/png", "text/html"}:
            yield figure["name"]


@pytest.mark.parametrize(("name", "parameters", "backend"), list(settings()))
def test_notebook_runs(name, parameters, backend, checkout, kernels, tmp_path):
    assert parameters is not None, f"name tiny parameters for {name} in TINY"
    shipped = [path for path in (checkout / "data").rglob("*") if path.is_symlink()]
    run = execute(checkout / "notebooks" / name, parameters, kernels(backend), tmp_path)
    assert list(figures_without_a_picture(run)) == []
    assert all(path.is_symlink() for path in shipped), "it replaced a file of the study's own"
    assert list(tmp_path.iterdir()) == []


def run(checkout, tmp_path, *arguments):
    command = Path(sysconfig.get_path("scripts")) / "papermill"
    notebook = checkout / "notebooks" / "train.ipynb"
    return subprocess.run(
        [command, notebook, "out.ipynb", *arguments], cwd=tmp_path, capture_output=True, text=True
    )


# What a notebook checks by itself is tested without a kernel, in `test_form` and with the study.
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("-p n_stps 5", "unknown parameter 'n_stps'"),
        ("-p profile full -p precision bfloat16", "(precision was 'float32', is 'bfloat16'"),
    ],
)
def test_a_mistake_is_answered_with_exit_code_1(checkout, tmp_path, arguments, answer):
    done = run(checkout, tmp_path, *arguments.split(" "))
    assert done.returncode == 1
    assert answer in done.stderr
