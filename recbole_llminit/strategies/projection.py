"""Strategies that mix the columns of the LLM vectors: principal components, whitening, canonical correlation, chance.

All are affine maps ``(x - offset) @ matrix``, fitted block by block in float64; memory is that of the ``llm_dim x
llm_dim`` covariance, however many items there are.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Affine, Scale, Strategy, check_number, register_strategy
from recbole_llminit.strategies.co_consumption import CoConsumption, item_degrees, smooth
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

# Directions whose deviation is less than 1e-5 of the largest one's are what rounding leaves of none.
_SMALLEST_VARIANCE = 1e-10
# Of the mean vector's squared length: what rounding leaves of equal vectors.
_SMALLEST_DIFFERENCE = 1e-12

_Vector = npt.NDArray[np.float64]
_Matrix = npt.NDArray[np.float64]
_Solution = tuple[_Vector, _Matrix, _Vector, _Vector]


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

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, embeddings: AlignedEmbeddings, weights: npt.NDArray[np.float64], *, diagonal: bool = False) -> Moments:
        """Measure the vectors, block by block.

        Parameters
        ----------
        embeddings : AlignedEmbeddings
            The vectors.
        weights : ndarray of float, shape [n_items]
            The weight of each item.
        diagonal : bool
            Whether the diagonal of the covariance is enough.

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
            # NumPy computes half of a matrix by itself transposed.
            scatter += np.einsum("ij,ij->j", rows, rows) if diagonal else rows.T @ rows
            scatter += (delta**2 if diagonal else np.outer(delta, delta)) * (total * weighed / (total + weighed))
            total += weighed
            mean += delta * (weighed / total)
        count = int((weights[embeddings.items] > 0).sum())
        return cls(mean, scatter / total if total else scatter, count)


