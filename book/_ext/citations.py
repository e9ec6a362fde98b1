"""Citations as (Song et al., 2021), in the text and in the list of references."""

import dataclasses

import pybtex.plugin
from pybtex.richtext import Text
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting.author_year_title import SortingStyle
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle


def setup(app):
    """Register both styles under the name that the configuration uses; Sphinx calls this."""
    pybtex.plugin.register_plugin("pybtex.style.formatting", "readable", Readable)
    register_plugin("sphinxcontrib.bibtex.style.referencing", "readable", RoundBrackets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class AuthorAndYear(BaseLabelStyle):
    """Labels of the list: one or two names or the first of them, and the year."""

    def format_labels(self, entries):
        """Yield the label of each entry; one work of an author and year is told from another."""
        seen = {}
        for entry in entries:
            label = author_and_year(entry)
            seen[label] = seen.get(label, 0) + 1
            yield label if seen[label] == 1 else f"{label}{'abcdefgh'[seen[label] - 1]}"


def author_and_year(entry):
    """Return "Song et al., 2021" for an entry of a bibliography."""
    names = [
        str(Text.from_latex(" ".join(person.prelast_names + person.last_names)))
        for person in entry.persons["author"]
    ]
    who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{who}, {entry.fields['year']}"


class Readable(Unsorted):
    """The entries of the list, sorted by author and year."""

    default_label_style = AuthorAndYear
    default_sorting_style = SortingStyle


def _round():
    return BracketStyle(left="(", right=")")


@dataclasses.dataclass
class RoundBrackets(AuthorYearReferenceStyle):
    """References in the text."""

    bracket_parenthetical: BracketStyle = dataclasses.field(default_factory=_round)
    bracket_textual: BracketStyle = dataclasses.field(default_factory=_round)
    bracket_author: BracketStyle = dataclasses.field(default_factory=_round)
    bracket_label: BracketStyle = dataclasses.field(default_factory=_round)
    bracket_year: BracketStyle = dataclasses.field(default_factory=_round)
