"""What the write leaves as it was, and what it measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llminit.initialization.embedding_table import EmbeddingTable
from recbole_llminit.initialization.rows import Rows
from recbole_llminit.initialization.writer import rewrite_rows_, write_rows_
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.initialization.toy_model import ToyModel, initialize


def test_the_parameters_stay_the_same_objects(vectors: AlignedEmbeddings) -> None:
    model = ToyModel()
    before = dict(model.named_parameters())
    initialize(model, vectors)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert model.items.padding_idx == 0
    assert model.items.weight.requires_grad and model.items.weight.is_leaf


def test_half_precision_tables(vectors: AlignedEmbeddings) -> None:
    model = ToyModel().half()
    initialize(model, vectors)
    assert model.items.weight.dtype == torch.float16
    assert model.items.weight.tolist()[1:] == [[1, 3], [5, 7], [9, 11]]


def test_the_standard_deviations_reported_are_those_of_the_rows_written(vectors: AlignedEmbeddings) -> None:
    report = initialize(ToyModel(), vectors)
    items = next(table for table in report.tables if table.side == "item")
    # By hand: [PAD] keeps -10, which is none of them.
    assert items.std_after == pytest.approx(np.std([1, 3, 5, 7, 9, 11]))
    assert items.std_before == pytest.approx(np.std([-11, -11, -12, -12, -13, -13]))


def test_rows_that_the_model_holds_at_length_1_stay_so() -> None:
    """KTUP; a row of zeros has no direction, and stays zero."""
    weight = torch.nn.Parameter(torch.tensor([[5.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]]))
    rows = Rows(np.array([[0, 0], [3, 4], [0, 0], [0, -2]], dtype=np.float32), np.array([False, True, False, True]))
    report = write_rows_(EmbeddingTable("items", "item", weight, rows=4), rows, trainable=True)
    assert report.unit and (report.rows_written, report.rows_left) == (2, 2)
    np.testing.assert_allclose(weight.detach(), [[5, 0], [0.6, 0.8], [0, 1], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize("block_rows", [3, 8192])
def test_values_and_standard_deviations_do_not_depend_on_the_blocks(
    monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr("recbole_llminit.initialization.rows.BLOCK_ROWS", block_rows)
    generator = np.random.default_rng(0)
    before, values = generator.normal(5, 2, size=(2, 20, 3)).astype(np.float32)
    has_value = np.arange(20) % 4 > 0
    weight = torch.nn.Parameter(torch.from_numpy(before.copy()))
    report = write_rows_(EmbeddingTable("items", "item", weight, rows=20), Rows(values, has_value), trainable=True)
    assert torch.equal(weight.detach(), torch.from_numpy(np.where(has_value[:, None], values, before)))
    assert report.std_before == pytest.approx(before[has_value].std(), rel=1e-5)
    assert report.std_after == pytest.approx(values[has_value].std(), rel=1e-5)


@pytest.mark.parametrize("block_rows", [2, 8192])
def test_rows_are_written_once_more_by_a_factor(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    """Only those with a value; the factor is that of the values, not of what stands in the table."""
    monkeypatch.setattr("recbole_llminit.initialization.rows.BLOCK_ROWS", block_rows)
    weight = torch.nn.Parameter(torch.full((4, 2), 7.0))
    rows = Rows(np.array([[0, 0], [1, 2], [0, 0], [3, 4]], dtype=np.float32), np.array([False, True, False, True]))
    table = EmbeddingTable("items", "item", weight, rows=4)
    for factor in (3, 0.5):
        rewrite_rows_(table, rows, factor)
        expected = [[7, 7], [factor, 2 * factor], [7, 7], [3 * factor, 4 * factor]]
        assert weight.tolist() == expected
    assert rows.values.tolist() == [[0, 0], [1, 2], [0, 0], [3, 4]]
    assert weight.requires_grad and weight.is_leaf and weight.grad is None


def test_rows_of_a_part_of_a_table_in_half_precision_are_written_once_more() -> None:
    weight = torch.nn.Parameter(torch.zeros(5, 2, dtype=torch.float16))
    rows = Rows(np.array([[0, 0], [1, 2]], dtype=np.float32), np.array([False, True]))
    rewrite_rows_(EmbeddingTable("both", "item", weight, first=3, rows=2), rows, 2)
    assert weight.tolist() == [[0, 0]] * 4 + [[2, 4]]
