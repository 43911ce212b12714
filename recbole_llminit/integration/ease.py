"""EASE with the vectors: RecBole's EASE, whose item-item weights ``init_strategy: lae`` solves for."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import shuffled_control
from recbole_llminit.initialization.report import InitReport, TableReport
from recbole_llminit.initialization.users import FACTORS
from recbole_llminit.strategies.base import Strategy
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

MODEL = "EASE"
"""The model whose weights are those of the strategy."""

# What is said of tables, which EASE has none of.
_UNREAD_KEYS = ("init_scale", "init_user", "init_missing", "init_tables", "init_trainable")


def check_ease(config: Any, strategy: Any) -> None:
    """Raise `LLMInitError` where EASE is to be initialized by anything but ``lae``, or as if it had tables."""
    if not isinstance(strategy, LinearAutoencoder):
        raise LLMInitError(
            f"{MODEL} has no trainable user or item table (closed form): remove init_strategy, or take init_strategy: "
            f"lae, which is {MODEL} with the vectors"
        )
    for key in _UNREAD_KEYS:
        if key in config:
            raise LLMInitError(f"{key} is {config[key]!r}, and {MODEL} has no tables that it could be for: remove it")


def solve_ease_(
    model: Any, vectors: AlignedEmbeddings, interactions: csr_matrix, strategy: Strategy, *, seed: int, shuffle: bool
) -> InitReport:
    """Replace the item-item weights of an EASE model by those of clicks and texts, in place.

    ``lam`` of ``init_args`` takes the place of ``reg_weight``. A checkpoint stays one that stock RecBole reads.

    Parameters
    ----------
    model : recbole.model.general_recommender.EASE
        The model after its own constructor, which has solved for the clicks alone.
    vectors, interactions, strategy, seed
        As of `initialize_embeddings_`; the strategy is ``lae``.
    shuffle : bool
        Whether the vectors go to the items that have one in random order.
    """
    began = time.perf_counter()
    if shuffle:
        strategy, vectors = shuffled_control(strategy, vectors, vectors.width, interactions, seed)
    chosen, solved = cast(LinearAutoencoder, strategy).solve(vectors, interactions, seed)
    weights = solved.to_dense()
    before = float(np.std(model.item_similarity))
    # RecBole's own weights are a NumPy matrix, which decides the shapes of its products.
    model.item_similarity = np.asmatrix(weights)
    written = int(weights.any(axis=0).sum())
    return InitReport(
        model=MODEL,
        strategy=repr(chosen),
        shuffled=shuffle,
        encoder=vectors.embeddings.encoder,
        source=vectors.embeddings.source,
        fingerprint=vectors.embeddings.fingerprint,
        llm_dim=vectors.embeddings.width,
        reductions={},
        scale="raw",
        user=FACTORS,
        items=vectors.n_items - 1,
        items_with_vector=len(vectors.items),
        users=interactions.shape[0] - 1,
        users_with_items=int((np.diff(interactions.indptr) > 0).sum()),
        tables=(
            TableReport(
                name="item_similarity",
                label="item_similarity",
                side="item",
                shape=(weights.shape[0], weights.shape[1]),
                rows_written=written,
                rows_left=weights.shape[0] - written,
                unit=False,
                frozen=False,
                std_before=before,
                std_after=float(weights.std()),
            ),
        ),
        skipped={},
        notes=vectors.warnings,
        seconds=time.perf_counter() - began,
    )
