"""Text tables for the terminal and the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from texttable import Texttable


def draw_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, frame: bool = True, fit: bool = False) -> str:
    """Draw rows under a header as text. A cell may have several lines.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence
        One cell per column. A cell that is not a text is shown by its `str`; no number is rounded.
    frame : bool
        Whether a border surrounds the table.
    fit : bool
        Whether long cells are wrapped, so that the table is at most as wide as the terminal (at least 60 columns).
    """
    table = Texttable(max_width=max(shutil.get_terminal_size((120, 0)).columns, 60) if fit else 0)
    table.set_deco(Texttable.HEADER | Texttable.VLINES | (Texttable.BORDER if frame else 0))
    table.set_cols_dtype(["t"] * len(header))
    table.header(list(header))
    table.add_rows([list(row) for row in rows], header=False)
    return str(table.draw())
