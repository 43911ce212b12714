"""``init_scale``: the factor by which the values for the tables of one width are multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.embedding_table import EmbeddingTable
from recbole_llminit.initialization.rows import Rows

# How near the model's own scores come to it, in the logarithm, and after how many steps the search ends.
_NEAR = 0.02
_MOST_STEPS = 6
# Scores that grow slower with the tables' values hang on something else.
_LEAST_POWER = 0.25
SMALLEST_STD = math.sqrt(float(np.finfo(np.float32).tiny))
"""The smallest standard deviation of a table's values: below it scores, their products, would all be 0 in float32."""


def factor_for_items(scale: Literal["raw", "model"] | float, tables: Sequence[EmbeddingTable], items: Rows) -> float:
    """Return the factor that brings the items' values to a scale.

    Parameters
    ----------
    scale : "raw", "model" or float
        The standard deviation of the items' values: as it is, that of the model's own initial values, or this number.
    tables : sequence of EmbeddingTable
        The tables of one width, with the model's own values.
    items : Rows
        The items' values, which are not changed.
    """
    if scale == "raw":
        return 1.0
    return _target_std(scale, tables) / std_of(items)


def factor_for_scores(users: Rows, items: Rows, target: float, *, users_follow: bool) -> float:
    """Return the factor that brings the dot products of users and items to a standard deviation.

    Parameters
    ----------
    users, items : Rows
        Their values, which are not changed.
    target : float
        The standard deviation.
    users_follow : bool
        Whether the users' values are multiplied as well; the model's own user rows are not.
    """
    ratio = target / _score_std(users, items)
    return math.sqrt(ratio) if users_follow else ratio


def factor_for_model_scores(std_at: Callable[[float], float | None], target: float) -> float:
    """Find the factor of all values at which a model's own scores have a standard deviation.

    A graph model averages its tables over neighbors, so that its scores vary less than the tables' dot products.

    Parameters
    ----------
    std_at : callable
        Multiplies the values by a factor, and returns the standard deviation of the model's scores; None where the
        model cannot be asked. It is called last with the factor that is returned.
    target : float
        The standard deviation.

    Returns
    -------
    float
        The factor; 1 where the scores do not follow it, as of a model that normalizes them.

    Notes
    -----
    Newton's method on the logarithms. A product of users and items grows with the square of the factor, which is where
    the search begins; each step measures the power anew.
    """
    found, factor, power = std_at(1.0), 1.0, 2.0
    for _ in range(_MOST_STEPS):
        if found is None or not 0 < found < math.inf:
            break
        if abs(math.log(found / target)) < _NEAR:
            return factor
        step = (target / found) ** (1 / power)
        before, found, factor = found, std_at(factor * step), factor * step
        if found is None or not 0 < found < math.inf:
            break
        power = math.log(found / before) / math.log(step)
        if power < _LEAST_POWER:
            break
    else:
        return factor
    if factor != 1:
        std_at(1.0)
    return 1.0


def std_of(rows: Rows) -> float:
    """Return the standard deviation of all values of the rows that have one, summed in float64."""
    count = rows.values.shape[1] * rows.has_value.sum()
    mean = rows.values.sum(dtype=np.float64) / count
    # NumPy 1 would subtract a float64 number from a float32 array in float32.
    squares = sum(float((np.subtract(rows.values[ids], mean, dtype=np.float64) ** 2).sum()) for ids in rows.blocks())
    return math.sqrt(squares / count)


def _target_std(scale: Literal["model"] | float, tables: Sequence[EmbeddingTable]) -> float:
    if scale != "model":
        return scale
    weights = [table.values for table in tables if table.side == "item"] or [table.values for table in tables]
    return float(torch.cat([values.reshape(-1) for values in weights]).float().std())


def _score_std(users: Rows, items: Rows) -> float:
    """Return the standard deviation of the dot products of all users and items with a value.

    The mean square of ``u . v`` over all pairs is the sum over the product of the two sides' mean ``u u^T``, ``v v^T``.
    """
    means, squares = [], []
    for side in (users, items):
        width = side.values.shape[1]
        total, scatter = np.zeros(width), np.zeros((width, width))
        for ids in side.blocks():
            rows = side.values[ids].astype(np.float64)
            total += rows.sum(axis=0)
            scatter += rows.T @ rows
        count = max(1, side.count)
        means.append(total / count)
        squares.append(scatter / count)
    mean_square = float((squares[0] * squares[1]).sum())
    variance = mean_square - float(means[0] @ means[1]) ** 2
    # Equal scores leave a rounding error; scores that overflow are refused before they are written.
    if variance <= 1e-12 * mean_square < math.inf:
        raise LLMInitError(
            "init_scale is score, and the values of users and items give every pair the same score, or no user has a "
            "training item with a vector: set init_scale to a number, such as 0.05"
        )
    return math.sqrt(variance)
