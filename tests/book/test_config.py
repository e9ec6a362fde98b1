"""The book's configuration holds together."""

import copy
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from sphinx.errors import ExtensionError

from mddm.study import surfaces, tables

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import mddm_book  # noqa: E402
import offline  # noqa: E402


def entries(toc):
    yield toc["root"]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            yield from (page["file"] for page in (chapter, *chapter.get("sections", [])))


@pytest.fixture(scope="module")
def chapters():
    return list(entries(yaml.safe_load((ROOT / "_toc.yml").read_text())))


def test_every_chapter_exists(chapters):
    for chapter in chapters:
        assert any((ROOT / "book" / f"{chapter}{end}").is_file() for end in (".md", ".ipynb")), (
            f"_toc.yml names {chapter}, which is not there"
        )


def test_every_notebook_is_a_chapter(chapters):
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks <= set(chapters)


def test_chapters_are_introduced_in_the_order_of_the_book(chapters):
    intro = (ROOT / "book" / "intro.md").read_text()
    introduced = re.findall(r"^\| \[[^]]+\]\(([^)]+)\) \|", intro, re.MULTILINE)
    assert introduced == chapters[1 : 1 + len(introduced)]
    assert not any(chapter.startswith("notebooks/") for chapter in chapters[1 + len(introduced) :])


def test_every_part_of_the_paper_is_accounted_for():
    page = (ROOT / "book" / "paper.md").read_text()
    part = r"(?:Eq\.|Figure|Table|Theorem|Algorithm) \w+"
    verdict = r"\*\*(?:Reproduced|Not reproduced|Corrected)\*\*"
    parts = [f"Eq. {n}" for n in range(1, 9)] + ["Theorem 1", "Theorem 2"]
    parts += ["Algorithm 1", "Algorithm 2"]
    parts += [f"Figure {n}" for n in (1, 2, 3, 4, 5, "A1", "A2")] + ["Table 1", "Table A1"]
    assert re.findall(rf"^\| ({part}), [^|]+ \| {verdict}", page, re.MULTILINE) == parts


def said_of(part):
    """What the page about the paper says of a part."""
    page = (ROOT / "book" / "paper.md").read_text()
    return re.search(rf"^\| {part} \| (.+) \|$", page, re.MULTILINE).group(1)


def test_what_is_said_of_the_papers_scores_is_what_the_scores_say():
    scored = tables.read_scores(ROOT / "data" / "results" / "table1.csv")
    scored = scored[scored["reference"] == "all"]
    by_itself = scored[~tables.asks_potential(scored)]
    best = by_itself.groupby(["task", "split", "model"])["rdf_mse"].min().unstack()
    ours, paper, gas = best[["mddm", "mddm-rbf", "bragg"]].min(axis=1), "mddm (paper)", "ideal gas"
    one, *many = ("unconditional", "train"), ("conditional", "train"), ("conditional", "test")

    said = said_of("Table 1, RDF-MSE")
    assert said.startswith("**Reproduced** on one configuration; over conditions no network comes")
    assert best.loc[one, "mddm"] <= best.loc[one, paper]
    assert (ours[many] > best.loc[many, paper]).all()
    assert "Transolver scores like an ideal gas" in said_of("MDDM is far better than Transolver")
    assert (best["mddm"] < best["transolver"] / 2).all()
    assert best["transolver"].to_numpy() == pytest.approx(best[gas].to_numpy(), rel=0.1)

    clouds = tables.read_scores(ROOT / "data" / "results" / "table-a1.csv")
    best = clouds.groupby(["task", "model"])["sinkhorn"].min().unstack()
    assert "near the best possible denoiser" in said_of("Table A1, Sinkhorn loss")
    assert (best["mddm"] > best["transolver"]).all()
    assert (best["mddm"] < 3 * best[surfaces.BEST_POSSIBLE]).all()


@pytest.mark.parametrize("name", ["_config.yml", "_toc.yml", "notebooks"])
def test_links_are_links(name):
    link = ROOT / "book" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name
    assert not link.readlink().is_absolute()


