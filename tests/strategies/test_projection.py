"""Projections against scikit-learn, SciPy and the formulas restated."""

import numpy as np
import pytest
import scipy.linalg
from scipy.sparse import csr_matrix
from scipy.stats import ortho_group
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA, TruncatedSVD

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import get_strategy
from recbole_llminit.strategies.projection import CanonicalCorrelation, PrincipalComponents, RandomProjection, Whitening
from recbole_llminit.vectors.embeddings import ItemEmbeddings

N_ITEMS, WIDTH = 120, 12


@pytest.fixture
def rows():
    """Correlated columns with a mean far from zero."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(N_ITEMS, WIDTH)) @ generator.normal(size=(WIDTH, WIDTH)) + 3


@pytest.fixture
def align():
    """Align float64 rows with item ids 1, 2, ..., in three shards."""

    def aligned(rows):
        tokens = np.array([f"i{number}" for number in range(len(rows))], dtype=object)
        shards = tuple(part for part in np.array_split(np.asarray(rows, dtype=np.float64), 3) if len(part))
        return ItemEmbeddings(tokens, shards, "vectors.npy", "0").align(["[PAD]", *tokens], "toy")

    return aligned


@pytest.fixture
def interactions():
    dense = np.random.default_rng(1).random((60, N_ITEMS + 1)) < 0.05
    dense[:, 0] = dense[0] = False
    return csr_matrix(dense.astype(np.float32))


def together(n_items):
    """One user with all items."""
    return csr_matrix(np.array([[0] * (n_items + 1), [0] + [1] * n_items], dtype=np.float32))


def project(strategy, embeddings, size, interactions, rows, seed=0):
    return strategy.fit(embeddings, size, interactions=interactions, seed=seed)(rows)


def test_pca_equals_scikit_learn(rows, align, interactions):
    values = project(PrincipalComponents(), align(rows), 5, interactions, rows)
    np.testing.assert_allclose(values, PCA(5, svd_solver="full").fit_transform(rows), rtol=1e-4, atol=1e-4)
    assert values.dtype == np.float32


def test_pca_literally(align):
    # Points on a line through (1, 1) along (3, 4), at -2, -1, 0, 1, 2 times its length of 5.
    rows = np.array([[1 + 3 * step, 1 + 4 * step] for step in (-2, -1, 0, 1, 2)])
    values = project(PrincipalComponents(), align(rows), 1, together(5), rows)
    np.testing.assert_allclose(values.ravel(), [-10, -5, 0, 5, 10], atol=1e-5)


def test_uncentred_pca_equals_truncated_svd(rows, align, interactions):
    values = project(PrincipalComponents(center=False), align(rows), 4, interactions, rows)
    expected = TruncatedSVD(4, algorithm="arpack", random_state=0).fit(rows).components_
    signs = np.sign(expected[np.arange(4), np.abs(expected).argmax(axis=1)])
    np.testing.assert_allclose(values, rows @ (expected * signs[:, None]).T, rtol=1e-4, atol=1e-4)


def test_whitening_equals_scikit_learn(rows, align, interactions):
    values = project(Whitening(), align(rows), 6, interactions, rows)
    expected = PCA(6, whiten=True, svd_solver="full").fit_transform(rows) * np.sqrt(N_ITEMS / (N_ITEMS - 1))
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.cov(values.T, bias=True), np.eye(6), atol=1e-5)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1])
def test_the_exponent_scales_the_deviations(rows, align, interactions, exponent):
    values = project(Whitening(exponent=exponent), align(rows), 6, interactions, rows)
    components = PCA(6, svd_solver="full").fit_transform(rows)
    deviations = components.std(axis=0)
    np.testing.assert_allclose(values, components / deviations * deviations**exponent, rtol=1e-4, atol=1e-4)


def test_popularity_weighs_items_as_repeating_them_would(rows, align):
    degrees = np.random.default_rng(2).integers(0, 4, N_ITEMS)
    dense = np.zeros((4, N_ITEMS + 1), dtype=np.float32)
    for user in range(1, 4):
        dense[user, 1:] = degrees >= user
    values = project(PrincipalComponents(popularity=1), align(rows), 3, csr_matrix(dense), rows)
    repeated = PCA(3, svd_solver="full").fit(np.repeat(rows, degrees, axis=0))
    np.testing.assert_allclose(values, repeated.transform(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", [PrincipalComponents(), Whitening(), Whitening(smooth=0.4), CanonicalCorrelation(),
                                      RandomProjection()], ids=repr)  # fmt: skip
def test_the_map_depends_neither_on_blocks_nor_on_the_order_of_items(rows, align, interactions, monkeypatch, strategy):
    def fitted(embeddings, interactions):
        return strategy.fit(strategy.prepare(embeddings, interactions), 4, interactions=interactions, seed=3).matrix

    expected = fitted(align(rows), interactions)
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 7 * WIDTH)
    np.testing.assert_allclose(fitted(align(rows), interactions), expected, rtol=1e-4, atol=1e-6)
    order = np.random.default_rng(4).permutation(N_ITEMS)
    other = csr_matrix(interactions.toarray()[:, [0, *(order + 1)]])
    np.testing.assert_allclose(fitted(align(rows[order]), other), expected, rtol=1e-4, atol=1e-6)


def test_random_directions_are_orthogonal_and_keep_lengths(align, interactions):
    rows = np.random.default_rng(5).normal(size=(N_ITEMS, 200))
    reduction = RandomProjection().fit(align(rows), 80, interactions=interactions, seed=7)
    np.testing.assert_allclose(reduction.matrix.T @ reduction.matrix, np.eye(80) * 200 / 80, atol=1e-10)
    centred = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    assert np.linalg.norm(reduction(rows), axis=1).mean() == pytest.approx(centred.mean(), rel=0.02)
    again = RandomProjection().fit(align(rows), 80, interactions=interactions, seed=8)
    assert np.abs(again.matrix - reduction.matrix).max() > 0.1


def test_random_directions_are_uniform(align):
    """Against SciPy's orthogonal matrices of Haar measure: the first number of a direction has the same distribution."""
    rows = np.eye(4)
    ours = [RandomProjection().fit(align(rows), 4, interactions=together(4), seed=seed).matrix[0, 0] for seed in range(800)]  # fmt: skip
    expected = ortho_group.rvs(4, size=800, random_state=0)[:, 0, 0]
    assert scipy.stats.ks_2samp(ours, expected).pvalue > 0.01


