"""Principal components and whitening against scikit-learn, and what all projections have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA, TruncatedSVD

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Strategy, get_strategy
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation
from recbole_llminit.strategies.projection import PrincipalComponents, Whitening
from recbole_llminit.strategies.random_projection import RandomProjection
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.messages import naming
from tests.strategies.toy_data import N_ITEMS, WIDTH, align, fit_affine, project, together

Matrix = npt.NDArray[np.float64]
# They project on no more directions than the vectors vary in.
BY_RANK = [PrincipalComponents(), Whitening(), CanonicalCorrelation(popularity=0)]


def test_pca_equals_scikit_learn(rows: Matrix, interactions: csr_matrix) -> None:
    values = project(PrincipalComponents(), 5, interactions, rows)
    np.testing.assert_allclose(values, PCA(5, svd_solver="full").fit_transform(rows), rtol=1e-4, atol=1e-4)
    assert values.dtype == np.float32


def test_pca_literally() -> None:
    # Points on a line through (1, 1) along (3, 4), at -2, -1, 0, 1, 2 times its length of 5.
    rows = np.array([[1 + 3 * step, 1 + 4 * step] for step in (-2, -1, 0, 1, 2)])
    values = project(PrincipalComponents(), 1, together(5), rows)
    np.testing.assert_allclose(values.ravel(), [-10, -5, 0, 5, 10], atol=1e-5)


def test_uncentered_pca_equals_truncated_svd(rows: Matrix, interactions: csr_matrix) -> None:
    values = project(PrincipalComponents(center=False), 4, interactions, rows)
    expected = TruncatedSVD(4, algorithm="arpack", random_state=0).fit(rows).components_
    signs = np.sign(expected[np.arange(4), np.abs(expected).argmax(axis=1)])
    np.testing.assert_allclose(values, rows @ (expected * signs[:, None]).T, rtol=1e-4, atol=1e-4)


def test_whitening_equals_scikit_learn(rows: Matrix, interactions: csr_matrix) -> None:
    values = project(Whitening(), 6, interactions, rows)
    expected = PCA(6, whiten=True, svd_solver="full").fit_transform(rows) * np.sqrt(N_ITEMS / (N_ITEMS - 1))
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.cov(values.T, bias=True), np.eye(6), atol=1e-5)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1])
def test_the_exponent_changes_the_standard_deviations(rows: Matrix, interactions: csr_matrix, exponent: float) -> None:
    values = project(Whitening(exponent=exponent), 6, interactions, rows)
    components = PCA(6, svd_solver="full").fit_transform(rows)
    stds = components.std(axis=0)
    np.testing.assert_allclose(values, components / stds * stds**exponent, rtol=1e-4, atol=1e-4)


def test_popularity_weighs_items_as_repeating_them_would(rows: Matrix) -> None:
    degrees = np.random.default_rng(2).integers(0, 4, N_ITEMS)
    dense = np.zeros((4, N_ITEMS + 1), dtype=np.float32)
    for user in range(1, 4):
        dense[user, 1:] = degrees >= user
    values = project(PrincipalComponents(popularity=1), 3, csr_matrix(dense), rows)
    repeated = PCA(3, svd_solver="full").fit(np.repeat(rows, degrees, axis=0))
    np.testing.assert_allclose(values, repeated.transform(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "strategy",
    [PrincipalComponents(), Whitening(), Whitening(smooth=0.4), CanonicalCorrelation(), RandomProjection()],
    ids=repr,
)
def test_the_map_depends_neither_on_blocks_nor_on_the_order_of_items(
    rows: Matrix, interactions: csr_matrix, monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    def matrix(embeddings: AlignedEmbeddings, interactions: csr_matrix) -> Matrix:
        return fit_affine(strategy, embeddings, 4, interactions, seed=3).matrix

    expected = matrix(align(rows), interactions)
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 7 * WIDTH)
    np.testing.assert_allclose(matrix(align(rows), interactions), expected, rtol=1e-4, atol=1e-6)
    order = np.random.default_rng(4).permutation(N_ITEMS)
    other = csr_matrix(interactions.toarray()[:, [0, *(order + 1)]])
    np.testing.assert_allclose(matrix(align(rows[order]), other), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strategy", BY_RANK, ids=repr)
def test_more_columns_than_directions(rows: Matrix, interactions: csr_matrix, strategy: Strategy) -> None:
    rows[:, 3] = 7
    rows[:, 5] = rows[:, 4]
    with pytest.raises(
        LLMInitError,
        match=r"10 directions.* 11 columns.* \d+ items .*vectors.npy.*embedding_size, hidden_size\) <= 10.*strategy",
    ):
        strategy.fit(align(rows), 11, interactions=interactions, seed=0)
    values = project(strategy, 10, interactions, rows)
    assert np.isfinite(values).all() and (values.std(axis=0) > 0).all()


@pytest.mark.parametrize("strategy", BY_RANK, ids=repr)
def test_fewer_items_than_dimensions(strategy: Strategy) -> None:
    rows = np.random.default_rng(8).normal(size=(6, 40))
    with pytest.raises(LLMInitError, match=naming("5 directions", "6 columns")):
        strategy.fit(align(rows), 6, interactions=together(6), seed=0)
    values = project(strategy, 5, together(6), rows)
    assert np.linalg.matrix_rank(values) == 5


@pytest.mark.parametrize("strategy", [*BY_RANK, RandomProjection()], ids=repr)
def test_items_that_are_all_alike(strategy: Strategy) -> None:
    rows = np.tile(np.random.default_rng(9).normal(size=7).astype(np.float32), (9, 1))
    with pytest.raises(LLMInitError, match=naming("9 items", "vectors.npy", "all equal", repr(strategy))):
        strategy.fit(align(rows), 2, interactions=together(9), seed=0)


@pytest.mark.parametrize("strategy", [PrincipalComponents(), Whitening(), RandomProjection()], ids=repr)
def test_a_store_with_one_item(strategy: Strategy) -> None:
    with pytest.raises(LLMInitError, match=naming("1 of the 1 items", "vectors.npy", "weight", "at least 2")):
        strategy.fit(align([[1, 2, 3]]), 2, interactions=together(1), seed=0)


@pytest.mark.parametrize("strategy", [CanonicalCorrelation(), Whitening(popularity=4)], ids=repr)
def test_great_degrees_and_powers(rows: Matrix, interactions: csr_matrix, strategy: Strategy) -> None:
    assert np.isfinite(project(strategy, 1, interactions * 1e6, rows)).all()


def test_no_popular_item_has_a_vector(rows: Matrix) -> None:
    nothing = csr_matrix((5, N_ITEMS + 1), dtype=np.float32)
    with pytest.raises(LLMInitError, match=naming("0 of the 120 items", "vectors.npy", "weight", "at least 2")):
        Whitening(popularity=1.0).fit(align(rows), 3, interactions=nothing, seed=0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pca", {"smooth": 1.5}, naming("init_args smooth", "1.5", "a number from 0 to 1")),
        ("rp", {"smooth": True}, naming("init_args smooth", "True", "a number from 0 to 1")),
        ("whiten", {"exponent": -1}, naming("init_args exponent", "-1", "a number from 0 to 1")),
        ("whiten", {"popularity": "much"}, naming("init_args popularity", "'much'", "a number from 0 to 4")),
        ("pca", {"popularity": float("inf")}, naming("init_args popularity", "inf", "a number from 0 to 4")),
        ("pca", {"center": "no"}, naming("init_args center", "'no'", "True or False")),
        ("cca", {"shrinkage": 2}, naming("init_args shrinkage", "2", "a number from 0 to 1")),
        ("pca", {"exponent": 1}, naming("init_args 'exponent'", "unknown", "'pca'")),
    ],
)
def test_arguments_are_checked(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        get_strategy(name, arguments)


def test_a_reduction_describes_itself(rows: Matrix, interactions: csr_matrix) -> None:
    found = fit_affine(Whitening(), align(rows), 3, interactions).to_dict()
    assert (found["kind"], found["llm_dim"], len(found["column_lengths"])) == ("affine", WIDTH, 3)
    assert found["offset_length"] == pytest.approx(np.linalg.norm(rows.mean(axis=0)))
