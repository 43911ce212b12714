"""The strategy lae: its features, its weights, what it chooses, and what it is refused for."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies import linear_autoencoder
from recbole_llminit.strategies.base import Factors, Strategy, get_strategy
from recbole_llminit.strategies.closed_form import DenseInverseGram, IterativeInverseGram
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.messages import logged, naming
from tests.strategies.closed_form_oracle import item_weights, text_prior
from tests.strategies.toy_data import align, interactions_of, tastes

FIXED = LinearAutoencoder(lam=2.0, kappa=6.0)
Data = tuple[csr_matrix, npt.NDArray[np.float64]]


@pytest.fixture(scope="module")
def data() -> Data:
    """Few clicks by taste, and vectors that say it."""
    return tastes(n_users=150, n_items=60, clicks=3)


def factors_of(
    strategy: Strategy, vectors: AlignedEmbeddings, clicks: csr_matrix, width: int = 4, seed: int = 0
) -> Factors:
    values = strategy.fit(vectors, width, interactions=clicks, seed=seed).reduction(width)
    assert isinstance(values, Factors)
    return values


def features_of(rows: npt.NDArray[np.float64], exponent: float) -> npt.NDArray[np.float64]:
    """The centered vectors, the standard deviations of their principal components to a power, at length 1, [PAD] 0."""
    centered = rows - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    scaled = left * values**exponent
    return np.vstack([np.zeros(scaled.shape[1]), scaled / np.linalg.norm(scaled, axis=1, keepdims=True)])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_weights_are_the_closed_form_of_the_vectors(data: Data, exponent: float) -> None:
    clicks, rows = data
    strategy = LinearAutoencoder(rho=0.2, lam=2.0, kappa=6.0, exponent=exponent)
    chosen, found = strategy.solve(align(rows), clicks, 0)
    assert chosen is strategy
    expected = item_weights(clicks.toarray(), text_prior(features_of(rows, exponent), 0.2), 2.0, 6.0)
    np.testing.assert_allclose(found.to_dense(), expected, atol=2e-4)


def test_without_kappa_the_vectors_are_not_read(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks, rows = data
    monkeypatch.setattr(AlignedEmbeddings, "blocks", lambda *given, **options: pytest.fail("vectors were read"))
    _, found = LinearAutoencoder(lam=2.0, kappa=0).solve(align(rows), clicks, 0)
    expected = item_weights(clicks.toarray(), np.zeros((61, 61)), 2.0, 0.0)
    np.testing.assert_allclose(found.to_dense(), expected, atol=1e-5)
    assert factors_of(LinearAutoencoder(kappa=0), align(rows), clicks).items.any()


@pytest.mark.parametrize(("memory", "kind"), [(61 * 61 * 8 / 1e9, DenseInverseGram), (1e-9, IterativeInverseGram)])
def test_memory_says_how_the_inverse_is_taken(data: Data, memory: float, kind: type) -> None:
    """The results are nearly the same."""
    clicks, rows = data
    strategy = LinearAutoencoder(lam=20.0, kappa=60.0, memory=memory)
    _, weights = strategy.solve(align(rows), clicks, 0)
    assert type(weights.equations.inverse) is kind
    ours, theirs = (factors_of(one, align(rows), clicks) for one in (strategy, LinearAutoencoder(lam=20, kappa=60)))
    scores, expected = (one.users @ one.items.T for one in (ours, theirs))
    assert np.linalg.norm(scores - expected) < 0.1 * np.linalg.norm(expected)


def test_what_is_open_is_chosen_and_said(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    clicks, rows = data
    with caplog.at_level(logging.INFO):
        fit = LinearAutoencoder().fit(align(rows), 4, interactions=clicks, seed=0)
    chosen = fit.strategy
    assert isinstance(chosen, LinearAutoencoder) and chosen.lam is not None and chosen.kappa is not None
    assert chosen == LinearAutoencoder(lam=chosen.lam, kappa=chosen.kappa)
    assert LinearAutoencoder().resolve(align(rows), 4, interactions=clicks, seed=0) == chosen
    assert chosen.resolve(align(rows), 4, interactions=clicks, seed=0) is chosen
    facts = (f"lam {chosen.lam:g}, kappa {chosen.kappa:g}", "NDCG@10", "600 held-out training clicks", "candidates")
    assert logged(caplog, "init_strategy lae takes", *facts)
    values = fit.reduction(4)
    again = factors_of(chosen, align(rows), clicks)
    assert isinstance(values, Factors) and np.array_equal(values.items, again.items)


def test_what_is_given_is_kept(data: Data) -> None:
    clicks, rows = data
    for given in ({"lam": 7.0}, {"kappa": 40.0}, {"kappa": 0.0}):
        chosen = get_strategy("lae", given).resolve(align(rows), 4, interactions=clicks, seed=0)
        assert isinstance(chosen, LinearAutoencoder) and None not in (chosen.lam, chosen.kappa)
        assert {key: getattr(chosen, key) for key in given} == given


@pytest.mark.parametrize(
    ("given", "taken"), [({}, (25, 75)), ({"lam": 3.0}, (3, 75)), ({"kappa": 0.0}, (25, 0))], ids=repr
)
def test_where_nothing_can_be_held_out(
    caplog: pytest.LogCaptureFixture, given: dict[str, float], taken: tuple[float, float]
) -> None:
    clicks = interactions_of([1], [2], [3], n_items=4)
    vectors = align(np.random.default_rng(0).normal(size=(4, 3)))
    with caplog.at_level(logging.INFO):
        chosen = LinearAutoencoder(**given).resolve(vectors, 2, interactions=clicks, seed=0)
    assert isinstance(chosen, LinearAutoencoder) and (chosen.lam, chosen.kappa) == taken
    assert logged(caplog, "lae takes", f"lam {taken[0]}, kappa {taken[1]}", "no user has two clicks")


def test_the_same_in_every_run_and_without_the_global_random_state(data: Data) -> None:
    clicks, rows = data
    state = np.random.get_state()[1].copy()
    first, again = (factors_of(LinearAutoencoder(), align(rows), clicks, seed=3) for _ in range(2))
    assert np.array_equal(first.items, again.items) and np.array_equal(first.users, again.users)
    assert (np.random.get_state()[1] == state).all()


def test_the_most_clicked_items_are_compared(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = interactions_of([1, 2, 5], [2, 5], [5], n_items=6)
    monkeypatch.setattr(linear_autoencoder, "_MOST_ITEMS", 3)
    assert linear_autoencoder._most_clicked(clicks).tolist() == [0, 2, 5]
    # And a choice among some items is one for all.
    monkeypatch.setattr(linear_autoencoder, "_MOST_ITEMS", 40)
    found = factors_of(LinearAutoencoder(), align(data[1]), data[0])
    assert found.items.shape == (61, 4) and found.items[1:].any(axis=1).all()


def test_users_of_the_same_taste_rank_its_items_first(data: Data) -> None:
    """What the factors are for: two thirds of a taste's ten items were not clicked by a user."""
    clicks, rows = data
    found = factors_of(LinearAutoencoder(), align(rows), clicks, width=8)
    scores = found.users[1:] @ found.items[1:].T
    of_taste = np.arange(150)[:, None] % 6 == np.arange(60) % 6
    first = np.argsort(-scores, axis=1)[:, :10]
    assert np.take_along_axis(of_taste, first, axis=1).mean() > 0.95


