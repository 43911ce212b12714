"""Which models start from LLM embeddings: the table that was made by building each of them."""

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
        Its name, and RecBole's folder.
    initialized : str
        ``yes``, ``named`` (where ``init_tables`` names its layers) or ``no``.
    written : str
        The tables written with their shapes, separated by semicolons.
    skipped : str
        The other tables with the reason.
    needs : str
        The line to add, or why not.
    """

    model: str
    family: str
    initialized: str
    written: str
    skipped: str
    needs: str


def list_models() -> list[ModelSupport]:
    """Return the table, a row per model of RecBole and of this package, by family and name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [ModelSupport(**row) for row in csv.DictReader(file)]


def draw_models(models: Sequence[ModelSupport]) -> str:
    """Draw the table as wide as the terminal."""
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
