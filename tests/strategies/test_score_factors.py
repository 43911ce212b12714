"""The factors of the scores, against NumPy's decomposition of the matrix of scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies import score_factors
from recbole_llminit.strategies.closed_form import DenseInverseGram, Equations, ItemWeights, TextPrior
from recbole_llminit.strategies.score_factors import ScoreFactors
from tests.messages import naming
from tests.strategies.closed_form_oracle import item_weights, text_prior
from tests.strategies.toy_data import interactions_of

N_USERS, N_ITEMS = 400, 300
LAM, KAPPA, RHO = 4.0, 6.0, 0.3


@pytest.fixture(scope="module")
def clicks() -> csr_matrix:
    """Users click what has their taste; the first user and the first item have nothing, nor have two more of each."""
    generator = np.random.default_rng(0)
    tastes = generator.normal(size=(N_USERS, 6)) @ generator.normal(size=(6, N_ITEMS))
    dense = tastes + generator.normal(size=tastes.shape) > 5
    dense[[0, 9, 200]] = dense[:, [0, 3, 299]] = False
    return csr_matrix(dense.astype(np.float32))


@pytest.fixture(scope="module")
def features() -> npt.NDArray[np.float32]:
    """Features at length 1 of all items but four."""
    rows = np.random.default_rng(1).normal(size=(N_ITEMS, 10))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[[0, 3, 5, 299]] = 0
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def factorize(clicks: csr_matrix, features: npt.NDArray[np.float32]) -> Callable[..., ScoreFactors]:
    """A function that decomposes the scores."""
    weights = ItemWeights(Equations(DenseInverseGram(clicks, LAM + KAPPA), TextPrior.of(features, RHO)), KAPPA)

    def factorize(n_components: int, power: float = 0.5, seed: int = 0) -> ScoreFactors:
        return ScoreFactors(weights, clicks, n_components, power=power, seed=seed)

    return factorize


def scores_of(clicks: csr_matrix, features: npt.NDArray[np.float32], power: float) -> npt.NDArray[np.float64]:
    """``D^-power X B`` in float64."""
    dense = clicks.toarray().astype(np.float64)
    lengths = np.maximum(dense.sum(axis=1, keepdims=True), 1)
    scores: npt.NDArray[np.float64] = (
        lengths**-power * dense @ item_weights(dense, text_prior(features, RHO), LAM, KAPPA)
    )
    return scores


# 8 components go by products with blocks of vectors, 60 by the whole matrix: 5 * (60 + 16) > 300.
@pytest.mark.parametrize(("n_components", "whole"), [(8, False), (60, True)])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_products_are_the_best_approximation(
    factorize: Callable[..., ScoreFactors],
    clicks: csr_matrix,
    features: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    n_components: int,
    whole: bool,
    power: float,
) -> None:
    by_products = []
    decompose = score_factors._decompose_by_products
    monkeypatch.setattr(
        score_factors, "_decompose_by_products", lambda *given: by_products.append(1) or decompose(*given)
    )
    factors = factorize(n_components, power).leading(n_components)
    assert bool(by_products) != whole
    scores = scores_of(clicks, features, power)
    left, values, right = np.linalg.svd(scores, full_matrices=False)
    best = left[:, :n_components] * values[:n_components] @ right[:n_components]
    error = np.linalg.norm(scores - factors.users @ factors.items.T)
    assert np.linalg.norm(scores - best) * 0.999 <= error < np.linalg.norm(scores - best) * 1.01
    # Both sides carry the root of the singular values.
    roots = np.sqrt(values[:n_components])
    np.testing.assert_allclose(np.linalg.norm(factors.items, axis=0), roots, rtol=0.02)
    np.testing.assert_allclose(np.linalg.norm(factors.users, axis=0), roots, rtol=0.02)


@pytest.mark.parametrize("n_components", [8, 60])
def test_the_leading_factors_are_numpys_up_to_their_sign(
    factorize: Callable[..., ScoreFactors], clicks: csr_matrix, features: npt.NDArray[np.float32], n_components: int
) -> None:
    factors = factorize(n_components).leading(n_components)
    left, values, right = np.linalg.svd(scores_of(clicks, features, 0.5), full_matrices=False)
    for place in range(4):
        sign = np.sign(right[place] @ factors.items[:, place])
        root = sign * np.sqrt(values[place])
        np.testing.assert_allclose(factors.items[:, place], right[place] * root, atol=2e-3 * abs(root))
        np.testing.assert_allclose(factors.users[:, place], left[:, place] * root, atol=2e-3 * abs(root))


@pytest.mark.parametrize("n_components", [8, 60])
def test_narrower_factors_are_the_leading_columns(factorize: Callable[..., ScoreFactors], n_components: int) -> None:
    decomposed = factorize(n_components)
    widest = decomposed.leading(n_components)
    for width in (1, 5, n_components):
        narrow = decomposed.leading(width)
        assert narrow.items.shape == (N_ITEMS, width) and narrow.users.shape == (N_USERS, width)
        assert narrow.items.dtype == narrow.users.dtype == np.float32
        assert np.array_equal(narrow.items, widest.items[:, :width])
        np.testing.assert_allclose(narrow.users, widest.users[:, :width], atol=1e-5)


@pytest.mark.parametrize("n_components", [8, 60])
def test_the_factors_are_the_same_at_every_call(factorize: Callable[..., ScoreFactors], n_components: int) -> None:
    """Another seed of the solver's first vectors hardly changes them; the signs are settled."""
    first, again, other = (factorize(n_components, seed=seed).leading(4) for seed in (0, 0, 1))
    assert np.array_equal(first.items, again.items) and np.array_equal(first.users, again.users)
    np.testing.assert_allclose(other.items, first.items, atol=0.01 * np.abs(first.items).max())
    assert (first.items.max(axis=0) >= -first.items.min(axis=0) * (1 - 1e-5)).all()


@pytest.mark.parametrize("n_components", [8, 60])
def test_who_has_nothing_gets_nothing(factorize: Callable[..., ScoreFactors], n_components: int) -> None:
    """Users without clicks, and items without clicks and features, whose values are 0 and no rounding error."""
    factors = factorize(n_components).leading(n_components)
    assert not factors.users[[0, 9, 200]].any() and factors.users[1].any()
    assert not factors.items[[3, 299]].any() and factors.items[5].any()


def test_more_components_than_directions(factorize: Callable[..., ScoreFactors]) -> None:
    with pytest.raises(LLMInitError, match=naming("lae has 300 directions", "301 columns", "embedding_size")):
        factorize(301)
    clicks = interactions_of([1, 2, 3], [2, 3, 4], [1, 2, 3], n_items=5)
    weights = ItemWeights(Equations(DenseInverseGram(clicks, 1.0), None), 0.0)
    # Two of the three users are alike.
    with pytest.raises(LLMInitError, match=naming("lae has 2 directions", "3 columns", "<= 2")):
        ScoreFactors(weights, clicks, 3, power=0.5, seed=0)
    assert ScoreFactors(weights, clicks, 2, power=0.5, seed=0).leading(2).items.shape == (6, 2)
