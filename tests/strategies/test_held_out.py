"""Held-out training clicks: what is held out, and what a ranking of it gains."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score

from recbole_llminit.strategies.held_out import HeldOut
from tests.strategies.toy_data import interactions_of


@pytest.fixture
def interactions() -> csr_matrix:
    """Users 1 to 50 with none to six of 30 items."""
    generator = np.random.default_rng(0)
    histories = [1 + generator.choice(30, size=user % 7, replace=False) for user in range(1, 51)]
    return interactions_of(*histories, n_items=30)


def held_out_of(interactions: csr_matrix, seed: int = 0) -> HeldOut:
    found = HeldOut.of(interactions, seed)
    assert found is not None
    return found


def test_a_user_of_few_clicks_gives_one_and_keeps_one(interactions: csr_matrix) -> None:
    found, before = held_out_of(interactions), interactions.toarray()
    assert found.users.tolist() == np.flatnonzero(before.sum(axis=1) > 1).tolist()
    left = found.interactions.toarray()
    assert (left[found.users].sum(axis=1) >= 1).all()
    # What was held out and what is left are what was there, and nothing is in both.
    again = np.zeros_like(left)
    again[found.users, found.items] = 1
    assert np.array_equal(left + again, before)
    assert found.interactions.has_sorted_indices and found.interactions.dtype == interactions.dtype


def test_the_clicks_given_stay_as_they_are(interactions: csr_matrix) -> None:
    before = interactions.toarray()
    held_out_of(interactions)
    assert np.array_equal(interactions.toarray(), before)


def test_the_draws_are_those_of_the_seed(interactions: csr_matrix) -> None:
    state = np.random.get_state()[1].copy()
    first, again, other = (held_out_of(interactions, seed) for seed in (3, 3, 4))
    assert first.users.tolist() == again.users.tolist() and first.items.tolist() == again.items.tolist()
    assert first.items.tolist() != other.items.tolist()
    assert (np.random.get_state()[1] == state).all()


def test_any_click_of_a_user_may_be_held_out() -> None:
    interactions = interactions_of([2, 5, 7], n_items=8)
    assert {int(held_out_of(interactions, seed=seed).items[0]) for seed in range(30)} == {2, 5, 7}


def test_a_user_of_many_clicks_gives_a_tenth_of_them() -> None:
    found = held_out_of(interactions_of(range(1, 36), [1, 2], range(1, 20), [4], n_items=40))
    assert found.users.tolist() == [1, 1, 1, 2, 3] and len(set(found.items[:3].tolist())) == 3
    assert np.diff(found.interactions.indptr).tolist() == [0, 32, 1, 18, 1]


def test_each_user_gives_one_before_any_gives_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llminit.strategies.held_out._FEWEST", 7)
    monkeypatch.setattr("recbole_llminit.strategies.held_out._MOST", 7)
    found = held_out_of(interactions_of(*[range(1, 41)] * 5, n_items=40))
    counts = np.bincount(found.users)
    assert len(found.users) == 7 and counts[1:].min() == 1 and counts.max() == 2


def test_a_twentieth_of_many_clicks_is_held_out() -> None:
    clicks = interactions_of(
        *np.random.default_rng(0).permuted(np.tile(np.arange(1, 21), (1000, 1)), axis=1)[:, :10], n_items=20
    )
    draws = HeldOut.several(clicks, 0)
    assert clicks.nnz == 10_000 and [len(draw.users) for draw in draws] == [500] * 4
    assert len({tuple(draw.users.tolist()) for draw in draws}) == 4


@pytest.mark.parametrize("histories", [[[1], [2], []], [[]]], ids=["one each", "none"])
def test_none_where_no_user_has_two_clicks(histories: list[list[int]]) -> None:
    assert HeldOut.of(interactions_of(*histories, n_items=3), 0) is None


@pytest.mark.parametrize(("rank", "gain"), [(0, 1), (1, 1 / np.log2(3)), (9, 1 / np.log2(11)), (10, 0), (14, 0)])
def test_gains_literally(rank: int, gain: float) -> None:
    """Of one user with the clicks 1 and 2, of which 2 is held out, among the items 2 to 16."""
    held_out = HeldOut(interactions_of([1], n_items=16), np.array([1]), np.array([2]))
    scores = np.zeros((1, 17))
    scores[0, 2:] = -1
    scores[0, 3 : 3 + rank] = 1
    scores[0, 2] = 0
    # [PAD] and the other click do not count, whatever their scores are.
    scores[0, :2] = 100
    assert held_out.gains(scores, 0).tolist() == pytest.approx([gain])


def test_gains_are_scikit_learns_ndcg(interactions: csr_matrix) -> None:
    held_out = held_out_of(interactions)
    scores = np.random.default_rng(1).normal(size=(len(held_out.users), 31))
    expected = []
    for user, item, row in zip(held_out.users, held_out.items, scores, strict=True):
        known = held_out.interactions[user].toarray().ravel() > 0
        known[0] = True
        relevant = np.arange(31) == item
        expected.append(ndcg_score([relevant[~known]], [row[~known]], k=10))
    found = held_out.gains(scores, 0)
    assert 0 < found.mean() < 1
    np.testing.assert_allclose(found, expected)
    # Some users at a time.
    parts = [held_out.gains(scores[first : first + 7], first) for first in range(0, len(scores), 7)]
    np.testing.assert_array_equal(np.concatenate(parts), found)


def test_equal_scores_share_their_places() -> None:
    held_out = HeldOut(interactions_of([1], n_items=30), np.array([1]), np.array([2]))
    scores = np.zeros((1, 31))
    # Half of the 28 other items are above.
    assert held_out.gains(scores, 0).tolist() == [0]
    scores[0, 5:] = -1
    # Items 3 and 4 beside it; 1 is known, and 0 is [PAD].
    assert held_out.gains(scores, 0).tolist() == pytest.approx([1 / np.log2(1 + 2)])


def test_scores_that_are_no_numbers_gain_nothing() -> None:
    held_out = HeldOut(interactions_of([1], [1], n_items=4), np.array([1, 2]), np.array([2, 2]))
    scores = np.array([[np.nan] * 5, [0, 0, 1, np.nan, 0]])
    assert held_out.gains(scores, 0).tolist() == [0, 1]
    assert held_out.gains(np.full((2, 5), np.inf), 0).tolist() == [0, 0]
