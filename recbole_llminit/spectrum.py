"""The spectrum of a table of embeddings: how many of its dimensions the table uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a matrix of embeddings, one embedding per row.

    Parameters
    ----------
    singular_values : tuple of float
        One singular value per dimension, the largest first.
    """

    singular_values: tuple[float, ...]

    @classmethod
    def of(cls, blocks: Iterable[npt.NDArray[Any]], width: int) -> Spectrum:
        """Compute the spectrum of a matrix ``E`` from blocks of its rows, in float64.

        Parameters
        ----------
        blocks : iterable of array, shape [k, width]
            All rows of the matrix; ``k`` may differ from block to block.
        width : int
            The number of columns.

        Notes
        -----
        The values are the square roots of the eigenvalues of ``E^T E``. A singular value below 1e-8 of the largest is
        lost in rounding.
        """
        gram = np.zeros((width, width))
        for block in blocks:
            rows = block.astype(np.float64)
            gram += rows.T @ rows
        return cls.of_gram(gram)

    @classmethod
    def of_gram(cls, gram: npt.NDArray[np.float64]) -> Spectrum:
        """Compute the spectrum of a matrix ``E`` from ``E^T E``.

        Parameters
        ----------
        gram : array, shape [width, width]
            The product ``E^T E``.
        """
        eigenvalues = np.linalg.eigvalsh(gram)[::-1]
        return cls(tuple(float(value) for value in np.sqrt(np.maximum(eigenvalues, 0))))

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the singular values, each divided by their sum.

        Notes
        -----
        It lies between 1 and the number of dimensions; it is 0 for a matrix of zeros. Source: Roy and Vetterli, The
        effective rank: a measure of effective dimensionality (EUSIPCO 2007), definition 1.
        """
        values = np.asarray(self.singular_values)
        shares = values[values > 0] / (values.sum() or 1)
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0

    @property
    def information_abundance(self) -> float:
        """The sum of the singular values divided by the largest one; small in a collapsed table.

        Notes
        -----
        It lies between 1 and the number of dimensions; it is 0 for a matrix of zeros. Source: Guo et al., On the
        Embedding Collapse when Scaling up Recommendation Models (ICML 2024), definition 1.
        """
        return sum(self.singular_values) / self.singular_values[0] if self.singular_values[0] else 0.0
