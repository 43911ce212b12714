"""The baselines of a comparison: models that are trained without an initialization of their tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_llminit.compare.grids import CLOSED_FORM_GRIDS, Grid, read_grid, split_grid
from recbole_llminit.compare.option_values import read_names, reads_vectors
from recbole_llminit.errors import LLMInitError
from recbole_llminit.settings import is_none

WITH_VECTORS = "EASE with the vectors"
"""The label of the baseline that has the clicks and the vectors, and no model to train."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **{name: {key: list(values) for key, values in grid.items()} for name, grid in CLOSED_FORM_GRIDS.items()},
    # RecBole solves EASE before lae takes its place: with RecBole's reg_weight, and not that of the trained models.
    WITH_VECTORS: {"model": "EASE", "init_strategy": "lae", "reg_weight": 250.0},
}


@dataclass(frozen=True)
class Baseline:
    """A model that others are tested against.

    Parameters
    ----------
    label : str
        Its name in the report.
    model : str
        What is trained.
    settings : mapping
        Configuration keys of its own.
    grid : mapping of str to sequence
        Configuration keys and the values to try; the best by validation stands in the report.
    """

    label: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Grid = field(default_factory=dict)

    @property
    def needs_vectors(self) -> bool:
        """Whether it reads vectors."""
        return reads_vectors(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return its keys, as `read_baselines` reads them."""
        model = {} if self.model == self.label else {"model": self.model}
        return {**model, **self.settings, **{key: list(values) for key, values in self.grid.items()}}


def default_baselines(*, with_vectors: bool) -> list[str]:
    """Return the names of the default baselines.

    Parameters
    ----------
    with_vectors : bool
        Whether an initialization of the comparison reads vectors; else a baseline with them is left out.
    """
    return [name for name in _DEFAULTS if name != WITH_VECTORS or with_vectors]


def read_baselines(value: Any) -> tuple[Baseline, ...]:
    """Read the key ``baselines``: names, or a mapping of labels to keys.

    A key with a list is part of the grid, one with another value a setting. ``model`` names the model where the label
    does not. A label without keys takes those of the default baseline of that name.

    Raises
    ------
    LLMInitError
        If the value has another form, or a strategy is unknown.
    """
    if is_none(value) or value == {}:
        return ()
    named = read_names(value, "baselines")
    return tuple(_read_baseline(label, keys or dict(_DEFAULTS.get(label, {}))) for label, keys in named.items())


def _read_baseline(label: str, keys: Mapping[str, Any]) -> Baseline:
    settings, grid = split_grid(keys)
    model = settings.pop("model", label)
    if not isinstance(model, str):
        raise LLMInitError(f"baselines {label} has the model {model!r}: expected the name of a model")
    baseline = Baseline(label, model, settings, read_grid(grid, f"baselines {label}"))
    # Raises for a strategy that is unknown.
    _ = baseline.needs_vectors
    return baseline
