"""The glossary has the words that the pages use, and no others."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\{term\}`(?:[^`<]*<([^`>]+)>|([^`<]+))`")


def test_each_word_is_linked_somewhere_and_in_the_order_of_the_alphabet():
    glossary = (ROOT / "book" / "glossary.md").read_text()
    (listed,) = re.findall(r"^```\{glossary\}\n(.*?)^```$", glossary, re.DOTALL | re.MULTILINE)
    words = re.findall(r"^\S.*$", listed, re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    pages = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]
    links = LINK.findall("\n".join(path.read_text() for path in pages))
    linked = {(named or shown).replace("\\n", " ").lower() for named, shown in links}
    assert {word for word in words if word.lower() not in linked} == set()
