"""The verdict against literal sentences."""

from typing import Any

import pandas as pd
import pytest

from recbole_llminit.compare.reporting.verdict import make_verdict

METRICS = ("recall@10", "ndcg@10")


def run(initialization: str, role: str, valid_score: float, *, model: str = "M", **others: Any) -> dict[str, Any]:
    """A run; its line is of the model EASE for a baseline."""
    line = {"dataset": "d", "drop": "none", "model": model, "initialization": initialization, "role": role}
    return {**line, "valid_score": valid_score, "tuned": "", "at_limit": False, "epochs": 50, **others}


def contrast(mean: float, reference: str, reference_mean: float, outcome: str, **others: Any) -> dict[str, Any]:
    """A test of the initialization var."""
    line = {"dataset": "d", "drop": "none", "model": "M", "initialization": "var", "reference": reference}
    values = {"mean": mean, "reference_mean": reference_mean, "outcome": outcome}
    return {**line, "metric": "recall@10", **values, "seeds": 5, "p_holm": 0.00042, "p_seeds": 0.02, **others}


def verdict(runs: list[dict[str, Any]], tests: list[dict[str, Any]], *, bigger: bool = True) -> tuple[str, ...]:
    return make_verdict(pd.DataFrame(runs), pd.DataFrame(tests), METRICS, valid_score_bigger=bigger)


RUNS = [
    run("none", "stock", 0.2),
    run("none tuned", "stock", 0.25, tuned="learning_rate 0.003"),
    run("var", "llm", 0.3),
    run("noise", "control", 0.1),
    run("", "baseline", 0.4, model="EASE"),
    run("", "baseline", 0.05, model="Pop"),
]
GAIN = contrast(0.2152, "none tuned", 0.1859, "better")
AGAINST_BASELINES = [
    contrast(0.2152, "EASE", 0.2346, "worse"),
    contrast(0.2152, "Pop", 0.04, "better"),
    contrast(0.2152, "none", 0.15, "better"),
    contrast(0.2152, "noise", 0.15, "better"),
]


def test_a_gain_and_a_baseline_that_is_better() -> None:
    """The tuned stock initialization and the best baseline are the opponents, not the others."""
    assert verdict(RUNS, [*AGAINST_BASELINES, GAIN]) == (
        "On d, M from var has 16 % more recall@10 than its tuned stock initialization (0.2152 against 0.1859, +0.0293; "
        "five seeds, p = .0004 over users, p = .02 over seeds). The best baseline, EASE, is 9 % above it (0.2346 against "
        "0.2152).",
    )


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ("better", ", and 12 % more ndcg@10."),
        ("worse", ", and 12 % less ndcg@10."),
        ("undecided", ", and no significant difference in ndcg@10 ({sign}12 %)."),
    ],
)
def test_the_second_metric_is_named_whatever_it_says(outcome: str, sentence: str) -> None:
    mean = 0.112 if outcome == "better" else 0.088
    (found,) = verdict(RUNS, [GAIN, contrast(mean, "none tuned", 0.1, outcome, metric="ndcg@10")])
    assert found.endswith(sentence.format(sign="-"))


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        (
            contrast(0.1859, "none tuned", 0.1852, "undecided", p_holm=0.304, p_seeds=1.0),
            "0.1859 against 0.1852 (+0.4 %, +0.0007; five seeds, p = .30 over users, p = 1 over seeds).",
        ),
        (
            contrast(0.15, "none tuned", 0.2, "worse", p_holm=1e-30, p_seeds=0.0014),
            "significantly less: 0.1500 against 0.2000 (-25 %, -0.0500; five seeds, p < .0001 over users, p = .001 over "
            "seeds).",
        ),
    ],
)
def test_where_nothing_beats_the_stock_initialization(test: dict[str, Any], sentence: str) -> None:
    (found,) = verdict(RUNS, [test])
    assert found == (
        "On d, no initialization from vectors gives M significantly more recall@10 than its tuned stock initialization: "
        f"the best by validation, var, has {sentence}"
    )


def test_validation_chooses_even_where_another_is_better_at_test() -> None:
    runs = [*RUNS, run("uni", "llm", 0.29)]
    level = contrast(0.19, "none tuned", 0.19, "undecided")
    (found,) = verdict(runs, [level, {**GAIN, "initialization": "uni"}])
    assert found.startswith(
        "On d, the initialization from vectors that validation chooses for M, var, does not give it significantly more "
        "recall@10 than its tuned stock initialization, but others do: it has 0.1900 against 0.1900 (+0 %, "
    )
    (chosen,) = verdict(runs, [GAIN])
    assert chosen.startswith("On d, M from var (chosen by validation) has 16 % more recall@10 than its tuned stock ")
    # Where a smaller score is better, another is chosen.
    (smaller,) = verdict(runs, [{**GAIN, "initialization": "uni"}], bigger=False)
    assert smaller.startswith("On d, M from uni (chosen by validation) has 16 % more")


def test_one_seed_and_no_tuning() -> None:
    untuned = [run("none", "stock", 0.2), run("var", "llm", 0.3)]
    test = contrast(0.3, "none", 0.2, "better", seeds=1, p_holm=0.04, p_seeds=float("nan"))
    assert verdict(untuned, [test]) == (
        "On d, M from var has 50 % more recall@10 than its stock initialization (0.3000 against 0.2000, +0.1000; one "
        "seed, p = .04 over users).",
        "One seed: the chance of split, negatives and initialization was not tested, only that of the users.",
    )
    two = verdict(untuned, [{**test, "seeds": 2}])
    assert two[-1].startswith("Two seeds: the chance of split")


