"""A plan that grows by validation scores; the scores are made up, and nothing is trained."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from recbole_llminit.compare.growth import GrowingPlan
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import check_comparison
from recbole_llminit.compare.trial import TrialResult
from tests.compare.synthetic import hits, make_result

DEFAULTS = {"learning_rate": 0.001, "weight_decay": 0.0, "init_scale": None, "epochs": 5}
Score = Callable[[Mapping[str, Any]], float]


@pytest.fixture
def settings(llm: dict[str, Any]) -> dict[str, Any]:
    del llm["dataset"], llm["init_strategy"], llm["hidden_size"]
    return {**llm, "models": "BPR", "datasets": "tiny", "strategies": "none", "controls": "none", "baselines": "none"}


def growing_of(settings: dict[str, Any]) -> GrowingPlan:
    checked = check_comparison(CompareOptions.from_settings(settings))
    return GrowingPlan(checked, checked.plan())


def result_of(growing: GrowingPlan, name: str, score: Score) -> TrialResult:
    config = {**DEFAULTS, **growing.plan.trials[name].settings}
    return make_result(hits(0.5), name=name, config=config, valid=score(config))


def run(
    growing: GrowingPlan, score: Score, failing: Callable[[Mapping[str, Any]], bool] = lambda _: False
) -> list[str]:
    """Let all trials end, in the order in which they would run; return their names."""
    waiting, ended = deque(growing.plan.trials), []
    while waiting:
        name = waiting.popleft()
        ended.append(name)
        failed = failing(growing.plan.trials[name].settings)
        added = growing.take(name, None if failed else result_of(growing, name, score))
        waiting.extendleft(reversed(added))
    return ended


def rate_nearest(best: float) -> Score:
    return lambda config: -abs(config["learning_rate"] - best) - config["weight_decay"]


def rates_of(growing: GrowingPlan, initialization: str = "none tuned") -> list[float]:
    entry = next(entry for entry in growing.plan.entries if entry.initialization == initialization)
    rates = (growing.plan.trials[name].settings.get("learning_rate") for name in entry.trials)
    return sorted(dict.fromkeys(rate for rate in rates if rate is not None))


def test_the_stock_initialization_is_tuned_until_no_edge_wins(settings: dict[str, Any]) -> None:
    growing = growing_of({**settings, "tune": "stock"})
    ended = run(growing, rate_nearest(0.03))
    # The grid and 0.033, which wins; then 0.11, and nothing beyond.
    assert rates_of(growing) == [0.0003, 0.001, 0.003, 0.01, 0.033, 0.11]
    assert len(ended) == len(set(ended)) == len(growing.plan.trials) == 16 + 2
    assert set(growing.plan.entries[1].trials) == set(growing.plan.trials)
    # The untuned line has its one trial.
    assert len(growing.plan.entries[0].trials) == 1


def test_what_is_added_runs_before_the_next_seed(settings: dict[str, Any]) -> None:
    growing = growing_of({**settings, "tune": "stock", "seeds": 2})
    seeds = [growing.plan.trials[name].settings["seed"] for name in run(growing, rate_nearest(0.03))]
    assert seeds == [2020] * 18 + [2021] * 18


@pytest.mark.parametrize("finished", [0, 5, 16, 17, 20, 36])
def test_a_comparison_that_goes_on_reaches_the_same_trials(settings: dict[str, Any], finished: int) -> None:
    asked, score = {**settings, "tune": "stock", "seeds": 2}, rate_nearest(0.03)
    whole, again = growing_of(asked), growing_of(asked)
    done = run(whole, score)[:finished]
    waiting = deque(
        again.take_finished(again.plan.trials, lambda name: result_of(again, name, score) if name in done else None)
    )
    assert not set(waiting) & set(done)
    while waiting:
        name = waiting.popleft()
        waiting.extendleft(reversed(again.take(name, result_of(again, name, score))))
    assert set(again.plan.trials) == set(whole.plan.trials)
    assert [set(entry.trials) for entry in again.plan.entries] == [set(entry.trials) for entry in whole.plan.entries]


def test_a_failed_trial_is_no_candidate_and_ends_the_search_there(settings: dict[str, Any]) -> None:
    growing = growing_of({**settings, "tune": "stock"})
    run(growing, rate_nearest(0.03), failing=lambda settings: settings.get("learning_rate") == 0.033)
    assert rates_of(growing) == [0.0003, 0.001, 0.003, 0.01, 0.033]
    growing = growing_of({**settings, "tune": "stock"})
    run(growing, rate_nearest(0.03), failing=lambda _: True)
    assert len(growing.plan.trials) == 16


def test_a_value_that_is_refused_is_named_and_left_out(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    # The next would be below the smallest standard deviation that is accepted.
    scales = {"init_scale": [1.5e-19, 1.5e-18, 1.5e-17]}
    growing = growing_of({**settings, "strategies": {"noise": scales}})
    run(growing, lambda config: -(config["init_scale"] or 0))
    assert len(growing.plan.entries[1].trials) == 3
    assert "BPR on tiny is not tried with {'init_scale': 1.5e-20}: init_scale is" in caplog.text


@pytest.mark.parametrize("tune", ["none", "all"])
def test_noise_has_its_best_scale_and_then_the_grid_of_its_model(settings: dict[str, Any], tune: str) -> None:
    growing = growing_of({**settings, "controls": "noise", "tune": tune})

    def score(config: Mapping[str, Any]) -> float:
        return rate_nearest(0.003)(config) - abs((config["init_scale"] or 0.05) - 0.9)

    assert growing.later_trials == (16 if tune == "all" else 0)
    run(growing, score)
    assert growing.later_trials == 0
    by_line = {entry.initialization: entry for entry in growing.plan.entries}
    scales = [growing.plan.trials[name].settings["init_scale"] for name in by_line["noise"].trials]
    assert scales == [0.01, 0.03, 0.1, 0.3, 0.9, 2.7]
    if tune == "none":
        assert list(by_line) == ["none", "noise"]
        return
    tuned = by_line["noise tuned"]
    # One point of the grid, RecBole's defaults, is a trial of the first search.
    assert tuned.trials[:6] == by_line["noise"].trials and len(tuned.trials) == 6 + 15
    assert {growing.plan.trials[name].settings["init_scale"] for name in tuned.trials[6:]} == {0.9}
    assert tuned.tuned == ("init_scale", "learning_rate", "weight_decay")


def test_all_initializations_have_the_grid_of_the_stock_one(settings: dict[str, Any]) -> None:
    growing = growing_of({**settings, "strategies": "none,var", "controls": "shuffle", "tune": "all"})
    run(growing, rate_nearest(0.03))
    lines = ("none tuned", "var tuned", "var shuffled tuned")
    assert [rates_of(growing, line) for line in lines] == [[0.0003, 0.001, 0.003, 0.01, 0.033, 0.11]] * 3


def test_a_baseline_is_widened_too(settings: dict[str, Any]) -> None:
    growing = growing_of({**settings, "baselines": ["EASE", "ItemKNN", "Pop"]})
    run(growing, lambda config: config.get("reg_weight", 0) + config.get("k", 0))
    trials = {
        entry.model: [growing.plan.trials[name].settings for name in entry.trials] for entry in growing.plan.entries
    }
    assert [trial["reg_weight"] for trial in trials["EASE"]] == [10, 30, 100, 300, 1000, 3300, 11000, 37000]
    assert sorted({trial["k"] for trial in trials["ItemKNN"]}) == [20, 50, 100, 200, 400, 800, 1600, 3200]
    assert len(trials["Pop"]) == 1
