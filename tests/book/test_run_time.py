"""Executed pages state their run time, and only those."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
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
    assert lines[1] == "Run time: 42 s, measured for this page."
    assert lines[2] == "Its text."


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.6, "1 s"), (59.7, "1 min 00 s"), (185.0, "3 min 05 s")]
)
def test_it_is_rounded_to_seconds(seconds, said):
    assert run_time.in_words(seconds) == said


def test_a_page_that_was_not_executed_says_nothing():
    assert page()[1] == "Its text."
    assert page(runtime=None)[1] == "Its text."
    elsewhere = SimpleNamespace(env=SimpleNamespace())
    doctree = publish_doctree(PAGE)
    run_time.state_run_time(elsewhere, doctree, "chapter")
    assert "Run time" not in doctree.astext()


def test_the_table_lists_executed_pages_in_the_order_of_the_book():
    done = {"b": {"exec_data": {"runtime": 61}}, "a": {"exec_data": {"runtime": 5}}, "c": {}}
    env = SimpleNamespace(
        nb_metadata=done,
        toctree_includes={"intro": ["b", "c", "a"]},
        titles={name: nodes.title(text=f"Chapter {name}") for name in "abc"},
    )
    builder = SimpleNamespace(get_relative_uri=lambda here, there: f"{there}.html")
    app = SimpleNamespace(env=env, builder=builder)
    doctree = publish_doctree(PAGE)
    doctree.append(run_time.RunTimes())
    run_time.fill_table(app, doctree, "reproduce")
    rows = [[cell.astext() for cell in row] for row in doctree.findall(nodes.row)]
    assert rows == [["Page", "Run time"], ["Chapter b", "1 min 01 s"], ["Chapter a", "5 s"]]
    assert [link["refuri"] for link in doctree.findall(nodes.reference)] == ["b.html", "a.html"]
    assert not list(doctree.findall(run_time.RunTimes))


def test_a_table_is_written_anew_with_any_page():
    env = SimpleNamespace(metadata={"reproduce": {"run-times": True}, "intro": {}})
    assert run_time.pages_with_a_table(None, env) == ["reproduce"]


@pytest.mark.parametrize(("mode", "forgiven"), [("off", True), ("cache", False)])
def test_figures_may_be_missing_only_where_nothing_is_executed(mode, forgiven):
    config = SimpleNamespace(nb_execution_mode=mode, suppress_warnings=["a"])
    run_time.forgive_references_to_figures(None, config)
    assert ("ref.numref" in config.suppress_warnings) is forgiven
    assert "a" in config.suppress_warnings
