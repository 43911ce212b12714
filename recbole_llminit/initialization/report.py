"""The report of an initialization: what was written, from which vectors, and what was skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from recbole_llminit.files import write_text
from recbole_llminit.initialization.embedding_table import Side
from recbole_llminit.initialization.users import FACTORS, LOW_COVERAGE, Aggregation
from recbole_llminit.text_table import draw_table


@dataclass(frozen=True)
class TableReport:
    """What was written into one table.

    Parameters
    ----------
    name : str
        The parameter's name.
    label : str
        The part of it: ``name``, ``name.T`` where its columns are the users or items, or ``name[41:71]``.
    side : {"user", "item"}
        Whose rows were written.
    shape : tuple of int
        The number of users or items, and the width.
    rows_written, rows_left : int
        The number of rows that were written, and of those that keep the model's own values.
    unit : bool
        Whether the model holds its rows at length 1, so that the written rows were scaled to it.
    frozen : bool
        Whether training leaves the written rows as they are.
    std_before, std_after : float
        The standard deviation of the written rows, as the model made them and as they are now.
    """

    name: str
    label: str
    side: Side
    shape: tuple[int, int]
    rows_written: int
    rows_left: int
    unit: bool
    frozen: bool
    std_before: float
    std_after: float

    def __str__(self) -> str:
        """Describe the table in one line of the log."""
        notes = ", each of length 1 as the model has them" if self.unit else ""
        if self.frozen:
            notes += ", frozen"
        return (
            f"{self.shape[0]:,} x {self.shape[1]}, {self.rows_written:,} {self.side} rows written{notes}, "
            f"{self.rows_left:,} left; std {self.std_before:.4f} -> {self.std_after:.4f}"
        )


@dataclass(frozen=True)
class InitReport:
    """What an initialization wrote and what it skipped; prints as a table.

    Parameters
    ----------
    model : str
        The model's class.
    strategy : str
        The strategy with its parameters.
    shuffled : bool
        Whether the vectors went to the items in random order (the control ``init_shuffle``).
    encoder, source, fingerprint : str
        Where the vectors came from.
    llm_dim : int
        The number of dimensions of a vector.
    reductions : mapping of int to dict
        The fitted map for each table width, in JSON types.
    scale : str
        ``init_scale``.
    user : str
        How users were initialized: the aggregation, ``factors``, ``none``, or the source of their own vectors.
    items, items_with_vector, users, users_with_items : int
        Coverage, without ``[PAD]``; for users with vectors of their own, how many have one.
    tables : tuple of TableReport
        The tables that were written.
    skipped : mapping of str to str
        The other tables, each with the reason.
    notes : tuple of str
        What looked wrong with the ids of the vectors.
    seconds : float
        The time from opened vectors to written tables.
    """

    model: str
    strategy: str
    shuffled: bool
    encoder: str
    source: str
    fingerprint: str
    llm_dim: int
    reductions: Mapping[int, Mapping[str, Any]]
    scale: str
    user: str
    items: int
    items_with_vector: int
    users: int
    users_with_items: int
    tables: tuple[TableReport, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before a long run."""
        if self.items_with_vector >= LOW_COVERAGE * self.items:
            return self.notes
        return (
            *self.notes,
            f"only {self.items_with_vector:,} of {self.items:,} items "
            f"({self.items_with_vector / self.items:.0%}) have a vector in {self.source}: the others keep the model's "
            f"own initial values; check that the file belongs to this dataset",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report in JSON types."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def save(self, path: str | Path) -> None:
        """Write the report as JSON; the file appears whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def __str__(self) -> str:
        """Draw the report as the table that stands in the log."""
        shuffled = ", the vectors' rows shuffled" if self.shuffled else ""
        rows = [
            ["strategy", self.strategy + shuffled],
            ["encoder", f"{self.encoder} ({self.llm_dim} dimensions)" if self.llm_dim else self.encoder],
            ["vectors", f"{self.source} [{self.fingerprint}]"],
            ["coverage", f"{self.items_with_vector:,} of {self.items:,} items, {self._describe_users()}"],
            *([table.label, str(table)] for table in self.tables),
            ["skipped", "\n".join([self._describe_rows_left(), *(": ".join(one) for one in self.skipped.items())])],
            ["seconds", f"{self.seconds:.2f}"],
        ]
        return draw_table(["LLMInit", self.model], rows)

    def _describe_users(self) -> str:
        if not any(table.side == "user" for table in self.tables):
            return "no user table written"
        how = "" if self.user == "mean" else f" ({self.user})"
        return f"{self.users_with_items:,} of {self.users:,} users{how}"

    def _describe_rows_left(self) -> str:
        """Name the rows that keep the model's own values."""
        rows = ["[PAD] rows"]
        have_vectors = self.user not in (FACTORS, *get_args(Aggregation))
        users_lack = "users without a vector" if have_vectors else "users without training items"
        for side, lacking in (("item", "items without a vector"), ("user", users_lack)):
            # Without [PAD].
            left = max((table.rows_left for table in self.tables if table.side == side), default=1) - 1
            if left:
                rows.append(f"{left:,} {lacking}")
        return ", ".join(rows)
