"""Tables for the terminal and the log: one way to draw them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from texttable import Texttable


def draw_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, frame: bool = True, fit: bool = False) -> str:
    """Draw rows of text under a header; cells may have several lines.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence
        A cell for each column; what is no text is shown as one, and no number is rounded.
    frame : bool
        Whether the table has a border.
    fit : bool
        Whether long cells are broken, so that the table is as wide as the terminal.
    """
    table = Texttable(max_width=max(shutil.get_terminal_size((120, 0)).columns, 60) if fit else 0)
    table.set_deco(Texttable.HEADER | Texttable.VLINES | (Texttable.BORDER if frame else 0))
    table.set_cols_dtype(["t"] * len(header))
    table.header(list(header))
    table.add_rows([list(row) for row in rows], header=False)
    return str(table.draw())
