"""Parts of parameters: their views and labels, and the matrices that may be tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_llminit.initialization.embedding_table import EmbeddingTable, Exclusion
from recbole_llminit.initialization.tables import find_embedding_tables
from tests.initialization.searched_models import AutoEncoder, Fields, Net, found, skipped


def test_a_view_begins_where_its_rows_do() -> None:
    fields = Fields()
    weight = fields.token_embedding_table.embedding.weight
    cities = weight[5:7, 0].tolist()
    user, item = find_embedding_tables(fields, 5, 7).tables
    item.values.fill_(1)
    user.values.fill_(2)
    assert weight[:, 0].tolist() == [2] * 5 + cities + [1] * 7


@pytest.mark.parametrize(
    ("rows", "first", "columns", "label", "width"),
    [
        (9, 0, False, "w", 4),
        (4, 0, True, "w.T", 9),
        (7, 2, False, "w[2:9]", 4),
        (3, 1, True, "w.T[1:4]", 9),
    ],
)
def test_a_table_is_labeled_as_in_python(rows: int, first: int, columns: bool, label: str, width: int) -> None:
    table = EmbeddingTable("w", "item", nn.Parameter(torch.zeros(9, 4)), rows, first, columns)
    assert (table.label, table.width, tuple(table.values.shape)) == (label, width, (rows, width))


def test_tied_tables_are_one() -> None:
    net = Net(item=(7, 4))
    net.tied = nn.Embedding(7, 4)
    net.tied.weight = net.item.weight
    assert found(net) == [("item.weight", "item", (0, 7), 4)]


def test_a_parameter_of_the_models_own_is_a_table() -> None:
    net = nn.Module()
    net.item_factors = nn.Parameter(torch.zeros(7, 3))
    net.item_layer = nn.GRU(3, 3)
    assert found(net) == [("item_factors", "item", (0, 7), 3)]


def test_slices_of_a_table_of_token_fields() -> None:
    name = "token_embedding_table.embedding.weight"
    assert found(Fields()) == [(name, "user", (0, 5), 3), (name, "item", (7, 7), 3)]
    assert skipped(Fields()) == {"first_order.embedding.weight": (Exclusion.BIAS, "one number a row")}
    assert found(Fields(), named={"item": [name]}) == [(name, "item", (7, 7), 3)]
    assert found(Fields(), id_fields={"user": "uid", "item": "city"}, n_items=2) == [(name, "item", (5, 2), 3)]


def test_columns_of_a_linear_layer_are_a_view_as_well() -> None:
    net = AutoEncoder(further=2)
    encoder, _ = find_embedding_tables(net, 5, 7, {"item": ["encoder.weight.T[0:7]", "decoder.weight"]}).tables
    encoder.values[6] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert net.encoder.weight[:, 6].tolist() == [1, 2, 3, 4]
