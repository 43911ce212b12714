"""The search over grids, with validation scores that are made up."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from recbole_llminit.compare.grids import Grid, grid_points
from recbole_llminit.compare.search import Candidate, best_of, edges_of, next_points
from tests.compare.synthetic import hits, make_result

RATES = (0.001, 0.01, 0.1)
Score = Callable[[Mapping[str, Any]], float]


def search(grids: Sequence[Grid], score: Score, base: Mapping[str, Any] | None = None) -> list[Mapping[str, Any]]:
    """Try all points of a search in turn; return them, those of the first grid first."""
    tried = [{**(base or {}), **point} for point in grid_points(grids[0])]
    while True:
        candidates = [Candidate(point, score(point)) for point in tried]
        for points in next_points(grids, candidates):
            new = [found for point in points if (found := {**(base or {}), **point}) not in tried]
            if new:
                tried += new
                break
        else:
            return tried


def values_of(key: str, given: Sequence[Any], best: float) -> list[Any]:
    """The values that are tried of one key, whose best value is the nearest to a number."""
    return [point[key] for point in search([{key: given}], lambda point: -abs(point[key] - best))]


@pytest.mark.parametrize(
    ("key", "given", "best", "added"),
    [
        ("weight_decay", RATES, 0.01, []),
        ("weight_decay", RATES, 0.1, [1.0]),
        ("weight_decay", RATES, 1.0, [1.0, 10.0]),
        # Three times, and no further.
        ("weight_decay", RATES, 1e9, [1.0, 10.0, 100.0]),
        ("weight_decay", RATES, 0.0, [0.0001, 0.00001, 0.000001]),
        # The ratio of the two outermost values, in two digits.
        ("reg_weight", (0.0003, 0.001, 0.003), 1.0, [0.009, 0.027, 0.081]),
        ("reg_weight", (0.001, 0.003, 0.01), 1.0, [0.033, 0.11, 0.37]),
        # Nothing lies below 0, and a ratio with it says nothing.
        ("weight_decay", (0.0, 0.001, 0.01), 0.0, []),
        ("weight_decay", (0.0, 0.001, 0.01), 0.01, [0.1]),
        ("x", (-1.0, 0.0, 1.0), 9.0, []),
        ("learning_rate", RATES, 9.0, []),
        ("learning_rate", (0.0003, 0.001, 0.003, 0.01), 9.0, [0.033, 0.11]),
        ("dropout_prob", (0.1, 0.3, 0.5), 9.0, [0.83]),
        ("k", (20, 50, 100), 10**6, [200, 400, 800]),
        ("k", (4, 10, 20), 0, [2, 1]),
        # Layers and dimensions make another model.
        ("n_layers", (1, 2, 3), 9, []),
        ("embedding_size", (16, 32, 64), 999, []),
        ("weight_decay", (0.1, 0.2), 9.0, []),
    ],
)
def test_a_grid_is_widened_where_its_edge_wins(
    key: str, given: Sequence[float], best: float, added: list[float]
) -> None:
    found = values_of(key, given, best)
    assert found == [*given, *added]
    assert [type(value) for value in found] == [type(given[0])] * len(found)


@pytest.mark.parametrize("given", [["a", "b", "c"], [False, True, 2], ["0.1", "0.2", "0.3"]])
def test_what_is_no_number_is_not_widened(given: list[Any]) -> None:
    assert [point["x"] for point in search([{"x": given}], lambda point: given.index(point["x"]))] == given


def test_only_the_other_keys_best_values_are_tried_beyond_an_edge() -> None:
    grid = {"learning_rate": (0.0001, 0.001, 0.01), "weight_decay": (0.0, 0.1, 0.2)}
    tried = search([grid], lambda point: point["learning_rate"] - point["weight_decay"])
    assert tried[9:] == [{"learning_rate": 0.1, "weight_decay": 0.0}]
    # Both edges at once, each with the other at its best.
    both = search([grid], lambda point: point["learning_rate"] + point["weight_decay"])[9:11]
    assert both == [{"learning_rate": 0.1, "weight_decay": 0.2}, {"learning_rate": 0.01, "weight_decay": 0.4}]


def test_a_second_grid_is_searched_at_the_best_values_of_the_first() -> None:
    grids: list[Grid] = [
        {"init_scale": (0.01, 0.1, 1.0)},
        {"learning_rate": (0.001, 0.002), "weight_decay": (0.0, 0.1)},
    ]
    base = {"learning_rate": 0.001, "weight_decay": 0.0}
    tried = search(grids, lambda point: -abs(point["init_scale"] - 10) + point["learning_rate"], base)
    assert [point["init_scale"] for point in tried[:5]] == [0.01, 0.1, 1.0, 10.0, 100.0]
    rest = [(point["init_scale"], point["learning_rate"], point["weight_decay"]) for point in tried[5:]]
    assert rest == [(10.0, 0.001, 0.1), (10.0, 0.002, 0.0), (10.0, 0.002, 0.1)]


def test_the_scale_stays_where_it_was_best_before_the_second_grid() -> None:
    """A second grid whose winner is far better does not open the first one again."""
    grids: list[Grid] = [{"init_scale": (1.0, 2.0, 4.0)}, {"learning_rate": (0.1, 0.2, 0.15)}]
    scores = {1.0: 0.0, 2.0: 1.0, 4.0: 0.0}
    tried = search(
        grids, lambda point: scores[point["init_scale"]] + 10 * (point["learning_rate"] == 0.15), {"learning_rate": 0.1}
    )
    assert [point["init_scale"] for point in tried] == [1.0, 2.0, 4.0, 2.0, 2.0]


def test_a_value_that_failed_is_not_tried_again() -> None:
    """It is among the points that are asked for, and the caller knows it; nothing else is asked for."""
    candidates = [Candidate({"x": value}, value) for value in (1.0, 2.0, 4.0)]
    asked = list(next_points([{"x": (1.0, 2.0, 4.0)}], candidates))
    assert asked == [[{"x": 8.0}]]
    assert list(next_points([{"x": (1.0, 2.0, 4.0)}], [])) == []


@pytest.mark.parametrize(
    ("key", "given", "tried", "described"),
    [
        ("x", (1.0, 2.0, 4.0), (1.0, 2.0, 4.0), "x (8 has no result)"),
        ("x", (1.0, 2.0, 4.0), (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), "x (widened 3 times)"),
        ("learning_rate", (0.03, 0.1, 0.3), (0.03, 0.1, 0.3), "learning_rate (limit 0.3)"),
        ("dropout", (0.2, 0.4, 0.8), (0.2, 0.4, 0.8), "dropout (limit 0.9)"),
        ("n_layers", (1, 2, 3), (1, 2, 3), "n_layers (not widened)"),
        ("x", (0.0, 2.0, 4.0), (0.0,), ""),
        ("x", (1.0, 4.0), (1.0, 4.0), ""),
    ],
)
def test_what_is_said_of_an_edge(key: str, given: Sequence[float], tried: Sequence[float], described: str) -> None:
    """The largest value tried is the best."""
    candidates = [Candidate({key: value}, value) for value in tried]
    assert ", ".join(map(str, edges_of([{key: given}], candidates))) == described


def test_the_score_of_a_trial_is_larger_where_it_is_better() -> None:
    assert Candidate.of(make_result(hits(0.5), valid=3)).score == 3
    assert Candidate.of(make_result(hits(0.5), valid=3, valid_score_bigger=False)).score == -3
    equal = [Candidate({"x": 1}, 0.5), Candidate({"x": 2}, 0.5)]
    assert best_of(equal) is equal[0]
