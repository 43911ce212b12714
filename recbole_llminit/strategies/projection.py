"""Strategies that mix the columns of the LLM vectors by their moments: principal components and whitening.

All strategies that build on `Projection` are affine maps ``(x - offset) @ matrix``, fitted block by block in float64.
Their memory is that of the ``llm_dim x llm_dim`` covariance, however many items there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import (
    Affine,
    Fit,
    Scale,
    Strategy,
    check_number,
    register_strategy,
    too_few_directions,
)
from recbole_llminit.strategies.co_consumption import item_degrees, smooth
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

# A direction whose standard deviation is below 1e-5 of the largest one's is rounding error.
_SMALLEST_VARIANCE = 1e-10
# Relative to the mean vector's squared length: below it the vectors are equal up to rounding.
_SMALLEST_DIFFERENCE = 1e-12

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]
Floating = TypeVar("Floating", np.float32, np.float64)


@dataclass(frozen=True)
class Moments:
    """Weighted mean and covariance of the vectors of all items.

    Parameters
    ----------
    mean : ndarray of float64, shape [llm_dim]
        The weighted mean.
    covariance : ndarray of float64, shape [llm_dim, llm_dim]
        The weighted mean of ``(x - mean) (x - mean)^T``, divided by the sum of the weights; or its diagonal.
    count : int
        How many items have a weight.
    """

    mean: Vector
    covariance: Matrix
    count: int

    @classmethod
    def of(cls, embeddings: AlignedEmbeddings, weights: Vector, *, diagonal: bool = False) -> Moments:
        """Measure the vectors, block by block.

        Parameters
        ----------
        embeddings : AlignedEmbeddings
            The vectors.
        weights : ndarray of float, shape [n_items]
            The weight of each item.
        diagonal : bool
            Whether only the diagonal of the covariance is computed.

        Notes
        -----
        The blocks' moments are merged pairwise (Chan, Golub and LeVeque, 1983).
        """
        total, mean, scatter = 0.0, np.zeros(embeddings.width), np.zeros((embeddings.width,) * (1 if diagonal else 2))
        for ids, block in embeddings.blocks():
            weight = weights[ids]
            weighed = float(weight.sum())
            if not weighed:
                continue
            rows = block.astype(np.float64)
            block_mean = weight @ rows / weighed
            rows -= block_mean
            rows *= np.sqrt(weight)[:, None]
            delta = block_mean - mean
            # NumPy computes half of a matrix multiplied by itself transposed.
            scatter += np.einsum("ij,ij->j", rows, rows) if diagonal else rows.T @ rows
            scatter += (delta**2 if diagonal else np.outer(delta, delta)) * (total * weighed / (total + weighed))
            total += weighed
            mean += delta * (weighed / total)
        count = int((weights[embeddings.items] > 0).sum())
        return cls(mean, scatter / total if total else scatter, count)


@dataclass(frozen=True)
class Projection(Strategy):
    """The base of the strategies that mix columns: smoothing, weights of items, moments, principal components.

    Parameters
    ----------
    smooth : float
        Before the fit each vector is blended with the mean of the vectors of co-consumed items (training interactions
        only). This is the co-consumed items' share, from 0 to 1. See `smooth`.
    popularity : float
        An item's weight in mean and covariance is its training degree to this power, from 0 to 4: 0 weighs all items
        alike, 1 weighs interactions alike.
    center : bool
        Whether the mean vector is subtracted.
    """

    # Measured: results/strategies.md.
    default_scale: ClassVar[Scale] = 0.05
    smooth: float = 0.0
    popularity: float = 0.0
    center: bool = True

    def __post_init__(self) -> None:
        check_number("smooth", self.smooth, "from 0 to 1", lambda share: 0 <= share <= 1)
        check_number("popularity", self.popularity, "from 0 to 4", lambda power: 0 <= power <= 4)
        if not isinstance(self.center, bool):
            raise LLMInitError(f"init_args center is {self.center!r}: expected True or False")

    def smoothed(self, embeddings: AlignedEmbeddings, interactions: csr_matrix) -> AlignedEmbeddings:
        """Return the vectors that the fit and its reductions read: smoothed ones where ``smooth`` is above 0."""
        return smooth(embeddings, interactions, self.smooth) if self.smooth else embeddings

    def weights(self, interactions: csr_matrix) -> Vector:
        """Return the weight of each item, at most 1."""
        degrees = item_degrees(interactions).astype(np.float64)
        weights: Vector = (degrees / max(1.0, degrees.max())) ** self.popularity
        return weights

    def moments(self, embeddings: AlignedEmbeddings, weights: Vector, *, diagonal: bool = False) -> Moments:
        """Return the moments, about zero unless the vectors are centered; raise where there is nothing to project."""
        moments = Moments.of(embeddings, weights, diagonal=diagonal)
        if moments.count < 2:
            raise LLMInitError(
                f"{self!r} reads how vectors differ, and {moments.count} of the {len(embeddings.items):,} items with a "
                f"vector in {embeddings.embeddings.source} have a weight: expected at least 2 (items without training "
                f"interactions have none where popularity is above 0)"
            )
        mean, covariance = moments.mean, moments.covariance
        if not self.center:
            square = mean**2 if diagonal else np.outer(mean, mean)
            moments = Moments(np.zeros_like(mean), covariance + square, moments.count)
        variances = moments.covariance if diagonal else np.diag(moments.covariance)
        if variances.sum() <= _SMALLEST_DIFFERENCE * (mean @ mean):
            raise LLMInitError(
                f"the vectors of {moments.count:,} items in {embeddings.embeddings.source} are all equal, and {self!r} "
                f"reads how they differ: check the file"
            )
        return moments

    def basis(self, embeddings: AlignedEmbeddings, moments: Moments, n_components: int) -> tuple[Vector, Matrix]:
        """Return variances and directions of the principal components, the largest first, without those of none."""
        variances, directions = np.linalg.eigh(moments.covariance)
        variances, directions = variances[::-1], directions[:, ::-1]
        rank = int((variances > _SMALLEST_VARIANCE * variances[0]).sum())
        if n_components > rank:
            raise too_few_directions(
                repr(self),
                rank,
                n_components,
                f"the vectors of the {moments.count:,} items that count in {embeddings.embeddings.source}",
            )
        return variances[:rank], directions[:, :rank]


def signed(directions: npt.NDArray[Floating]) -> npt.NDArray[Floating]:
    """Make the largest loading of each direction positive, as scikit-learn does; of equal loadings the first counts."""
    sizes = np.abs(directions)
    first = (sizes >= sizes.max(axis=0) * (1 - 1e-6)).argmax(axis=0)
    turned: npt.NDArray[Floating] = directions * np.sign(directions[first, np.arange(directions.shape[1])])
    return turned


@register_strategy("pca", "the principal components")
@dataclass(frozen=True)
class PrincipalComponents(Projection):
    """Project on the directions in which the vectors vary most.

    Notes
    -----
    Source: Pearson (1901); for recommenders LLM2BERT4Rec (Harte et al., 2023) and RecXplore (arXiv 2509.14979).
    Equal to scikit-learn's ``PCA`` (without ``center`` to ``TruncatedSVD``), with its rule for the signs.
    """

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Find the principal components.

        Raises
        ------
        LLMInitError
            If the vectors vary in fewer than ``n_components`` directions.
        """
        embeddings = self.smoothed(embeddings, interactions)
        moments = self.moments(embeddings, self.weights(interactions))
        _, directions = self.basis(embeddings, moments, n_components)
        return Fit(self, embeddings, n_components, lambda count: Affine(moments.mean, signed(directions[:, :count])))