@dataclass(frozen=True)
class Projection(Strategy):
    """What the strategies that mix columns have in common.

    Parameters
    ----------
    smooth : float
        Before the fit each vector is blended with the mean of those of co-consumed items (training interactions only);
        this is the others' share, from 0 to 1. See `smooth`.
    popularity : float
        In mean and covariance an item counts as its training degree to this power, from 0 to 4: 0 counts items alike,
        1 interactions.
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

    def prepare(self, embeddings: AlignedEmbeddings, interactions: csr_matrix) -> AlignedEmbeddings:
        """Smooth the vectors, if that is asked for."""
        return smooth(embeddings, interactions, self.smooth) if self.smooth else embeddings

    def _weights(self, interactions: csr_matrix) -> npt.NDArray[np.float64]:
        """Return the weight of each item, at most 1."""
        degrees = item_degrees(interactions).astype(np.float64)
        weights: npt.NDArray[np.float64] = (degrees / max(1.0, degrees.max())) ** self.popularity
        return weights

    def _moments(
        self, embeddings: AlignedEmbeddings, weights: npt.NDArray[np.float64], *, diagonal: bool = False
    ) -> Moments:
        """Return the moments, about zero unless the vectors are centred; raise where there is nothing to project."""
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
        if (moments.covariance if diagonal else np.diag(moments.covariance)).sum() <= _SMALLEST_DIFFERENCE * (
            mean @ mean
        ):
            raise LLMInitError(
                f"the vectors of {moments.count:,} items in {embeddings.embeddings.source} are all equal, and {self!r} "
                f"reads how they differ: check the file"
            )
        return moments

    def _basis(self, embeddings: AlignedEmbeddings, moments: Moments, size: int) -> tuple[_Vector, _Matrix]:
        """Return variances and directions of the principal components, the largest first, without those of none."""
        variances, directions = np.linalg.eigh(moments.covariance)
        variances, directions = variances[::-1], directions[:, ::-1]
        rank = int((variances > _SMALLEST_VARIANCE * variances[0]).sum())
        self._refuse_rank(rank, size, embeddings, moments.count)
        return variances[:rank], directions[:, :rank]

    def _refuse_rank(self, rank: int, size: int, embeddings: AlignedEmbeddings, count: int) -> None:
        """Raise for more columns than the vectors of so many items have directions."""
        if size > rank:
            raise LLMInitError(
                f"{self!r} has {rank} directions to project on, and a table has {size} columns: the vectors of the "
                f"{count:,} items that count in {embeddings.embeddings.source} vary in no more; set the "
                f"table's size (embedding_size, hidden_size) <= {rank}, or take another strategy"
            )


def _signed(directions: _Matrix) -> _Matrix:
    """Make the largest loading of each direction positive, as scikit-learn does; of equal ones the first."""
    sizes = np.abs(directions)
    first = (sizes >= sizes.max(axis=0) * (1 - 1e-6)).argmax(axis=0)
    signed: _Matrix = directions * np.sign(directions[first, np.arange(directions.shape[1])])
    return signed


@register_strategy("pca", "the principal components")
@dataclass(frozen=True)
class PrincipalComponents(Projection):
    """Project on the directions in which the vectors vary most.

    Notes
    -----
    Source: Pearson (1901); for recommenders LLM2BERT4Rec (Harte et al., 2023) and RecXplore (arXiv 2509.14979).
    Equal to scikit-learn's ``PCA`` (without ``center`` to ``TruncatedSVD``), with its rule for the signs.
    """

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Affine:
        """Fit the leading ``size`` components.

        Raises
        ------
        LLMInitError
            If the vectors vary in fewer than ``size`` directions.
        """
        moments = self._moments(embeddings, self._weights(interactions))
        _, directions = self._basis(embeddings, moments, size)
        return Affine(moments.mean, _signed(directions[:, :size]))


@register_strategy("whiten", "the principal components, brought to the same deviation")
@dataclass(frozen=True)
class Whitening(Projection):
    """Project on the principal components and bring their deviations ``s`` to ``s ** exponent``.

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

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Affine:
        """Fit the leading ``size`` components and their scales.

        Raises
        ------
        LLMInitError
            If the vectors vary in fewer than ``size`` directions.
        """
        moments = self._moments(embeddings, self._weights(interactions))
        variances, directions = self._basis(embeddings, moments, size)
        scales = variances[:size] ** ((self.exponent - 1) / 2)
        return Affine(moments.mean, _signed(directions[:, :size]) * scales)


_solutions: weakref.WeakKeyDictionary[AlignedEmbeddings, tuple[Any, CanonicalCorrelation, _Solution]] = (
    weakref.WeakKeyDictionary()
)


