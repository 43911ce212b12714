"""Tables that a linear propagation turns into the wanted vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from recbole_llminit.initialization.embedding_table import EmbeddingTable, Side
from recbole_llminit.initialization.propagation import undo_propagation_
from recbole_llminit.initialization.rows import Rows

N_USERS, N_ITEMS, WIDTH = 4, 5, 3


class Graph:
    """Two tables, and final vectors that are a linear map of both."""

    def __init__(self, mixed: npt.NDArray[np.float64]) -> None:
        generator = np.random.default_rng(0)
        self.mixed = torch.from_numpy(mixed.astype(np.float32))
        self.asked = 0
        self.wanted: dict[Side, npt.NDArray[np.float32]] = {}
        self.weights: dict[Side, nn.Parameter] = {}
        self.writes: list[tuple[EmbeddingTable, Rows]] = []
        sides: tuple[tuple[Side, int], ...] = (("user", N_USERS), ("item", N_ITEMS))
        for side, count in sides:
            values = generator.normal(size=(count, WIDTH)).astype(np.float32)
            # [PAD], and the last of each, have no value.
            values[[0, -1]] = 0
            weight = nn.Parameter(torch.from_numpy(values.copy()))
            with torch.no_grad():
                weight[[0, -1]] = 0.25
            self.wanted[side], self.weights[side] = values.copy(), weight
            self.writes.append((EmbeddingTable(side, side, weight, rows=count), Rows.of_nonzero(values)))

    def final_vectors(self) -> Mapping[Side, Tensor]:
        self.asked += 1
        whole = self.mixed @ torch.cat([self.weights["user"], self.weights["item"]]).detach()
        return {"user": whole[:N_USERS], "item": whole[N_USERS:]}


def symmetric(*eigenvalues: float) -> npt.NDArray[np.float64]:
    """A symmetric map with these eigenvalues, in turn."""
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(N_USERS + N_ITEMS,) * 2))[0]
    return basis @ np.diag(np.resize(eigenvalues, N_USERS + N_ITEMS)) @ basis.T


def test_the_final_vectors_are_the_wanted_ones() -> None:
    graph = Graph(symmetric(1, 0.9, 0.5))
    undo_propagation_(graph.writes, graph.final_vectors)
    found = graph.final_vectors()
    for table, rows in graph.writes:
        wanted, written = graph.wanted[table.side], graph.weights[table.side].detach().numpy()
        np.testing.assert_allclose(found[table.side][1:-1], wanted[1:-1], atol=0.01)
        assert not np.allclose(written[1:-1], wanted[1:-1], atol=0.05)
        # Rows without a value are as they were; the values are those of the table, for what is written once more.
        assert (written[[0, -1]] == 0.25).all()
        np.testing.assert_array_equal(rows.values[1:-1], written[1:-1])


def test_a_direction_that_the_model_cannot_have_does_not_grow() -> None:
    graph = Graph(symmetric(1, 0.6, 0))
    before = sum(float(weight.square().sum()) for weight in graph.weights.values())
    undo_propagation_(graph.writes, graph.final_vectors)
    assert sum(float(weight.square().sum()) for weight in graph.weights.values()) < 1000 * before
    assert graph.asked <= 22


def test_nothing_changes_where_nothing_is_propagated() -> None:
    graph = Graph(np.eye(N_USERS + N_ITEMS))
    undo_propagation_(graph.writes, graph.final_vectors)
    assert graph.asked == 1
    for side, wanted in graph.wanted.items():
        assert np.array_equal(graph.weights[side].detach().numpy()[1:-1], wanted[1:-1])


@pytest.mark.parametrize("eigenvalue", [-0.5, 3.0])
def test_values_are_restored_where_the_search_leads_away(eigenvalue: float) -> None:
    graph = Graph(symmetric(eigenvalue))
    undo_propagation_(graph.writes, graph.final_vectors)
    for table, rows in graph.writes:
        wanted = graph.wanted[table.side]
        assert np.array_equal(graph.weights[table.side].detach().numpy()[1:-1], wanted[1:-1])
        assert np.array_equal(rows.values, wanted)
