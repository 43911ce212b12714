"""The item-item weights of clicks and texts, against their formulas, a numerical minimum, and RecBole's EASE."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from recbole.model.general_recommender import EASE
from scipy.optimize import minimize
from scipy.sparse import coo_matrix, csr_matrix

from recbole_llminit.strategies.closed_form import (
    DenseInverseGram,
    Equations,
    InverseGram,
    ItemWeights,
    IterativeInverseGram,
    TextPrior,
)
from tests.strategies.closed_form_oracle import item_weights, objective, text_prior
from tests.strategies.toy_data import interactions_of

SIZES = [(5.0, 0.0), (5.0, 8.0), (0.5, 300.0)]


@pytest.fixture
def clicks() -> csr_matrix:
    """The clicks of 80 users on 40 items; a user and an item have none."""
    dense = np.random.default_rng(0).random((80, 40)) < np.linspace(0.05, 0.4, 40)
    dense[3] = dense[:, 0] = False
    return csr_matrix(dense.astype(np.float32))


@pytest.fixture
def features() -> npt.NDArray[np.float32]:
    """Features of the items at length 1; two items have none."""
    rows = np.random.default_rng(1).normal(size=(40, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[[0, 7]] = 0
    return rows.astype(np.float32)


class EaseConfig(dict[str, Any]):
    """What EASE's constructor reads of a configuration."""

    device = "cpu"

    def __init__(self) -> None:
        super().__init__(
            USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", NEG_PREFIX="neg_", device="cpu", reg_weight=7
        )


def solve(clicks: csr_matrix, features: npt.NDArray[np.float32], lam: float, kappa: float) -> ItemWeights:
    """The weights by the inverse as a matrix, with a rho of 0.3."""
    return ItemWeights(Equations(DenseInverseGram(clicks, lam + kappa), TextPrior.of(features, 0.3)), kappa)


@pytest.mark.parametrize("rho", [0.01, 0.3, 10])
def test_the_text_prior_is_that_of_the_direct_inverse(features: npt.NDArray[np.float32], rho: float) -> None:
    expected, prior = text_prior(features, rho), TextPrior.of(features, rho)
    vectors = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    scale = np.abs(expected).sum()
    np.testing.assert_allclose(prior.multiply(vectors), expected @ vectors, atol=1e-5 * scale)
    np.testing.assert_allclose(prior.multiply_transposed(vectors), expected.T @ vectors, atol=1e-5 * scale)
    dense = prior.multiply(np.eye(40, dtype=np.float32))
    np.testing.assert_allclose(np.diag(dense), 0, atol=1e-4)
    # An item without features has no part in it.
    assert not dense[7].any() and not dense[:, 7].any()


def test_the_text_prior_with_more_features_than_items() -> None:
    rows = np.random.default_rng(3).normal(size=(10, 30)).astype(np.float32)
    dense = TextPrior.of(rows, 0.5).multiply(np.eye(10, dtype=np.float32))
    np.testing.assert_allclose(dense, text_prior(rows, 0.5), atol=1e-3)


@pytest.mark.parametrize(("lam", "kappa"), SIZES)
def test_the_weights_are_those_of_the_formula(
    clicks: csr_matrix, features: npt.NDArray[np.float32], lam: float, kappa: float
) -> None:
    found = solve(clicks, features, lam, kappa)
    expected = item_weights(clicks.toarray(), text_prior(features, 0.3), lam, kappa)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found.to_dense(), expected, atol=1e-5)
    assert not np.diag(found.to_dense()).any()
    vectors = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    np.testing.assert_allclose(found.multiply(vectors), expected @ vectors, atol=1e-4)
    np.testing.assert_allclose(found.multiply_transposed(vectors), expected.T @ vectors, atol=1e-4)


