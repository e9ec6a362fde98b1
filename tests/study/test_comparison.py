import re

import pandas as pd
import pytest

from mddm.study import comparison, evaluation, tables, tasks


def _entry(model="bragg", row=0, **changes):
    values = dict.fromkeys((*evaluation.COLUMNS, "above_lowest"), 0.0)
    values |= {"model": model, "task": "conditional", "split": "test", "sampler": ""}
    values |= {"row": row, "seed": 0, "relaxed": False, "source": "now", "n_steps": 0}
    return values | {"n_tries": 1, "k": float(row), "md_crystallinity": 0.9} | changes


def _pair(*of, at_rest, **changes):
    """A structure as it is, and relaxed."""
    return [_entry(*of, **changes), _entry(*of, **changes, relaxed=True) | at_rest]


def test_what_forms_is_told_with_what_it_took_as_it_is_and_at_rest():
    order = {"crystallinity": 0.9}
    lines = []
    for row in (0, 1):
        rest = {"above_lowest": row + 1.0, "seconds": 5.0, "crystallinity": 1.0}
        drawn = {"sampler": "cooled", "seconds": 3.0, "crystallinity": 0.6 * row}
        lines += _pair("bragg", row, at_rest=rest, **drawn)
        lines += _pair("quench", row, at_rest=rest, n_steps=100, seconds=2.0, **order)
        lines += _pair("look-up", row, at_rest=rest, **order)
        # Not shown: glasses, other samplers, what knows nothing.
        lines += _pair("quench", row + 2, at_rest=rest, n_steps=100, md_crystallinity=0.1)
        lines += _pair("bragg", row, at_rest=rest, sampler="paper")
        lines += [_entry("ideal gas", row)]
    quoted = {"model": "a", "task": "t", "split": "test", "rdf_mse": 0.5, "source": "them"}
    summed = tables.table_1(pd.DataFrame(lines), pd.DataFrame([quoted]))
    found = comparison.forming(summed).set_index("model")
    assert sorted(found.index) == ["bragg", "look-up", "quench"]
    bragg = found.loc["bragg"]
    assert (bragg["crystalline"], bragg["seconds"], bragg["n"]) == (0.5, 3, 2)
    assert (bragg["above_lowest"], bragg["seconds_at_rest"]) == (1.5, 5)
    assert found["asks"].to_dict() == {"bragg": False, "look-up": False, "quench": True}
    words = comparison.forming_in_words(comparison.forming(summed))
    assert words.index.tolist() == ["bragg, cooled", "look-up", "quench, 100 steps\u00a0†"]
    ends = tasks.bootstrap_interval([1.0, 2.0])
    told = ["50 (0 to 100)", "1.500", "1.500 ({:.3f} to {:.3f})".format(*ends), "3.0"]
    assert words.iloc[0].tolist() == told
    assert words.iloc[1].tolist()[0] == "100"


def test_answers_are_gathered_with_the_quenches_of_their_conditions(tmp_path):
    def write(name, lines):
        tables.write_csv(tmp_path / f"scores-{name}.csv", pd.DataFrame(lines))

    assert comparison.answered(tmp_path) == {}
    ten = next(iter(evaluation.ANSWERS))
    write("answers", _pair(ten, 3, at_rest={}))
    several = _entry("quench", 3, n_steps=10, n_tries=4)
    write("quench", [*_pair("quench", 3, at_rest={}, n_steps=10), several])
    further = {"split": "tests", "k": 7.5}
    write("tests", [_entry(ten, 5, **further), _entry("quench", 5, n_steps=30, **further)])
    shorter = _entry("quench", 5, n_steps=10, split="tests", potential="a")
    others = [_entry("sample", 5, split="tests"), _entry("quench", 5, n_steps=10, split="any")]
    write(
        "unseen",
        [{k: v for k, v in one.items() if k not in ("k", "phi")} for one in (shorter, *others)],
    )
    found = comparison.answered(tmp_path)
    assert found["test"][["model", "n_steps"]].to_numpy().tolist() == [[ten, 0], ["quench", 10]]
    assert found["further"]["n_steps"].tolist() == [0, 30, 10]
    assert found["further"]["k"].tolist() == [7.5] * 3


def test_a_quench_of_the_same_price_lies_between_those_that_were_run():
    lines = [
        _entry("quench", row, n_steps=n_steps, seconds=seconds, rdf_mse=error)
        for n_steps, seconds, errors in ((10, 1.0, (0.4, 0.8)), (1000, 100.0, (0.2, 0.6)))
        for row, error in enumerate(errors)
    ]
    scored = pd.DataFrame([*lines, _entry("look-up", rdf_mse=9.0)])
    for seconds, reached in ((10, [0.3, 0.7]), (0.1, [0.4, 0.8]), (1e3, [0.2, 0.6])):
        found = comparison.quench_of_price(scored, seconds)
        assert found.tolist() == pytest.approx(reached)
        assert found.index.get_level_values("row").tolist() == [0, 1]
    mixed = pd.DataFrame([*lines, _entry("quench", relaxed=True)])
    with pytest.raises(ValueError, match="all of them relaxed or none; got 5, of which 1"):
        comparison.quench_of_price(mixed, 10)


