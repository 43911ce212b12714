"""The trial that stands for each line and seed, and what the report says of it."""

import pytest

from recbole_llminit.compare.reporting.report import Report
from tests.compare.synthetic import OPTIONS, TUNED, hits, make_entry, make_result


def test_of_a_grid_the_best_by_validation() -> None:
    entries = [make_entry("none tuned", 1, "a", "b", "c", tuned=TUNED)]
    results = {
        "a": make_result(hits(0.9), valid=0.2),
        "b": make_result(hits(0.1), valid=0.4),
        "c": make_result(hits(0.5), valid=0.3),
    }
    found = Report.of(entries, results, OPTIONS)
    assert found.runs["recall@10"].item() == hits(0.1).mean()
    assert (found.runs["tuned"].item(), found.runs["candidates"].item()) == ("learning_rate 0.1", 3)
    smaller = {
        name: make_result(hits(0.5), valid=valid, valid_score_bigger=False)
        for name, valid in (("a", 3), ("b", 1), ("c", 2))
    }
    assert Report.of(entries, smaller, OPTIONS).runs["valid_score"].item() == 1


def test_the_limit_of_epochs() -> None:
    entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b")]
    results = {"a": make_result(hits(0.5), curve=(0.1,) * 5), "b": make_result(hits(0.5))}
    found = Report.of(entries, results, OPTIONS)
    assert found.runs["at_limit"].to_list() == [True, False] and found.runs["epochs"].to_list() == [5, 3]
    # Of equal scores the last.
    assert found.runs["best_epoch"].to_list() == [5, 2]
    assert found.efficiency["seeds_at_limit"].to_list() == [1, 0]


@pytest.mark.parametrize(
    ("tried", "at_edge"), [([0.1, 0.2, 0.3], "learning_rate"), ([0.05, 0.1, 0.2], ""), ([0.1], ""), ([0.1, 0.2], "")]
)
def test_the_edge_of_a_grid_of_three_numbers_or_more(tried: list[float], at_edge: str) -> None:
    entries = [make_entry("none tuned", 1, "a", tuned=TUNED), make_entry("var", 1, "b")]
    results = {"a": make_result(hits(0.5)), "b": make_result(hits(0.5))}
    runs = Report.of(entries, results, {**OPTIONS, "tune_grid": {"learning_rate": tried}}).runs
    assert runs["at_edge"].to_list() == [at_edge, ""]


def test_what_initialized_the_model() -> None:
    tables = [{"side": "user", "std_after": 0.5}, {"side": "item", "std_after": 0.25}]
    init_report = {"strategy": "Variance()", "tables": tables, "llm_dim": 0}
    entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b")]
    results = {"a": make_result(hits(0.1)), "b": make_result(hits(0.5), init_report=init_report)}
    runs = Report.of(entries, results, OPTIONS).runs.set_index("initialization")
    assert (runs.loc["var", "strategy"], runs.loc["var", "item_std"]) == ("Variance()", 0.25)
    assert runs.loc["none", ["strategy", "item_std"]].isna().all()
