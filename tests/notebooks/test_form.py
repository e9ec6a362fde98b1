"""Every notebook has the same form, and answers a mistyped parameter at once."""

import ast
from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_a_title_comes_first_and_only_once(notebook):
    first, *others = notebook.cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert not [cell for cell in others if cell.cell_type == "markdown" and cell.source[:2] == "# "]


def test_it_is_committed_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_its_kernel_is_everybodys(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def declared(source):
    """The names that the cell of parameters assigns."""
    lines = ast.parse(source).body
    assert all(isinstance(line, ast.AnnAssign) for line in lines), "name: type = value on each line"
    return [line.target.id for line in lines]


def checked(source):
    """The names that check_parameters is told of."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "study.check_parameters"]
    return [keyword.arg for keyword in call.keywords]


def test_parameters_come_second_and_are_checked_third(notebook):
    _, parameters, check, *others = notebook.cells
    assert parameters.metadata.tags == ["parameters"]
    assert not [cell for cell in others if "parameters" in cell.metadata.get("tags", [])]
    assert declared(parameters.source)[0] == "profile"
    assert "seed" in declared(parameters.source)
    assert checked(check.source) == declared(parameters.source)


def test_papermill_lists_every_parameter(path, notebook):
    listed = papermill.inspect_notebook(str(path))
    assert list(listed) == declared(notebook.cells[1].source)
    for name, parameter in listed.items():
        assert parameter["inferred_type_name"] in {"str", "int", "float", "bool"}, name
        assert parameter["help"], f"{name} has no comment that says what it is"


def test_a_mistyped_choice_is_answered(notebook):
    namespace = {}
    exec(notebook.cells[1].source, namespace)
    namespace["profile"] = "quik"
    with pytest.raises(ValueError, match=r"did you mean 'quick'\?"):
        exec(notebook.cells[2].source, namespace)


def test_it_names_no_path_of_a_machine(notebook):
    for cell in notebook.cells:
        assert "/home/" not in cell.source
        assert "%cd" not in cell.source
        assert "os.chdir" not in cell.source
