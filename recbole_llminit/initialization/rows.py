"""Values for the rows of a table, and the ways to go through them some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recbole_llminit.strategies.base import Factors, Values, values_by_id
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

# So many rows stay in the processor's cache.
BLOCK_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Rows:
    """The values of users or items by id.

    Parameters
    ----------
    values : ndarray of float32, shape [n, width]
        One row per user or item; zero for those without a value.
    has_value : ndarray of bool, shape [n]
        Which users or items have a value.
    """

    values: npt.NDArray[np.float32]
    has_value: npt.NDArray[np.bool_]

    @classmethod
    def of_all_but_padding(cls, values: npt.NDArray[np.float32]) -> Rows:
        """Take values of which only the first row, ``[PAD]``, is none."""
        return cls(values, np.arange(len(values)) > 0)

    @classmethod
    def of_nonzero(cls, values: npt.NDArray[np.float32]) -> Rows:
        """Take values of which rows of zeros, and the first row, ``[PAD]``, are none; ``[PAD]``'s are set to zero."""
        values[0] = 0
        has_value: npt.NDArray[np.bool_] = np.asarray(values.any(axis=1))
        return cls(values, has_value)

    @property
    def count(self) -> int:
        """The number of rows with a value."""
        return int(self.has_value.sum())

    def blocks(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the ids with a value, so many at a time that their rows stay in the processor's cache."""
        ids = np.flatnonzero(self.has_value)
        for first in range(0, len(ids), BLOCK_ROWS):
            yield ids[first : first + BLOCK_ROWS]

    def multiply_(self, factor: float) -> None:
        """Multiply the values in place; a number that is then too large for float32 becomes an infinity."""
        if factor != 1:
            values = self.values
            with np.errstate(over="ignore", invalid="ignore"):
                values *= factor

    def filled_(self) -> Rows:
        """Write the mean of all rows into the missing ones, in place; of the rows returned only ``[PAD]`` has none."""
        has_value = self.has_value.copy()
        has_value[1:] = True
        self.values[~self.has_value] = self.values.sum(axis=0, dtype=np.float64) / self.count
        return Rows(self.values, has_value)


def reduce_rows(embeddings: AlignedEmbeddings, reduction: Values, width: int) -> Rows:
    """Return the values of all items (or users) by id, and which of them have any; see `values_by_id`."""
    values = values_by_id(embeddings, reduction, width)
    return Rows.of_nonzero(values) if isinstance(reduction, Factors) else Rows(values, embeddings.rows >= 0)
