"""Grids of configuration keys: those that are searched by default, and reading those of the user."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.recbole_keys import default_value

Grid = Mapping[str, Sequence[Any]]
"""Configuration keys, each with the values to try."""
Point = Mapping[str, Any]
"""One value for each key of one or more grids."""

LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01)
WEIGHT_DECAYS = (0.0, 1e-5, 3e-5, 1e-4)
REG_WEIGHTS = (1e-6, 1e-5, 1e-4, 1e-3)
NOISE_SCALES = (0.01, 0.03, 0.1, 0.3)
"""The values of ``init_scale`` for the control ``noise``."""
CLOSED_FORM_GRIDS: Mapping[str, Grid] = {
    "EASE": {"reg_weight": (10.0, 30.0, 100.0, 300.0, 1000.0)},
    "ItemKNN": {"k": (20, 50, 100, 200, 400), "shrink": (0.0, 10.0)},
    "Pop": {},
}
"""The grids of models that are not trained by gradients."""


def default_grid(model: str) -> Grid:
    """Return the grid of a model: the learning rate and the regularization.

    Parameters
    ----------
    model : str
        The name of a model, or the dotted path of a class.

    Notes
    -----
    The regularization is the model's own ``reg_weight`` where its property file in RecBole has it as one number. Else
    it is ``weight_decay``, which every optimizer of RecBole's trainer reads.
    """
    if model in CLOSED_FORM_GRIDS:
        return CLOSED_FORM_GRIDS[model]
    default = default_value(model, "reg_weight")
    if isinstance(default, int | float):
        return {"learning_rate": LEARNING_RATES, "reg_weight": REG_WEIGHTS}
    return {"learning_rate": LEARNING_RATES, "weight_decay": WEIGHT_DECAYS}


def read_grid(value: Any, key: str) -> dict[str, list[Any]]:
    """Read a grid: a mapping of configuration keys to the values to try.

    Raises
    ------
    LLMInitError
        If it is no mapping of keys to lists with at least one value.
    """
    if not isinstance(value, dict) or not all(isinstance(values, list) and values for values in value.values()):
        raise LLMInitError(f"{key} is {value!r}: expected lists of values by key, as {{learning_rate: [0.001, 0.01]}}")
    return value


def read_tune_grid(value: Any, models: Collection[str]) -> dict[str, Grid]:
    """Read the key ``tune_grid``: one grid for all models, or a grid for each model by its name.

    Parameters
    ----------
    value : mapping or None
        What the user gave; None for the default grid of each model.
    models : collection of str
        The models of the comparison. One that a mapping by model does not name takes its default grid.

    Returns
    -------
    dict of str to mapping
        The grid of each model.

    Raises
    ------
    LLMInitError
        If it is neither form, or names a model that is not compared.
    """
    default = {model: default_grid(model) for model in models}
    if value is None:
        return default
    if not isinstance(value, dict) or not any(isinstance(values, dict) for values in value.values()):
        return dict.fromkeys(models, read_grid(value, "tune_grid"))
    for model in value:
        if model not in models:
            raise LLMInitError(
                f"tune_grid has a grid for {model!r}, and the models are {', '.join(models)}: expected one of them"
            )
    return {**default, **{model: read_grid(grid, f"tune_grid {model}") for model, grid in value.items()}}


def split_grid(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Split keys into those with one value, and those with a list of values to try."""
    grid = {key: value for key, value in keys.items() if isinstance(value, list)}
    return {key: value for key, value in keys.items() if key not in grid}, grid


def grid_points(grid: Grid) -> list[Point]:
    """Return each combination of the grid's values; a single empty one for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def count_points(grid: Grid) -> int:
    """Return the number of combinations of the grid's values, without making them."""
    return math.prod(len(values) for values in grid.values())
