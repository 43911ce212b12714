"""A control without a language model: it tells what an initialization owes to its scale and to the users' means."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.sparse import csr_matrix

from recbole_llminit.strategies.base import Drawn, Fit, Strategy, check_number, register_strategy
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


@register_strategy("noise", "a control: normal random numbers, no vectors")
@dataclass(frozen=True)
class Noise(Strategy):
    """Draw the items' values from a normal distribution; everything after that is as for any strategy.

    Parameters
    ----------
    std : float
        The standard deviation of the item values. The default is about that of the numbers in a vector of length 1
        with 384 dimensions, as all-MiniLM-L6-v2 gives them (``384 ** -0.5`` is 0.051).

    Notes
    -----
    The other control is ``init_shuffle``: any strategy with the vectors' rows permuted.
    """

    std: float = 0.05

    def __post_init__(self) -> None:
        check_number("std", self.std, "above 0", lambda std: std > 0)

    @property
    def needs_vectors(self) -> bool:
        """No vectors are read."""
        return False

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Return the distribution; nothing is read."""
        return Fit(self, embeddings, n_components, lambda count: Drawn(count, self.std, seed))
