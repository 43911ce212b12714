"""Which regularization held-out clicks choose on data where the answer is planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from recbole_llminit.strategies.closed_form import DenseInverseGram, Equations, ItemWeights, TextPrior
from recbole_llminit.strategies.closed_form_choice import Regularization, choose_regularization
from recbole_llminit.strategies.held_out import HeldOut
from tests.strategies.toy_data import tastes

Found = dict[Regularization, float]


def choose(
    clicks: csr_matrix,
    prior: TextPrior | None,
    lam: float | None = None,
    kappa: float | None = None,
    ridges: list[float] | None = None,
) -> Found:
    """The candidates and their gains; the sums that were inverted are appended to ``ridges``."""
    draws = HeldOut.several(clicks, 0)

    def invert(left: csr_matrix, ridge: float) -> DenseInverseGram:
        if ridges is not None and ridge not in ridges:
            ridges.append(ridge)
        return DenseInverseGram(left, ridge)

    return dict(choose_regularization(draws, prior, invert, lam=lam, kappa=kappa))


def best_of(found: Found) -> Regularization:
    return max(found, key=lambda candidate: found[candidate])


@pytest.fixture(scope="module")
def data() -> tuple[csr_matrix, TextPrior, TextPrior]:
    """Few clicks by taste, the prior of texts that say it, and the prior of texts that are noise."""
    clicks, vectors = tastes(n_users=150, n_items=60, clicks=3)
    noise = np.random.default_rng(5).normal(size=vectors.shape)
    rows = [np.vstack([np.zeros(vectors.shape[1]), one / np.linalg.norm(one, axis=1, keepdims=True)])
            for one in (vectors, noise)]  # fmt: skip
    return clicks, *(TextPrior.of(one.astype(np.float32), 0.3) for one in rows)


def test_texts_that_say_what_goes_together_are_taken(data: tuple[csr_matrix, TextPrior, TextPrior]) -> None:
    clicks, texts, _ = data
    found = choose(clicks, texts)
    best, alone = best_of(found), max(gain for candidate, gain in found.items() if not candidate.kappa)
    assert best.kappa >= 0.25 * sum(best)
    assert found[best] > 1.2 * alone


def test_texts_that_are_noise_are_not() -> None:
    clicks, _ = tastes(n_users=400, n_items=40, clicks=8)
    noise = np.random.default_rng(5).normal(size=(41, 12)).astype(np.float32)
    found = choose(clicks, TextPrior.of(noise / np.linalg.norm(noise, axis=1, keepdims=True), 0.3))
    best, alone = best_of(found), max(gain for candidate, gain in found.items() if not candidate.kappa)
    assert found[best] < 1.1 * alone


def test_a_gain_is_that_of_the_candidates_scores(data: tuple[csr_matrix, TextPrior, TextPrior]) -> None:
    clicks, texts, _ = data
    found = choose(clicks, texts)
    for candidate in list(found)[::4]:
        gains = []
        for draw in HeldOut.several(clicks, 0):
            inverse = DenseInverseGram(draw.interactions, sum(candidate))
            weights = ItemWeights(Equations(inverse, texts), candidate.kappa).to_dense()
            gains.append(draw.gains(draw.interactions[draw.users].toarray() @ weights, 0))
        assert found[candidate] == pytest.approx(np.concatenate(gains).mean(), abs=0.01)


def test_the_search_ends_where_no_neighbor_is_better(data: tuple[csr_matrix, TextPrior, TextPrior]) -> None:
    """Each sum is inverted once, and shares of one sum share its inverse."""
    ridges: list[float] = []
    found = choose(data[0], data[1], ridges=ridges)
    assert len(ridges) == len(set(ridges)) and 100 in ridges
    assert {round(sum(candidate), 3) for candidate in found} == set(ridges)
    assert len(found) == 5 * len(ridges)
    places = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000]
    place = places.index(round(sum(best_of(found))))
    assert {*places[max(0, place - 1) : place + 2]} <= set(ridges)
    # The sums that were tried are neighbors.
    tried = sorted(places.index(int(ridge)) for ridge in ridges)
    assert tried == list(range(tried[0], tried[-1] + 1))


def test_what_is_given_stays(data: tuple[csr_matrix, TextPrior, TextPrior]) -> None:
    clicks, texts, _ = data
    given_lam = choose(clicks, texts, lam=7)
    assert {candidate.lam for candidate in given_lam} == {7} and {100, 0} <= {found.kappa for found in given_lam}
    given_kappa = choose(clicks, texts, kappa=20)
    assert {candidate.kappa for candidate in given_kappa} == {20} and 100 in {found.lam for found in given_kappa}
    without = choose(clicks, None)
    assert {candidate.kappa for candidate in without} == {0}
    assert without.items() == choose(clicks, None, kappa=0).items()


def test_the_same_choice_however_many_users_are_scored_at_a_time(
    data: tuple[csr_matrix, TextPrior, TextPrior], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = choose(data[0], data[1])
    monkeypatch.setattr("recbole_llminit.strategies.held_out._BLOCK_SCORES", 61 * 7)
    found = choose(data[0], data[1])
    assert list(found) == list(expected)
    # Rounding may swap items whose scores are nearly equal.
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=0.01)


def test_its_text() -> None:
    assert str(Regularization(25.0, 0.5)) == "lam 25, kappa 0.5"
