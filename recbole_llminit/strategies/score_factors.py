"""The leading factors of the scores of a linear autoencoder: values of items and users whose products come nearest."""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr, svd
from scipy.sparse import csr_matrix, diags

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Factors
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
        self._weights = weights
        self._histories = (diags(lengths**-power, dtype=np.float32) @ interactions).tocsr().astype(np.float32)
        limit = min(interactions.shape)
        if n_components <= limit:
            values, directions = self._decompose(n_components, seed)
            limit = int((values > _SMALLEST_SINGULAR_VALUE * values[0]).sum())
        if n_components > limit:
            raise LLMInitError(
                f"init_strategy lae has {limit} directions, and a table has {n_components} columns: the scores that it "
                f"is made from vary in no more; set the table's size (embedding_size, hidden_size) <= {limit}, or take "
                f"another strategy"
            )
        # A row of rounding errors would count as a value.
        self._directions, self._roots = signed(directions) * weights.are_known[:, None], np.sqrt(values)

    def leading(self, n_components: int) -> Factors:
        """Return items ``V sqrt(s)`` and users ``D^-power X B V / sqrt(s)`` of the leading components."""
        directions, roots = self._directions[:, :n_components], self._roots[:n_components]
        users = self._histories @ self._weights.multiply(np.ascontiguousarray(directions))
        return Factors((directions * roots).astype(np.float32), (users / roots).astype(np.float32))

    def _decompose(self, n_components: int, seed: int) -> tuple[Matrix, Matrix]:
        """Return the singular values, the largest first, and the right singular vectors, shape ``[n_items, d]``."""
        shape = self._histories.shape
        if _DENSE_SHARE * (n_components + _FURTHER_DIRECTIONS) >= min(shape):
            scores = self._histories @ self._weights.to_dense()
            _, values, rows = np.linalg.svd(scores, full_matrices=False)
            return values[:n_components], rows[:n_components].T
        return self._decompose_by_products(n_components, seed)

    def _decompose_by_products(self, n_components: int, seed: int) -> tuple[Matrix, Matrix]:
        """Decompose by products with blocks of vectors, without the matrix of scores.

        The randomized subspace iteration of Halko, Martinsson and Tropp (2011, algorithms 4.4 and 5.1), as
        scikit-learn's ``randomized_svd`` does it, which takes no operator. SciPy's ``svds`` takes one, and was 20 to 30
        times slower.
        """
        histories, weights = self._histories, self._weights
        of_users, of_items = SparseProducts(histories), SparseProducts(histories.T.tocsr())
        generator = np.random.default_rng(seed)
        count = n_components + _FURTHER_DIRECTIONS
        basis = generator.standard_normal((histories.shape[1], count), dtype=np.float32)
        for _ in range(_POWER_ITERATIONS + 1):
            scores = of_users.multiply(weights.multiply(basis))
            basis = _orthonormal(weights.multiply_transposed(of_items.multiply(_orthonormal(scores))))
        _, values, rotation = svd(of_users.multiply(weights.multiply(basis)), full_matrices=False, overwrite_a=True)
        return values[:n_components], basis @ rotation[:n_components].T


def _orthonormal(vectors: Matrix) -> Matrix:
    """Return an orthonormal basis of the columns; in float32, as NumPy's would take float64 for it."""
    basis: Matrix = qr(vectors, mode="economic", overwrite_a=True)[0]
    return basis
