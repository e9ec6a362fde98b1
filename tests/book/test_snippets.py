"""Python that a page shows uses names and arguments that the package has."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def snippets():
    for path in sorted((ROOT / "book").glob("*.md")):
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S)):
            yield pytest.param(code, id=f"{path.stem}-{number}")


def names_of_the_package(tree):
    """What a snippet imports from the package, by the name it uses."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name == "mddm"]
            found |= {name: importlib.import_module(name) for name in names}
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "mddm":
            source = importlib.import_module(node.module)
            for alias in node.names:
                if node.module == "mddm":
                    found[alias.name] = importlib.import_module(f"mddm.{alias.name}")
                else:
                    found[alias.name] = getattr(source, alias.name)
    return found


@pytest.mark.parametrize("code", list(snippets()))
def test_it_calls_what_is_there(code):
    tree = ast.parse(code)
    known = names_of_the_package(tree)
    assert known
    calls = 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        target = node.func
        if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") in known:
            function = getattr(known[target.value.id], target.attr)
        elif getattr(target, "id", "") in known:
            function = known[target.id]
        else:
            continue
        keywords = {keyword.arg: None for keyword in node.keywords}
        inspect.signature(function).bind(*node.args, **keywords)
        calls += 1
    assert calls