@register_strategy("whiten", "the principal components, brought to the same standard deviation")
@dataclass(frozen=True)
class Whitening(Projection):
    """Project on the principal components and change their standard deviations ``s`` to ``s ** exponent``.

    Parameters
    ----------
    exponent : float
        0 makes all components vary alike (whitened), 1 leaves them as they are (``pca``).

    Notes
    -----
    Source: PCA whitening; for recommenders WhitenRec (arXiv 2402.10602) and AlphaFuse (2504.19218). With ``exponent`` 0
    equal to scikit-learn's ``PCA(whiten=True)`` times ``sqrt(n / (n - 1))``.
    """

    exponent: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("exponent", self.exponent, "from 0 to 1", lambda power: 0 <= power <= 1)

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Find the principal components and their scales.

        Raises
        ------
        LLMInitError
            If the vectors vary in fewer than ``n_components`` directions.
        """
        embeddings = self.smoothed(embeddings, interactions)
        moments = self.moments(embeddings, self.weights(interactions))
        variances, directions = self.basis(embeddings, moments, n_components)
        return Fit(
            self, embeddings, n_components, lambda count: self.map_to(count, moments.mean, variances, directions)
        )

    def map_to(self, count: int, mean: Vector, variances: Vector, directions: Matrix) -> Affine:
        """Return the map to the first principal components, from mean and `basis` of the vectors."""
        return Affine(mean, signed(directions[:, :count]) * variances[:count] ** ((self.exponent - 1) / 2))
