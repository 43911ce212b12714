"""The strategy ``cca``: directions in which the vectors of items that are consumed together are correlated most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Affine, Fit, Scale, check_number, register_strategy
from recbole_llminit.strategies.co_consumption import CoConsumption
from recbole_llminit.strategies.projection import Matrix, Projection, Vector, signed
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


@dataclass(frozen=True, eq=False)
class CanonicalDirections:
    """The canonical directions of vectors and training data, with their correlations.

    Parameters
    ----------
    strategy : CanonicalCorrelation
        The parameters under which they were found.
    embeddings : AlignedEmbeddings
        The vectors that were read.
    mean : ndarray of float64, shape [llm_dim]
        The weighted mean of the vectors.
    directions : ndarray of float64, shape [llm_dim, n]
        All directions, the one of the largest correlation first.
    correlations : ndarray of float64, shape [n]
        Their canonical correlations.
    weights : ndarray of float64, shape [n_items]
        The weights of the items, which sum to 1.
    """

    strategy: CanonicalCorrelation
    embeddings: AlignedEmbeddings
    mean: Vector
    directions: Matrix
    correlations: Vector
    weights: Vector

    def reduction(self, n_components: int) -> Affine:
        """Return the projection on the directions of the largest correlations."""
        return Affine(self.mean, signed(self.directions[:, :n_components]))

    @cached_property
    def adjusted_correlation(self) -> float:
        """The sum of all canonical correlations, adjusted for chance: less its expected value for unrelated items.

        The leading correlations are picked, and chance makes them large where interactions are few; the sum of all is
        free of that. One direction in which the items of a user are all alike, and those of two users are not, adds 1.

        Notes
        -----
        By chance ``y`` is drawn by its weight from all items but ``x``. Its mean is then off the weighted mean ``m`` by
        ``-w (x - m) / (1 - w)``, with ``w`` the weight of ``x`` (all weights sum to 1), and the expected sum is the
        weighted mean of ``-w / (1 - w) (x - m)^T C^-1 (x - m)``.
        """
        by_chance = 0.0
        for items, block in self.embeddings.blocks():
            lengths = (((block - self.mean) @ self.directions) ** 2).sum(axis=1)
            by_chance -= float((self.weights[items] ** 2 / (1 - self.weights[items])) @ lengths)
        return float(self.correlations.sum()) - by_chance


@dataclass(frozen=True, eq=False)
class CanonicalFit(Fit):
    """A fit for which the canonical directions were computed, whichever strategy was chosen in the end.

    Parameters
    ----------
    canonical : CanonicalDirections
        The directions, handed on so that nobody computes them again.
    """

    canonical: CanonicalDirections


@register_strategy("cca", "the directions in which the vectors of items consumed together are correlated most")
@dataclass(frozen=True)
class CanonicalCorrelation(Projection):
    """Whiten the vectors and keep the directions in which those of items consumed together are correlated most.

    Parameters
    ----------
    shrinkage : float
        From 0 to 1: the share of the covariance that is replaced by a multiple of the identity of the same trace,
        before the vectors are whitened by it. It keeps small directions from being magnified where items are few.

    Notes
    -----
    Source: canonical correlation analysis (Hotelling, 1936) of the vectors of two items that a user consumed: ``x`` of
    an item, drawn by its weight, and ``y`` of another, where a walk from it ends (`CoConsumption`). The leading
    solutions ``w`` of ``M w = r C w``, with ``C`` the covariance of ``x`` and ``M`` the symmetrized one of ``x`` and
    ``y``. With ``popularity`` 1 the two have the same distribution, and these are the canonical directions; with other
    values they are their analog. Fitted over the items that have a co-consumed item; the map applies to all items.
    """

    # Measured: results/strategies.md.
    default_scale: ClassVar[Scale] = "score"
    popularity: float = 1.0
    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("shrinkage", self.shrinkage, "from 0 to 1", lambda share: 0 <= share <= 1)

    def fit(
        self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int
    ) -> CanonicalFit:
        """Find the canonical directions.

        Raises
        ------
        LLMInitError
            If the vectors vary in fewer than ``n_components`` directions, or no two items with a vector were consumed
            together.
        """
        embeddings = self.smoothed(embeddings, interactions)
        canonical = self._solve(embeddings, n_components, interactions)
        return CanonicalFit(self, embeddings, n_components, canonical.reduction, canonical)

    def _solve(self, embeddings: AlignedEmbeddings, n_components: int, interactions: csr_matrix) -> CanonicalDirections:
        walk = CoConsumption(embeddings, interactions)
        if not walk.has_mean.any():
            raise LLMInitError(
                f"{self!r} reads which items were consumed together, and no user has two training items with a vector: "
                f"take whiten"
            )
        weights = self.weights(interactions) * walk.has_mean
        weights /= weights.sum()
        moments = self.moments(embeddings, weights)
        variances, directions = self.basis(embeddings, moments, n_components)
        mean_variance = np.trace(moments.covariance) / embeddings.width
        shrunk = (1 - self.shrinkage) * variances + self.shrinkage * mean_variance
        whitening = directions / np.sqrt(shrunk)
        correlation = whitening.T @ walk.moment(moments.mean, weights) @ whitening
        correlations, rotation = np.linalg.eigh((correlation + correlation.T) / 2)
        return CanonicalDirections(
            self, embeddings, moments.mean, whitening @ rotation[:, ::-1], correlations[::-1], weights
        )
