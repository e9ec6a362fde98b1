"""How long pages took to run: a line under the title of each, and a table of all."""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective
from table_captions import CaptionedTable


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.add_node(RunTimes)
    app.add_directive("run-times", RunTimesDirective)
    app.connect("doctree-resolved", state_run_time)
    app.connect("doctree-resolved", fill_table)
    app.connect("env-updated", pages_with_a_table)
    # A page that is not executed has no figures to refer to.
    app.connect("config-inited", forgive_references_to_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class RunTimes(nodes.General, nodes.Element):
    """Where the table comes once all pages have been executed."""


class RunTimesDirective(SphinxDirective):
    """The table of all executed pages and their run times; its argument is the caption."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"name": directives.unchanged_required}  # noqa: RUF012

    def run(self):
        """Leave a mark where the table comes, below its number and caption."""
        self.env.metadata[self.env.docname]["run-times"] = True
        text, messages = self.state.inline_text(self.arguments[0], self.lineno)
        captioned = CaptionedTable("", nodes.caption("", "", *text), RunTimes())
        self.add_name(captioned)
        return [captioned, *messages]


def run_time(env, docname):
    """Return the measured run time of a page [s], or None if it was not executed."""
    executed = getattr(env, "nb_metadata", {}).get(docname, {}).get("exec_data")
    return executed["runtime"] if executed else None


def state_run_time(app, doctree, docname):
    """Insert the measured run time of a page below its title, if it was executed."""
    seconds = run_time(app.env, docname)
    title = next(iter(doctree.findall(nodes.title)), None)
    if seconds and title is not None:
        line = nodes.paragraph("", classes=["run-time"])
        line += nodes.emphasis(text=f"Run time: {in_words(seconds)}, measured for this page.")
        title.parent.insert(title.parent.index(title) + 1, line)


def fill_table(app, doctree, docname):
    """Put a table of the executed pages, in the order of the book, where a mark was left."""
    chapters = [name for names in app.env.toctree_includes.values() for name in names]
    times = {name: seconds for name in chapters if (seconds := run_time(app.env, name))}
    for mark in list(doctree.findall(RunTimes)):
        rows = [[nodes.Text("Page"), nodes.Text("Run time")]]
        for name, seconds in times.items():
            title = app.env.titles[name].astext()
            uri = app.builder.get_relative_uri(docname, name)
            link = nodes.reference("", title, internal=True, refuri=uri)
            rows.append([link, nodes.Text(in_words(seconds))])
        mark.replace_self(table(rows) if times else [])


def table(rows):
    """Return a table of rows of inline nodes, the first of them its head."""
    head, *body = [nodes.row("", *map(_entry, row)) for row in rows]
    columns = [nodes.colspec(colwidth=1) for _ in rows[0]]
    group = nodes.tgroup("", *columns, nodes.thead("", head), nodes.tbody("", *body))
    group["cols"] = len(columns)
    return nodes.table("", group, classes=["colwidths-auto"])


def _entry(content):
    return nodes.entry("", nodes.paragraph("", "", content))


def in_words(seconds):
    """Return a run time [s] in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def pages_with_a_table(app, env):
    """Write pages with a table anew whenever any page was executed again."""
    return [name for name, entries in env.metadata.items() if "run-times" in entries]


def forgive_references_to_figures(app, config):
    """Let a book that is built without executing its pages refer to their figures."""
    if config.nb_execution_mode == "off":
        config.suppress_warnings = [*config.suppress_warnings, "ref.numref"]
