"""The report of made-up trials, whose answers are known."""

import pytest

from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.errors import LLMInitError
from tests.compare.synthetic import GRIDS, OPTIONS, cell_of, hits, make_entry, make_report, make_result


def test_an_initialization_that_failed_with_some_seeds_takes_them_from_all() -> None:
    entries, results = [], {}
    for seed in (1, 2):
        for initialization, share in (("none", 0.2), ("var", 0.8)):
            entries.append(make_entry(initialization, seed, f"{initialization}{seed}"))
            results[f"{initialization}{seed}"] = make_result(hits(share, seed))
    del results["none2"]
    found = Report.of(entries, results, OPTIONS, failed={"none2"})
    assert found.to_dataframe()["seeds"].to_list() == [1, 1] and set(found.tests["seeds"]) == {1}
    assert found.problems == ("an initialization failed, and left out: M on d with seed 2",)
    assert cell_of(found, "var").bold
    del results["none1"]
    # With every seed: the others stay, and nothing can be said to be better than it.
    gone = Report.of(entries, results, OPTIONS, failed={"none1", "none2"})
    assert gone.to_dataframe()[["initialization", "seeds"]].to_numpy().tolist() == [["var", 2]]
    assert gone.problems == ("failed with every seed, and left out: M none on d",)
    assert gone.incomplete == {("d", "none", "M")} and not cell_of(gone, "var").bold


def test_a_failed_trial_of_a_grid_leaves_the_others() -> None:
    entries = [make_entry("none tuned", 1, "a", "b", grids=GRIDS)]
    problems = ["the trial b failed"]
    found = Report.of(entries, {"a": make_result(hits(0.9))}, OPTIONS, failed={"b"}, problems=problems)
    assert found.runs["candidates"].item() == 1 and found.problems == ("the trial b failed",)


def test_without_a_finished_trial_there_is_no_report() -> None:
    entries = [make_entry("none tuned", 1, "a", "b", grids=GRIDS)]
    with pytest.raises(LLMInitError, match="nothing to report\nthe trial b failed"):
        Report.of(entries, {}, OPTIONS, failed={"b"}, problems=["the trial b failed"])


@pytest.mark.parametrize(
    ("seeds", "over_seeds", "untested"),
    [((1,), False, True), ((1, 2), False, True), ((1, 2, 3), True, False)],
)
def test_the_legend_says_who_was_tuned_and_what_was_tested(
    seeds: tuple[int, ...], over_seeds: bool, untested: bool
) -> None:
    shares = {"none": 0.1, "var": 0.5}
    legend = make_report({name: {seed: hits(share, seed) for seed in seeds} for name, share in shares.items()}).legend
    assert "the LLM initializations are not." in legend and "paired t-test over users" in legend
    assert ("paired t-test over the seeds' means" in legend) == over_seeds
    assert ("fewer than 3 seeds their chance (split, negatives, initialization) was not tested" in legend) == untested


def test_the_legend_where_some_pairs_have_three_seeds() -> None:
    lines = {"none": {1: hits(0.1)}, "var": {1: hits(0.5)}}
    three = {name: dict.fromkeys((1, 2, 3), by_seed[1]) for name, by_seed in lines.items()}
    found = make_report({**three, "": lines["none"]})
    assert sorted(set(found.tests["seeds"])) == [1, 3]
    assert "Pairs with fewer than 3 common seeds are tested over users alone." in found.legend


def test_a_report_prints_its_verdict_first() -> None:
    found = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}})
    printed = str(found)
    assert printed.startswith("On d, M from var has ") and printed.index("One seed:") < printed.index("+===")
    assert found.to_dict()["verdict"] == list(found.verdict)
    assert max(map(len, printed.splitlines())) <= 120


def test_the_environment_is_named_once() -> None:
    read = {"strategy": "s", "tables": [], "llm_dim": 384, "encoder": "/home/me/minilm", "fingerprint": "f1"}
    entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b"), make_entry("uni", 1, "c")]
    results = {"a": make_result(hits(0.1)), **{name: make_result(hits(0.5), init_report=read) for name in ("b", "c")}}
    found = Report.of(entries, results, OPTIONS)
    # The path of an encoder is this machine's.
    assert found.environment == ("Python 3, a 1; m; one thread", "vectors of d: minilm, 384 dimensions [f1]")
