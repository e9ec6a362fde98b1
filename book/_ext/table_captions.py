"""Tables that cells print: a number and a caption, as figures have them.

A cell names its table in its metadata: `"table": {"name": "tab-price", "caption": "Markdown."}`.
"""

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.transforms import SphinxTransform


def setup(app):
    """Connect the transform; Sphinx calls this."""
    app.add_enumerable_node(CaptionedTable, "table", html=(_visit, _depart))
    app.add_transform(CaptionTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class CaptionedTable(nodes.figure):
    """A caption and what a cell has printed, counted among the tables."""


class CaptionTables(SphinxTransform):
    """Put the outputs of cells that name a table below its caption."""

    default_priority = 300

    def apply(self):
        """Go through all cells that have printed something."""
        for output in list(self.document.findall(_is_output)):
            named = output.parent.get("cell_metadata", {}).get("table")
            if named:
                output.children = [self._captioned(named, output.children)]
                output.setup_child(output.children[0])

    def _captioned(self, named, content):
        text = new_document(self.document["source"], self.document.settings)
        MystParser().parse(named["caption"], text)
        caption = nodes.caption("", "", *text.children[0].children)
        found = CaptionedTable("", caption, *content, names=[named["name"]])
        self.document.note_explicit_target(found, found)
        return found


def _is_output(node):
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_output"


def _visit(translator, node):
    translator.visit_figure(node)


def _depart(translator, node):
    translator.depart_figure(node)