@register_strategy("cca", "the directions in which items consumed together agree most")
@dataclass(frozen=True)
class CanonicalCorrelation(Projection):
    """Whiten the vectors and keep the directions in which those of items consumed together agree most.

    Parameters
    ----------
    shrinkage : float
        From 0 to 1: how much of the covariance is replaced by a multiple of the identity of the same trace, before the
        vectors are whitened by it. It keeps small directions from being magnified where items are few.

    Notes
    -----
    Source: canonical correlation analysis (Hotelling, 1936) of the vectors of two items that a user consumed: ``x`` of
    an item, drawn by its weight, and ``y`` of another, where a walk from it ends (`CoConsumption`). The leading
    solutions ``w`` of ``M w = r C w``, with ``C`` the covariance of ``x`` and ``M`` the symmetrized one of ``x`` and
    ``y``. With ``popularity`` 1 the two are distributed
    alike, and these are the canonical directions; otherwise their like. Fitted over the items that have a co-consumed
    one; the map applies to all.
    """

    # Measured: results/strategies.md.
    default_scale: ClassVar[Scale] = "score"
    popularity: float = 1.0
    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("shrinkage", self.shrinkage, "from 0 to 1", lambda share: 0 <= share <= 1)

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Affine:
        """Fit the ``size`` directions of the largest agreement.

        Raises
        ------
        LLMInitError
            If the vectors vary in fewer than ``size`` directions, or no two items with a vector were consumed together.
        """
        mean, directions, _, _ = self._solve(embeddings, size, interactions)
        return Affine(mean, _signed(directions[:, :size]))

    def agreement(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix) -> float:
        """Return the sum of all canonical correlations ``r``, less what it is by chance.

        Unlike the leading ones, which are picked, all of them do not grow by chance where interactions are few. One
        direction in which the items of a user are all alike, and those of two users are not, adds 1.

        Raises
        ------
        LLMInitError
            As `fit`.

        Notes
        -----
        Chance is that ``y`` is drawn by its weight from all items but ``x``. Its mean is then off the weighted mean
        ``m`` by ``-w (x - m) / (1 - w)``, with ``w`` the weight of ``x`` of all that sum to 1, and the sum is the
        weighted mean of ``-w / (1 - w) (x - m)^T C^-1 (x - m)``.
        """
        mean, directions, correlations, weights = self._solve(embeddings, size, interactions)
        by_chance = 0.0
        for items, block in embeddings.blocks():
            lengths = (((block - mean) @ directions) ** 2).sum(axis=1)
            by_chance -= float((weights[items] ** 2 / (1 - weights[items])) @ lengths)
        return float(correlations.sum()) - by_chance

    def _solve(self, embeddings: AlignedEmbeddings, size: int, interactions: csr_matrix) -> _Solution:
        """Return the mean, all directions with their correlations, the largest first, and the items' weights.

        The last solution for these vectors is kept as long as they are: ``auto`` asks for the agreement, and then for
        the fit.
        """
        last = _solutions.get(embeddings)
        if last is not None and last[0]() is interactions and last[1] == self:
            solution = last[2]
            self._refuse_rank(solution[1].shape[1], size, embeddings, int((solution[3] > 0).sum()))
            return solution
        walk = CoConsumption(embeddings, interactions)
        if not walk.has_mean.any():
            raise LLMInitError(
                f"{self!r} reads which items were consumed together, and no user has two training items with a vector: "
                f"take whiten"
            )
        weights = self._weights(interactions) * walk.has_mean
        weights /= weights.sum()
        moments = self._moments(embeddings, weights)
        variances, directions = self._basis(embeddings, moments, size)
        mean_variance = np.trace(moments.covariance) / embeddings.width
        shrunk = (1 - self.shrinkage) * variances + self.shrinkage * mean_variance
        whitening = directions / np.sqrt(shrunk)
        agreement = whitening.T @ walk.moment(moments.mean, weights) @ whitening
        correlations, rotation = np.linalg.eigh((agreement + agreement.T) / 2)
        solution = moments.mean, whitening @ rotation[:, ::-1], correlations[::-1], weights
        _solutions[embeddings] = weakref.ref(interactions), self, solution
        return solution


@register_strategy("rp", "an orthogonal random projection")
@dataclass(frozen=True)
class RandomProjection(Projection):
    """Project on random orthogonal directions, scaled so that lengths are kept in the mean.

    Notes
    -----
    Source: Johnson and Lindenstrauss (1984). The directions are uniform over all (QR of a Gaussian matrix, with the
    signs of Mezzadri, 2007), orthogonal, each of length ``sqrt(llm_dim / d)``.
    """

    def fit(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int) -> Affine:
        """Draw ``size`` directions from a generator of its own, seeded by ``seed``.

        Raises
        ------
        LLMInitError
            If all vectors are equal, so that centred ones are zero.
        """
        moments = self._moments(embeddings, self._weights(interactions), diagonal=True)
        gaussian = np.random.default_rng(seed).standard_normal((embeddings.width, size))
        directions, triangle = np.linalg.qr(gaussian)
        directions *= np.sign(np.diag(triangle)) * math.sqrt(embeddings.width / size)
        return Affine(moments.mean, directions)
