"""Canonical directions against SciPy, scikit-learn and the formulas restated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from scipy.sparse import csr_matrix
from sklearn.cross_decomposition import CCA

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation
from recbole_llminit.strategies.projection import PrincipalComponents
from tests.messages import naming
from tests.strategies.toy_data import N_ITEMS, WIDTH, align, neighbors, project

Matrix = npt.NDArray[np.float64]


@pytest.mark.parametrize(("popularity", "shrinkage"), [(0, 0), (1, 0), (0.5, 0.3)])
def test_cca_solves_the_generalized_eigenproblem(
    rows: Matrix, interactions: csr_matrix, popularity: float, shrinkage: float
) -> None:
    strategy = CanonicalCorrelation(popularity=popularity, shrinkage=shrinkage)
    fit = strategy.fit(align(rows), 5, interactions=interactions, seed=0)
    graph = neighbors(interactions)[1:, 1:]
    has_mean = graph.sum(axis=1) > 0
    assert 0 < has_mean.sum() < N_ITEMS
    weights = has_mean * np.asarray(interactions.sum(axis=0)).ravel()[1:].astype(float) ** popularity
    mean = weights @ rows / weights.sum()
    centered = rows - mean
    covariance = centered.T * weights @ centered / weights.sum()
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / WIDTH * np.eye(WIDTH)
    cross = centered.T * weights @ (graph @ rows - mean)
    correlations, directions = scipy.linalg.eigh((cross + cross.T) / 2 / weights.sum(), covariance)
    # An item drawn by weight from all but the first one, whatever that is.
    weights /= weights.sum()
    others = weights * (1 - np.eye(N_ITEMS)) / (1 - weights[:, None])
    by_chance = np.trace(np.linalg.solve(covariance, centered.T * weights @ others @ centered))
    assert fit.canonical.adjusted_correlation == pytest.approx(correlations.sum() - by_chance, abs=1e-4)
    np.testing.assert_allclose(fit.canonical.correlations, correlations[::-1], atol=1e-4)
    directions = directions[:, ::-1][:, :5]
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(5)])
    values = project(strategy, 5, interactions, rows)
    np.testing.assert_allclose(values, centered @ directions, rtol=1e-3, atol=1e-4)


def test_a_fit_holds_what_its_directions_were_found_from(rows: Matrix, interactions: csr_matrix) -> None:
    embeddings, strategy = align(rows), CanonicalCorrelation(shrinkage=0.2)
    canonical = strategy.fit(embeddings, 5, interactions=interactions, seed=0).canonical
    assert canonical.strategy is strategy and canonical.embeddings is embeddings
    # All directions, however many are asked for; the largest correlation comes first.
    assert canonical.directions.shape == (WIDTH, WIDTH) and canonical.weights.shape == (N_ITEMS + 1,)
    assert (np.diff(canonical.correlations) <= 0).all() and canonical.weights.sum() == pytest.approx(1)


def test_cca_is_scikit_learns_on_pairs() -> None:
    """With users of three items, popular ones in many, the pairs of a user's items are the two sides of CCA."""
    generator = np.random.default_rng(6)
    tastes = generator.normal(size=(150, 6))
    rows = tastes + generator.normal(size=(150, 6)) * [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    dense = np.zeros((401, 151), dtype=np.float32)
    left: list[int] = []
    right: list[int] = []
    for user in range(1, 401):
        # Items of one taste, the first ones more often.
        first = int(150 * generator.random() ** 2)
        near = np.argsort(((tastes - tastes[first]) ** 2).sum(axis=1))[:8]
        items = [first, *generator.choice(near[near != first], 2, replace=False)]
        dense[user, np.array(items) + 1] = 1
        left += [item for item in items for other in items if other != item]
        right += [other for item in items for other in items if other != item]
    values = project(CanonicalCorrelation(shrinkage=0), 2, csr_matrix(dense), rows)
    model = CCA(n_components=2, scale=False, max_iter=5000, tol=1e-12).fit(rows[left], rows[right])
    expected = model.transform(rows)
    for column in range(2):
        assert abs(np.corrcoef(values[:, column], expected[:, column])[0, 1]) > 0.9999


def test_cca_finds_what_is_common_to_co_consumed_items() -> None:
    """Items of two kinds that are never consumed together; the kind hides in a column of little variance."""
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(80, 5)) * [10, 10, 10, 10, 0.1]
    kinds = np.arange(80) % 2
    rows[:, 4] += 0.2 * kinds
    dense = np.zeros((200, 81), dtype=np.float32)
    for user in range(1, 200):
        dense[user, 1 + generator.choice(np.flatnonzero(kinds == user % 2), 6, replace=False)] = 1
    (found,) = project(CanonicalCorrelation(shrinkage=0), 1, csr_matrix(dense), rows).T
    (variance,) = project(PrincipalComponents(), 1, csr_matrix(dense), rows).T
    assert abs(np.corrcoef(found, rows[:, 4])[0, 1]) > 0.9 > 0.5 > abs(np.corrcoef(variance, rows[:, 4])[0, 1])


def test_no_co_consumption(rows: Matrix) -> None:
    alone = csr_matrix(np.eye(N_ITEMS + 1, dtype=np.float32))
    with pytest.raises(LLMInitError, match=naming("no user has two training items with a vector", "take whiten")):
        CanonicalCorrelation().fit(align(rows), 3, interactions=alone, seed=0)