def neighbours(interactions):
    """For each item the distribution of its co-consumed items: over its users, then over their other items."""
    dense = interactions.toarray()
    table = np.zeros((dense.shape[1],) * 2)
    for history in dense:
        items = np.flatnonzero(history)
        for item in items:
            for other in items[items != item]:
                table[item, other] += 1 / (len(items) - 1)
    sums = table.sum(axis=1, keepdims=True)
    return np.divide(table, sums, out=np.zeros_like(table), where=sums > 0)


@pytest.mark.parametrize(("popularity", "shrinkage"), [(0, 0), (1, 0), (0.5, 0.3)])
def test_cca_solves_the_generalised_eigenproblem(rows, align, interactions, popularity, shrinkage):
    strategy = CanonicalCorrelation(popularity=popularity, shrinkage=shrinkage)
    values = project(strategy, align(rows), 5, interactions, rows)
    graph = neighbours(interactions)[1:, 1:]
    has_mean = graph.sum(axis=1) > 0
    assert 0 < has_mean.sum() < N_ITEMS
    weights = has_mean * np.asarray(interactions.sum(axis=0)).ravel()[1:].astype(float) ** popularity
    mean = weights @ rows / weights.sum()
    centred = rows - mean
    covariance = centred.T * weights @ centred / weights.sum()
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / WIDTH * np.eye(WIDTH)
    cross = centred.T * weights @ (graph @ rows - mean)
    correlations, directions = scipy.linalg.eigh((cross + cross.T) / 2 / weights.sum(), covariance)
    # An item drawn by weight from all but the first one, whatever that is.
    weights /= weights.sum()
    others = weights * (1 - np.eye(N_ITEMS)) / (1 - weights[:, None])
    by_chance = np.trace(np.linalg.solve(covariance, centred.T * weights @ others @ centred))
    agreement = strategy.agreement(align(rows), 5, interactions=interactions)
    assert agreement == pytest.approx(correlations.sum() - by_chance, abs=1e-4)
    directions = directions[:, ::-1][:, :5]
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(5)])
    np.testing.assert_allclose(values, centred @ directions, rtol=1e-3, atol=1e-4)


def test_cca_is_scikit_learns_on_pairs(align):
    """With users of three items, popular ones in many, the pairs of a user's items are the two sides of CCA."""
    generator = np.random.default_rng(6)
    tastes = generator.normal(size=(150, 6))
    rows = tastes + generator.normal(size=(150, 6)) * [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    dense = np.zeros((401, 151), dtype=np.float32)
    left, right = [], []
    for user in range(1, 401):
        # Items of one taste, the first ones more often.
        first = int(150 * generator.random() ** 2)
        near = np.argsort(((tastes - tastes[first]) ** 2).sum(axis=1))[:8]
        items = [first, *generator.choice(near[near != first], 2, replace=False)]
        dense[user, np.array(items) + 1] = 1
        left += [item for item in items for other in items if other != item]
        right += [other for item in items for other in items if other != item]
    values = project(CanonicalCorrelation(shrinkage=0), align(rows), 2, csr_matrix(dense), rows)
    model = CCA(n_components=2, scale=False, max_iter=5000, tol=1e-12).fit(rows[left], rows[right])
    expected = model.transform(rows)
    for column in range(2):
        assert abs(np.corrcoef(values[:, column], expected[:, column])[0, 1]) > 0.9999


def test_cca_finds_what_co_consumption_agrees_on(align):
    """Items of two kinds that are never consumed together; the kind hides in a column of little variance."""
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(80, 5)) * [10, 10, 10, 10, 0.1]
    kinds = np.arange(80) % 2
    rows[:, 4] += 0.2 * kinds
    dense = np.zeros((200, 81), dtype=np.float32)
    for user in range(1, 200):
        dense[user, 1 + generator.choice(np.flatnonzero(kinds == user % 2), 6, replace=False)] = 1
    (found,) = project(CanonicalCorrelation(shrinkage=0), align(rows), 1, csr_matrix(dense), rows).T
    (variance,) = project(PrincipalComponents(), align(rows), 1, csr_matrix(dense), rows).T
    assert abs(np.corrcoef(found, rows[:, 4])[0, 1]) > 0.9 > 0.5 > abs(np.corrcoef(variance, rows[:, 4])[0, 1])


