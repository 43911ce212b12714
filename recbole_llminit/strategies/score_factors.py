"""The leading factors of the scores of a linear autoencoder: values of items and users whose products come nearest."""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr, svd
from scipy.sparse import csr_matrix, diags

from recbole_llminit.strategies.base import Factors, too_few_directions
from recbole_llminit.strategies.closed_form import ItemWeights, Matrix, SparseProducts
from recbole_llminit.strategies.projection import signed

# Below it, relative to the largest, a singular value is rounding error.
_SMALLEST_SINGULAR_VALUE = 1e-5
# A matrix that has not many more rows than components are wanted is decomposed as a whole.
_DENSE_SHARE = 5
_FURTHER_DIRECTIONS = 16
_POWER_ITERATIONS = 2


class ScoreFactors:
    """The singular value decomposition of ``D^-power X B``, with ``D`` the users' numbers of interactions.

    Parameters
    ----------
    weights : ItemWeights
        ``B``.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        ``X``.
    n_components : int
        The number of leading components.
    power : float
        The power of the users' numbers of interactions.
    seed : int
        The seed of the solver's first vectors.

    Raises
    ------
    LLMInitError
        If there are fewer components.
    """

    def __init__(
        self, weights: ItemWeights, interactions: csr_matrix, n_components: int, *, power: float, seed: int
    ) -> None:
        lengths = np.maximum(np.diff(interactions.indptr), 1).astype(np.float32)
        histories = (diags(lengths**-power, dtype=np.float32) @ interactions).tocsr().astype(np.float32)
        limit = min(interactions.shape)
        if n_components <= limit:
            users, values, directions = _decompose(weights, histories, n_components, seed)
            limit = int((values > _SMALLEST_SINGULAR_VALUE * values[0]).sum())
        if n_components > limit:
            raise too_few_directions("init_strategy lae", limit, n_components, "the scores that it is made from")
        turned, roots = signed(directions), np.sqrt(values)
        signs = np.sign(np.einsum("ij,ij->j", turned, directions))
        # A row of rounding errors would count as a value.
        have_clicks = np.diff(interactions.indptr) > 0
        self._items = (turned * weights.are_known[:, None] * roots).astype(np.float32, copy=False)
        self._users = (users * have_clicks[:, None] * (signs * roots)).astype(np.float32, copy=False)

    def leading(self, n_components: int) -> Factors:
        """Return items ``V sqrt(s)`` and users ``U sqrt(s)`` of the leading components."""
        return Factors(self._items[:, :n_components], self._users[:, :n_components])


def _decompose(
    weights: ItemWeights, histories: csr_matrix, n_components: int, seed: int
) -> tuple[Matrix, Matrix, Matrix]:
    """Return left singular vectors ``[n_users, d]``, values, the largest first, and right ones ``[n_items, d]``."""
    if _DENSE_SHARE * (n_components + _FURTHER_DIRECTIONS) >= min(histories.shape):
        left, values, rows = np.linalg.svd(histories @ weights.to_dense(), full_matrices=False)
        return left[:, :n_components], values[:n_components], rows[:n_components].T
    return _decompose_by_products(weights, histories, n_components, seed)


def _decompose_by_products(
    weights: ItemWeights, histories: csr_matrix, n_components: int, seed: int
) -> tuple[Matrix, Matrix, Matrix]:
    """Decompose by products with blocks of vectors, without the matrix of scores.

    The randomized subspace iteration of Halko, Martinsson and Tropp (2011, algorithms 4.4 and 5.1), as scikit-learn's
    ``randomized_svd`` does it, which takes no operator. SciPy's ``svds`` takes one, and was 20 to 30 times slower.
    """
    of_users, of_items = SparseProducts(histories), SparseProducts(histories.T.tocsr())
    generator = np.random.default_rng(seed)
    count = n_components + _FURTHER_DIRECTIONS
    basis = generator.standard_normal((histories.shape[1], count), dtype=np.float32)
    for _ in range(_POWER_ITERATIONS + 1):
        scores = of_users.multiply(weights.multiply(basis))
        basis = _orthonormal(weights.multiply_transposed(of_items.multiply(_orthonormal(scores))))
    left, values, rotation = svd(of_users.multiply(weights.multiply(basis)), full_matrices=False, overwrite_a=True)
    return left[:, :n_components], values[:n_components], basis @ rotation[:n_components].T


def _orthonormal(vectors: Matrix) -> Matrix:
    """Return an orthonormal basis of the columns; in float32, as NumPy's would take float64 for it."""
    basis: Matrix = qr(vectors, mode="economic", overwrite_a=True)[0]
    return basis
