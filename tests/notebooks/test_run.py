"""Every notebook runs from top to bottom in a tiny setting, wherever it is started."""

import itertools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Settings that make each finish in seconds.
TINY = {
    "background": [{}],
    "when_md": [{}],
    "wrapped_gaussian": [{}],
    "posterior": [{}],
    "generate_data": [{"n_steps": 200}],
    "ground_truth": [{"n_conditions": 1}],
    "bottom": [{"n_candidates": 2}],
    "models": [{"n_particles": 125}],
    "shapes": [{"n_points": 64}],
    "train": [
        {"task": "conditional", "n_steps": 3, "n_sample_steps": 3},
        {"task": "unconditional", "n_steps": 3, "n_sample_steps": 3, "model": "transolver"},
        {"task": "torus", "n_steps": 3, "n_sample_steps": 3, "profile": "full"},
    ],
    "sample": [{"n_sample_steps": 5}],
    "crystals": [{"n_sample_steps": 4, "n_asked": 2}],
    "evaluate": [{"n_levels": 4, "n_shown": 1}],
    "use": [{"n_levels": 4, "budget": 0.1}],
    "any_potential": [{"n_quench_steps": 20}],
}
# What a shell or a desktop may name for figures; none of them draws on a page.
BACKENDS = itertools.cycle(["agg", "pdf", "qtagg", ""])


def settings():
    for path in NOTEBOOKS:
        for parameters in TINY.get(path.stem, [None]):
            label = "-".join(str(value) for value in (parameters or {}).values())
            label = f"{path.stem}-{label}".rstrip("-")
            yield pytest.param(path.name, parameters, next(BACKENDS), id=label)


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


def figures_without_a_picture(notebook):
    """The names of captioned figures whose cells have put out none."""
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        shown = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if figure and not shown & {"image/png", "text/html"}:
            yield figure["name"]


@pytest.mark.parametrize(("name", "parameters", "backend"), list(settings()))
def test_notebook_runs(name, parameters, backend, checkout, tmp_path, monkeypatch):
    assert parameters is not None, f"name tiny parameters for {name} in TINY"
    shipped = [path for path in (checkout / "data").rglob("*") if path.is_symlink()]
    monkeypatch.setenv("MPLBACKEND", backend)
    run = papermill.execute_notebook(
        checkout / "notebooks" / name,
        tmp_path / "out.ipynb",
        parameters,
        cwd=tmp_path,
        progress_bar=False,
    )
    assert list(figures_without_a_picture(run)) == []
    assert all(path.is_symlink() for path in shipped), "it replaced a file of the study's own"
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


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