def test_runs_that_the_limit_ended() -> None:
    one = [{**RUNS[0], "at_limit": True}, *RUNS[1:]]
    assert verdict(one, [GAIN])[-1] == "1 of 6 runs was ended by the limit of 50 epochs: more may change the result."
    two = [{**RUNS[0], "at_limit": True}, {**RUNS[1], "at_limit": True, "epochs": 100}, *RUNS[2:]]
    assert (
        verdict(two, [GAIN])[-1]
        == "2 of 6 runs were ended by the limit of 50 or 100 epochs: more may change the result."
    )


def test_a_gain_that_a_control_has_as_well() -> None:
    (found,) = verdict(RUNS, [GAIN, contrast(0.2152, "noise", 0.21, "undecided")])
    assert found.endswith(
        " The vectors do not explain every gain: M from var is not significantly above noise (0.2152 against 0.2100)."
    )


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        (
            contrast(0.22, "EASE", 0.2, "better"),
            " It is 10 % above the best baseline, EASE (0.2200 against 0.2000).",
        ),
        (
            contrast(0.2, "EASE", 0.202, "undecided"),
            " The best baseline, EASE, is not significantly different from it (0.2020 against 0.2000).",
        ),
    ],
)
def test_against_the_best_baseline(test: dict[str, Any], sentence: str) -> None:
    (found,) = verdict(RUNS, [GAIN, test])
    assert found.endswith(sentence)


def of_models(*models: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs and gains of several models: the first has 10 % more, the second 20 %, ..."""
    runs, tests = [], []
    for number, model in enumerate(models, 1):
        runs += [run("none", "stock", 0.1, model=model), run("var", "llm", 0.1 * number, model=model)]
        tests.append({**contrast(0.2 + 0.02 * number, "none", 0.2, "better"), "model": model})
    return runs, tests


def test_several_models_stand_in_one_sentence() -> None:
    runs, tests = of_models("A", "B")
    tests[0]["outcome"] = "undecided"
    tests.append({**contrast(0.24, "EASE", 0.2, "better"), "model": "B"})
    (found,) = verdict([*runs, RUNS[4]], tests)
    assert found == (
        "On d, in recall@10 against the stock initialization (none): A from var +10 % (0.2200 against 0.2000, p = .0004 "
        "over users, p = .02 over seeds, not significant), B from var +20 % (0.2400 against 0.2000, p = .0004 over users, "
        "p = .02 over seeds); five seeds. B from var, the best of them by validation, is 20 % above the best baseline, "
        "EASE (0.2400 against 0.2000)."
    )


def test_a_second_metric_that_says_otherwise_is_named() -> None:
    """Where all metrics agree, the first stands for them."""
    runs, tests = of_models("A", "B")
    for model, mean in (("A", 0.11), ("B", 0.102)):
        outcome = "better" if model == "A" else "undecided"
        tests.append({**contrast(mean, "none", 0.1, outcome, metric="ndcg@10"), "model": model})
    tests += [
        {**contrast(0.24, "EASE", 0.2, "better"), "model": "B"},
        {**contrast(0.09, "EASE", 0.1, "worse", metric="ndcg@10"), "model": "B"},
    ]
    (found,) = verdict([*runs, RUNS[4]], tests)
    assert found.endswith(
        "five seeds. Not so: B from var in ndcg@10 (+2 %, not significant). B from var, the best of them by "
        "validation, is 20 % above the best baseline, EASE (0.2400 against 0.2000); not so in ndcg@10 (-10 %)."
    )


def test_many_models_are_counted() -> None:
    runs, tests = of_models("A", "B", "C", "D", "E")
    tests[1] = {**tests[1], "outcome": "worse", "mean": 0.1}
    tests[2]["outcome"] = "undecided"
    (found,) = verdict(runs, tests)
    assert found == (
        "On d, in recall@10 against the stock initialization (none), the best initialization from vectors by validation "
        "is significantly better for 3 of 5 models and worse for 1: from B from var -50 % (0.1000 against 0.2000) to E "
        "from var +50 % (0.3000 against 0.2000); five seeds."
    )


def test_each_part_has_a_paragraph() -> None:
    runs, tests = [], []
    for drop in ("none", "0.5", "all_but_one"):
        runs += [{**row, "drop": drop} for row in RUNS]
        tests.append({**GAIN, "drop": drop})
    starts = [paragraph.split(",")[0] for paragraph in verdict(runs, tests)]
    assert starts == [
        "On d",
        "On d without 50 % of the training interactions",
        "On d with one training interaction a user",
    ]


def test_where_there_is_nothing_to_compare() -> None:
    no_vectors = [run("none", "stock", 0.2), run("noise", "control", 0.1)]
    against_stock = {**contrast(0.1, "none", 0.2, "worse"), "initialization": "noise"}
    assert verdict(no_vectors, [against_stock]) == ("On d, no initialization from vectors was compared.",)
    without_stock = [row for row in RUNS if row["role"] != "stock"]
    assert verdict(without_stock, AGAINST_BASELINES[:2]) == (
        "On d, no stock initialization has finished to compare with. The best baseline, EASE, is 9 % above it (0.2346 "
        "against 0.2152).",
    )
    assert make_verdict(pd.DataFrame(RUNS), pd.DataFrame(), METRICS, valid_score_bigger=True) == ()
