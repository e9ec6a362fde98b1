"""Works are cited by author and year, which a reader can tell apart."""

import sys
from pathlib import Path

from pybtex.database import parse_string

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

import citations

ENTRY = "@misc{{key{number}, author = {{{author}}}, title = {{One}}, year = {{{year}}}}}"


def labels(*works):
    text = "\n".join(
        ENTRY.format(number=number, author=author, year=year)
        for number, (author, year) in enumerate(works)
    )
    entries = parse_string(text, "bibtex").entries.values()
    return list(citations.AuthorAndYear().format_labels(entries))


def test_labels_are_names_and_years():
    assert labels(
        ("Luo, Calvin", 2022),
        ("Fey, Matthias and Lenssen, Jan Eric", 2019),
        (r"Mihalkovi{\v{c}}, Marek and Henley, C. and van der Waals, J.", 2012),
        ("van der Waals, Johannes", 1873),
    ) == [
        "Luo, 2022",
        "Fey and Lenssen, 2019",
        "Mihalkovič et al., 2012",
        "van der Waals, 1873",
    ]


def test_works_of_one_author_and_year_have_labels_of_their_own():
    assert labels(("Luo, C.", 2022), ("Luo, C.", 2022), ("Luo, C.", 2023)) == [
        "Luo, 2022",
        "Luo, 2022b",
        "Luo, 2023",
    ]
