"""Tables of a graph model whose propagation ends in wanted vectors: what it does to them is undone beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from recbole_llminit.initialization.embedding_table import EmbeddingTable, Side
from recbole_llminit.initialization.rows import Rows
from recbole_llminit.initialization.writer import rewrite_rows_

_STEPS = 20
# Of the difference of wanted and final vectors, relative to the wanted ones' length.
_NEAR = 1e-3


def undo_propagation_(
    writes: Sequence[tuple[EmbeddingTable, Rows]], final_vectors: Callable[[], Mapping[Side, Tensor]]
) -> None:
    """Change written values until the model's final vectors are what the values were, in place.

    Parameters
    ----------
    writes : sequence of (EmbeddingTable, Rows)
        The table of the users and that of the items, with the values that were written. Rows without a value stay.
    final_vectors : callable
        Returns the vectors of users and items that the model scores by, of the tables' shapes.

    Notes
    -----
    LightGCN (arXiv 2002.02126, equation 8) scores by ``E = (1 + A + ... + A^k) E0 / (k + 1)``, a mean over layers, with
    ``A`` the normalized adjacency matrix, whose eigenvalues lie between -1 and 1. The iteration
    ``E0 += W - E`` (Richardson, 1910) converges to the ``E0`` whose final vectors are ``W``, as the eigenvalues of the
    mean lie between 0 and 1. With an odd number of layers one of them is 0: that direction, which the model cannot
    have, stays where it was. If the last difference is no smaller than the first, the values are restored.
    """
    wanted = [rows.values.copy() for _, rows in writes]
    length = np.sqrt(sum(float(np.vdot(values, values)) for values in wanted))
    first = last = np.inf
    for step in range(_STEPS + 1):
        vectors = final_vectors()
        differences = [
            (values - vectors[table.side].float().cpu().numpy()) * rows.has_value[:, None]
            for values, (table, rows) in zip(wanted, writes, strict=True)
        ]
        last = np.sqrt(sum(float(np.vdot(one, one)) for one in differences))
        first = last if step == 0 else first
        if step == _STEPS or last < _NEAR * length:
            break
        for difference, (table, rows) in zip(differences, writes, strict=True):
            np.add(rows.values, difference, out=rows.values)
            rewrite_rows_(table, rows, 1.0)
    if not last < first:
        for values, (table, rows) in zip(wanted, writes, strict=True):
            rows.values[:] = values
            rewrite_rows_(table, rows, 1.0)