def test_every_module_is_documented_in_the_order_of_the_list_of_modules(chapters):
    files = (path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("mddm/**/*.py"))
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files} - {"mddm"}
    listed = re.findall(r"^   (mddm\S+)$", (ROOT / "book" / "api.md").read_text(), re.MULTILINE)
    pages = [ROOT / "book" / f"{name}.md" for name in chapters if name.startswith("api/")]
    text = "".join(page.read_text() for page in pages)
    assert re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", text, re.MULTILINE) == listed
    assert set(listed) == modules


def test_no_script_lies_where_every_page_would_load_it():
    assert not (ROOT / "book" / "_static").exists()


def test_locked_versions_name_no_host():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or "://" not in line
        assert line.startswith("#") or "==" in line


def project(folder):
    """A project small enough to see what its hash depends on."""
    for name in ["mddm/a.py", "mddm/sub/b.py", "data/x.h5", "data/checkpoints/c.safetensors"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "requirements.lock").touch()
    return folder


@pytest.mark.parametrize(
    "name",
    ["mddm/a.py", "mddm/sub/b.py", "data/x.h5", "data/checkpoints/c.safetensors", "data/new.h5"],
)
def test_executed_pages_are_kept_until_code_or_data_change(tmp_path, name):
    before = mddm_book.hash_of_inputs(project(tmp_path), {"torch": "2.6"})
    assert mddm_book.hash_of_inputs(tmp_path, {"torch": "2.6"}) == before
    assert mddm_book.hash_of_inputs(tmp_path, {"torch": "2.7"}) != before
    (tmp_path / name).write_text("changed")
    assert mddm_book.hash_of_inputs(tmp_path, {"torch": "2.6"}) != before


def test_executed_pages_depend_on_all_that_is_installed_and_on_the_machine():
    found = mddm_book.surroundings()
    assert found["threads"] == torch.get_num_threads()
    assert found["installed"]["freud-analysis"] == importlib.metadata.version("freud-analysis")
    assert mddm_book.surroundings() == found


def test_executed_pages_do_not_depend_on_notes_or_unfinished_files(tmp_path):
    before = mddm_book.hash_of_inputs(project(tmp_path), {})
    (tmp_path / "data" / "README.md").write_text("words")
    for name in (".c.safetensors.12", "c.state.safetensors"):
        (tmp_path / "data" / "checkpoints" / name).write_text("half")
    assert mddm_book.hash_of_inputs(tmp_path, {}) == before


