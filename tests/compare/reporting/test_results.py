"""The trial that stands for each line and seed, and what the report says of it."""

import pytest

from recbole_llminit.compare.reporting.report import Report
from tests.compare.synthetic import GRIDS, OPTIONS, hits, make_entry, make_result


def test_of_a_grid_the_best_by_validation() -> None:
    entries = [make_entry("none tuned", 1, "a", "b", "c", grids=GRIDS)]
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
    ("tried", "at_edge"),
    [
        ([0.1, 0.2, 0.3], "learning_rate (0.05 has no result)"),
        ([0.05, 0.1, 0.2], ""),
        ([0.1], ""),
        ([0.1, 0.2], ""),
    ],
)
def test_the_edge_of_a_grid_of_three_numbers_or_more(tried: list[float], at_edge: str) -> None:
    entries = [make_entry("none tuned", 1, "a", grids=({"learning_rate": tried},)), make_entry("var", 1, "b")]
    results = {"a": make_result(hits(0.5)), "b": make_result(hits(0.5))}
    runs = Report.of(entries, results, OPTIONS).runs
    assert runs["at_edge"].to_list() == [at_edge, ""]


def test_the_edge_that_the_search_could_not_leave_stands_with_its_bound() -> None:
    """Three wider values were tried, and the widest won."""
    grids = ({"learning_rate": [0.001, 0.01, 0.1]},)
    rates = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
    results = {
        str(rate): make_result(hits(0.5), valid=rate, config={"learning_rate": rate, "epochs": 5}) for rate in rates
    }
    (entry,) = [make_entry("none tuned", 1, *map(str, rates), grids=grids)]
    runs = Report.of([entry], results, OPTIONS).runs
    assert runs["at_edge"].to_list() == ["learning_rate (widened 3 times)"]
    assert runs["tuned"].to_list() == ["learning_rate 100.0"]


def test_the_trials_that_were_not_chosen() -> None:
    entries = [make_entry("none tuned", 1, "a", "b", "c", grids=GRIDS), make_entry("none", 1, "a")]
    entries.append(make_entry("none tuned", 2, "d", "e", grids=GRIDS))
    results = {
        "a": make_result(hits(0.9), name="a", valid=0.2),
        "b": make_result(hits(0.1), name="b", valid=0.4, config={"learning_rate": 0.3, "epochs": 5}),
        "d": make_result(hits(0.5), name="d", valid=0.3),
    }
    # The trial c has failed; the second seed has not finished, and is not reported.
    trials = Report.of(entries, results, OPTIONS, failed={"c"}).trials
    columns = ["initialization", "seed", "trial", "tuned", "chosen", "valid_score", "best_epoch", "epochs"]
    assert trials[columns].to_numpy().tolist() == [
        ["none tuned", 1, "a", "learning_rate 0.1", False, 0.2, 2, 3],
        ["none tuned", 1, "b", "learning_rate 0.3", True, 0.4, 2, 3],
        ["none", 1, "a", "", True, 0.2, 2, 3],
        ["none tuned", 2, "d", "learning_rate 0.1", False, 0.3, 2, 3],
    ]
    assert trials["recall@10"].to_list() == [hits(share).mean() for share in (0.9, 0.1, 0.9, 0.5)]


def test_what_initialized_the_model() -> None:
    tables = [{"side": "user", "std_after": 0.5}, {"side": "item", "std_after": 0.25}]
    init_report = {"strategy": "Variance()", "tables": tables, "llm_dim": 0}
    entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b")]
    results = {"a": make_result(hits(0.1)), "b": make_result(hits(0.5), init_report=init_report)}
    runs = Report.of(entries, results, OPTIONS).runs.set_index("initialization")
    assert (runs.loc["var", "strategy"], runs.loc["var", "item_std"]) == ("Variance()", 0.25)
    assert runs.loc["none", ["strategy", "item_std"]].isna().all()
