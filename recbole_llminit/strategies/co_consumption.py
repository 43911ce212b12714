"""What training interactions say about items: how often each was consumed, and which were consumed together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings

# How many numbers are gathered from the store at a time: 32 MB in float64.
_GATHERED_NUMBERS = 1 << 22


def item_degrees(interactions: csr_matrix) -> npt.NDArray[np.float32]:
    """Return the training degree of each item, shape ``[n_items]``, from interactions ``[n_users, n_items]``."""
    return np.asarray(interactions.sum(axis=0)).ravel()


class CoConsumption:
    """The walk from an item to one of its training users, and on to another of the user's training items.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors; the walk skips items without one.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.

    Attributes
    ----------
    has_mean : ndarray of bool, shape [n_items]
        Whether the walk from the item ends somewhere: a user of the item has another item.

    Notes
    -----
    Every user has the same weight, with two items or with a thousand; counting pairs would let the thousand outweigh
    all others. The graph of items is never built. The mean over an item's neighbors is the users' sums, summed over the
    item's users, less the item's own part: the cost is that of the interactions times the columns, however long the
    histories are. Vectors are gathered from the store for some users at a time, so that memory grows with neither
    number.
    """

    def __init__(self, embeddings: AlignedEmbeddings, interactions: csr_matrix) -> None:
        self.embeddings = embeddings
        histories = interactions
        if not (embeddings.rows[interactions.indices] >= 0).all():
            histories = (interactions @ diags((embeddings.rows >= 0).astype(np.float32))).tocsr()
            histories.eliminate_zeros()
        lengths = np.diff(histories.indptr)
        # A user with one item leads to no other.
        self._histories = histories[np.flatnonzero(lengths > 1)]
        self._others = 1 / (lengths[lengths > 1] - 1)
        self._users = np.bincount(self._histories.indices, minlength=embeddings.n_items)
        self._own = self._histories.T @ self._others
        self.has_mean: npt.NDArray[np.bool_] = self._users > 0

    def moment(self, mean: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the weighted sum of ``(x - mean) (y - mean)^T`` over items ``x`` and the ends ``y`` of their walks.

        Parameters
        ----------
        mean : ndarray of float64, shape [llm_dim]
            What is subtracted from each vector.
        weights : ndarray of float64, shape [n_items]
            The weight of each item; items without a mean have none.
        """
        shares = weights / np.maximum(self._users, 1)
        total = np.zeros((len(mean), len(mean)))
        for users, (sums, shared) in _sums(
            self._histories, (None, shares), lambda items: self._read(items) - mean, len(mean)
        ):
            shared *= self._others[users, None]
            total += shared.T @ sums
        # A walk does not end at the item where it began.
        roots = np.sqrt(shares * self._own)
        for items, block in self.embeddings.blocks():
            rows = (block - mean) * roots[items, None]
            total -= rows.T @ rows
        return total

    def sums(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield each user's sum of item vectors, divided by the number of the other items, for some users at a time."""
        for users, (sums,) in _sums(self._histories, (None,), self._read, self.embeddings.width):
            yield (sums * self._others[users, None]).astype(np.float32)

    def means(
        self, items: npt.NDArray[np.int64], sums: npt.NDArray[np.float32]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Yield items, their vectors and the means of those of co-consumed items, some at a time.

        Parameters
        ----------
        items : ndarray of int, shape [k]
            Items with a vector, in the order of the store. The mean of an item without one is zero.
        sums : ndarray of float32, shape [n, llm_dim]
            What `sums` yielded, in one array; it may be memory-mapped.
        """
        users = self._histories.T.tocsr()[items]
        for part, (means,) in _sums(users, (None,), lambda rows: sums[rows].astype(np.float64), sums.shape[1]):
            ids = items[part]
            vectors = self.embeddings.read(ids).astype(np.float64)
            means -= self._own[ids, None] * vectors
            means /= np.maximum(self._users[ids, None], 1)
            yield ids, vectors, means

    def _read(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the vectors of items in any order."""
        rows = self.embeddings.rows[items]
        order = np.argsort(rows)
        vectors = np.empty((len(items), self.embeddings.width))
        vectors[order] = self.embeddings.embeddings.take(rows[order])
        return vectors


def _sums(
    matrix: csr_matrix,
    weights: Sequence[npt.NDArray[np.float64] | None],
    read: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    width: int,
) -> Iterator[tuple[slice, list[npt.NDArray[np.float64]]]]:
    """Yield products of a sparse matrix and a table that is not in memory, some rows of the matrix at a time.

    Parameters
    ----------
    matrix : csr_matrix, shape [n, m]
        The places of the entries.
    weights : sequence of ndarray of float64, each of shape [m], or None
        The values of the entries by column, None for 1; there is one product for each.
    read : callable
        Returns rows of the table, shape ``[k, width]``.
    """
    count = max(1, _GATHERED_NUMBERS // width)
    bounds = matrix.indptr.astype(np.int64)
    first, n_rows = 0, matrix.shape[0]
    while first < n_rows:
        last = int(np.searchsorted(bounds, bounds[first] + count, side="right")) - 1
        # One row may have more entries than are gathered at a time.
        last = max(first + 1, min(last, first + count))
        products = [np.zeros((last - first, width)) for _ in weights]
        for low in range(bounds[first], bounds[last], count):
            high = min(low + count, bounds[last])
            wanted, places = np.unique(matrix.indices[low:high], return_inverse=True)
            ends = np.clip(bounds[first : last + 1], low, high) - low
            table = read(wanted)
            for product, values in zip(products, weights, strict=True):
                entries = np.ones(high - low) if values is None else values[wanted][places]
                product += csr_matrix((entries, places, ends), shape=(last - first, len(wanted))) @ table
        yield slice(first, last), products
        first = last


def smooth(embeddings: AlignedEmbeddings, interactions: csr_matrix, share: float) -> AlignedEmbeddings:
    """Blend each vector ``x`` with the mean ``m`` of those of co-consumed items: ``(1 - share) * x + share * m``.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions, which say what is consumed together; see `CoConsumption`.
    share : float
        The weight of the co-consumed items' mean, from 0 to 1. An item without co-consumed items keeps its vector.

    Returns
    -------
    AlignedEmbeddings
        The blended vectors in float32, memory-mapped from a temporary file that is deleted with them.

    Raises
    ------
    LLMInitError
        If the temporary file cannot be written.
    """
    items = embeddings.in_store_order(embeddings.items)
    walk = CoConsumption(embeddings, interactions)
    if not walk.has_mean.any():
        return embeddings
    part = np.where(walk.has_mean, share, 0)
    width = embeddings.width
    try:
        with tempfile.TemporaryFile() as sums_file, tempfile.TemporaryFile() as file:
            for block in walk.sums():
                block.tofile(sums_file)
            sums = np.memmap(sums_file, dtype=np.float32, mode="r").reshape(-1, width)
            for ids, vectors, means in walk.means(items, sums):
                (vectors + part[ids, None] * (means - vectors)).astype(np.float32).tofile(file)
            mapped = np.memmap(file, dtype=np.float32, mode="r", shape=(len(items), width))
    except OSError as error:
        needed = (len(items) + interactions.shape[0]) * width * 4 / 1e6
        raise LLMInitError(
            f"the smoothed vectors, and the users' sums they are made from (up to {needed:,.0f} MB), cannot be written "
            f"to {tempfile.gettempdir()} ({error}): make room there, or set TMPDIR to another folder"
        ) from error
    rows = np.full_like(embeddings.rows, -1)
    rows[items] = np.arange(len(items))
    whole = embeddings.embeddings
    smoothed = ItemEmbeddings(embeddings.tokens.take(items), (mapped,), whole.source, whole.fingerprint, whole.metadata)
    return replace(embeddings, embeddings=smoothed, rows=rows)
