"""Tables that cells print are counted, have captions, and can be referred to."""

import re
import sys
from pathlib import Path

import nbformat
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

PRINTED = {"text/html": "<table><tr><td>1.5</td></tr></table>", "text/plain": "1.5"}


def test_a_printed_table_stands_below_its_number_and_caption(tmp_path):
    (tmp_path / "conf.py").write_text(
        'extensions = ["myst_nb", "table_captions"]; numfig = True; nb_execution_mode = "off"'
    )
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\nSee {numref}`tab-two` and {numref}`tab-one`.")
    ]
    for name in ("tab-one", "tab-two", None):
        output = nbformat.v4.new_output("execute_result", PRINTED, execution_count=1)
        cell = nbformat.v4.new_code_cell("1.5", outputs=[output], execution_count=1)
        if name:
            cell.metadata["table"] = {
                "name": name,
                "caption": f"Of *{name}* and {{numref}}`tab-one`.",
            }
        cells.append(cell)
    python = {"language_info": {"name": "python", "pygments_lexer": "python"}}
    nbformat.write(nbformat.v4.new_notebook(metadata=python, cells=cells), tmp_path / "index.ipynb")
    folders = [str(tmp_path), str(tmp_path), str(tmp_path / "html"), str(tmp_path / "tree")]
    Sphinx(*folders, "html", status=None, warningiserror=True).build()
    page = (tmp_path / "html" / "index.html").read_text()
    text = re.sub(r"<[^>]+>", "", page)
    assert re.search(r"See\s+Table 2\s+and\s+Table 1\.", text)
    for number, name in enumerate(("tab-one", "tab-two"), start=1):
        (figure,) = re.findall(rf'<figure[^>]*id="{name}".*?</figure>', page, re.DOTALL)
        above, below = figure.split("<table>")
        assert f"Table {number} " in above and f"<em>{name}</em>" in above
        assert "1.5" in below
    assert page.count("<table>") == 3 and page.count("<figure") == 2