def test_no_clicks() -> None:
    vectors = align(np.eye(3))
    with pytest.raises(LLMInitError, match=naming("training interactions", "there are none", "whiten")):
        LinearAutoencoder().fit(vectors, 2, interactions=interactions_of([], [], n_items=3), seed=0)


@pytest.mark.parametrize(
    ("rows", "histories"),
    [
        pytest.param([[1.0, 2.0]], [[1], [1]], id="one item"),
        pytest.param([[1.0, 2.0]] * 6, [[1, 2], [2, 3], [1, 3, 4]], id="equal vectors"),
        pytest.param([[0.0, 0.0]] * 6, [[1, 2], [2, 3], [1, 3, 4]], id="zero vectors"),
    ],
)
def test_texts_that_say_nothing(rows: list[list[float]], histories: list[list[int]]) -> None:
    """Either the clicks alone give the values, or an error says what the matter is."""
    vectors, clicks = align(rows), interactions_of(*histories, n_items=len(rows))
    try:
        found = factors_of(FIXED, vectors, clicks, 2)
    except LLMInitError as error:
        assert any(fact in str(error) for fact in ("all equal", "at least 2", "directions")), error
    else:
        expected = item_weights(clicks.toarray(), np.zeros((len(rows) + 1,) * 2), 2.0, 6.0)
        lengths = np.maximum(clicks.toarray().sum(axis=1, keepdims=True), 1)
        scores = clicks.toarray() @ expected / np.sqrt(lengths)
        left, values, right = np.linalg.svd(scores)
        best = left[:, :2] * values[:2] @ right[:2]
        np.testing.assert_allclose(found.users @ found.items.T, best, atol=1e-4)


def test_vectors_of_other_items_than_those_clicked() -> None:
    """The clicks speak for themselves; an item with a vector and without clicks has the value that its text gives."""
    rows = np.random.default_rng(0).normal(size=(6, 4))
    vectors = align(rows)
    of_last = AlignedEmbeddings(**{**vectors.__dict__, "rows": np.where(np.arange(7) > 4, vectors.rows, -1)})
    clicks = interactions_of([1, 2], [2, 3], [1, 3, 4], [4, 2], n_items=6)
    assert of_last.items.tolist() == [5, 6]
    found = factors_of(FIXED, of_last, clicks, 2)
    assert found.items[1:5].any(axis=1).all()


@pytest.mark.parametrize("given", [{"lam": 1e-6, "kappa": 0}, {"lam": 1e4, "kappa": 1}, {"lam": 1, "kappa": 1e6}])
def test_extreme_regularization_gives_the_formulas_scores(data: Data, given: dict[str, Any]) -> None:
    clicks, rows = data
    found = factors_of(get_strategy("lae", {**given, "power": 0}), align(rows), clicks, width=20)
    weights = item_weights(clicks.toarray(), text_prior(features_of(rows, 0.5), 0.3), given["lam"], given["kappa"])
    left, values, right = np.linalg.svd(clicks.toarray() @ weights)
    best = left[:, :20] * values[:20] @ right[:20]
    assert np.linalg.norm(found.users @ found.items.T - best) < 0.02 * np.linalg.norm(best)


def test_a_gram_matrix_that_float32_cannot_invert() -> None:
    clicks, rows = tastes(n_users=30, n_items=60, clicks=6)
    with pytest.raises(LLMInitError, match=naming("1e-09", "too small", "lam", "such as 1")):
        factors_of(LinearAutoencoder(lam=1e-9, kappa=0), align(rows), clicks)


def test_a_width_above_the_rank(data: Data) -> None:
    with pytest.raises(LLMInitError, match=naming("lae", "directions", "embedding_size", "62 columns")):
        factors_of(FIXED, align(data[1]), data[0], 62)
