"""Under the title of every executed page: how long it took to run."""

from docutils import nodes


def setup(app):
    """Connect the hook; Sphinx calls this."""
    app.connect("doctree-resolved", state_run_time)
    # A page that is not executed has no figures to refer to.
    app.connect("config-inited", forgive_references_to_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def state_run_time(app, doctree, docname):
    """Insert the measured run time of a page below its title, if it was executed."""
    executed = getattr(app.env, "nb_metadata", {}).get(docname, {}).get("exec_data")
    title = next(iter(doctree.findall(nodes.title)), None)
    if executed and executed["runtime"] and title is not None:
        line = nodes.paragraph("", classes=["run-time"])
        line += nodes.emphasis(text=in_words(executed["runtime"]))
        title.parent.insert(title.parent.index(title) + 1, line)


def in_words(seconds):
    """Return the sentence for a run time [s]."""
    minutes, rest = divmod(round(seconds), 60)
    time = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"Run time: {time}, measured when this page was made."


def forgive_references_to_figures(app, config):
    """Let a book that is built without executing its pages refer to their figures."""
    if config.nb_execution_mode == "off":
        config.suppress_warnings = [*config.suppress_warnings, "ref.numref"]
