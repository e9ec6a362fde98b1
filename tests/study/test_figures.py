import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mddm.study import figures


def rivals(**columns):
    given = {"sampler": "", "n_steps": 0, "n_tries": 1, "asks": True, "above_lowest": 0.2}
    given |= {"seconds": 2.0, "seconds_at_rest": 3.0, "crystalline": 0.5}
    given |= {"crystalline_low": 0.25, "crystalline_high": 0.75}
    return pd.DataFrame(given | columns)


def test_crystals_that_form_stand_over_their_seconds_hollow_where_no_potential_is_asked():
    quenches = {"seconds": [30.0, 3.0], "seconds_at_rest": [40.0, 4.0], "crystalline": [0.75, 0.25]}
    found = [
        rivals(model=["quench"] * 2, n_steps=[300, 30], **quenches),
        rivals(model=["quench"], n_steps=30, n_tries=4, seconds=12.0),
        rivals(model=["look-up"], asks=False, seconds=0.001, crystalline=0.8),
        rivals(model=["MD replica"], seconds=np.nan, seconds_at_rest=np.nan, crystalline=0.9),
    ]
    figure, axes = plt.subplots(2, 1)
    assert figures.forming(axes, pd.concat(found)) is axes
    share, energy = ({line.get_label(): line for line in ax.lines} for ax in axes)
    assert share["quench"].get_xydata().tolist() == [[3, 0.25], [30, 0.75]]
    assert energy["quench"].get_xydata().tolist() == [[4, 0.2], [40, 0.2]]
    # In no time: at the edge.
    assert share["look-up"].get_xydata().tolist() == [[1, 0.8]]
    assert (
        share["look-up"].get_markerfacecolor() == "white" != share["quench"].get_markerfacecolor()
    )
    assert list(share["MD replica"].get_ydata()) == [0.9, 0.9]
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:4] == ["quench", "quench, best of 4", "look-up", "MD replica"]
    assert len(shown) == 6
    bars = [segment[:, 1].tolist() for bar in axes[0].collections for segment in bar.get_segments()]
    assert [0.25, 0.75] in bars
    with pytest.raises(ValueError, match="axes must be two and found not empty; got 2, 0"):
        figures.forming(axes, found[0][:0])
    plt.close(figure)


def test_how_close_to_md_stands_over_the_seconds_that_it_takes():
    lines = [
        {"model": "quench", "n_steps": 300, "rdf_mse": 0.2, "seconds_per_sample": 30.0},
        {"model": "quench", "n_steps": 30, "rdf_mse": 0.4, "seconds_per_sample": 3.0},
        {"model": "quench", "n_tries": 4, "rdf_mse": 0.9, "seconds_per_sample": 3.0},
        {"model": "answer in 10 s", "rdf_mse": 0.1, "seconds_per_sample": 9.0},
        {"model": "look-up", "rdf_mse": 0.3, "seconds_per_sample": 0.01},
        {"model": "MD replica", "rdf_mse": 0.15},
        {"model": "bragg, told U", "sampler": "quick", "rdf_mse": 0.9},
    ]
    common = {"task": "conditional", "split": "test", "reference": "all", "relaxed": False}
    common |= {"n_tries": 1, "sampler": ""}
    summed = pd.DataFrame([common | line for line in lines])
    summed = summed.assign(ci_low=summed["rdf_mse"] / 2, ci_high=2 * summed["rdf_mse"])
    figure, ax = plt.subplots()
    assert figures.prices(ax, summed) is ax
    handles, labels = ax.get_legend_handles_labels()
    assert set(labels) == {"quench", "bragg, told U, or a quench", "look-up", "MD replica"}
    drawn = {
        label: handle[0].get_xydata().tolist()
        for handle, label in zip(handles, labels, strict=True)
        if label != "MD replica"
    }
    assert drawn["quench"] == [[3, 0.4], [30, 0.2]] and drawn["look-up"] == [[1, 0.3]]
    with pytest.raises(ValueError, match="must have conditional scores"):
        figures.prices(ax, summed[:0])
    plt.close(figure)
