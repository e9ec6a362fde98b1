"""The built book, which all tests of its pages share."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The real book, its notebooks not executed."""
    copy = tmp_path_factory.mktemp("book")
    leave_out = shutil.ignore_patterns("_build", "__pycache__", ".ipynb_checkpoints")
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leave_out)
    config = (ROOT / "_config.yml").read_text()
    assert "execute_notebooks: cache" in config
    (copy / "_config.yml").write_text(
        config.replace("execute_notebooks: cache", "execute_notebooks: 'off'")
    )
    shutil.copy(ROOT / "_toc.yml", copy)
    build = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    done = subprocess.run(
        [build, "build", "book/", "-W", "--keep-going"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return copy / "book" / "_build" / "html"
