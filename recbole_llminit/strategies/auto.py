"""The recommended strategy: the data decide which one it is."""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from typing import ClassVar

from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Fit, Scale, Strategy, check_number, register_strategy
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation, CanonicalFit
from recbole_llminit.strategies.projection import Whitening
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

_logger = getLogger(__name__)


@register_strategy("auto", "the recommended one: cca where vectors of co-consumed items are correlated, else whiten")
@dataclass(frozen=True)
class Auto(Strategy):
    """Take ``cca`` where the vectors of items consumed together are correlated, and ``whiten`` where they are not.

    Parameters
    ----------
    threshold : float
        The smallest `adjusted correlation <CanonicalDirections.adjusted_correlation>` for which ``cca`` is taken.

    Notes
    -----
    Measured, the default as well: results/strategies.md. ``whiten`` is also taken where ``cca`` cannot be fitted: no
    user has two items, or those who do have too few.
    """

    default_scale: ClassVar[Scale | None] = None

    threshold: float = 2.0

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold)

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Fit the strategy that is taken, and say in the log which one it is.

        The canonical directions that decide it are in the fit, whichever strategy is taken.
        """
        strategy, cca = self._choose(embeddings, n_components, interactions, seed)
        if cca is not None and strategy is cca.strategy:
            return cca
        fit = strategy.fit(embeddings, n_components, interactions=interactions, seed=seed)
        if cca is None:
            return fit
        return CanonicalFit(fit.strategy, fit.embeddings, n_components, fit.reduction, cca.canonical)

    def resolve(
        self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int
    ) -> Strategy:
        """Return the strategy that is taken for these vectors and training data."""
        return self._choose(embeddings, n_components, interactions, seed)[0]

    def _choose(
        self, embeddings: AlignedEmbeddings, n_components: int, interactions: csr_matrix, seed: int
    ) -> tuple[Strategy, CanonicalFit | None]:
        """Return the strategy that is taken, and the fit of ``cca`` if there is one."""
        try:
            cca = CanonicalCorrelation().fit(embeddings, n_components, interactions=interactions, seed=seed)
        except LLMInitError as error:
            _logger.info(f"init_strategy auto is whiten, as cca cannot be fitted: {error}")
            return Whitening(), None
        found = cca.canonical.adjusted_correlation
        correlated = found >= self.threshold
        _logger.info(
            f"init_strategy auto is {'cca' if correlated else 'whiten'}: the vectors of co-consumed items have an "
            f"adjusted correlation of {found:.2f} (cca from {self.threshold:g} on)"
        )
        return (cca.strategy if correlated else Whitening()), cca
