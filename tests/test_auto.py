"""Which strategy auto takes for which data."""

import logging

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from recbole_llminit.auto import Auto
from recbole_llminit.errors import LLMInitError
from recbole_llminit.projection import CanonicalCorrelation, Whitening
from recbole_llminit.quick_start import run_recbole_llminit
from recbole_llminit.strategy import get_strategy

N_ITEMS, N_TASTES = 90, 3


@pytest.fixture
def tastes():
    """Interactions of users who each consume items of one of three tastes, and the tastes in a vector's first columns."""
    generator = np.random.default_rng(0)
    kinds = np.arange(N_ITEMS) % N_TASTES
    dense = np.zeros((121, N_ITEMS + 1), dtype=np.float32)
    for user in range(1, 121):
        dense[user, 1 + generator.choice(np.flatnonzero(kinds == user % N_TASTES), 4, replace=False)] = 1
    return csr_matrix(dense), np.eye(N_TASTES)[kinds]


def noisy(tastes):
    generator = np.random.default_rng(1)
    return np.hstack([tastes + 0.1 * generator.normal(size=tastes.shape), generator.normal(size=(N_ITEMS, 5))])


def test_it_goes_by_the_sum_of_the_canonical_correlations(embed, tastes):
    interactions, kinds = tastes
    vectors = embed(*noisy(kinds))
    # Three tastes span two directions in which the items of a user are alike; the noise adds none.
    total = CanonicalCorrelation().correlations(vectors, interactions).sum()
    assert 1.5 < total < 2.2
    assert Auto().resolve(vectors, interactions) == CanonicalCorrelation()
    assert Auto(total + 0.01).resolve(vectors, interactions) == Whitening()
    assert Auto(total - 0.01).resolve(vectors, interactions) == CanonicalCorrelation()


@pytest.mark.parametrize("seed", range(5))
def test_vectors_of_other_items_do_not_agree(embed, tastes, seed):
    interactions, kinds = tastes
    vectors = embed(*noisy(kinds)).shuffled(seed)
    correlations = CanonicalCorrelation().correlations(vectors, interactions)
    assert abs(correlations.sum()) < 0.5 and correlations[0] > 0.05
    assert Auto().resolve(vectors, interactions) == Whitening()


def test_without_co_consumption_there_is_nothing_to_agree_on(embed):
    vectors = embed(*np.eye(4))
    for items in ([1, 2], []):
        users = csr_matrix((np.ones(len(items)), (range(len(items)), items)), shape=(3, 5), dtype=np.float32)
        assert Auto(0).resolve(vectors, users) == Whitening()
    # Together with an item that has no vector.
    both = csr_matrix(np.array([[0, 1, 1]], dtype=np.float32))
    assert Auto(0).resolve(embed([1, 0], None), both) == Whitening()


@pytest.mark.parametrize(("agreement", "taken"), [(-9, CanonicalCorrelation()), (9, Whitening())])
def test_its_map_is_that_of_what_it_takes(embed, tastes, agreement, taken):
    interactions, kinds = tastes
    vectors = embed(*noisy(kinds))
    ours, theirs = (one.fit(vectors, 3, interactions=interactions, seed=0) for one in (Auto(agreement), taken))
    assert np.array_equal(ours.matrix, theirs.matrix) and np.array_equal(ours.offset, theirs.offset)


def test_a_strategy_that_leaves_nothing_open_is_itself(embed, tastes):
    strategy = CanonicalCorrelation()
    assert strategy.resolve(embed(*noisy(tastes[1])), tastes[0]) is strategy


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("agreement", "taken"), [(-9, CanonicalCorrelation()), (9, Whitening())])
def test_report_and_log_say_what_was_taken(llm, caplog, agreement, taken, shuffle):
    """The control shuffles the vectors of what is taken; what they then agree on does not choose another."""
    settings = {"embedding_size": 4, "epochs": 1, "init_strategy": "auto", "init_args": {"agreement": agreement}}
    with caplog.at_level(logging.INFO):
        result = run_recbole_llminit("BPR", config_dict={**llm, **settings, "init_shuffle": shuffle}, saved=False)
    report = result["init_report"]
    assert (report.strategy, report.scale, report.shuffled) == (repr(taken), "0.05", shuffle)
    name = "cca" if agreement < 0 else "whiten"
    assert f"init_strategy auto is {name}: the canonical correlations of co-consumed items' vectors" in caplog.text


@pytest.mark.parametrize("agreement", ["many", float("nan"), True])
def test_bad_bound(agreement):
    with pytest.raises(LLMInitError, match="init_args agreement is .*: expected a number such as 1"):
        get_strategy("auto", {"agreement": agreement})
