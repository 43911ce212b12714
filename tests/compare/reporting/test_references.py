"""Which lines a report takes as its references."""

import pandas as pd

from recbole_llminit.compare.reporting.references import References, choose_references

RUNS = pd.DataFrame(
    [
        ("M", "none", "stock", 0.9, ""),
        ("M", "none tuned", "stock", 0.3, "learning_rate 0.1"),
        ("M", "var", "llm", 0.8, ""),
        ("M", "noise", "control", 0.4, ""),
        ("M", "var shuffled", "control", 0.1, ""),
        ("M", "noise", "control", 0.0, ""),
        ("M", "var shuffled", "control", 0.2, ""),
        ("EASE", "", "baseline", 0.4, "reg_weight 1.0"),
        ("Pop", "", "baseline", 0.5, ""),
    ],
    columns=["model", "initialization", "role", "valid_score", "tuned"],
)


def test_the_best_by_validation_of_each_role() -> None:
    # The mean of noise is 0.2, that of the shuffled rows 0.15.
    assert choose_references(RUNS, valid_score_bigger=True) == References("none tuned", "noise", "Pop")
    assert choose_references(RUNS, valid_score_bigger=False) == References("none tuned", "var shuffled", "EASE")


def test_the_stock_initialization_where_none_was_tuned_and_what_is_missing() -> None:
    stock = RUNS[RUNS["initialization"].isin(["none", "var"])]
    assert choose_references(stock, valid_score_bigger=True) == References("none", "", "")
