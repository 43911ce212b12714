"""Vectors and interactions of the tests of strategies, and the formulas restated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.strategies.base import Affine, Columns, Strategy
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings

N_ITEMS, WIDTH = 120, 12


def align(rows: npt.ArrayLike) -> AlignedEmbeddings:
    """Align float64 rows with item ids 1, 2, ..., in three shards."""
    values = np.asarray(rows, dtype=np.float64)
    tokens = np.array([f"i{number}" for number in range(len(values))], dtype=object)
    shards = tuple(part for part in np.array_split(values, 3) if len(part))
    return ItemEmbeddings(tokens, shards, "vectors.npy", "0").align(["[PAD]", *tokens], "toy")


def interactions_of(*histories: Sequence[int], n_items: int) -> csr_matrix:
    """The training interactions of users 1, 2, ... with the item ids of their histories."""
    dense = np.zeros((len(histories) + 1, n_items + 1), dtype=np.float32)
    for user, items in enumerate(histories, start=1):
        dense[user, items] = 1
    return csr_matrix(dense)


def together(n_items: int) -> csr_matrix:
    """One user with all items."""
    return interactions_of(range(1, n_items + 1), n_items=n_items)


def fit_columns(
    strategy: Strategy, embeddings: AlignedEmbeddings, n_components: int, interactions: csr_matrix, seed: int = 0
) -> tuple[int, ...]:
    """The columns that a strategy keeps."""
    reduction = strategy.fit(embeddings, n_components, interactions=interactions, seed=seed).reduction(n_components)
    assert isinstance(reduction, Columns)
    return reduction.dimensions


def fit_affine(
    strategy: Strategy, embeddings: AlignedEmbeddings, n_components: int, interactions: csr_matrix, seed: int = 0
) -> Affine:
    """The affine map to ``n_components`` values that a strategy fits."""
    reduction = strategy.fit(embeddings, n_components, interactions=interactions, seed=seed).reduction(n_components)
    assert isinstance(reduction, Affine)
    return reduction


def project(
    strategy: Strategy, n_components: int, interactions: csr_matrix, rows: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """The values of rows under the affine map that a strategy fits to them."""
    return fit_affine(strategy, align(rows), n_components, interactions)(rows)


def neighbors(interactions: csr_matrix) -> npt.NDArray[np.float64]:
    """For each item the distribution of its co-consumed items: over its users, then over their other items."""
    dense = interactions.toarray()
    table = np.zeros((dense.shape[1],) * 2)
    for history in dense:
        items = np.flatnonzero(history)
        for item in items:
            for other in items[items != item]:
                table[item, other] += 1 / (len(items) - 1)
    sums = table.sum(axis=1, keepdims=True)
    return np.divide(table, sums, out=np.zeros_like(table), where=sums > 0)


def tastes(
    n_users: int = 150, n_items: int = 60, clicks: int = 4, n_tastes: int = 6, noise: float = 0.1
) -> tuple[csr_matrix, npt.NDArray[np.float64]]:
    """Users who click items of one of several tastes each, and vectors of the items that say it, in 12 dimensions."""
    generator = np.random.default_rng(0)
    histories = [
        1 + generator.choice(np.arange(user % n_tastes, n_items, n_tastes), min(clicks, n_items // n_tastes), False)
        for user in range(n_users)
    ]
    centers = generator.normal(size=(n_tastes, WIDTH))
    vectors = centers[np.arange(n_items) % n_tastes] + noise * generator.normal(size=(n_items, WIDTH))
    return interactions_of(*histories, n_items=n_items), vectors
