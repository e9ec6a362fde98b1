import importlib.util
from pathlib import Path

import pandas as pd
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "size.py"


def test_sizes_are_compared_by_the_time_a_particle(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("size", PATH)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    x_t, box_length = script.crystal(3)
    assert x_t.shape == (1, 54, 3) and box_length**3 == pytest.approx(54)
    assert 0 <= x_t.min() and x_t.max() < box_length
    table = tmp_path / "size.csv"
    cells = ["--cells", "4", "3", "--repeats", "1", "--models", "bragg", "--output", str(table)]
    monkeypatch.setattr("sys.argv", ["size.py", *cells])
    script.main()
    found = pd.read_csv(table)
    assert found["n_particles"].tolist() == [54, 128] and found["model"].eq("bragg").all()
    assert found["us_a_particle"].tolist() == pytest.approx(
        (1000 * found["ms"] / found["n_particles"]).tolist(), rel=1e-3
    )
    first, second = found["us_a_particle"]
    assert found["ratio"].tolist() == pytest.approx([1, second / first], rel=1e-3)
