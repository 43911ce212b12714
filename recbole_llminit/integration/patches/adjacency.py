"""The normalized adjacency matrices of RecBole's graph models, from arrays.

RecBole puts each interaction into a Python dictionary first. The matrices here are the same to the last bit, and their
entries are in the same order: sums over a sparse matrix are taken in that order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

_BLOCK_ENTRIES = 1 << 17


def bipartite_adjacency(interactions: sp.coo_matrix, n_nodes: int) -> sp.csr_matrix:
    """Return the graph of users and items as a matrix of 0 and 1.

    Parameters
    ----------
    interactions : coo_matrix, shape [n_users, n_items]
        Which user has which item; an entry may stand more than once, and its value does not count.
    n_nodes : int
        The users and what follows them: the items, or entities that begin with the items.

    Returns
    -------
    csr_matrix of int8, shape [n_nodes, n_nodes]
        Each interaction as ``(u, n_users + i)`` and ``(n_users + i, u)``, in each row in the order of the interactions.
    """
    n_users, n_items = interactions.shape
    pairs = _unordered(interactions.row, interactions.col, interactions.shape)
    of_users = pairs.tocsr()
    # The rows of a column are sorted after a conversion: where a pair stands twice, equal ones are neighbors.
    if not of_users.tocsc().has_canonical_format:
        again = pd.Index(np.multiply(pairs.row, n_items, dtype=np.int64) + pairs.col).duplicated()
        pairs = _unordered(pairs.row[~again], pairs.col[~again], interactions.shape)
        of_users = pairs.tocsr()
    of_items = pairs.tocsc()
    count = pairs.nnz
    neighbors = np.empty(2 * count, dtype=of_users.indices.dtype)
    np.add(of_users.indices, n_users, out=neighbors[:count])
    neighbors[count:] = of_items.indices
    ends = np.full(n_nodes + 1, 2 * count, dtype=np.int64)
    ends[: n_users + 1] = of_users.indptr
    ends[n_users : n_users + n_items + 1] = of_items.indptr + np.int64(count)
    return sp.csr_matrix((np.ones(2 * count, dtype=np.int8), neighbors, ends), shape=(n_nodes, n_nodes), copy=False)


def _unordered(rows: npt.NDArray[Any], columns: npt.NDArray[Any], shape: tuple[int, int]) -> sp.coo_matrix:
    matrix = sp.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=shape)
    # SciPy sorts the entries of a row otherwise.
    matrix.has_canonical_format = True
    return matrix


def degree_scales(adjacency: sp.csr_matrix, power: float) -> npt.NDArray[np.float64]:
    """Return each node's degree to a power; RecBole adds 1e-7, so that a node without neighbors has a finite one."""
    scales: npt.NDArray[np.float64] = np.power(np.diff(adjacency.indptr) + 1e-7, power)
    return scales


def symmetric_normal(adjacency: sp.csr_matrix, scales: npt.NDArray[np.float64]) -> Tensor:
    """Return ``D^-1/2 A D^-1/2`` as a sparse tensor, where ``scales`` are the diagonal of ``D^-1/2``.

    Source: ``get_norm_adj_mat`` of RecBole's LightGCN, NGCF, NCL and GCMC.
    """
    return _scaled(adjacency, scales, scales)


def _scaled(
    matrix: sp.csr_matrix,
    of_rows: npt.NDArray[np.floating[Any]],
    of_columns: npt.NDArray[np.floating[Any]] | None = None,
) -> Tensor:
    """Return a matrix of ones, scaled by a diagonal from the left and one from the right, as a sparse tensor.

    Without the one from the right the entries of a row come in reverse order: SciPy's product leaves them so, and a
    second one brings them back.
    """
    ends = matrix.indptr.astype(np.int64, copy=False)
    places, values = np.empty((2, matrix.nnz), dtype=np.int64), np.empty(matrix.nnz, dtype=np.float32)
    # Some rows at a time: new memory costs more than the arithmetic.
    for first, last in pairwise([*np.searchsorted(ends, range(0, matrix.nnz, _BLOCK_ENTRIES)), matrix.shape[0]]):
        part, lengths = slice(ends[first], ends[last]), np.diff(ends[first : last + 1])
        columns = matrix.indices[part]
        factors = np.repeat(of_rows[first:last], lengths)
        if of_columns is None:
            mirrored = np.repeat(ends[first:last] + ends[first + 1 : last + 1] - 1 - 2 * ends[first], lengths)
            columns = columns[mirrored - np.arange(len(columns))]
        else:
            factors *= of_columns[columns]
        places[0, part], places[1, part] = np.repeat(np.arange(first, last), lengths), columns
        values[part] = factors
    return torch.sparse_coo_tensor(
        torch.from_numpy(places), torch.from_numpy(values), matrix.shape, check_invariants=False
    )


def laplacian(adjacency: sp.csr_matrix) -> Tensor:
    """Return ``I - D^-1 A`` as a sparse tensor.

    Source: ``get_laplacian_matrix`` of RecBole's SpectralCF.
    """
    n_nodes = adjacency.shape[0]
    nodes = torch.arange(n_nodes).repeat(2, 1)
    identity = torch.sparse_coo_tensor(nodes, torch.ones(n_nodes), (n_nodes, n_nodes), check_invariants=False)
    return identity - _scaled(adjacency, degree_scales(adjacency, -1))


def interaction_normal(adjacency: sp.csr_matrix, n_users: int, mode: str) -> tuple[Tensor, Tensor]:
    """Return the normalized rows of users and columns of entities, and the whole matrix, as sparse tensors.

    Parameters
    ----------
    adjacency : csr_matrix, shape [n_users + n_entities, n_users + n_entities]
        See `bipartite_adjacency`.
    n_users : int
        How many of the nodes are users; they come first.
    mode : {"bi", "si"}
        ``D^-1/2 A D^-1/2`` or ``D^-1 A``; a node without neighbors has a row of zeros.

    Raises
    ------
    NotImplementedError
        For another mode, as in RecBole.

    Notes
    -----
    Source: ``get_norm_inter_matrix`` of RecBole's KGIN and MCCLK.
    """
    if mode not in ("bi", "si"):
        raise NotImplementedError(f"Normalize mode [{mode}] has not been implemented.")
    degrees = np.diff(adjacency.indptr).astype(np.float32)
    with np.errstate(divide="ignore"):
        scales = np.power(degrees, -0.5 if mode == "bi" else -1)
    scales[np.isinf(scales)] = 0
    whole = _scaled(adjacency, scales, scales if mode == "bi" else None)
    neighbors = adjacency.indices[: adjacency.indptr[n_users]] - n_users
    rows = sp.csr_matrix(
        (np.ones(len(neighbors), dtype=np.int8), neighbors, adjacency.indptr[: n_users + 1]),
        shape=(n_users, adjacency.shape[0] - n_users),
        copy=False,
    )
    rows.sort_indices()
    of_columns = scales[n_users:] if mode == "bi" else np.ones(rows.shape[1], dtype=np.float32)
    return _scaled(rows, scales[:n_users], of_columns), whole
