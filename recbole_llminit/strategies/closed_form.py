"""The closed form of a linear autoencoder with a text prior: its item-item weights, dense or as an operator."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import get_lapack_funcs
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, cg

from recbole_llminit.errors import LLMInitError

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

# Of the residuals of conjugate gradients, relative to the right-hand sides: with 1e-4 no ranking is better.
_TOLERANCE = 1e-2
_MOST_ITERATIONS = 500
# Random vectors for the diagonal of the inverse, whose relative error is that of B's column lengths over their root.
_PROBES = 128
# Numbers that are solved for at a time: 128 MB, of which conjugate gradients need some eight.
_SOLVED_NUMBERS = 1 << 25


@dataclass(frozen=True, eq=False)
class TextPrior:
    """What the vectors alone say of the item-item weights: ``C``, a diagonal matrix plus one of low rank.

    Parameters
    ----------
    features : ndarray of float32, shape [n_items, rank]
        The features ``F`` of the items; those of an item without a vector are 0, and so are its weights.
    inner : ndarray of float32, shape [rank, rank]
        ``S = (rho I + F^T F)^-1``.
    rest : ndarray of float64, shape [n_items]
        ``rho diag(P)``.

    Notes
    -----
    Source: L3AE (arXiv 2508.13500): EASE with the features of the items in place of the clicks,
    ``C = I - P / diag(P)`` with ``P = (F F^T + rho I)^-1``. By Woodbury's identity ``rho P = I - F S F^T``, so that no
    matrix of items by items is made.
    """

    features: Matrix
    inner: Matrix
    rest: Vector

    @classmethod
    def of(cls, features: Matrix, rho: float) -> TextPrior:
        """Solve for the features of items, shape ``[n_items, rank]``, with the regularization ``rho``."""
        gram = features.T.astype(np.float64) @ features
        inner = np.linalg.inv(gram + rho * np.eye(len(gram))).astype(np.float32)
        rest = np.empty(len(features))
        for rows in _parts(len(features), _SOLVED_NUMBERS // max(1, features.shape[1])):
            rest[rows] = 1 - np.einsum("ij,ij->i", features[rows], features[rows] @ inner, dtype=np.float64)
        return cls(features, inner, rest)

    @property
    def diagonal(self) -> Vector:
        """The diagonal matrix in the sum of a diagonal and a low-rank one that ``C`` is, shape ``[n_items]``."""
        return 1 - 1 / self.rest

    def multiply(self, vectors: Matrix) -> Matrix:
        """Return ``C @ vectors``, shape ``[n_items, k]``."""
        inner = self.inner @ (self.features.T @ _times(1 / self.rest, vectors))
        return _times(self.diagonal, vectors) + self.features @ inner

    def multiply_transposed(self, vectors: Matrix) -> Matrix:
        """Return ``C.T @ vectors``, shape ``[n_items, k]``."""
        low_rank = self.features @ (self.inner @ (self.features.T @ vectors))
        return _times(self.diagonal, vectors) + _times(1 / self.rest, low_rank)


class SparseProducts:
    """Products of a sparse matrix with blocks of vectors, by PyTorch: on several threads, which SciPy does not use.

    Parameters
    ----------
    matrix : csr_matrix of float32, shape [n, m]
        The matrix.
    """

    def __init__(self, matrix: csr_matrix) -> None:
        with warnings.catch_warnings():
            # PyTorch says at the first one that sparse matrices may change.
            warnings.simplefilter("ignore", UserWarning)
            indptr, indices = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
            self._matrix = torch.sparse_csr_tensor(indptr, indices, torch.from_numpy(matrix.data), matrix.shape)

    def multiply(self, vectors: Matrix) -> Matrix:
        """Return the product with vectors of shape ``[m, k]``, shape ``[n, k]``."""
        product: Matrix = (self._matrix @ torch.from_numpy(vectors)).numpy()
        return product


class InverseGram(ABC):
    """The inverse ``P = (X^T X + ridge I)^-1`` of the regularized Gram matrix of the interactions ``X``.

    Parameters
    ----------
    interactions : csr_matrix of float32, shape [n_users, n_items]
        The interactions.
    ridge : float
        What is added to the diagonal.
    """

    def __init__(self, interactions: csr_matrix, ridge: float) -> None:
        self.interactions = interactions
        self.ridge = ridge

    @abstractmethod
    def multiply(self, vectors: Matrix) -> Matrix:
        """Return ``P @ vectors``, shape ``[n_items, k]``."""

    @property
    @abstractmethod
    def diagonal(self) -> Vector:
        """The diagonal of ``P``, shape ``[n_items]``."""


class DenseInverseGram(InverseGram):
    """The inverse as a matrix, ``n_items ** 2`` numbers of float32."""

    @cached_property
    def matrix(self) -> Matrix:
        """The inverse, shape ``[n_items, n_items]``."""
        gram = (self.interactions.T @ self.interactions).toarray().astype(np.float32, copy=False)
        gram[np.diag_indices(len(gram))] += np.float32(self.ridge)
        # Cholesky's needs a third of the operations of an inverse by elimination.
        factorize, invert = get_lapack_funcs(("potrf", "potri"), (gram,))
        factor, failed = factorize(gram.T, lower=True, overwrite_a=True)
        if failed:
            raise LLMInitError(
                f"init_strategy lae cannot invert the items' Gram matrix with lam and kappa at {self.ridge:g} in all, "
                f"which is too small beside the clicks in float32: set init_args lam to a number such as 1"
            )
        inverse, _ = invert(factor, lower=True, overwrite_c=True)
        lower: Matrix = np.tril(inverse)
        lower += np.tril(lower, -1).T
        return lower

    def multiply(self, vectors: Matrix) -> Matrix:
        """Return ``P @ vectors``."""
        return self.matrix @ vectors

    @property
    def diagonal(self) -> Vector:
        """The diagonal of ``P``."""
        return np.diag(self.matrix).astype(np.float64)


class IterativeInverseGram(InverseGram):
    """The inverse as an operator: conjugate gradients on the sparse interactions, with a Jacobi preconditioner.

    Parameters
    ----------
    interactions, ridge
        As of `InverseGram`.
    seed : int
        The seed of the vectors that probe the diagonal.
    tolerance : float
        Of the residuals, relative to the right-hand sides.
    """

    def __init__(self, interactions: csr_matrix, ridge: float, seed: int, *, tolerance: float = _TOLERANCE) -> None:
        super().__init__(interactions, ridge)
        self._products = SparseProducts(interactions), SparseProducts(interactions.T.tocsr())
        self._seed = seed
        self._tolerance = tolerance
        self._jacobi = (1 / (np.bincount(interactions.indices, minlength=interactions.shape[1]) + ridge)).astype(
            np.float32
        )

    @cached_property
    def diagonal(self) -> Vector:
        """The diagonal of ``P``, probed by random signs ``z``: the mean of ``z * (P z)`` (Bekas et al., 2007)."""
        generator = np.random.default_rng(self._seed)
        n_items = self.interactions.shape[1]
        total = np.zeros(n_items)
        for part in _parts(_PROBES, _SOLVED_NUMBERS // n_items):
            shape = (n_items, part.stop - part.start)
            signs = generator.integers(2, size=shape, dtype=np.int8).astype(np.float32) * 2 - 1
            total += np.einsum("ij,ij->i", signs, self.multiply(signs), dtype=np.float64)
        # What is known of it: it is at most 1 / ridge, and at least that of the Gram matrix's own diagonal.
        return np.clip(total / _PROBES, self._jacobi, 1 / self.ridge)

    def multiply(self, vectors: Matrix) -> Matrix:
        """Return ``P @ vectors``, up to the tolerance, for all columns in one run.

        SciPy's solver takes one vector, so it is given the columns as one; its memory is some eight times theirs.
        """
        shape = vectors.shape
        of_users, of_items = self._products

        def gram(flat: Matrix) -> Matrix:
            block = flat.reshape(shape)
            product = of_items.multiply(of_users.multiply(block))
            product += np.float32(self.ridge) * block
            return product.ravel()

        size = (vectors.size, vectors.size)
        scale = LinearOperator(
            size, matvec=lambda flat: (flat.reshape(shape) * self._jacobi[:, None]).ravel(), dtype=np.float32
        )
        found, _ = cg(
            LinearOperator(size, matvec=gram, dtype=np.float32),
            vectors.ravel(),
            # Known as rtol or tol, by SciPy's version; the larger of the two bounds counts.
            atol=self._tolerance * float(np.linalg.norm(vectors)),
            maxiter=_MOST_ITERATIONS,
            M=scale,
        )
        solved: Matrix = found.reshape(shape).astype(np.float32, copy=False)
        return solved


@dataclass(frozen=True, eq=False)
class Equations:
    """What the closed form needs for one sum of ``lam`` and ``kappa``, whatever their shares are.

    Parameters
    ----------
    inverse : InverseGram
        ``P = (X^T X + (lam + kappa) I)^-1``.
    prior : TextPrior or None
        ``C``; None where the texts have no say.
    """

    inverse: InverseGram
    prior: TextPrior | None

    @cached_property
    def prior_diagonal(self) -> Vector:
        """The diagonal of ``P C``, shape ``[n_items]``; zeros without a prior."""
        if self.prior is None:
            return np.zeros(self.inverse.interactions.shape[1])
        features, inner = self.prior.features, self.prior.inner
        low_rank = np.zeros(len(features))
        # Some columns at a time: all of them would be as much as the features once more.
        for part in _parts(features.shape[1], _SOLVED_NUMBERS // len(features)):
            solved = self.inverse.multiply(np.ascontiguousarray(features[:, part]))
            low_rank += np.einsum("ij,ij->i", solved, features @ inner[:, part], dtype=np.float64)
        own: Vector = self.inverse.diagonal * self.prior.diagonal + low_rank / self.prior.rest
        return own


@dataclass(frozen=True, eq=False)
class ItemWeights:
    """The item-item weights ``B`` of a linear autoencoder of interactions ``X`` that is pulled to a text prior ``C``.

    Parameters
    ----------
    equations : Equations
        ``P`` and ``C``.
    kappa : float
        The weight of the prior.

    Notes
    -----
    The minimum of ``|X - X B|^2 + lam |B|^2 + kappa |B - C|^2`` over matrices with diagonal 0 (L3AE, arXiv 2508.13500;
    with ``kappa`` 0 EASE, arXiv 1905.03375) is ``B = P (X^T X + kappa C) - P diag(gamma)``. With
    ``P X^T X = I - (lam + kappa) P`` this is ``I + P (kappa C - diag(e))``, with the ``e`` for which the diagonal is 0.
    """

    equations: Equations
    kappa: float

    @cached_property
    def correction(self) -> Vector:
        """The diagonal ``e``, shape ``[n_items]``: ``(1 + kappa diag(P C)) / diag(P)``."""
        correction: Vector = (1 + self.kappa * self.equations.prior_diagonal) / self.equations.inverse.diagonal
        return correction

    @property
    def are_known(self) -> npt.NDArray[np.bool_]:
        """Which items have clicks or a say in the prior, shape ``[n_items]``: the weights of the others are 0."""
        interactions, prior = self.equations.inverse.interactions, self.equations.prior
        known = np.bincount(interactions.indices, minlength=interactions.shape[1]) > 0
        return known if prior is None or not self.kappa else known | prior.features.any(axis=1)

    def multiply(self, vectors: Matrix) -> Matrix:
        """Return ``B @ vectors``, shape ``[n_items, k]``."""
        return _by_columns(self._multiply, vectors)

    def multiply_transposed(self, vectors: Matrix) -> Matrix:
        """Return ``B.T @ vectors``, shape ``[n_items, k]``."""
        inverse = self.equations.inverse
        return _by_columns(lambda block: self.finish_transposed(block, inverse.multiply(block)), vectors)

    def _multiply(self, vectors: Matrix) -> Matrix:
        pulled = -_times(self.correction, vectors)
        if self.equations.prior is not None and self.kappa:
            pulled += np.float32(self.kappa) * self.equations.prior.multiply(vectors)
        return vectors + self.equations.inverse.multiply(pulled)

    def finish_transposed(self, vectors: Matrix, solved: Matrix) -> Matrix:
        """Return ``B.T @ vectors`` from ``P @ vectors``, which does not depend on ``kappa``."""
        product = vectors - _times(self.correction, solved)
        if self.equations.prior is not None and self.kappa:
            product += np.float32(self.kappa) * self.equations.prior.multiply_transposed(solved)
        return product

    def to_dense(self) -> Matrix:
        """Return ``B``, shape ``[n_items, n_items]``, with a diagonal of 0."""
        weights = self.multiply(np.eye(len(self.correction), dtype=np.float32))
        np.fill_diagonal(weights, 0)
        return weights


def _parts(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` (at least one) that go through ``count`` rows or columns."""
    step = max(1, size)
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def _by_columns(product: Callable[[Matrix], Matrix], vectors: Matrix) -> Matrix:
    """Return a product with vectors of shape ``[n_items, k]``, computed some columns at a time, as memory allows."""
    result = np.empty_like(vectors)
    for part in _parts(vectors.shape[1], _SOLVED_NUMBERS // len(vectors)):
        result[:, part] = product(np.ascontiguousarray(vectors[:, part]))
    return result


def _times(diagonal: Vector, vectors: Matrix) -> Matrix:
    product: Matrix = diagonal.astype(np.float32)[:, None] * vectors
    return product