STRATEGIES = [PrincipalComponents(), Whitening(), CanonicalCorrelation(popularity=0)]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_more_columns_than_directions(rows, align, interactions, strategy):
    rows[:, 3] = 7
    rows[:, 5] = rows[:, 4]
    with pytest.raises(
        LLMInitError,
        match=r"has 10 directions to project on, and a table has 11 columns: the vectors of the \d+ items that count in "
        r"vectors.npy vary in no more; set the table's size \(embedding_size, hidden_size\) <= 10",
    ):
        strategy.fit(align(rows), 11, interactions=interactions, seed=0)
    values = project(strategy, align(rows), 10, interactions, rows)
    assert np.isfinite(values).all() and (values.std(axis=0) > 0).all()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_fewer_items_than_dimensions(align, strategy):
    rows = np.random.default_rng(8).normal(size=(6, 40))
    with pytest.raises(LLMInitError, match="has 5 directions to project on, and a table has 6 columns"):
        strategy.fit(align(rows), 6, interactions=together(6), seed=0)
    values = project(strategy, align(rows), 5, together(6), rows)
    assert np.linalg.matrix_rank(values) == 5


def test_random_projection_needs_no_rank(align):
    rows = np.random.default_rng(8).normal(size=(6, 40))
    values = project(RandomProjection(), align(rows), 20, together(6), rows)
    assert np.linalg.matrix_rank(values) == 5


@pytest.mark.parametrize("strategy", [*STRATEGIES, RandomProjection()], ids=repr)
def test_items_that_are_all_alike(align, strategy):
    rows = np.tile(np.random.default_rng(9).normal(size=7).astype(np.float32), (9, 1))
    with pytest.raises(LLMInitError, match="the vectors of 9 items in vectors.npy are all equal"):
        strategy.fit(align(rows), 2, interactions=together(9), seed=0)


@pytest.mark.parametrize("strategy", [PrincipalComponents(), Whitening(), RandomProjection()], ids=repr)
def test_a_store_with_one_item(align, strategy):
    with pytest.raises(LLMInitError, match="1 of the 1 items with a vector in vectors.npy have a weight: expected at "):
        strategy.fit(align([[1, 2, 3]]), 2, interactions=together(1), seed=0)


@pytest.mark.parametrize("strategy", [CanonicalCorrelation(), Whitening(popularity=4)], ids=repr)
def test_great_degrees_and_powers(rows, align, interactions, strategy):
    assert np.isfinite(project(strategy, align(rows), 1, interactions * 1e6, rows)).all()


def test_no_co_consumption(rows, align):
    alone = csr_matrix(np.eye(N_ITEMS + 1, dtype=np.float32))
    with pytest.raises(LLMInitError, match="no user has two training items with a vector: take whiten"):
        CanonicalCorrelation().fit(align(rows), 3, interactions=alone, seed=0)


def test_no_popular_item_has_a_vector(rows, align):
    with pytest.raises(
        LLMInitError, match=r"0 of the 120 items with a vector in vectors.npy have a weight: expected at "
    ):
        Whitening(popularity=1.0).fit(
            align(rows), 3, interactions=csr_matrix((5, N_ITEMS + 1), dtype=np.float32), seed=0
        )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pca", {"smooth": 1.5}, "init_args smooth is 1.5: expected a number from 0 to 1"),
        ("rp", {"smooth": True}, "init_args smooth is True: expected a number from 0 to 1"),
        ("whiten", {"exponent": -1}, "init_args exponent is -1: expected a number from 0 to 1"),
        ("whiten", {"popularity": "much"}, "init_args popularity is 'much': expected a number from 0 to 4"),
        ("pca", {"popularity": float("inf")}, "init_args popularity is inf: expected a number from 0 to 4"),
        ("pca", {"center": "no"}, "init_args center is 'no': expected True or False"),
        ("cca", {"shrinkage": 2}, "init_args shrinkage is 2: expected a number from 0 to 1"),
        ("pca", {"exponent": 1}, "init_args 'exponent' is unknown to init_strategy 'pca'"),
    ],
)
def test_arguments_are_checked(name, arguments, message):
    with pytest.raises(LLMInitError, match=message):
        get_strategy(name, arguments)


def test_a_reduction_describes_itself(rows, align, interactions):
    found = Whitening().fit(align(rows), 3, interactions=interactions, seed=0).to_dict()
    assert (found["kind"], found["llm_dim"], len(found["column_lengths"])) == ("affine", WIDTH, 3)
    assert found["offset_length"] == pytest.approx(np.linalg.norm(rows.mean(axis=0)))