def test_a_build_stops_at_every_run_where_a_captioned_cell_has_drawn_nothing(tmp_path):
    captions = [{"figure": {"name": name}} for name in ("fig-there", "fig-gone")]
    cells = [{"metadata": {"mystnb": settings}} for settings in captions] + [{"metadata": {}}]
    (tmp_path / "chapter.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "intro.md").touch()
    files = {"chapter": "chapter.ipynb", "intro": "intro.md"}
    labels = {"fig-there": ("chapter", "fig-there")}
    app = SimpleNamespace(
        config=SimpleNamespace(nb_execution_mode="cache"),
        env=SimpleNamespace(
            found_docs=set(files),
            doc2path=lambda name: tmp_path / files[name],
            get_domain=lambda name: SimpleNamespace(anonlabels=labels),
        ),
    )
    for _ in range(2):
        with pytest.raises(ExtensionError, match=r"drawn no figure.*\nchapter: fig-gone$"):
            mddm_book.refuse_missing_figures(app, None)
    labels["fig-gone"] = ("chapter", "fig-gone")
    mddm_book.refuse_missing_figures(app, None)
    app.config.nb_execution_mode = "off"
    del labels["fig-gone"]
    mddm_book.refuse_missing_figures(app, None)


def test_on_one_page_every_node_is_written():
    handlers = {"html": {"exercise": "own page", "cell": "folded"}}
    app = SimpleNamespace(registry=SimpleNamespace(translation_handlers=handlers))
    handlers["singlehtml"] = {"exercise": "one page"}
    mddm_book.write_every_node_on_one_page(app)
    assert handlers["singlehtml"] == {"exercise": "one page", "cell": "folded"}


def test_a_notebook_is_downloaded_with_its_outputs(tmp_path):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    executed = copy.deepcopy(page)
    executed.cells[0].outputs = [
        nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    ]
    cache = get_cache(tmp_path / "cache")
    cache.cache_notebook_bundle(CacheBundleIn(executed, "page.ipynb"), check_validity=False)
    for folder in ("jupyter_execute", "html/_sources"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("page", "prose"):
            nbformat.write(page, tmp_path / folder / f"{name}.ipynb")
    app = SimpleNamespace(
        outdir=tmp_path / "html",
        builder=SimpleNamespace(name="html"),
        config=SimpleNamespace(nb_execution_cache_path=tmp_path / "cache"),
        env=SimpleNamespace(
            found_docs={"page", "prose"}, nb_metadata={"page": {"exec_data": {"runtime": 2.0}}}
        ),
    )
    mddm_book.offer_executed_notebooks(app, None)
    outputs = [
        nbformat.read(tmp_path / "html" / "_sources" / f"{name}.ipynb", 4).cells[0].outputs
        for name in ("page", "prose")
    ]
    assert outputs[0][0].data == {"text/plain": "2"} and outputs[1] == []


def test_several_returned_values_become_a_list():
    lines = ["One.", "", "Returns:", "    a: (n,) first,", "        and more.", "    b: last.", ""]
    assert mddm_book.list_several_returns(lines) == [
        *lines[:3], "    In this order", "", "    - a: (n,) first,", "          and more.",
        "    - b: last.", "",
    ]  # fmt: skip
    for alone in (["One."], ["One.", "", "Returns:", "    a: (n,) first,", "        and more."]):
        assert mddm_book.list_several_returns(alone) == alone


PAGE = """<link rel="stylesheet" href="theme.css"><link rel="canonical" href="https://home.org">
<script src="{script}"></script><img src="here.png" srcset="a.png 1x, {image} 2x">
<style>p {{ background: url({background}) }}</style>
<h1 id="top">Title</h1><a href="https://arxiv.org">elsewhere</a><a href="{link}">here</a>"""
FINE = {"script": "a.js", "image": "b.png", "background": "c.png", "link": "#top"}


@pytest.fixture
def site(tmp_path):
    for name in ["theme.css", "a.js", "here.png", "a.png", "b.png"]:
        (tmp_path / name).write_text("")

    def write(**changed):
        (tmp_path / "page.html").write_text(PAGE.format(**FINE | changed))
        return tmp_path

    return write


def test_pages_that_load_nothing_from_elsewhere_pass(site):
    assert offline.foreign_loads(site()) == []


@pytest.mark.parametrize("kind", ["script", "image", "background"])
@pytest.mark.parametrize("address", ["https://cdn.org/x", "//cdn.org/x"])
def test_what_a_page_loads_from_elsewhere_is_found(site, kind, address):
    assert offline.foreign_loads(site(**{kind: address})) == [f"page.html: {address}"]


def test_what_a_style_sheet_loads_from_elsewhere_is_found(site, tmp_path):
    (tmp_path / "theme.css").write_text("@import 'https://fonts.org/a.css';")
    assert offline.foreign_loads(site()) == ["theme.css: https://fonts.org/a.css"]


@pytest.mark.parametrize("link", ["#nowhere", "none.html", "page.html#nowhere"])
def test_links_that_lead_nowhere_are_found(site, link):
    assert offline.broken_links(site()) == []
    assert offline.broken_links(site(link=link)) == [f"page.html: {link}"]


def test_links_in_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    local = [target for target in targets if "://" not in target]
    assert "book/intro.md" in local
    assert [target for target in local if not (ROOT / target).exists()] == []
