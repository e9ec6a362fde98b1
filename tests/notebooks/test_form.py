"""Every notebook has the same form, and answers a mistyped parameter at once."""

import ast
import re
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


def captions(notebook):
    """Each captioned figure's metadata, by its name."""
    figures = [cell.metadata["mystnb"] for cell in notebook.cells if "mystnb" in cell.metadata]
    return {settings["figure"]["name"]: settings for settings in figures}


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_it_opens_with_its_question_and_the_answer(notebook):
    opening = notebook.cells[0].source
    assert re.search(r"\*\*Question:\*\* .*\?", opening, re.DOTALL)
    assert "**Answer:** " in opening.split("**Question:**")[1]


def test_every_figure_has_a_number_a_caption_and_words_for_who_cannot_see_it(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.search(r"plt\.(subplots|figure)\(", cell.source):
            settings = cell.metadata.get("mystnb", {})
            assert settings.get("figure", {}).get("name", "").startswith("fig-"), cell.source
            assert settings["figure"]["caption"].endswith(".")
            assert settings["image"]["alt"].endswith(".")


def test_no_figure_is_so_wide_that_a_page_shrinks_its_letters(notebook):
    """A column of 800 pixels shows 8 inches at 100 dots each; letters are set for no fewer."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert all(float(width) <= 8 for width in re.findall(r"figsize=\(([\d.]+),", code))


def test_every_table_has_a_number_and_a_caption(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.search(r"\.style\b|\.to_frame\(\)$", cell.source):
            settings = cell.metadata.get("table", {})
            assert settings.get("name", "").startswith("tab-"), cell.source
            assert settings["caption"].endswith(".")


def test_figures_and_tables_have_names_of_their_own_and_references_lead_to_them():
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    figures = [one for notebook in notebooks for one in captions(notebook).items()]
    tables = [cell.metadata.get("table") for notebook in notebooks for cell in notebook.cells]
    named = [(name, settings["figure"]["caption"]) for name, settings in figures]
    named += [(table["name"], table["caption"]) for table in tables if table]
    names = [name for name, _ in named]
    assert len(names) == len(set(names))
    for page in [text(notebook) for notebook in notebooks] + [caption for _, caption in named]:
        assert set(re.findall(r"{numref}`((?:fig|tab)-[\w-]+)`", page)) <= set(names)


def test_it_ends_with_two_or_three_exercises_each_with_a_hidden_solution(notebook):
    _, exercises = text(notebook).split("## Exercises\n")
    asked = re.findall(r"^:::{exercise}\n:label: (\S+)\n\n", exercises, re.MULTILINE)
    solved = re.findall(r"^:::{solution} (\S+)\n:class: dropdown\n\n", exercises, re.MULTILINE)
    assert 2 <= len(asked) <= 3
    assert solved == asked
    assert exercises.count("{exercise}") == len(asked)
