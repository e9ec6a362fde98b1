"""No number of the pages is typed where it could be computed, and none is computed twice.

Results come from tables, by substitution: a page that types one is wrong after the next training.
"""

import ast
import functools
import inspect
import json
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from mddm import pbcconv, samplers, seeded
from mddm.condition import RANGES, SIGMA_MIN
from mddm.potential import Smoothed
from mddm.study import evaluation, plan

ROOT = Path(__file__).resolve().parents[2]
# What is on the page with the live sampler was measured in a browser.
MEASURED = ("live",)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [path for path in sorted((ROOT / "book").glob("*.md")) if path.stem not in MEASURED]

(PYTHON,) = re.findall(
    r">=(3\.\d+)",
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"],
)
RAMP = plan.ramp_runs()[0]
# What was chosen, and is no result: by its text, and as the code has it.
CONSTANTS = {
    "1000": 1000,  # particles, the paper's number
    "25": len(plan.test_conditions()),
    "20": plan.N_LENGTHS,
    "300,000": RAMP.n_steps_first,
    "0.5": RAMP.start_temperature,
    "0.05": RANGES["temperature"][1],
    "0.005": SIGMA_MIN,
    "0.15": seeded.NOISE,
    "0.7": Smoothed.r_core,
    "3,000": evaluation.LATTICE_STEPS,
    "2.2": inspect.signature(pbcconv.RadialDenoiser).parameters["r_max"].default,
    PYTHON: float(PYTHON),
    "95 %": 95,  # of all intervals
    "2025": 2025,  # when the paper appeared
}
NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d,]*\d)?(?:\.\d+)?(?: ?%)?(?!\w)")
# What is no prose, or is arithmetic that a reader can follow.
SKIPPED = [
    re.compile(pattern, re.DOTALL | re.MULTILINE)
    for pattern in (
        r"<!-- made by .*?<!-- end of what it made -->",
        r"\A---\n.*?^---$",
        r"^## Exercises$.*",
        r"^(`{3,})(?:\{code-cell\}|\{run-times\}|\n).*?^\1 *$",
        r"\$\$.*?\$\$",
        r"\$[^$]+\$",
        r"(?:\{[\w:]+\})?`[^`]*`",
        r"\]\([^)]*\)",
        r"arXiv:\S+",
        r"^:(?:label|name|alt):.*?$",
        r"^\([\w-]+\)=$",
    )
]
# What makes one number of many.
SUMS = {"mean", "median", "sum", "std", "quantile", "agg", "groupby", "interp", "value_counts"}


def value(number):
    return float(number.rstrip(" %").replace(",", ""))


def typed(text, code=""):
    """The numbers that prose types itself, but for constants and what the page's code sets."""
    for skipped in SKIPPED:
        text = skipped.sub(" ", text)
    literals = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    given = {float(each) for each in literals if type(each) in (int, float)}
    # Up to ten they count what is on the page, or are the number of a figure or an equation.
    given |= {float(n) for n in range(11)}
    return [n for n in NUMBER.findall(text) if n not in CONSTANTS and value(n) not in given]


def captions(metadata):
    shown = metadata.get("mystnb", {}).get("figure", {}), metadata.get("table", {})
    return [each["caption"] for each in shown if "caption" in each]


def parts(path):
    """The prose of a page, its captions among it, and the code of its cells."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        of = {kind: [c for c in cells if c["cell_type"] == kind] for kind in ("markdown", "code")}
        prose = ["".join(cell["source"]) for cell in of["markdown"]]
        # Exercises are the end of a page.
        whole = "\n\n".join(prose).partition("\n## Exercises")[0]
        told = [caption for cell in of["code"] for caption in captions(cell["metadata"])]
        return "\n\n".join([whole, *told]), ["".join(cell["source"]) for cell in of["code"]]
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    split = [re.match(r"(?:---\n(.*?)---\n|((?::.*\n)*))(.*)", cell, re.DOTALL) for cell in cells]
    told = [caption for cell in split for caption in captions(yaml.safe_load(cell[1] or "{}"))]
    return "\n\n".join([text, *told]), [cell[3] for cell in split]


@functools.cache
def summed(code):
    """Expressions that sum up, without the names that they are of."""
    found, tree = set(), ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = "_"
    expressions = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
    for node in expressions:
        inside = list(ast.walk(node))
        named = {
            each.func.attr
            for each in inside
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
        }
        if len(inside) > 16 and named & SUMS:
            found.add(ast.unparse(node))
    return found


def twice(sources):
    """What several of the sources compute, and which."""
    found = defaultdict(set)
    for name, code in sources:
        for expression in summed(code):
            found[expression].add(name)
    return {each: sorted(names) for each, names in found.items() if len(names) > 1}


def sources():
    """The code of every page and of the study's modules."""
    pages = [(path.stem, code) for path in NOTEBOOKS + PAGES for code in parts(path)[1]]
    modules = sorted((ROOT / "mddm" / "study").glob("*.py"))
    return pages + [(path.stem, path.read_text()) for path in modules]


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *PAGES, ROOT / "README.md"], ids=lambda path: path.stem
)
def test_no_page_types_a_result(path):
    prose, code = parts(path)
    assert typed(prose, "\n".join(code)) == [], "substitute it from what computes it"


def test_constants_are_what_the_code_has():
    assert {text: value(text) for text in CONSTANTS} == CONSTANTS
    assert samplers.SAMPLERS["polished"].top == seeded.NOISE


@pytest.mark.parametrize(
    ("planted", "number"),
    [
        ("The best of four has a score of 0.163 on test conditions.", "0.163"),
        ("It forms 69 % of the crystals.", "69 %"),
        ("In 54 potentials MD ends above it.", "54"),
        ("A sample takes 66 s.", "66"),
        ("The quench has 1,500 steps.", "1,500"),
    ],
)
def test_a_typed_result_is_found_on_any_page(planted, number):
    for path in (NOTEBOOKS[0], ROOT / "book" / "intro.md", ROOT / "README.md"):
        prose, code = parts(path)
        lines = prose.split("\n\n")
        lines.insert(2, planted)
        assert number in typed("\n\n".join(lines), "\n".join(code))


def test_a_typed_result_in_a_caption_is_found(tmp_path):
    table = {"table": {"name": "tab-a", "caption": "It is 0.163."}}
    page, notebook = tmp_path / "page.md", tmp_path / "notebook.ipynb"
    page.write_text(f"Words.\n\n```{{code-cell}} ipython3\n---\n{yaml.dump(table)}---\n1\n```\n")
    cell = {"cell_type": "code", "metadata": table, "source": ["1"]}
    notebook.write_text(json.dumps({"cells": [cell]}))
    for path in (page, notebook):
        prose, code = parts(path)
        assert typed(prose, "\n".join(code)) == ["0.163"]
        assert [cell.strip() for cell in code] == ["1"]


def test_no_number_is_computed_on_two_pages():
    assert twice(sources()) == {}


def test_a_number_that_is_computed_twice_is_found_under_another_name():
    code = next(code for _, code in sources() if summed(code))
    renamed = ast.parse(code)
    for node in ast.walk(renamed):
        if isinstance(node, ast.Name):
            node.id += "_of_another_page"
    assert twice([*sources(), ("planted", ast.unparse(renamed))])