@pytest.mark.parametrize(("lam", "kappa"), [(2.0, 0.0), (0.7, 3.0)])
def test_the_weights_are_the_minimum_that_a_numerical_search_finds(lam: float, kappa: float) -> None:
    clicks = interactions_of([1, 2, 3], [1, 2], [4, 5], [2, 5], [1, 4, 5], [3], n_items=5)
    features = np.random.default_rng(4).normal(size=(6, 2)).astype(np.float32)
    prior, free = text_prior(features, 0.3), ~np.eye(6, dtype=np.bool_)

    def weights_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        weights = np.zeros((6, 6))
        weights[free] = values
        return weights

    searched = minimize(
        lambda values: objective(weights_of(values), clicks.toarray(), prior, lam, kappa), np.zeros(30), tol=1e-10
    )
    np.testing.assert_allclose(solve(clicks, features, lam, kappa).to_dense(), weights_of(searched.x), atol=1e-4)


def test_without_a_prior_the_weights_are_those_of_recboles_ease(clicks: csr_matrix) -> None:
    matrix = coo_matrix(clicks)
    dataset = SimpleNamespace(num={"user_id": 80, "item_id": 40}.get, inter_matrix=lambda form: matrix)
    expected = np.asarray(EASE(EaseConfig(), dataset).item_similarity)
    for kappa, prior in ((0.0, None), (0.0, TextPrior.of(np.eye(40, dtype=np.float32), 1.0))):
        found = ItemWeights(Equations(DenseInverseGram(clicks, 7.0), prior), kappa)
        np.testing.assert_allclose(found.to_dense(), expected, atol=1e-5)


def test_with_a_large_kappa_the_weights_are_the_prior(clicks: csr_matrix, features: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(solve(clicks, features, 1.0, 1e5).to_dense(), text_prior(features, 0.3), atol=1e-2)


def test_the_dense_inverse(clicks: csr_matrix) -> None:
    expected = np.linalg.inv((clicks.T @ clicks).toarray().astype(np.float64) + 3 * np.eye(40))
    found = DenseInverseGram(clicks, 3.0)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-6)
    np.testing.assert_allclose(found.diagonal, np.diag(expected), rtol=1e-5)
    assert np.array_equal(found.matrix, found.matrix.T)


@pytest.mark.parametrize("solved_numbers", [1 << 26, 40 * 7])
def test_the_iterative_inverse_is_the_dense_one(
    clicks: csr_matrix, monkeypatch: pytest.MonkeyPatch, solved_numbers: int
) -> None:
    """However many columns are solved at a time."""
    monkeypatch.setattr("recbole_llminit.strategies.closed_form._SOLVED_NUMBERS", solved_numbers)
    dense, iterative = DenseInverseGram(clicks, 3.0), IterativeInverseGram(clicks, 3.0, seed=0, tolerance=1e-4)
    vectors = np.random.default_rng(2).normal(size=(40, 20)).astype(np.float32)
    expected = dense.multiply(vectors)
    assert np.linalg.norm(iterative.multiply(vectors) - expected) < 1e-3 * np.linalg.norm(expected)
    # The error of a probe of row i is that of a sum of random signs of its other entries, over the root of 128 probes.
    others = dense.matrix - np.diag(dense.diagonal)
    spread = np.linalg.norm(others, axis=1) / np.sqrt(128)
    assert (np.abs(iterative.diagonal - dense.diagonal) <= 4 * spread + 1e-4).all()
    assert (iterative.diagonal <= 1 / 3 + 1e-9).all()
    again = IterativeInverseGram(clicks, 3.0, seed=0, tolerance=1e-4).diagonal
    assert np.array_equal(iterative.diagonal, again)
    assert not np.array_equal(IterativeInverseGram(clicks, 3.0, seed=1).diagonal, again)


def test_the_scores_hardly_depend_on_how_the_inverse_is_taken(
    clicks: csr_matrix, features: npt.NDArray[np.float32]
) -> None:
    inverses: tuple[InverseGram, ...] = (DenseInverseGram(clicks, 20.0), IterativeInverseGram(clicks, 20.0, seed=0))
    prior, histories = TextPrior.of(features, 0.3), clicks.toarray().T
    expected, found = (ItemWeights(Equations(one, prior), 15.0).multiply_transposed(histories) for one in inverses)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
