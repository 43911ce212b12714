"""How many of its dimensions a table of embeddings uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a matrix of embeddings, a row each.

    Parameters
    ----------
    singular_values : tuple of float
        One for each dimension, the largest first.
    """

    singular_values: tuple[float, ...]

    @classmethod
    def of(cls, blocks: Iterable[npt.NDArray[Any]], width: int) -> Spectrum:
        """Measure a matrix given as blocks of its rows, each of shape ``[k, width]``, in float64.

        Notes
        -----
        From the eigenvalues of ``E^T E``: a singular value below 1e-8 of the largest is lost in rounding.
        """
        gram = np.zeros((width, width))
        for block in blocks:
            rows = block.astype(np.float64)
            gram += rows.T @ rows
        return cls.of_gram(gram)

    @classmethod
    def of_gram(cls, gram: npt.NDArray[np.float64]) -> Spectrum:
        """Measure a matrix ``E`` given as ``E^T E``."""
        eigenvalues = np.linalg.eigvalsh(gram)[::-1]
        return cls(tuple(float(value) for value in np.sqrt(np.maximum(eigenvalues, 0))))

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the singular values' shares, from 1 to their number.

        Notes
        -----
        Source: Roy and Vetterli (EUSIPCO 2007), definition 1. 0 for a matrix of zeros.
        """
        values = np.asarray(self.singular_values)
        shares = values[values > 0] / (values.sum() or 1)
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0

    @property
    def information_abundance(self) -> float:
        """The sum of the singular values over the largest, from 1 to their number; small in a collapsed table.

        Notes
        -----
        Source: Guo et al., On the Embedding Collapse when Scaling up Recommendation Models (ICML 2024), definition 1. 0
        for a matrix of zeros.
        """
        return sum(self.singular_values) / self.singular_values[0] if self.singular_values[0] else 0.0
