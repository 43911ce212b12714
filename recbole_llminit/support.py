"""Which models start from LLM embeddings: the table that was made by building each of them."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from texttable import Texttable

# Written by tests/model_support.py.
TABLE = Path(__file__).parent / "data" / "models.csv"


@dataclass(frozen=True)
class ModelSupport:
    """What ``init_strategy`` does in one model.

    Parameters
    ----------
    model, family : str
        Its name, and RecBole's folder.
    starts : str
        ``yes``, ``named`` (where ``init_tables`` names its layers) or ``no``.
    written : str
        The tables written with their shapes, separated by semicolons.
    left_alone : str
        The other tables with the reason.
    needs : str
        The line to add, or why not.
    """

    model: str
    family: str
    starts: str
    written: str
    left_alone: str
    needs: str


def list_models() -> list[ModelSupport]:
    """Return the table, a row per model of RecBole and of this package, by family and name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [ModelSupport(**row) for row in csv.DictReader(file)]


def draw_models(models: Sequence[ModelSupport]) -> str:
    """Draw the table as wide as the terminal."""
    table = Texttable(max_width=max(shutil.get_terminal_size((120, 0)).columns, 60))
    table.set_deco(Texttable.HEADER | Texttable.VLINES)
    table.set_cols_dtype(["t", "t", "t"])
    table.header(["model", "starts", "tables"])
    for row in models:
        parts = [row.needs, row.written, f"left alone: {row.left_alone}" if row.left_alone else ""]
        table.add_row([row.model, row.starts, "\n".join(part for part in parts if part)])
    counts = ", ".join(f"{sum(row.starts == kind for row in models)} {kind}" for kind in ("yes", "named", "no"))
    return (
        f"{table.draw()}\n\n{counts} (named: where init_tables names its layers)\n"
        f"Widths are RecBole's defaults; none may exceed the LLM's dimensions."
    )
