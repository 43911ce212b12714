"""The references of a report: the lines with which every reader compares first."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from recbole_llminit.compare.options import Role


class References(NamedTuple):
    """The names of the best lines without vectors, by validation; an empty name where there is none.

    Parameters
    ----------
    stock : str
        The stock initialization; where some were tuned, the best of these. The settings that were not tuned are among
        those that tuning tried.
    control : str
        The best control.
    baseline : str
        The best baseline.
    """

    stock: str
    control: str
    baseline: str


def choose_references(runs: pd.DataFrame, *, valid_score_bigger: bool) -> References:
    """Choose the references of runs by the mean of their validation scores.

    Parameters
    ----------
    runs : DataFrame
        Rows of `Report.runs` that are compared with each other.
    valid_score_bigger : bool
        Whether a larger validation score is better.
    """
    stock = runs[runs["role"] == "stock"]
    if (stock["tuned"] != "").any():
        stock = stock[stock["tuned"] != ""]
    return References(
        best_name(stock, "stock", valid_score_bigger=valid_score_bigger),
        best_name(runs, "control", valid_score_bigger=valid_score_bigger),
        best_name(runs, "baseline", valid_score_bigger=valid_score_bigger),
    )


def best_name(runs: pd.DataFrame, role: Role, *, valid_score_bigger: bool) -> str:
    """Return the name of the line of a role with the best mean validation score; empty where there is none.

    The name is the initialization, or the label of a baseline.
    """
    of_role = runs[runs["role"] == role]
    names = of_role["model" if role == "baseline" else "initialization"]
    scores = of_role["valid_score"].groupby(names, sort=False).mean()
    if scores.empty:
        return ""
    return str(scores.idxmax() if valid_score_bigger else scores.idxmin())
