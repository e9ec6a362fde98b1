"""Executed pages state their run time, and only those."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_doctree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import run_time  # noqa: E402

PAGE = "A chapter\n=========\n\nIts text.\n\nPart\n----\n\nMore.\n"


def page(**exec_data):
    metadata = {"chapter": {"exec_data": exec_data} if exec_data else {}}
    app = SimpleNamespace(env=SimpleNamespace(nb_metadata=metadata))
    doctree = publish_doctree(PAGE + "\nOther\n-----\n\nEnd.\n")
    run_time.state_run_time(app, doctree, "chapter")
    return [node.astext() for node in doctree.findall() if node.tagname in ("title", "paragraph")]


def test_it_stands_below_the_title():
    lines = page(runtime=42.4)
    assert lines[0] == "A chapter"
    assert lines[1] == "Run time: 42 s, measured when this page was made."
    assert lines[2] == "Its text."


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.6, "1 s"), (59.7, "1 min 00 s"), (185.0, "3 min 05 s")]
)
def test_it_is_rounded_to_seconds(seconds, said):
    assert run_time.in_words(seconds).startswith(f"Run time: {said},")


def test_a_page_that_was_not_executed_says_nothing():
    assert page()[1] == "Its text."
    assert page(runtime=None)[1] == "Its text."
    elsewhere = SimpleNamespace(env=SimpleNamespace())
    doctree = publish_doctree(PAGE)
    run_time.state_run_time(elsewhere, doctree, "chapter")
    assert "Run time" not in doctree.astext()


@pytest.mark.parametrize(("mode", "forgiven"), [("off", True), ("cache", False)])
def test_figures_may_be_missing_only_where_nothing_is_executed(mode, forgiven):
    config = SimpleNamespace(nb_execution_mode=mode, suppress_warnings=["a"])
    run_time.forgive_references_to_figures(None, config)
    assert ("ref.numref" in config.suppress_warnings) is forgiven
    assert "a" in config.suppress_warnings
