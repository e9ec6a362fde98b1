"""What readers are told to cite is what CITATION.cff says."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_entry_agrees_with_the_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    page = (ROOT / "book" / "intro.md").read_text()
    entry = page.split("```bibtex\n")[1].split("```")[0]
    fields = {name: value.strip("{}") for name, value in re.findall(r"(\w+)\s*= (\{.*\})", entry)}
    assert fields["author"] == " and ".join(author["name"] for author in citation["authors"])
    assert fields["title"] == citation["title"]
    assert fields["version"] == citation["version"]
    assert fields["url"] == citation["repository-code"]


def test_the_repository_has_one_address():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    page = (ROOT / "book" / "reproduce.md").read_text()
    addresses = {config["repository"]["url"], citation["repository-code"]}
    addresses |= {found.removesuffix(".git") for found in re.findall(r"git clone (\S+)", page)}
    assert len(addresses) == 1


def test_the_paper_is_cited_with_it():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    bibliography = (ROOT / "book" / "references.bib").read_text()
    assert paper["url"] in bibliography
    assert paper["title"].removeprefix("MDDM: ") in bibliography
