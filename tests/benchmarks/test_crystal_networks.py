import importlib.util
import json
from pathlib import Path

import pandas as pd

from mddm import dataset, files, structure, study

PATH = Path(__file__).parents[2] / "benchmarks" / "crystal.py"


def test_what_is_shipped_is_of_the_crystal_that_is_asked_for_and_md_finds_it_late(monkeypatch):
    spec = importlib.util.spec_from_file_location("crystal", PATH)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["crystal.py"])
    options, root = script.parse_arguments(), study.project_root()
    md = dataset.read(root / options.data)
    record = json.loads((root / options.out / "crystal.json").read_text())
    assert record["data"] == md.content_hash
    assert record["row"] == script.longest(md, options.condition)
    kept = script.checkpoint_beside(root / options.out / "crystal.json")
    assert record["checkpoint"] == f"{kept.name} {files.file_hash(kept)}"

    samples = pd.read_csv(root / options.out / "crystal-samples.csv").set_index("network")
    anneals = samples.loc["MD"].set_index("calls")["crystallinity"]
    assert anneals.index.tolist() == sorted(md.steps[script.alike(md, record["row"])])
    assert anneals.idxmax() == anneals.index.max()
    assert (anneals.head(2) < structure.CRYSTAL).all()
    counts = samples.drop("MD").index.value_counts()
    assert counts.to_dict() == {name: options.samples for name in (script.START, *script.NETWORKS)}
