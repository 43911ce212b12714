"""Which strategy auto takes for which data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import InitSettings, initialize_embeddings_
from recbole_llminit.inspection import inspect_vectors
from recbole_llminit.integration.config import Config
from recbole_llminit.strategies.auto import Auto
from recbole_llminit.strategies.base import Fit, Strategy, get_strategy
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation, CanonicalFit
from recbole_llminit.strategies.co_consumption import CoConsumption
from recbole_llminit.strategies.projection import Projection, Whitening
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.messages import logged, naming
from tests.strategies.toy_data import fit_affine, interactions_of

N_USERS, N_ITEMS, N_TASTES, N_COMPONENTS = 120, 90, 3, 4
CCA, WHITEN = CanonicalCorrelation(), Whitening()
Embed = Callable[..., AlignedEmbeddings]


@pytest.fixture
def interactions() -> csr_matrix:
    """Each user has four items of one of three tastes, in turn over the items."""
    generator = np.random.default_rng(0)
    dense = np.zeros((N_USERS + 1, N_ITEMS + 1), dtype=np.float32)
    for user in range(1, N_USERS + 1):
        of_taste = np.arange(user % N_TASTES, N_ITEMS, N_TASTES)
        dense[user, 1 + generator.choice(of_taste, 4, replace=False)] = 1
    return csr_matrix(dense)


@pytest.fixture
def vectors(embed: Embed) -> AlignedEmbeddings:
    """The taste of each item in the first three columns, and noise."""
    generator = np.random.default_rng(1)
    tastes = np.eye(N_TASTES)[np.arange(N_ITEMS) % N_TASTES]
    noise = generator.normal(size=(N_ITEMS, N_TASTES + 5)) * ([0.1] * N_TASTES + [1] * 5)
    return embed(*np.hstack([tastes, np.zeros((N_ITEMS, 5))]) + noise)


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[AlignedEmbeddings]:
    """The vectors whose co-consumption moment was computed, in order."""
    moment, seen = CoConsumption.moment, list[AlignedEmbeddings]()

    def count(
        walk: CoConsumption, mean: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        seen.append(walk.embeddings)
        return moment(walk, mean, weights)

    monkeypatch.setattr(CoConsumption, "moment", count)
    return seen


def adjusted_correlation(vectors: AlignedEmbeddings, interactions: csr_matrix) -> float:
    return CCA.fit(vectors, N_COMPONENTS, interactions=interactions, seed=0).canonical.adjusted_correlation


def test_it_goes_by_the_adjusted_correlation(vectors: AlignedEmbeddings, interactions: csr_matrix) -> None:
    # Three tastes span two directions, in which a user's items are alike but for some noise.
    found = adjusted_correlation(vectors, interactions)
    assert 1.6 < found < 2.1
    for threshold, taken in ((found - 0.01, CCA), (found + 0.01, WHITEN)):
        assert Auto(threshold).resolve(vectors, N_COMPONENTS, interactions=interactions, seed=0) == taken
    assert get_strategy("auto") == Auto(threshold=2)


def test_vectors_in_random_order_are_not_correlated(vectors: AlignedEmbeddings, interactions: csr_matrix) -> None:
    found = [adjusted_correlation(vectors.shuffled(seed), interactions) for seed in range(100)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(100) and np.std(found) < 0.3
    assert Auto(1).resolve(vectors.shuffled(0), N_COMPONENTS, interactions=interactions, seed=0) == WHITEN


def test_chance_does_not_look_like_correlation_where_directions_are_as_many_as_items(
    embed: Embed, interactions: csr_matrix
) -> None:
    wide = embed(*np.random.default_rng(2).normal(size=(N_ITEMS, 200)))
    assert abs(adjusted_correlation(wide, interactions)) < 0.5


@pytest.mark.parametrize(
    ("histories", "reason"),
    [
        pytest.param([[1], [2], []], "no user has two training items with a vector", id="alone"),
        pytest.param([[1, 7], [2]], "no user has two training items with a vector", id="together with one without"),
        pytest.param([[1, 2, 3], [2, 3]], "2 directions", id="too few"),
        pytest.param([[5, 6]], "all equal", id="equal vectors"),
    ],
)
def test_whiten_where_cca_cannot_be_fitted(
    embed: Embed, caplog: pytest.LogCaptureFixture, histories: Sequence[Sequence[int]], reason: str
) -> None:
    rows = [*np.random.default_rng(0).normal(size=(4, 3)), [1, 2, 3], [1, 2, 3], None]
    vectors, interactions = embed(*rows), interactions_of(*histories, n_items=7)
    strategy = Auto(-100)
    with caplog.at_level(logging.INFO):
        assert strategy.resolve(vectors, 3, interactions=interactions, seed=0) == WHITEN
    assert logged(caplog, "init_strategy auto", "whiten", "cca cannot be fitted", reason)
    fit = strategy.fit(vectors, 3, interactions=interactions, seed=0)
    assert type(fit) is Fit and fit.strategy == WHITEN
    ours, theirs = (fit_affine(one, vectors, 3, interactions) for one in (strategy, WHITEN))
    assert ours.matrix.shape == (3, 3) and np.array_equal(ours.matrix, theirs.matrix)


@pytest.mark.parametrize(("threshold", "taken"), [(0, CCA), (9, WHITEN)])
def test_its_map_is_that_of_what_it_takes(
    vectors: AlignedEmbeddings, interactions: csr_matrix, threshold: float, taken: Projection
) -> None:
    ours, theirs = (fit_affine(one, vectors, N_COMPONENTS, interactions) for one in (Auto(threshold), taken))
    assert np.array_equal(ours.matrix, theirs.matrix) and np.array_equal(ours.offset, theirs.offset)


@pytest.mark.parametrize(("threshold", "taken"), [(0, CCA), (9, WHITEN)])
def test_a_fit_solves_once_and_hands_the_directions_on(
    vectors: AlignedEmbeddings,
    interactions: csr_matrix,
    solved: list[AlignedEmbeddings],
    threshold: float,
    taken: Projection,
) -> None:
    """The directions decide, and are in the fit of whichever strategy is taken."""
    fit = Auto(threshold).fit(vectors, N_COMPONENTS, interactions=interactions, seed=0)
    fit.reduction(2)
    assert isinstance(fit, CanonicalFit) and fit.strategy == taken
    assert fit.canonical.strategy == CCA and fit.canonical.embeddings is vectors
    found = fit.canonical.adjusted_correlation
    assert solved == [vectors]
    assert found == adjusted_correlation(vectors, interactions)


@pytest.mark.parametrize("strategy", [CCA, Auto(-100)], ids=repr)
def test_more_columns_than_directions(vectors: AlignedEmbeddings, interactions: csr_matrix, strategy: Strategy) -> None:
    """Then whiten cannot be fitted either."""
    with pytest.raises(LLMInitError, match=naming("8 directions", "9 columns")):
        strategy.fit(vectors, 9, interactions=interactions, seed=0)


@pytest.mark.parametrize(("threshold", "taken"), [(0, CCA), (9, WHITEN)])
def test_an_initialization_solves_once_for_all_widths(
    vectors: AlignedEmbeddings,
    interactions: csr_matrix,
    solved: list[AlignedEmbeddings],
    threshold: float,
    taken: Projection,
) -> None:
    model = nn.ModuleDict({"item": nn.Embedding(N_ITEMS + 1, 4), "item_wide": nn.Embedding(N_ITEMS + 1, 6)})
    report = initialize_embeddings_(model, vectors, interactions, Auto(threshold), seed=0)
    assert solved == [vectors] and sorted(report.reductions) == [4, 6] and report.strategy == repr(taken)


@pytest.mark.parametrize("given_fit", [False, True], ids=["strategy", "fit"])
@pytest.mark.parametrize(("threshold", "taken"), [(1, CCA), (9, WHITEN)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_report_says_what_was_taken(
    vectors: AlignedEmbeddings,
    interactions: csr_matrix,
    threshold: float,
    taken: Projection,
    shuffle: bool,
    given_fit: bool,
) -> None:
    """A control shuffles what is taken for the vectors; what shuffled ones have in common, nothing, does not choose."""
    model = nn.ModuleDict(
        {"user": nn.Embedding(N_USERS + 1, N_COMPONENTS), "item": nn.Embedding(N_ITEMS + 1, N_COMPONENTS)}
    )
    strategy = Auto(threshold)
    report = initialize_embeddings_(
        model,
        vectors,
        interactions,
        strategy.fit(vectors, N_COMPONENTS, interactions=interactions, seed=0) if given_fit else strategy,
        seed=0,
        settings=InitSettings(shuffle=shuffle),
    )
    assert (report.strategy, report.scale) == (repr(taken), str(taken.default_scale))


@pytest.mark.parametrize(("threshold", "taken"), [(-9, "cca"), (9, "whiten")])
def test_the_log_and_a_look_say_it_too(
    llm: dict[str, Any], caplog: pytest.LogCaptureFixture, threshold: float, taken: str
) -> None:
    settings = {**llm, "embedding_size": 4, "init_strategy": "auto", "init_args": {"threshold": threshold}}
    with caplog.at_level(logging.INFO):
        inspection = inspect_vectors(Config("BPR", config_dict={**settings, "state": "INFO"}))
    assert logged(caplog, f"init_strategy auto is {taken}", "adjusted correlation", f"cca from {threshold}")
    assert repr(get_strategy(taken)) in str(inspection.parts[-1])


@pytest.mark.parametrize("threshold", ["many", float("nan"), True])
def test_bad_threshold(threshold: float | str) -> None:
    with pytest.raises(LLMInitError, match=naming("init_args threshold", repr(threshold), "a number", "such as 1")):
        get_strategy("auto", {"threshold": threshold})
