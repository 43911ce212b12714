"""The write itself: values into the rows of one table, in place."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_llminit.initialization.embedding_table import EmbeddingTable
from recbole_llminit.initialization.freeze import freeze_rows_
from recbole_llminit.initialization.report import TableReport
from recbole_llminit.initialization.rows import BLOCK_ROWS, Rows


@torch.no_grad()
def write_rows_(table: EmbeddingTable, rows: Rows, *, trainable: bool) -> TableReport:
    """Write values into a table, in place; rows without a value stay as they are.

    Parameters
    ----------
    table : EmbeddingTable
        The table. Where the model has scaled its rows to length 1, the written ones are scaled to it as well.
    rows : Rows
        The values by user or item id, shape ``[table.rows, table.width]``.
    trainable : bool
        Whether training may change item rows that were written.
    """
    whole = table.values
    unit = _has_unit_rows(whole)
    before, after = _RunningStd(), _RunningStd()
    for ids in rows.blocks():
        places = torch.from_numpy(ids).to(whole.device)
        before.add(whole[places])
        new = torch.from_numpy(rows.values[ids])
        if unit:
            new = functional.normalize(new, dim=1)
        whole.index_copy_(0, places, new.to(whole.device, whole.dtype))
        after.add(new)
    frozen = table.side == "item" and not trainable
    if frozen:
        freeze_rows_(table, torch.from_numpy(np.flatnonzero(rows.has_value)))
    return TableReport(
        name=table.name,
        label=table.label,
        side=table.side,
        shape=(table.rows, table.width),
        rows_written=rows.count,
        rows_left=table.rows - rows.count,
        unit=unit,
        frozen=frozen,
        std_before=before.std,
        std_after=after.std,
    )


@torch.no_grad()
def rewrite_rows_(table: EmbeddingTable, rows: Rows, factor: float) -> None:
    """Write values into a table once more, multiplied by a factor."""
    whole = table.values
    for ids in rows.blocks():
        new = torch.from_numpy(rows.values[ids] * np.float32(factor))
        whole.index_copy_(0, torch.from_numpy(ids).to(whole.device), new.to(whole.device, whole.dtype))


class _RunningStd:
    """The standard deviation of numbers that come in blocks."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = 0.0

    def add(self, block: Tensor) -> None:
        """Add a block of numbers (Chan, Golub and LeVeque 1983, formula 2.1)."""
        variance, mean = (float(value) for value in torch.var_mean(block.float(), correction=0))
        count = self._count + block.numel()
        shift = mean - self._mean
        self._squares += variance * block.numel() + shift**2 * self._count * block.numel() / count
        self._mean += shift * block.numel() / count
        self._count = count

    @property
    def std(self) -> float:
        """The standard deviation of all numbers so far; 0 of none."""
        return math.sqrt(self._squares / self._count) if self._count else 0.0


def _has_unit_rows(rows: Tensor) -> bool:
    """Whether the model's constructor scaled each row to length 1, as KTUP does."""
    blocks = (rows[first : first + BLOCK_ROWS].float() for first in range(1, len(rows), BLOCK_ROWS))
    return len(rows) > 1 and all(bool(((block.norm(dim=1) - 1).abs() < 1e-4).all()) for block in blocks)
