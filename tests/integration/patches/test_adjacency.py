"""The bipartite graph as a matrix; the normalized matrices are compared with RecBole's in test_graph_patches.py."""

from __future__ import annotations

import scipy.sparse as sp

from recbole_llminit.integration.patches import adjacency


def test_the_bipartite_graph_literally() -> None:
    matrix = sp.coo_matrix(([5.0, 1.0, 2.0], ([1, 0, 1], [0, 1, 0])), shape=(2, 2))
    found = adjacency.bipartite_adjacency(matrix, 5)
    assert found.toarray().tolist() == [
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
