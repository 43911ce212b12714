import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import list_strategies
from recbole_llminit.strategies.selection import Prefix, Random, Uniform, Variance
from recbole_llminit.vectors.embeddings import ItemEmbeddings
from tests.encoders import MINILM


def degrees(*counts):
    """Training interactions in which the items after [PAD] have these degrees."""
    users = np.arange(1, max(counts) + 1)[:, None]
    return csr_matrix((users <= np.array([0, *counts])).astype(np.float32))


def test_random_draws_distinct_ascending_columns_by_seed(embed):
    embeddings = embed(np.zeros(100), np.zeros(100))
    draws = [
        Random().fit(embeddings, 64, interactions=degrees(1, 1), seed=seed).dimensions for seed in (2020, 2020, 2021)
    ]
    assert list(draws[0]) == sorted(set(draws[0]))
    assert len(draws[0]) == 64
    assert draws[0][0] >= 0 and draws[0][-1] < 100
    assert draws[0] == draws[1] != draws[2]


def test_random_gives_each_column_its_share(embed):
    embeddings = embed(np.zeros(10), np.zeros(10))
    drawn = [Random().fit(embeddings, 5, interactions=degrees(1, 1), seed=seed).dimensions for seed in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    # Each count is binomial(2000, 0.5): six standard deviations are 134.
    assert abs(counts - 1000).max() < 134


@pytest.mark.parametrize(("width", "size", "expected"), [(8, 4, (0, 2, 4, 6)), (7, 3, (0, 2, 4)), (5, 4, (0, 1, 2, 3)),
                                                         (3, 3, (0, 1, 2)), (10, 7, (0, 1, 2, 4, 5, 7, 8))])  # fmt: skip
def test_uniform_literally(embed, width, size, expected):
    assert Uniform().fit(embed(np.zeros(width)), size, interactions=degrees(1), seed=0).dimensions == expected


@pytest.mark.parametrize(("width", "size"), [(768, 128), (384, 64), (384, 384), (12, 1)])
def test_uniform_equals_the_official_formula_where_the_size_divides(embed, width, size):
    official = torch.arange(0, width, width // size)[:size].tolist()
    assert list(Uniform().fit(embed(np.zeros(width)), size, interactions=degrees(1), seed=0).dimensions) == official


def test_uniform_spreads_over_the_width_where_the_official_formula_does_not(embed):
    ours = Uniform().fit(embed(np.zeros(384)), 200, interactions=degrees(1), seed=0).dimensions
    assert len(set(ours)) == 200
    assert ours[-1] == 199 * 384 // 200 == 382


def test_variance_literally(embed):
    # Unbiased variances over the two most popular of five items (the 1st and 4th): 0, 8, 2, 0.5.
    embeddings = embed([0, 1, 2, 1], [9, 0, 0, 0], None, [0, 5, 4, 2], [0, 0, 90, 0])
    fitted = Variance(popular_ratio=0.4).fit(embeddings, 2, interactions=degrees(5, 2, 9, 7, 1), seed=0)
    assert fitted.dimensions == (1, 2)


def test_variance_ranks_by_the_unbiased_variance_of_all_items(embed):
    rows = np.random.default_rng(3).normal(size=(50, 12)) * np.arange(1, 13)
    fitted = Variance(popular_ratio=1.0).fit(embed(*rows), 5, interactions=degrees(*[1] * 50), seed=0)
    assert fitted.dimensions == tuple(sorted(np.argsort(rows.var(axis=0, ddof=1))[-5:]))


def test_ties_go_to_the_lower_index(embed):
    # All items tie in popularity: int(0.5 * 5) = 2 items count, the first two. Columns 0, 1, 3 tie in variance.
    embeddings = embed([0, 0, 0, 0], [2, 2, 1, 2], [0, 0, 99, 0], [0, 0, 99, 0])
    fitted = Variance(popular_ratio=0.5).fit(embeddings, 2, interactions=degrees(3, 3, 3, 3), seed=0)
    assert fitted.dimensions == (0, 1)


def test_variance_equals_the_official_formula():
    """The official release restated (DavidZWZ/LLMInit, commit 1241c3c): the item of id 0 is [PAD], its degree 1."""
    generator = np.random.default_rng(11)
    n_items, width, size = 301, 96, 32
    vectors = np.concatenate([np.zeros((1, width)), generator.normal(size=(n_items - 1, width))]).astype(np.float32)
    degree = np.concatenate([[0], generator.permutation(np.arange(2, n_items + 1))])

    official_degree = torch.from_numpy(degree.copy())
    official_degree[0] = 1
    top_items = torch.topk(official_degree, int(0.2 * n_items)).indices
    variances = torch.var(torch.from_numpy(vectors)[top_items], dim=0)
    official = sorted(torch.topk(variances, size).indices.tolist())

    tokens = [str(number) for number in range(1, n_items)]
    found = ItemEmbeddings(np.array(tokens, dtype=object), (vectors[1:],), "vectors", "0").align(
        ["[PAD]", *tokens], "toy"
    )
    assert list(Variance().fit(found, size, interactions=degrees(*degree[1:]), seed=0).dimensions) == official


def test_variance_does_not_depend_on_the_blocks(embed, monkeypatch):
    # A large mean beside a small spread: a sum of squares would lose it.
    rows = 1e4 + np.random.default_rng(5).normal(size=(40, 6)) * [1, 2, 3, 4, 5, 6]
    expected = Variance(1.0).fit(embed(*rows), 3, interactions=degrees(*[1] * 40), seed=0)
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 7 * 6)
    assert Variance(1.0).fit(embed(*rows), 3, interactions=degrees(*[1] * 40), seed=0) == expected
    assert expected.dimensions == (3, 4, 5)


def test_too_few_popular_items(embed):
    with pytest.raises(
        LLMInitError, match=r"has 1 items to take a variance over .*expected at least 2, raise popular_ratio"
    ):
        Variance().fit(embed(*np.eye(6)), 2, interactions=degrees(*[1] * 6), seed=0)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, "half", True])
