"""Which regularization the closed form takes: a few are compared on held-out training clicks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llminit.strategies.closed_form import Equations, InverseGram, ItemWeights, TextPrior
from recbole_llminit.strategies.held_out import HeldOut

# The sums of lam and kappa that may be tried, a factor of about 3 apart, and kappa's shares in them.
_RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
_FIRST = 4
_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)


class Regularization(NamedTuple):
    """The two regularizations of the closed form: ``lam`` towards 0, ``kappa`` towards the text prior."""

    lam: float
    kappa: float

    def __str__(self) -> str:
        return f"lam {self.lam:g}, kappa {self.kappa:g}"


def choose_regularization(
    draws: Sequence[HeldOut],
    prior: TextPrior | None,
    invert: Callable[[csr_matrix, float], InverseGram],
    *,
    lam: float | None,
    kappa: float | None,
) -> Mapping[Regularization, float]:
    """Return the candidates that were compared with their mean NDCG@10 on held-out clicks.

    The search goes along the sum of the two from 100 to where no neighbor, a factor of 3 away, is better; with each sum
    several shares of ``kappa`` are tried, which cost little beside the inverse.

    Parameters
    ----------
    draws : sequence of HeldOut
        Held-out clicks, and the interactions without them; a candidate's figure is the mean over the clicks of all.
    prior : TextPrior or None
        The text prior.
    invert : callable
        Returns the inverse Gram matrix of interactions for a sum of ``lam`` and ``kappa``.
    lam, kappa : float or None
        What is given and not to be chosen.
    """
    found: dict[Regularization, float] = {}
    best_by_place: dict[int, float] = {}

    def best_at(place: int) -> float:
        if not 0 <= place < len(_RIDGES):
            return -np.inf
        if place not in best_by_place:
            compared = dict(_compare(draws, prior, invert, _candidates(_RIDGES[place], prior, lam, kappa)))
            found.update(compared)
            best_by_place[place] = max(compared.values())
        return best_by_place[place]

    place = _FIRST
    while True:
        better = max((place - 1, place, place + 1), key=lambda near: (best_at(near), near == place))
        if better == place:
            return found
        place = better


def _candidates(
    size: float, prior: TextPrior | None, lam: float | None, kappa: float | None
) -> tuple[Regularization, ...]:
    """Return the pairs of one size: of their sum, or of the one of the two that is not given."""
    if lam is not None:
        return (Regularization(lam, 0.0), Regularization(lam, size))
    if kappa is not None:
        return (Regularization(size, kappa),)
    shares = _SHARES if prior is not None else (0.0,)
    return tuple(Regularization(round(size * (1 - share), 6), round(size * share, 6)) for share in shares)


def _compare(
    draws: Sequence[HeldOut],
    prior: TextPrior | None,
    invert: Callable[[csr_matrix, float], InverseGram],
    candidates: tuple[Regularization, ...],
) -> Iterator[tuple[Regularization, float]]:
    """Yield each candidate with its mean NDCG@10 over all draws; those of the same sum share the inverse."""
    gains = dict.fromkeys(candidates, 0.0)
    for ridge, held_out in itertools.product(dict.fromkeys(_ridge(candidate) for candidate in candidates), draws):
        equations = Equations(invert(held_out.interactions, ridge), prior)
        weights = {one: ItemWeights(equations, one.kappa) for one in candidates if _ridge(one) == ridge}
        for block in held_out.blocks():
            histories = held_out.interactions[held_out.users[block]]
            columns = np.ascontiguousarray(histories.toarray().T.astype(np.float32, copy=False))
            solved = equations.inverse.multiply(columns)
            for candidate, matrix in weights.items():
                gains[candidate] += float(
                    held_out.gains(matrix.finish_transposed(columns, solved).T, block.start).sum()
                )
    count = sum(len(held_out.users) for held_out in draws)
    yield from ((candidate, gain / count) for candidate, gain in gains.items())


def _ridge(candidate: Regularization) -> float:
    return round(sum(candidate), 6)
