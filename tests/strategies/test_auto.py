"""Which strategy auto takes for which data."""

import logging

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import initialize_embeddings_
from recbole_llminit.inspection import inspect_vectors
from recbole_llminit.integration.config import Config
from recbole_llminit.strategies.auto import Auto
from recbole_llminit.strategies.base import get_strategy
from recbole_llminit.strategies.co_consumption import CoConsumption
from recbole_llminit.strategies.projection import CanonicalCorrelation, Whitening

N_USERS, N_ITEMS, N_TASTES, SIZE = 120, 90, 3, 4
CCA, WHITEN = CanonicalCorrelation(), Whitening()


@pytest.fixture
def interactions():
    """Each user has four items of one of three tastes, in turn over the items."""
    generator = np.random.default_rng(0)
    dense = np.zeros((N_USERS + 1, N_ITEMS + 1), dtype=np.float32)
    for user in range(1, N_USERS + 1):
        of_taste = np.arange(user % N_TASTES, N_ITEMS, N_TASTES)
        dense[user, 1 + generator.choice(of_taste, 4, replace=False)] = 1
    return csr_matrix(dense)


@pytest.fixture
def vectors(embed):
    """The taste of each item in the first three columns, and noise."""
    generator = np.random.default_rng(1)
    tastes = np.eye(N_TASTES)[np.arange(N_ITEMS) % N_TASTES]
    noise = generator.normal(size=(N_ITEMS, N_TASTES + 5)) * ([0.1] * N_TASTES + [1] * 5)
    return embed(*np.hstack([tastes, np.zeros((N_ITEMS, 5))]) + noise)


def agreement(vectors, interactions):
    return CCA.agreement(vectors, SIZE, interactions=interactions)


def test_it_goes_by_the_agreement(vectors, interactions):
    # Three tastes span two directions, in which a user's items are alike but for some noise.
    found = agreement(vectors, interactions)
    assert 1.6 < found < 2.1
    for bound, taken in ((found - 0.01, CCA), (found + 0.01, WHITEN)):
        assert Auto(bound).resolve(vectors, SIZE, interactions=interactions) == taken
    assert get_strategy("auto").agreement == 2


def test_vectors_in_random_order_do_not_agree(vectors, interactions):
    found = [agreement(vectors.shuffled(seed), interactions) for seed in range(100)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(100) and np.std(found) < 0.3
    assert Auto(1).resolve(vectors.shuffled(0), SIZE, interactions=interactions) == WHITEN


def test_chance_does_not_look_like_agreement_where_directions_are_as_many_as_items(embed, interactions):
    wide = embed(*np.random.default_rng(2).normal(size=(N_ITEMS, 200)))
    assert abs(agreement(wide, interactions)) < 0.5


@pytest.mark.parametrize(
    ("histories", "reason"),
    [
        pytest.param([[1], [2], []], "no user has two training items with a vector", id="alone"),
        pytest.param([[1, 7], [2]], "no user has two training items with a vector", id="together with one without"),
        pytest.param([[1, 2, 3], [2, 3]], "has 2 directions to project on", id="too few"),
        pytest.param([[5, 6]], "are all equal", id="equal vectors"),
    ],
)
def test_whiten_where_cca_cannot_be_fitted(embed, caplog, histories, reason):
    rows = [*np.random.default_rng(0).normal(size=(4, 3)), [1, 2, 3], [1, 2, 3], None]
    vectors = embed(*rows)
    dense = np.zeros((len(histories) + 1, 8), dtype=np.float32)
    for user, items in enumerate(histories, start=1):
        dense[user, items] = 1
    strategy = Auto(-100)
    with caplog.at_level(logging.INFO):
        assert strategy.resolve(vectors, 3, interactions=csr_matrix(dense)) == WHITEN
    assert "init_strategy auto is whiten, as cca cannot be fitted" in caplog.text and reason in caplog.text
    assert strategy.fit(vectors, 3, interactions=csr_matrix(dense), seed=0).matrix.shape == (3, 3)


@pytest.mark.parametrize(("bound", "taken"), [(0, CCA), (9, WHITEN)])
def test_its_map_is_that_of_what_it_takes(vectors, interactions, bound, taken):
    ours, theirs = (one.fit(vectors, SIZE, interactions=interactions, seed=0) for one in (Auto(bound), taken))
    assert np.array_equal(ours.matrix, theirs.matrix) and np.array_equal(ours.offset, theirs.offset)


def test_what_was_solved_for_the_agreement_is_not_solved_again(vectors, interactions, monkeypatch):
    moment, solved = CoConsumption.moment, []
    monkeypatch.setattr(CoConsumption, "moment", lambda *given: solved.append(given) or moment(*given))

    def fit(strategy, vectors=vectors, interactions=interactions, size=SIZE):
        found = strategy.fit(vectors, size, interactions=interactions, seed=0)
        return found, len(solved)

    taken = Auto(1).resolve(vectors, SIZE, interactions=interactions)
    assert len(solved) == 1
    first, count = fit(taken)
    assert count == 1
    # Other vectors, another strategy, other interactions, and the first again, of which the last was kept.
    for number, given in enumerate(
        [
            {"vectors": vectors.shuffled(0)},
            {"strategy": CanonicalCorrelation(shrinkage=0.3)},
            {"interactions": interactions[:60]},
            {},
        ],
        start=2,
    ):
        again, count = fit(**{"strategy": CCA, **given})
        assert count == number
    assert np.array_equal(first.matrix, again.matrix)
    with pytest.raises(LLMInitError, match="has 8 directions to project on, and a table has 9 columns"):
        fit(CCA, size=9)


def test_a_strategy_that_leaves_nothing_open_is_itself(vectors, interactions):
    assert CCA.resolve(vectors, SIZE, interactions=interactions) is CCA


@pytest.mark.parametrize(("bound", "taken"), [(1, CCA), (9, WHITEN)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_report_says_what_was_taken(vectors, interactions, bound, taken, shuffle):
    """A control shuffles what is taken for the vectors; what shuffled ones agree on, nothing, does not choose."""
    model = nn.ModuleDict({"user": nn.Embedding(N_USERS + 1, SIZE), "item": nn.Embedding(N_ITEMS + 1, SIZE)})
    report = initialize_embeddings_(model, vectors, interactions, Auto(bound), seed=0, shuffle=shuffle)
    assert (report.strategy, report.scale) == (repr(taken), str(taken.default_scale))


def test_the_log_and_a_look_say_it_too(llm, caplog):
    settings = {**llm, "embedding_size": 4, "init_strategy": "auto", "state": "INFO"}
    for bound, taken in ((-9, "cca"), (9, "whiten")):
        with caplog.at_level(logging.INFO):
            *_, start = inspect_vectors(
                Config("BPR", config_dict={**settings, "init_args": {"agreement": bound}})
            ).parts
        assert f"init_strategy auto is {taken}: the vectors of co-consumed items have an agreement of" in caplog.text
        assert repr(get_strategy(taken)) in str(start)


@pytest.mark.parametrize("bound", ["many", float("nan"), True])
def test_bad_bound(bound):
    with pytest.raises(LLMInitError, match="init_args agreement is .*: expected a number such as 1"):
        get_strategy("auto", {"agreement": bound})
