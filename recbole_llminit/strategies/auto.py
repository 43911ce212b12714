"""The recommended start, by how much the vectors say of what is consumed together."""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from typing import ClassVar

from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Affine, Scale, Strategy, check_number, register_strategy
from recbole_llminit.strategies.projection import CanonicalCorrelation, Whitening
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


@register_strategy("auto", "the recommended one: cca where co-consumed items have vectors that agree, else whiten")
@dataclass(frozen=True)
class Auto(Strategy):
    """Take ``cca`` where the vectors of items consumed together agree, and ``whiten`` where they do not.

    Parameters
    ----------
    agreement : float
        From which `agreement` on ``cca`` is taken.

    Notes
    -----
    Measured, the default as well: results/strategies.md. ``whiten`` is also taken where ``cca`` cannot be fitted: no
    user has two items, or those who do have too few.
    """

    default_scale: ClassVar[Scale | None] = None

    agreement: float = 2.0

    def __post_init__(self) -> None:
        check_number("agreement", self.agreement)

    def resolve(
        self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix
    ) -> CanonicalCorrelation | Whitening:
        """Return what is taken for these vectors and training data, and say so in the log."""
        try:
            found = CanonicalCorrelation().agreement(embeddings, size, interactions=interactions)
        except LLMInitError as error:
            getLogger().info(f"init_strategy auto is whiten, as cca cannot be fitted: {error}")
            return Whitening()
        agree = found >= self.agreement
        getLogger().info(
            f"init_strategy auto is {'cca' if agree else 'whiten'}: the vectors of co-consumed items have an agreement "
            f"of {found:.2f} (cca from {self.agreement:g} on)"
        )
        return CanonicalCorrelation() if agree else Whitening()

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Affine:
        """Fit what `resolve` returns."""
        taken = self.resolve(embeddings, size, interactions=interactions)
        return taken.fit(embeddings, size, interactions=interactions, seed=seed)
