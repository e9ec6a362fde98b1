"""The book builds without a warning and its pages can be read offline."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import offline  # noqa: E402

# One process builds the book, for all tests here.
pytestmark = pytest.mark.xdist_group("book")


def test_nothing_is_loaded_from_elsewhere(built):
    assert offline.foreign_loads(built) == []


def test_links_inside_the_book_lead_somewhere(built):
    assert offline.broken_links(built) == []


def test_formulas_are_set_by_the_books_own_script(built):
    page = (built / "notebooks" / "posterior.html").read_text()
    assert "_static/tex-svg.js" in page
    assert (built / "_static" / "tex-svg.js").is_file()


def test_edit_links_point_at_the_notebooks_themselves(built):
    page = (built / "notebooks" / "train.html").read_text()
    assert "/edit/main/notebooks/train.ipynb" in page
    assert "/book/notebooks/" not in page


def test_notebooks_and_only_they_open_in_binder_and_colab(built):
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    where = url.removeprefix("https://github.com/")
    page = (built / "notebooks" / "train.html").read_text()
    binder = f"https://mybinder.org/v2/gh/{where}/main?urlpath=lab/tree/notebooks/train.ipynb"
    colab = f"https://colab.research.google.com/github/{where}/blob/main/notebooks/train.ipynb"
    assert f'href="{binder}"' in page and f'href="{colab}"' in page
    for name in ("intro", "glossary"):
        assert "mybinder.org" not in (built / f"{name}.html").read_text()


def test_docstrings_are_on_the_page_of_their_group(built):
    index = (built / "api.html").read_text()
    assert "Particles that a reader can turn" in index
    for page, name in [
        ("ground_floor", "mddm.geometry.wrap"),
        ("study", "mddm.study.check_parameters"),
        ("drawing", "mddm.plotting.rdf"),
    ]:
        assert f'id="{name}"' in (built / "api" / f"{page}.html").read_text()
        assert f'href="api/{page}.html#module-{name.rpartition(".")[0]}"' in index


def test_the_table_of_run_times_is_counted(built):
    page = (built / "reproduce.html").read_text()
    (table,) = re.findall(r'<figure[^>]*id="tab-run-times".*?</figure>', page, re.DOTALL)
    (number,) = re.findall(r'caption-number">(Table \d+) <', table)
    assert re.search(rf'href="#tab-run-times"[^>]*><span[^>]*>{number}<', page)
