"""Starts with no language model in them, to tell what a start owes to its scale and to the mean over a user's items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scipy.sparse import csr_matrix

from recbole_llminit.strategies.base import Drawn, Strategy, check_number, register_strategy
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


@register_strategy("noise", "a control: normal random numbers, no vectors")
@dataclass(frozen=True)
class Noise(Strategy):
    """Draw the items' values from a normal distribution; everything after that is as for any strategy.

    Parameters
    ----------
    deviation : float
        Standard deviation of the item values. The default is about that of the numbers in a vector of length 1 with
        384 dimensions, as all-MiniLM-L6-v2 gives them (``384 ** -0.5`` is 0.051).

    Notes
    -----
    The other control is ``init_shuffle``: any strategy with the vectors' rows permuted.
    """

    needs_vectors: ClassVar[bool] = False
    deviation: float = 0.05

    def __post_init__(self) -> None:
        check_number("deviation", self.deviation, "above 0", lambda deviation: deviation > 0)

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Drawn:
        """Return the distribution of ``size`` values; nothing is read."""
        return Drawn(size, self.deviation, seed)
