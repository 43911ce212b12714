"""What the training interactions say of items: how often each was consumed, and which together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

from recbole_llminit.embeddings import AlignedEmbeddings, ItemEmbeddings
from recbole_llminit.errors import LLMInitError


def item_degrees(interactions: csr_matrix) -> npt.NDArray[np.float32]:
    """Return the training degree of each item, shape ``[n_items]``, from interactions ``[n_users, n_items]``."""
    return np.asarray(interactions.sum(axis=0)).ravel()


def neighbour_means(
    embeddings: AlignedEmbeddings, interactions: csr_matrix
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Yield the items' vectors beside the mean of those of co-consumed items.

    The mean of item ``i`` is over its training users, of the mean over their other training items with a vector: where
    a walk from the item to a user of it and on to another item of theirs ends.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.

    Yields
    ------
    items : ndarray of int, shape [k]
        Item ids, in the order of the store.
    vectors : ndarray, shape [k, llm_dim]
        Their vectors.
    means : ndarray of float32, shape [k, llm_dim]
        The means; zero where there is none.
    has_mean : ndarray of bool, shape [k]
        Whether a user of the item has another item with a vector.

    Notes
    -----
    Neither the graph of items nor the means are held whole: those of a block are made from blocks.
    """
    by_user = (interactions @ diags((embeddings.rows >= 0).astype(np.float32))).tocsr()
    by_user.eliminate_zeros()
    by_item = by_user.T.tocsr()
    lengths = np.diff(by_user.indptr)
    others = (diags(np.where(lengths > 1, 1 / np.maximum(lengths - 1, 1), 0).astype(np.float32)) @ by_user).tocsr()
    others.eliminate_zeros()
    for items, vectors in embeddings.blocks():
        weights = by_item[items] @ others
        weights.data *= weights.indices != np.repeat(items, np.diff(weights.indptr))
        weights.eliminate_zeros()
        means = np.zeros(vectors.shape, dtype=np.float32)
        for other_items, other_vectors in embeddings.blocks(np.unique(weights.indices)):
            means += weights[:, other_items] @ other_vectors.astype(np.float32, copy=False)
        total = np.asarray(weights.sum(axis=1)).ravel()
        means /= np.where(total > 0, total, 1)[:, None]
        yield items, vectors, means, total > 0


def smooth(embeddings: AlignedEmbeddings, interactions: csr_matrix, share: float) -> AlignedEmbeddings:
    """Blend each vector ``x`` with the mean ``m`` of those of co-consumed items: ``(1 - share) * x + share * m``.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions, which say what is consumed together; see `neighbour_means`.
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
    rows = np.full_like(embeddings.rows, -1)
    written: list[npt.NDArray[np.int64]] = []
    try:
        with tempfile.TemporaryFile() as file:
            for items, vectors, means, has_mean in neighbour_means(embeddings, interactions):
                blended = vectors.astype(np.float32)
                blended[has_mean] += np.float32(share) * (means - blended)[has_mean]
                blended.tofile(file)
                written.append(items)
            order = np.concatenate(written)
            mapped = np.memmap(file, dtype=np.float32, mode="r", shape=(len(order), embeddings.width))
    except OSError as error:
        size = len(embeddings.items) * embeddings.width * 4 / 1e6
        raise LLMInitError(
            f"the smoothed vectors ({size:,.0f} MB) cannot be written to {tempfile.gettempdir()} ({error}): make room "
            f"there, or set TMPDIR to another folder"
        ) from error
    rows[order] = np.arange(len(order))
    whole = embeddings.embeddings
    tokens = np.asarray(embeddings.tokens, dtype=object)[order]
    smoothed = ItemEmbeddings(tokens, (mapped,), whole.source, whole.fingerprint, whole.facts)
    return replace(embeddings, embeddings=smoothed, rows=rows)
