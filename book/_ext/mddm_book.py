"""What the book needs beyond Jupyter Book's own settings."""

import hashlib
import json
import re
from importlib import metadata
from pathlib import Path

import nbformat
import offline
import run_time
from jupyter_cache import get_cache
from sphinx.errors import ExtensionError

from mddm import study

ROOT = Path(__file__).resolve().parents[2]
INPUTS = [
    "requirements.lock",
    "mddm/**/*.py",
    "mddm/viewer*",
    "data/*.h5",
    "data/checkpoints/*",
    "data/results/*",
]


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.connect("config-inited", key_cache_by_code_and_data, priority=900)
    app.connect("builder-inited", write_every_node_on_one_page)
    app.connect("html-page-context", mend_links_to_notebooks, priority=900)
    app.connect("html-page-context", launch_notebooks_only, priority=900)
    app.connect("html-page-context", drop_live_code_scripts, priority=900)
    app.connect("autodoc-process-docstring", make_docstring_safe, priority=400)
    app.connect("build-finished", refuse_missing_figures)
    app.connect("build-finished", refuse_foreign_loads)
    app.connect("build-finished", offer_executed_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def key_cache_by_code_and_data(app, config):
    """Execute the notebooks again when the package, the data or the machine has changed.

    By itself the cache looks at the notebooks alone.
    """
    key = hash_of_inputs(ROOT, surroundings())
    config.nb_execution_cache_path = str(Path(app.outdir).parent / ".jupyter_cache" / key)


def surroundings():
    """Return what outputs depend on beside files: device, threads, Python, all that is installed.

    The lock file says what should be installed, and a conda environment does not follow it.
    """
    installed = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    return study.run_record(seed=0, installed=installed)


def hash_of_inputs(root, surroundings):
    """Return a hash of every file that a notebook's outputs depend on, and of the rest."""
    files = [path for pattern in INPUTS for path in root.glob(pattern) if path.is_file()]
    digest = hashlib.sha256(json.dumps(surroundings, sort_keys=True).encode())
    # What is being written has a dot in front; the state of a training run changes all the time.
    unfinished = re.compile(r"^\.|\.state\.safetensors$")
    for path in sorted(path for path in files if not unfinished.search(path.name)):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def write_every_node_on_one_page(app):
    """Let the book on one page have what other extensions know how to write for many pages.

    sphinx-exercise registers its own for the one page, and Sphinx then takes no other's.
    """
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers.get("html", {}) | handlers.get("singlehtml", {})


def mend_links_to_notebooks(app, pagename, templatename, context, doctree):
    """Point edit links at `notebooks/`: a web server does not follow the link in `book/`."""
    _rewrite(context.get("header_buttons", []))


def _rewrite(buttons):
    for button in buttons:
        if "url" in button:
            button["url"] = button["url"].replace("/book/notebooks/", "/notebooks/")
        _rewrite(button.get("buttons", []))


def launch_notebooks_only(app, pagename, templatename, context, doctree):
    """Leave out Binder and Colab where the source is Markdown, which neither of them runs."""
    if not str(app.env.doc2path(pagename)).endswith(".ipynb"):
        buttons = context.get("header_buttons", [])
        context["header_buttons"] = [
            button for button in buttons if button.get("label") != "launch-buttons"
        ]


def drop_live_code_scripts(app, pagename, templatename, context, doctree):
    """Leave out sphinx-thebe, which the book does not use and which names a foreign script."""
    scripts = context["script_files"]
    context["script_files"] = [
        script
        for script in scripts
        if "thebe" not in f"{script}{getattr(script, 'attributes', {})}".lower()
    ]


def make_docstring_safe(app, what, name, obj, options, lines):
    """Let docstrings be plain text: bars stay bars, several returned values become a list."""
    lines[:] = list_several_returns([line.replace("|", r"\|") for line in lines])


def list_several_returns(lines):
    """Return the lines with a list under `Returns:` if more than one `name: ...` stands there."""
    if "Returns:" not in lines:
        return lines
    start = lines.index("Returns:") + 1
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    section = lines[start:end]
    entries = [bool(re.match(r" {4}\w+: ", line)) for line in section]
    if sum(entries) < 2:
        return lines
    bullets = [
        f"    - {line[4:]}" if entry else f"  {line}"
        for line, entry in zip(section, entries, strict=True)
    ]
    return [*lines[:start], "    In this order", "", *bullets, *lines[end:]]


def refuse_missing_figures(app, exception):
    """Stop the build if a cell that has a caption has drawn nothing to put it under.

    Sphinx warns of that only while it reads a page, and the next build would pass.
    """
    if exception is not None or app.config.nb_execution_mode == "off":
        return
    drawn = app.env.get_domain("std").anonlabels
    pages = [Path(app.env.doc2path(name)) for name in sorted(app.env.found_docs)]
    missing = [
        f"{page.stem}: {name}"
        for page in pages
        if page.suffix == ".ipynb"
        for name in captioned(json.loads(page.read_text(encoding="utf-8")))
        if name not in drawn
    ]
    if missing:
        raise ExtensionError(
            "cells have run and drawn no figure or table; mend them, remove book/_build and build "
            "again:\n" + "\n".join(missing)
        )


def offer_executed_notebooks(app, exception):
    """Let the button that downloads a page's notebook give it with what its cells have put out.

    The theme offers the source.
    """
    if exception is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    cache = get_cache(app.config.nb_execution_cache_path)
    for name in sorted(app.env.found_docs):
        if run_time.run_time(app.env, name):
            page = nbformat.read(out.parent / "jupyter_execute" / f"{name}.ipynb", as_version=4)
            _, executed = cache.merge_match_into_notebook(page)
            nbformat.write(executed, out / "_sources" / f"{name}.ipynb")


def captioned(notebook):
    """Return the names of the figures and tables that a notebook's cells should draw."""
    settings = [cell["metadata"] for cell in notebook["cells"]]
    named = [one.get("table") or one.get("mystnb", {}).get("figure") for one in settings]
    return [one["name"] for one in named if one]


def refuse_foreign_loads(app, exception):
    """Stop the build if a page would load something from elsewhere: the book is read offline."""
    if exception is None and app.builder.format == "html":
        found = offline.foreign_loads(Path(app.outdir))
        if found:
            raise ExtensionError("pages load from elsewhere:\n" + "\n".join(found))
