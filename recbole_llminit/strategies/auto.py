"""The recommended strategy: held-out training clicks decide which one it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import (
    Factors,
    Fit,
    Scale,
    Strategy,
    list_strategies,
    register_strategy,
    values_by_id,
)
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation
from recbole_llminit.strategies.held_out import HeldOut
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.strategies.projection import Whitening
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

_logger = getLogger(__name__)

# Where no user has two clicks, nothing can be held out, and nothing is known of what goes together.
_WITHOUT_EVIDENCE = Whitening()


@register_strategy("auto", "the recommended one: lae, cca or whiten, whichever ranks held-out training clicks best")
@dataclass(frozen=True)
class Auto(Strategy):
    """Take that of ``lae``, ``cca`` and ``whiten`` which ranks held-out training clicks best before any training.

    Notes
    -----
    Some clicks are held out (`HeldOut.of`). Each candidate is fitted without these clicks, to the width of
    the widest table, and ranks the items for their users by the dot products of their values (`HeldOut.gains`).
    The best is then fitted on all training interactions. How far that foretells which candidate trains best:
    results/lae.md.
    """

    is_reduction: ClassVar[bool] = False
    default_scale: ClassVar[Scale | None] = None

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Fit the strategy that is taken, and say in the log which one it is, and by which figures."""
        chosen = self.resolve(embeddings, n_components, interactions=interactions, seed=seed)
        return chosen.fit(embeddings, n_components, interactions=interactions, seed=seed)

    def resolve(
        self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int
    ) -> Strategy:
        """Return the strategy that is taken for these vectors, training interactions and width."""
        # Other clicks than those by which lae chooses its own parameters.
        held_out = HeldOut.of(interactions, seed + 1)
        if held_out is None:
            _logger.info(f"init_strategy auto is {_WITHOUT_EVIDENCE!r}: no user has two training clicks")
            return _WITHOUT_EVIDENCE
        found: dict[Strategy, float] = {}
        problems: list[str] = []
        for candidate in (LinearAutoencoder(), CanonicalCorrelation(), Whitening(popularity=1.0)):
            try:
                settled = candidate.resolve(embeddings, n_components, interactions=interactions, seed=seed)
                fit = settled.fit(embeddings, n_components, interactions=held_out.interactions, seed=seed)
            except LLMInitError as error:
                # A candidate that these data are too few for is none; that all are is an error.
                problems.append(str(error))
                continue
            found[settled] = _ndcg(fit, n_components, held_out)
        if not found:
            raise LLMInitError(f"init_strategy auto has no candidate that can be fitted: {'; '.join(problems)}")
        chosen = max(found, key=lambda candidate: found[candidate])
        _logger.info(_describe(found, chosen, len(held_out.users), problems))
        return chosen


def _ndcg(fit: Fit, n_components: int, held_out: HeldOut) -> float:
    """Return the mean NDCG@10 of a fit's values on the held-out clicks."""
    values = fit.reduction(n_components)
    items = values_by_id(fit.embeddings, values, n_components)
    if isinstance(values, Factors):
        users = values.users[held_out.users]
    else:
        # Sums rank as the means do that a user is initialized at.
        users = held_out.interactions[held_out.users] @ items
    gains = [held_out.gains(users[block] @ items.T, block.start) for block in held_out.blocks()]
    return float(np.concatenate(gains).mean())


def _describe(found: Mapping[Strategy, float], chosen: Strategy, users: int, problems: Sequence[str]) -> str:
    names = {entry.cls: entry.name for entry in list_strategies()}
    figures = ", ".join(f"{names[type(strategy)]} {gain:.4f}" for strategy, gain in found.items())
    left_out = f"; left out: {'; '.join(problems)}" if problems else ""
    return (
        f"init_strategy auto is {chosen!r}: the best NDCG@10 of {users:,} held-out training clicks before training "
        f"({figures}){left_out}"
    )
