"""The search over grids: which points are tried once those before have finished, by validation scores alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_llminit.compare.grids import Grid, Point, grid_points
from recbole_llminit.compare.trial import TrialResult
from recbole_llminit.integration.recbole_keys import is_count

MAX_WIDENINGS = 3
"""How often a key of a grid is widened at the same side."""

_FEWEST_VALUES = 3
_LARGEST = {"learning_rate": 0.3}
# A share or a probability.
_SHARE = re.compile(r"drop|prob|ratio")
_LARGEST_SHARE = 0.9
# RecBole's ItemKNN takes all items where k is more (ComputeSimilarity in model/general_recommender/itemknn.py). Other
# counts, such as layers and dimensions, make another model.
_WIDENED_COUNTS = ("k",)


@dataclass(frozen=True)
class Candidate:
    """A finished trial of a search.

    Parameters
    ----------
    values : mapping
        Its configuration.
    score : float
        Its best validation score, signed so that a larger one is better.
    """

    values: Mapping[str, Any]
    score: float

    @classmethod
    def of(cls, result: TrialResult) -> Candidate:
        """Return the candidate that a finished trial is."""
        return cls(result.content["config"], result.score)


@dataclass(frozen=True)
class Edge:
    """A key whose best value is the smallest or the largest that was tried: a better one may lie beyond.

    Parameters
    ----------
    key : str
        The key.
    beyond : int, float or None
        The next value beyond the edge; None where the search ends at the edge.
    reason : str
        Why no value beyond the edge was tried.
    """

    key: str
    beyond: float | None
    reason: str

    def __str__(self) -> str:
        """Name the key and the reason."""
        return f"{self.key} ({self.reason})"


def next_points(grids: Sequence[Grid], candidates: Sequence[Candidate]) -> Iterator[list[Point]]:
    """Yield the points to try after the candidates: those that have been tried, or failed, are among them.

    Parameters
    ----------
    grids : sequence of mapping
        The grids, searched one after the other, each at the best values of those before.
    candidates : sequence of Candidate
        The finished trials, in the order in which they were added. Those of the first grid come first.

    Yields
    ------
    list of mapping
        Points that may be tried side by side. The caller tries the first of these lists that holds a point that is new,
        and asks again once it has finished.

    Notes
    -----
    Where the best value of a key is the smallest or the largest tried, the next one beyond is tried, with the other
    keys at their best values (a local search, not a further row of the grid). It is the edge times the ratio of the two
    outermost values, rounded to two digits.
    """
    keys: list[str] = []
    for number, (grid, known) in enumerate(_stages(grids, candidates)):
        best = best_of(known)
        if number:
            chosen = {key: best.values[key] for key in keys}
            yield [{**chosen, **point} for point in grid_points(grid)]
        keys += grid
        chosen = {key: best.values[key] for key in keys}
        edges = _edges(grid, known)
        yield [{**chosen, edge.key: edge.beyond} for edge in edges if edge.beyond is not None]


def edges_of(grids: Sequence[Grid], candidates: Sequence[Candidate]) -> list[Edge]:
    """Return the keys whose best values are the smallest or the largest tried, unless that is 0 as the smallest."""
    return [edge for grid, known in _stages(grids, candidates) for edge in _edges(grid, known)]


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate with the best validation score; of equal ones the first."""
    return max(candidates, key=lambda candidate: candidate.score)


def _stages(grids: Sequence[Grid], candidates: Sequence[Candidate]) -> Iterator[tuple[Grid, list[Candidate]]]:
    """Yield each grid with the candidates among which its best value is chosen."""
    for number, grid in enumerate(grids):
        # Until a grid's turn, its keys have the values of the very first trial.
        later = [key for after in grids[number + 1 :] for key in after]
        first = candidates[0].values if candidates else {}
        known = [one for one in candidates if all(one.values.get(key) == first.get(key) for key in later)]
        if known:
            yield grid, known


def _edges(grid: Grid, candidates: Sequence[Candidate]) -> list[Edge]:
    best = best_of(candidates).values
    found = (_edge(key, grid[key], [one.values.get(key) for one in candidates], best.get(key)) for key in grid)
    return [edge for edge in found if edge is not None]


def _edge(key: str, given: Sequence[Any], tried: Sequence[Any], value: Any) -> Edge | None:
    """Return the edge at which the best value of a key lies; None if it lies at none."""
    numbers = [one for one in given if _is_number(one)]
    if len(numbers) < _FEWEST_VALUES or not _is_number(value):
        return None
    known = sorted({*numbers, *filter(_is_number, tried)})
    # Nothing lies below 0.
    if value not in (known[0], known[-1]) or value == known[0] == 0:
        return None
    upward = value == known[-1]
    widenings = sum(one > max(numbers) if upward else one < min(numbers) for one in known)
    inner = known[-2] if upward else known[1]
    if (is_count(key) and key not in _WIDENED_COUNTS) or min(value, inner) <= 0:
        return Edge(key, None, "not widened")
    if widenings >= MAX_WIDENINGS:
        return Edge(key, None, f"widened {widenings} times")
    beyond = _round(key, value * value / inner)
    limit = _limit(key, upward=upward)
    if (beyond > limit if upward else beyond < limit) or beyond == value:
        return Edge(key, None, f"limit {limit:g}")
    return Edge(key, beyond, f"{beyond:g} has no result")


def _limit(key: str, *, upward: bool) -> float:
    """Return the largest value of a key, or the smallest."""
    if not upward:
        return 1 if is_count(key) else 0
    return _LARGEST.get(key, _LARGEST_SHARE if _SHARE.search(key) else math.inf)


def _round(key: str, value: float) -> float:
    return round(value) if is_count(key) else float(f"{value:.2g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