def test_answers_within_budgets_stand_beside_quenches_of_their_price_set_by_set():
    ten, thirty = list(evaluation.ANSWERS)[:2]

    def set_of(first, budgets):
        rows = range(first, first + 3)
        lines = [
            _entry("quench", row, n_steps=n_steps, seconds=seconds, rdf_mse=error)
            for n_steps, seconds, error in ((10, 1.0, 0.6), (1000, 100.0, 0.2))
            for row in rows
        ]
        for name, seconds, error in budgets:
            lines += [_entry(name, row, seconds=seconds, rdf_mse=error) for row in rows]
        return pd.DataFrame(lines)

    first = set_of(0, [(thirty, 100.0, 0.3), (ten, 10.0, 0.1)])
    further = set_of(3, [(ten, 10.0, 0.5)])
    found = comparison.within_budgets({"test": first, "further": further})
    names = found[["answer", "conditions"]].to_numpy().tolist()
    assert names == [[ten, "test"], [ten, "further"], [ten, "all"], [thirty, "test"]]
    assert found["rdf_mse"].tolist() == pytest.approx([0.1, 0.5, 0.3, 0.3])
    assert found["quench"].tolist() == pytest.approx([0.4, 0.4, 0.4, 0.2])
    assert found["behind"].tolist() == pytest.approx([-0.3, 0.1, -0.1, 0.1])
    assert found["n_ahead"].tolist() == [3, 0, 3, 0] and found["n"].tolist() == [3, 3, 6, 3]


def test_two_are_compared_condition_by_condition_and_potentials_drawn_whole():
    def scored(errors):
        lines = [_entry(row=row, k=row // 2, rdf_mse=error) for row, error in errors]
        return comparison.of_conditions(pd.DataFrame(lines))

    # The second row was tried twice; the last one has no rival.
    ours = scored([(0, 0.1), (1, 0.1), (1, 0.3), (2, 0.9), (3, 0.2), (4, 7.0)])
    rival = scored([(0, 0.2), (1, 0.4), (2, 0.5), (3, 0.6)])
    found = comparison.paired(ours, rival)
    behind = [-0.1, -0.2, 0.4, -0.4]
    assert found["mean"] == pytest.approx(-0.075)
    assert found["median"] == pytest.approx(-0.15)
    wanted = tasks.bootstrap_interval(behind, groups=[0, 0, 1, 1])
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(wanted)
    assert (found["n_ahead"], found["n"]) == (3, 4)
    with pytest.raises(ValueError, match="no condition in common"):
        comparison.paired(ours[-1:], rival)


def test_a_model_is_held_against_each_rival_on_its_own_conditions():
    lines = [_entry("look-up", row, rdf_mse=0.5) for row in range(4)]
    lines += [_entry("MD replica", row, rdf_mse=0.1) for row in range(4)]
    lines += [_entry("look-up", rdf_mse=9.0, relaxed=True)]
    # Not one answer, but the best of several.
    lines += [_entry("look-up", rdf_mse=0.0, n_tries=4)]
    for n_steps, error in ((10, 0.4), (1000, 0.2)):
        priced = {"n_steps": n_steps, "seconds": float(n_steps), "rdf_mse": error}
        lines += [_entry("quench", row, **priced) for row in range(4)]
    ours = [_entry(row=row, rdf_mse=0.2 + row / 10, seconds=100.0) for row in range(2)]
    found = comparison.against_rivals(pd.DataFrame(ours), pd.DataFrame(lines)).set_index("against")
    assert found["mean"].to_dict() == pytest.approx(
        {"look-up": -0.25, "quench": -0.05, "MD replica": 0.15}
    )
    assert found["n_ahead"].to_dict() == {"look-up": 2, "quench": 1, "MD replica": 0}
    assert set(found["n"]) == {2}


def test_differences_in_words_begin_with_the_cheapest_and_are_underlined_where_they_are_clear():
    of = {"kind": "crystal", "median": 0.1, "n_ahead": 1, "n": 2}
    clear = of | {"mean": -0.25, "ci_low": -0.5, "ci_high": -0.1}
    open_ = of | {"mean": 0.25, "ci_low": -0.1, "ci_high": 0.5}
    lines = [
        {"answer": "slow", "seconds": 90.0, "against": "look-up"} | clear,
        {"answer": "slow", "seconds": 90.0, "against": "quench"} | open_,
        {"answer": "fast", "seconds": 8.6, "against": "look-up"} | open_,
        {"answer": "fast", "seconds": 8.6, "against": "quench"} | clear,
    ]
    style = comparison.against_rivals_in_words(pd.DataFrame(lines))
    assert style.data.index.tolist() == [("crystal", "fast", "9"), ("crystal", "slow", "90")]
    assert style.data.columns.tolist() == ["minus look-up", "minus quench"]
    told = style.data.to_numpy().tolist()
    assert told[1][0] == "-0.250 (-0.500\u00a0to\u00a0-0.100) +0.100;\u00a01\u00a0of\u00a02"
    page = style.to_html()
    clear = re.search(r"([^}]*) {\n  text-decoration: underline;", page)[1]
    assert set(re.findall(r"row\d_col\d", clear)) == {"row1_col0", "row0_col1"}


def test_crystals_that_do_not_form_are_named_the_highest_first():
    lines = []
    for row, order, gap in ((0, 0.9, 0.1), (1, 0.2, 0.3), (2, 0.5, 0.7), (3, 0.0, 9.0)):
        rest = {"energy_gap": gap, "above_lowest": gap + 1, "crystallinity": 1.0}
        of = {"crystallinity": order, "rdf_mse": order / 2, "temperature": 0.02}
        lines += _pair("bragg", row, at_rest=rest, **of)
    # MD's own is none there.
    glass = pd.DataFrame(lines).assign(
        md_crystallinity=lambda lines: lines["row"].map({3: 0.1}).fillna(0.9)
    )
    found = comparison.failures(glass)
    assert found["row"].tolist() == [2, 1]
    assert found["energy_gap"].tolist() == [0.7, 0.3] and found["above_lowest"].tolist() == [
        1.7,
        1.3,
    ]
    assert found["rdf_mse"].tolist() == [0.25, 0.1]
