"""Values by item id: reduced vectors, and the mean for items without one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recbole_llminit.initialization.rows import Rows, reduce_rows
from recbole_llminit.strategies.base import Affine, Columns, Drawn, Factors
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


def test_reduced_vectors_literally(embed: Callable[..., AlignedEmbeddings]) -> None:
    vectors = embed([1, 2, 3], None, [7, 8, 9])
    columns = reduce_rows(vectors, Columns((0, 2)), 2)
    assert columns.values.tolist() == [[0, 0], [1, 3], [0, 0], [7, 9]]
    assert columns.has_value.tolist() == [False, True, False, True] and columns.count == 2
    affine = reduce_rows(vectors, Affine(np.array([1.0, 1, 1]), np.array([[1.0], [10], [100]])), 1)
    assert affine.values.tolist() == [[0], [210], [0], [876]]
    drawn = reduce_rows(vectors, Drawn(2, 1.0, 3), 2)
    assert drawn.values[[1, 3]].tolist() == Drawn(2, 1.0, 3).draw(2).tolist() and not drawn.values[[0, 2]].any()


def test_missing_rows_are_filled_with_the_mean_and_padding_stays_without_a_value() -> None:
    rows = Rows(np.array([[0, 0], [1, 3], [0, 0], [9, 11]], dtype=np.float32), np.array([False, True, False, True]))
    filled = rows.filled_()
    assert filled.values is rows.values and filled.values.tolist()[1:] == [[1, 3], [5, 7], [9, 11]]
    assert filled.has_value.tolist() == [False, True, True, True]
    assert rows.has_value.tolist() == [False, True, False, True]


def test_factors_are_copied_and_rows_of_zeros_have_no_value(embed: Callable[..., AlignedEmbeddings]) -> None:
    """Whether an item has a vector does not matter: its clicks alone may have given it a value."""
    factors = Factors(np.array([[9, 9], [1, 2], [3, 4], [0, 0]], dtype=np.float32), np.zeros((2, 2), dtype=np.float32))
    rows = reduce_rows(embed([1, 2, 3], None, [7, 8, 9]), factors, 2)
    assert rows.values.tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]
    assert rows.has_value.tolist() == [False, True, True, False]
    rows.multiply_(2)
    assert factors.items.tolist() == [[9, 9], [1, 2], [3, 4], [0, 0]]
