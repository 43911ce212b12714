"""The recommended start, by how much the vectors say of what is consumed together."""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from typing import ClassVar

from scipy.sparse import csr_matrix

from recbole_llminit.co_consumption import CoConsumption
from recbole_llminit.embeddings import AlignedEmbeddings
from recbole_llminit.projection import CanonicalCorrelation, Projection, Whitening
from recbole_llminit.strategy import Affine, Scale, Strategy, check_number, register_strategy


@register_strategy("auto", "the recommended one: cca where co-consumed items have vectors that agree, else whiten")
@dataclass(frozen=True)
class Auto(Strategy):
    """Take ``cca`` where the vectors of items consumed together agree, and ``whiten`` where they do not.

    Parameters
    ----------
    agreement : float
        From which sum of the `canonical correlations <recbole_llminit.projection.CanonicalCorrelation.correlations>` on
        ``cca`` is taken. It counts directions in which two items of a user are alike; by chance it is about 0.

    Notes
    -----
    Measured, the default as well: results/strategies.md. The fit of ``cca`` is made once more than without ``auto``.
    """

    default_scale: ClassVar[Scale] = Projection.default_scale
    agreement: float = 1.0

    def __post_init__(self) -> None:
        check_number("agreement", self.agreement, "such as 1", lambda total: True)

    def resolve(self, embeddings: AlignedEmbeddings, interactions: csr_matrix) -> CanonicalCorrelation | Whitening:
        """Return what is taken for these vectors and training data, and say so in the log."""
        if not CoConsumption(embeddings, interactions).has_mean.any():
            getLogger().info("init_strategy auto is whiten: no user has two training items with a vector")
            return Whitening()
        total = CanonicalCorrelation().correlations(embeddings, interactions).sum()
        agree = bool(total >= self.agreement)
        getLogger().info(
            f"init_strategy auto is {'cca' if agree else 'whiten'}: the canonical correlations of co-consumed items' "
            f"vectors have the sum {total:.2f} (cca from {self.agreement:g} on)"
        )
        return CanonicalCorrelation() if agree else Whitening()

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Affine:
        """Fit what `resolve` returns."""
        return self.resolve(embeddings, interactions).fit(embeddings, size, interactions=interactions, seed=seed)
