"""The normalised adjacency matrices of RecBole's graph models, from arrays.

RecBole puts each interaction into a Python dictionary first. The matrices here are the same to the last bit, and their
entries are in the same order: sums over a sparse matrix are taken in that order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor


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
    csr_matrix of float32, shape [n_nodes, n_nodes]
        Each interaction as ``(u, n_users + i)`` and ``(n_users + i, u)``, in each row in the order of the interactions.
    """
    n_users, n_items = interactions.shape
    users, items = interactions.row, interactions.col
    pairs = np.multiply(users, n_items, dtype=np.int64)
    pairs += items
    again = pd.Index(pairs).duplicated()
    if again.any():
        users, items = users[~again], items[~again]
    of_users, of_items = _rows(users, items, n_users), _rows(items, users, n_items)
    ends = np.full(n_nodes + 1, 2 * len(users), dtype=np.int64)
    ends[: n_users + 1] = of_users.indptr
    ends[n_users : n_users + n_items + 1] = of_items.indptr + np.int64(len(users))
    neighbours = np.concatenate([of_users.indices + n_users, of_items.indices])
    entries = np.ones(len(neighbours), dtype=np.float32)
    return sp.csr_matrix((entries, neighbours, ends), shape=(n_nodes, n_nodes), copy=False)


def _rows(rows: npt.NDArray[Any], columns: npt.NDArray[Any], count: int) -> sp.csr_matrix:
    matrix = sp.coo_matrix(
        (np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, columns.max(initial=0) + 1)
    )
    # SciPy sorts the entries of a row otherwise.
    matrix.has_canonical_format = True
    return matrix.tocsr()


def degree_scales(adjacency: sp.csr_matrix, power: float) -> npt.NDArray[np.float64]:
    """Return each node's degree to a power; RecBole adds 1e-7, so that a node without neighbours has a finite one."""
    scales: npt.NDArray[np.float64] = np.power(np.diff(adjacency.indptr) + 1e-7, power)
    return scales


def symmetric_normal(adjacency: sp.csr_matrix, scales: npt.NDArray[np.float64]) -> Tensor:
    """Return ``D^-1/2 A D^-1/2`` as a sparse tensor, where ``scales`` are the diagonal of ``D^-1/2``.

    Source: ``get_norm_adj_mat`` of RecBole's LightGCN, NGCF, NCL and GCMC.
    """
    return to_tensor(_scaled(adjacency, scales))


def _scaled(adjacency: sp.csr_matrix, scales: npt.NDArray[np.floating[Any]]) -> sp.coo_matrix:
    """Return ``D A D``; two products of SciPy's would bring the entries of a row back into their order."""
    entries = adjacency.tocoo()
    entries.data = scales[entries.row] * scales[entries.col]
    return entries


def _rows_scaled(adjacency: sp.csr_matrix, scales: npt.NDArray[np.floating[Any]]) -> sp.coo_matrix:
    """Return ``D A``, the entries of a row in reverse order, as SciPy's product leaves them."""
    entries = adjacency.tocoo()
    bounds = adjacency.indptr[:-1] + adjacency.indptr[1:] - 1
    entries.col = adjacency.indices[bounds[entries.row] - np.arange(adjacency.nnz)]
    entries.data = scales[entries.row]
    return entries


def laplacian(adjacency: sp.csr_matrix) -> Tensor:
    """Return ``I - D^-1 A`` as a sparse tensor.

    Source: ``get_laplacian_matrix`` of RecBole's SpectralCF.
    """
    n_nodes = adjacency.shape[0]
    nodes = torch.arange(n_nodes).repeat(2, 1)
    identity = torch.sparse_coo_tensor(nodes, torch.ones(n_nodes), (n_nodes, n_nodes), check_invariants=False)
    return identity - to_tensor(_rows_scaled(adjacency, degree_scales(adjacency, -1)))


def interaction_normal(adjacency: sp.csr_matrix, n_users: int, mode: str) -> tuple[Tensor, Tensor]:
    """Return the normalised rows of users and columns of entities, and the whole matrix, as sparse tensors.

    Parameters
    ----------
    adjacency : csr_matrix, shape [n_users + n_entities, n_users + n_entities]
        See `bipartite_adjacency`.
    n_users : int
        How many of the nodes are users; they come first.
    mode : {"bi", "si"}
        ``D^-1/2 A D^-1/2`` or ``D^-1 A``; a node without neighbours has a row of zeros.

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
    normal = (_scaled if mode == "bi" else _rows_scaled)(adjacency, scales)
    count = adjacency.indptr[n_users]
    of_users = normal.data[:count], normal.col[:count] - n_users, adjacency.indptr[: n_users + 1]
    part = sp.csr_matrix(of_users, shape=(n_users, adjacency.shape[0] - n_users))
    part.sort_indices()
    return to_tensor(part.tocoo()), to_tensor(normal)


def to_tensor(matrix: sp.coo_matrix) -> Tensor:
    """Return a matrix as a sparse tensor of float32, its entries in the same order."""
    places = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64, copy=False))
    values = torch.from_numpy(matrix.data.astype(np.float32, copy=False))
    return torch.sparse_coo_tensor(places, values, matrix.shape, check_invariants=False)
