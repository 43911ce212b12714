"""What the training interactions say of items: how often each was consumed, and which together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

from recbole_llminit.embeddings import AlignedEmbeddings, ItemEmbeddings
from recbole_llminit.errors import LLMInitError

# What a slab of columns and its sums over users may take together, in numbers of four bytes: 256 MB.
_SLAB_NUMBERS = 1 << 26


def item_degrees(interactions: csr_matrix) -> npt.NDArray[np.float32]:
    """Return the training degree of each item, shape ``[n_items]``, from interactions ``[n_users, n_items]``."""
    return np.asarray(interactions.sum(axis=0)).ravel()


@dataclass(frozen=True)
class Slab:
    """Some columns of all items' vectors, beside the means of those of co-consumed items.

    Parameters
    ----------
    columns : slice
        Which columns.
    values, means : ndarray of float32, shape [n_items, n_columns]
        By item id; zero for an item without a vector, or without a mean.
    """

    columns: slice
    values: npt.NDArray[np.float32]
    means: npt.NDArray[np.float32]


class CoConsumption:
    """The walk from an item to one of its training users, and on to another of the user's training items.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors; items without one are not walked over.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.

    Attributes
    ----------
    has_mean : ndarray of bool, shape [n_items]
        Whether a user of the item has another item.

    Notes
    -----
    A user weighs alike whether they have two items or a thousand; counting pairs would let the thousand outweigh all.
    """

    def __init__(self, embeddings: AlignedEmbeddings, interactions: csr_matrix) -> None:
        self.embeddings = embeddings
        self._histories = (interactions @ diags((embeddings.rows >= 0).astype(np.float32))).tocsr()
        self._histories.eliminate_zeros()
        lengths = np.diff(self._histories.indptr)
        self._others = np.where(lengths > 1, 1 / np.maximum(lengths - 1, 1), 0).astype(np.float32)
        self._users = self._histories.T @ (lengths > 1).astype(np.float32)
        self.has_mean: npt.NDArray[np.bool_] = self._users > 0

    def slabs(self) -> Iterator[Slab]:
        """Yield all columns, so many at a time that memory does not grow with their number.

        Notes
        -----
        The graph of items is not made: the mean is the users' sums, summed over the item's users, less the item's own
        part. The cost is that of the interactions times the columns, however long the histories are.
        """
        n_users, n_items = self._histories.shape
        width = self.embeddings.width
        step = max(1, min(width, _SLAB_NUMBERS // (n_users + 4 * n_items)))
        own = (self._histories.T @ self._others)[:, None]
        users = np.where(self.has_mean, self._users, 1)[:, None]
        for first in range(0, width, step):
            columns = slice(first, min(first + step, width))
            values = np.zeros((n_items, columns.stop - first), dtype=np.float32)
            for items, block in self.embeddings.blocks():
                values[items] = block[:, columns]
            sums = self._histories @ values
            sums *= self._others[:, None]
            means = self._histories.T @ sums
            means -= own * values
            means /= users
            means[~self.has_mean] = 0
            yield Slab(columns, values, means)


def smooth(embeddings: AlignedEmbeddings, interactions: csr_matrix, share: float) -> AlignedEmbeddings:
    """Blend each vector ``x`` with the mean ``m`` of those of co-consumed items: ``(1 - share) * x + share * m``.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions, which say what is consumed together; see `CoConsumption`.
    share : float
        How much of the value is the others', from 0 to 1. An item without others keeps its vector.

    Returns
    -------
    AlignedEmbeddings
        The blended vectors in float32, mapped from a temporary file that goes with them.

    Raises
    ------
    LLMInitError
        If the temporary file cannot be written.
    """
    items = embeddings.items
    walk = CoConsumption(embeddings, interactions)
    part = np.where(walk.has_mean, np.float32(share), np.float32(0))[items, None]
    try:
        with tempfile.TemporaryFile() as file:
            for slab in walk.slabs():
                own = slab.values[items]
                # Column after column, as the slabs come.
                (own + part * (slab.means[items] - own)).T.tofile(file)
            shape = (len(items), embeddings.width)
            mapped = np.memmap(file, dtype=np.float32, mode="r", shape=shape, order="F")
    except OSError as error:
        size = len(items) * embeddings.width * 4 / 1e6
        raise LLMInitError(
            f"the smoothed vectors ({size:,.0f} MB) cannot be written to {tempfile.gettempdir()} ({error}): make room "
            f"there, or set TMPDIR to another folder"
        ) from error
    rows = np.full_like(embeddings.rows, -1)
    rows[items] = np.arange(len(items))
    whole = embeddings.embeddings
    tokens = np.asarray(embeddings.tokens, dtype=object)[items]
    smoothed = ItemEmbeddings(tokens, (mapped,), whole.source, whole.fingerprint, whole.facts)
    return replace(embeddings, embeddings=smoothed, rows=rows)
