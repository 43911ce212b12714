"""Starts with no language model in them, to tell what a start owes to its scale and to the mean over a user's items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recbole_llminit.embeddings import AlignedEmbeddings
from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategy import Drawn, Strategy, register_strategy


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
        value = self.deviation
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (math.isfinite(value) and value > 0):
            raise LLMInitError(f"init_args deviation is {value!r}: expected a number above 0")

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, popularity: npt.NDArray[np.int64], seed: int) -> Drawn:
        """Return the distribution of ``size`` values; nothing is read."""
        return Drawn(size, self.deviation, seed)
