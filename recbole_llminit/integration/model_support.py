"""Which models can be initialized from LLM embeddings: a table, which was made by building each of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_llminit.text_table import draw_table

# Written by tests/model_support.py.
TABLE = Path(__file__).parents[1] / "data" / "models.csv"


@dataclass(frozen=True)
class ModelSupport:
    """What ``init_strategy`` does in one model.

    Parameters
    ----------
    model, family : str
        The model's name, and RecBole's folder for its kind.
    initialized : str
        ``yes``, ``named`` (where ``init_tables`` names its layers) or ``no``.
    written : str
        The tables that are written, with their shapes, separated by semicolons.
    skipped : str
        The other tables, with the reason why they are skipped.
    needs : str
        The configuration line that the model needs, or why it cannot be initialized.
    """

    model: str
    family: str
    initialized: str
    written: str
    skipped: str
    needs: str


def list_models() -> list[ModelSupport]:
    """Return a row for each model of RecBole and of this package, sorted by family and name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [ModelSupport(**row) for row in csv.DictReader(file)]


def draw_models(models: Sequence[ModelSupport]) -> str:
    """Return the table of some models as text, as wide as the terminal, with counts below it."""
    rows = []
    for row in models:
        parts = [row.needs, row.written, f"skipped: {row.skipped}" if row.skipped else ""]
        rows.append([row.model, row.initialized, "\n".join(part for part in parts if part)])
    table = draw_table(["model", "initialized", "tables"], rows, frame=False, fit=True)
    counts = ", ".join(f"{sum(row.initialized == kind for row in models)} {kind}" for kind in ("yes", "named", "no"))
    return (
        f"{table}\n\n{counts} (named: where init_tables names its layers)\n"
        f"Widths are RecBole's defaults; none may exceed the LLM's dimensions."
    )
