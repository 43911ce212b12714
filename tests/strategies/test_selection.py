"""Strategies that choose columns, against the formulas of the official release."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Columns
from recbole_llminit.strategies.selection import Prefix, Random, Uniform, Variance
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings
from tests.encoders import MINILM
from tests.messages import naming
from tests.strategies.toy_data import fit_columns

Embed = Callable[..., AlignedEmbeddings]


def degrees(*counts: int) -> csr_matrix:
    """Training interactions in which the items after [PAD] have these degrees."""
    users = np.arange(1, max(counts) + 1)[:, None]
    return csr_matrix((users <= np.array([0, *counts])).astype(np.float32))


def prefix(embeddings: AlignedEmbeddings, width: int) -> Columns:
    """The reduction of prefix."""
    ones = degrees(*[1] * len(embeddings.items))
    reduction = Prefix().fit(embeddings, width, interactions=ones, seed=0).reduction(width)
    assert isinstance(reduction, Columns)
    return reduction


def test_random_draws_distinct_ascending_columns_by_seed(embed: Embed) -> None:
    embeddings = embed(np.zeros(100), np.zeros(100))
    draws = [fit_columns(Random(), embeddings, 64, degrees(1, 1), seed) for seed in (2020, 2020, 2021)]
    assert list(draws[0]) == sorted(set(draws[0]))
    assert len(draws[0]) == 64
    assert draws[0][0] >= 0 and draws[0][-1] < 100
    assert draws[0] == draws[1] != draws[2]


def test_random_gives_each_column_its_share(embed: Embed) -> None:
    embeddings = embed(np.zeros(10), np.zeros(10))
    drawn = [fit_columns(Random(), embeddings, 5, degrees(1, 1), seed) for seed in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    # Each count is binomial(2000, 0.5): six standard deviations are 134.
    assert abs(counts - 1000).max() < 134


@pytest.mark.parametrize(
    ("llm_dim", "width", "expected"),
    [
        (8, 4, (0, 2, 4, 6)),
        (7, 3, (0, 2, 4)),
        (5, 4, (0, 1, 2, 3)),
        (3, 3, (0, 1, 2)),
        (10, 7, (0, 1, 2, 4, 5, 7, 8)),
    ],
)
def test_uniform_literally(embed: Embed, llm_dim: int, width: int, expected: tuple[int, ...]) -> None:
    assert fit_columns(Uniform(), embed(np.zeros(llm_dim)), width, degrees(1)) == expected


@pytest.mark.parametrize(("llm_dim", "width"), [(768, 128), (384, 64), (384, 384), (12, 1)])
def test_uniform_equals_the_official_formula_where_the_width_divides(embed: Embed, llm_dim: int, width: int) -> None:
    official = torch.arange(0, llm_dim, llm_dim // width)[:width].tolist()
    assert list(fit_columns(Uniform(), embed(np.zeros(llm_dim)), width, degrees(1))) == official


def test_uniform_spreads_over_the_vector_where_the_official_formula_does_not(embed: Embed) -> None:
    ours = fit_columns(Uniform(), embed(np.zeros(384)), 200, degrees(1))
    assert len(set(ours)) == 200
    assert ours[-1] == 199 * 384 // 200 == 382


def test_variance_literally(embed: Embed) -> None:
    # Unbiased variances over the two most popular of five items (the 1st and 4th): 0, 8, 2, 0.5.
    embeddings = embed([0, 1, 2, 1], [9, 0, 0, 0], None, [0, 5, 4, 2], [0, 0, 90, 0])
    assert fit_columns(Variance(popular_ratio=0.4), embeddings, 2, degrees(5, 2, 9, 7, 1)) == (1, 2)


def test_variance_ranks_by_the_unbiased_variance_of_all_items(embed: Embed) -> None:
    rows = np.random.default_rng(3).normal(size=(50, 12)) * np.arange(1, 13)
    expected = tuple(sorted(np.argsort(rows.var(axis=0, ddof=1))[-5:]))
    assert fit_columns(Variance(popular_ratio=1.0), embed(*rows), 5, degrees(*[1] * 50)) == expected


def test_ties_go_to_the_lower_index(embed: Embed) -> None:
    # All items tie in popularity: int(0.5 * 5) = 2 items count, the first two. Columns 0, 1, 3 tie in variance.
    embeddings = embed([0, 0, 0, 0], [2, 2, 1, 2], [0, 0, 99, 0], [0, 0, 99, 0])
    assert fit_columns(Variance(popular_ratio=0.5), embeddings, 2, degrees(3, 3, 3, 3)) == (0, 1)


def test_variance_equals_the_official_formula() -> None:
    """The official release restated (DavidZWZ/LLMInit, commit 1241c3c): the item of id 0 is [PAD], its degree 1."""
    generator = np.random.default_rng(11)
    n_items, llm_dim, width = 301, 96, 32
    vectors = np.concatenate([np.zeros((1, llm_dim)), generator.normal(size=(n_items - 1, llm_dim))]).astype(np.float32)
    degree = np.concatenate([[0], generator.permutation(np.arange(2, n_items + 1))])

    official_degree = torch.from_numpy(degree.copy())
    official_degree[0] = 1
    top_items = torch.topk(official_degree, int(0.2 * n_items)).indices
    variances = torch.var(torch.from_numpy(vectors)[top_items], dim=0)
    official = sorted(torch.topk(variances, width).indices.tolist())

    tokens = [str(number) for number in range(1, n_items)]
    found = ItemEmbeddings(np.array(tokens, dtype=object), (vectors[1:],), "vectors", "0").align(
        ["[PAD]", *tokens], "toy"
    )
    assert list(fit_columns(Variance(), found, width, degrees(*degree[1:]))) == official


def test_variance_does_not_depend_on_the_blocks(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    # A large mean beside a small spread: a sum of squares would lose it.
    rows = 1e4 + np.random.default_rng(5).normal(size=(40, 6)) * [1, 2, 3, 4, 5, 6]
    expected = fit_columns(Variance(1.0), embed(*rows), 3, degrees(*[1] * 40))
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 7 * 6)
    assert fit_columns(Variance(1.0), embed(*rows), 3, degrees(*[1] * 40)) == expected == (3, 4, 5)


def test_too_few_popular_items(embed: Embed) -> None:
    with pytest.raises(
        LLMInitError, match=r"'var' has 1 items .*popular_ratio 0.2 of 7.* 6 .*at least 2.*popular_ratio"
    ):
        fit_columns(Variance(), embed(*np.eye(6)), 2, degrees(*[1] * 6))


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, "half", True])
def test_popular_ratio_is_checked(ratio: float | str) -> None:
    with pytest.raises(LLMInitError, match=naming("init_args popular_ratio", repr(ratio), "a number in (0, 1]")):
        Variance(popular_ratio=ratio)  # type: ignore[arg-type]


def test_prefix_literally(embed: Embed) -> None:
    reduction = prefix(embed([3, 4, 100], [0, 0, 5]), 2)
    values = reduction(np.array([[3, 4, 100], [0, 0, 5], [-2, 0, 1]], dtype=np.float16))
    np.testing.assert_allclose(values, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert values.dtype == np.float32


def test_prefix_equals_truncation_in_sentence_transformers(embed: Embed) -> None:
    texts = ["a stapler", "blue ink for printers", "an office chair"]

    def encode(truncate_dim: int | None = None) -> npt.NDArray[np.float32]:
        model = SentenceTransformer(str(MINILM), device="cpu", truncate_dim=truncate_dim)
        return model.encode(texts, normalize_embeddings=True)

    whole = encode()
    np.testing.assert_allclose(prefix(embed(*whole), 64)(whole), encode(64), atol=1e-6)