def test_popular_ratio_is_checked(ratio):
    with pytest.raises(LLMInitError, match=r"popular_ratio is .*expected a number in \(0, 1\]"):
        Variance(popular_ratio=ratio)


def test_prefix_literally(embed):
    reduction = Prefix().fit(embed([3, 4, 100], [0, 0, 5]), 2, interactions=degrees(1, 1), seed=0)
    values = reduction(np.array([[3, 4, 100], [0, 0, 5], [-2, 0, 1]], dtype=np.float16))
    np.testing.assert_allclose(values, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert values.dtype == np.float32


def test_prefix_equals_truncation_in_sentence_transformers(embed):
    texts = ["a stapler", "blue ink for printers", "an office chair"]
    whole = SentenceTransformer(str(MINILM), device="cpu").encode(texts, normalize_embeddings=True)
    short = SentenceTransformer(str(MINILM), device="cpu", truncate_dim=64).encode(texts, normalize_embeddings=True)
    reduction = Prefix().fit(embed(*whole), 64, interactions=degrees(1, 1, 1), seed=0)
    np.testing.assert_allclose(reduction(whole), short, atol=1e-6)


@pytest.mark.parametrize("strategy", [entry.cls() for entry in list_strategies()], ids=repr)
def test_every_strategy_gives_the_size_asked_for_and_leaves_the_random_states(strategy, embed):
    rows = np.random.default_rng(0).normal(size=(30, 24))
    together = csr_matrix(np.array([[0] * 31, [0] + [1] * 30], dtype=np.float32))
    torch.manual_seed(1)
    np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for size in (1, 7, 24):
        reduction = strategy.fit(embed(*rows), size, interactions=together, seed=3)
        values = reduction(rows[:4]) if strategy.needs_vectors else reduction.draw(4)
        assert values.shape == (4, size)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
