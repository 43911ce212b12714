"""The tables that ``init_tables`` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.embedding_table import Exclusion, Side
from recbole_llminit.initialization.tables import find_embedding_tables
from tests.initialization.searched_models import AutoEncoder, Fields, Net, found, skipped
from tests.messages import naming


def test_named_tables_replace_the_search() -> None:
    net = Net(P=(6, 3), Q=(5, 3), item=(7, 3))
    assert found(net, 5, 5, named={"item": ["P.weight"], "user": ["Q.weight"]}) == [
        ("P.weight", "item", (0, 5), 3),
        ("Q.weight", "user", (0, 5), 3),
    ]
    assert skipped(net, named={"item": ["item.weight"]}) == dict.fromkeys(
        ("P.weight", "Q.weight"), (Exclusion.NOT_NAMED, "not named in init_tables")
    )


def test_named_tables_are_checked() -> None:
    with pytest.raises(LLMInitError, match=r"init_tables.*'R.weight'.*Net.*did you mean 'P.weight'.*it has P.weight"):
        found(Net(P=(8, 3)), named={"item": ["R.weight"]})
    with pytest.raises(LLMInitError, match=naming("init_tables", "P.weight", "4 rows", "7 items")):
        found(Net(P=(4, 3)), named={"item": ["P.weight"]})


def test_linear_layers_are_taken_where_they_are_named() -> None:
    net = AutoEncoder(further=2)
    named = {"item": ["encoder.weight.T[0:7]", "decoder.weight"]}
    assert found(net, named=named) == [("encoder.weight", "item", (0, 7), 4), ("decoder.weight", "item", (0, 7), 4)]
    # Beside a table that is found, they are skipped.
    net.item_embedding = nn.Embedding(7, 4)
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
    reason = "a linear layer as long as there are items, not named in init_tables"
    assert skipped(net) == {"decoder.weight": (Exclusion.LINEAR, reason)}


def test_rows_and_columns_are_not_mixed_up() -> None:
    """A hidden layer of more rows than there are items is no table of items."""
    net = AutoEncoder()
    net.encoder = nn.Linear(7, 600)
    with pytest.raises(
        LLMInitError, match=naming("encoder.weight", "600 rows", "7 items", "encoder.weight.T, which has 7")
    ):
        found(net, named={"item": ["encoder.weight"]})
    with pytest.raises(LLMInitError, match="decoder.weight.T .*4 columns for 7 items.*decoder.weight, which has 7"):
        found(net, named={"item": ["decoder.weight.T"]})


@pytest.mark.parametrize(
    ("named", "facts"),
    [
        ({"item": ["user_embedding.weight"]}, ["user_embedding.weight", "table of items", "9 rows", "7 items"]),
        (
            {"item": ["item_embedding.weight.T"]},
            ["20 columns", "7 items", "expected one for each", "as item_embedding.weight.T[0:7]"],
        ),
        ({"user": ["decoder.weight.T"]}, ["20 columns", "9 users", "expected", "as decoder.weight.T[0:9]"]),
        ({"item": ["item_embeding.weight"]}, ["'item_embeding.weight'", "did you mean 'item_embedding.weight'"]),
        ({"item": ["decoder.wieght.T"]}, ["'decoder.wieght.T'", "did you mean 'decoder.weight.T'"]),
        ({"item": ["joint.weight[0:9]"]}, ["joint.weight[0:9]", "expected 7 rows or columns", "(16, 20)"]),
        ({"item": ["joint.weight[10:17]"]}, ["joint.weight[10:17]", "expected 7 rows or columns", "(16, 20)"]),
        (
            {"item": ["joint.weight"], "user": ["joint.weight[1:10]"]},
            ["'joint.weight[1:10]'", "'joint.weight[9:16]'", "overlap", "leave one out"],
        ),
        (
            {"item": ["decoder.weight.T"]},
            ["20 columns", "7 items", "expected one for each", "decoder.weight, which has 7"],
        ),
        (
            {"item": ["item_embedding.weight"], "user": ["item_embedding.weight"]},
            ["item_embedding.weight", "7 rows", "9 users"],
        ),
    ],
)
def test_a_name_given_for_the_wrong_side_or_axis(named: Mapping[Side, Sequence[str]], facts: Sequence[str]) -> None:
    net = Net(user_embedding=(9, 20), item_embedding=(7, 20), joint=(16, 20))
    net.decoder = nn.Linear(20, 7)
    with pytest.raises(LLMInitError, match=naming("init_tables", *facts)):
        found(net, n_users=9, named=named)


def test_a_joint_table_is_named_for_both_sides() -> None:
    """A name that is given twice counts once."""
    named = {"item": ["joint.weight"], "user": ["joint.weight", "joint.weight"]}
    tables = found(Net(joint=(16, 20)), n_users=9, named=named)
    assert [(side, rows) for _, side, rows, _ in tables] == [("item", (9, 7)), ("user", (0, 9))]


def test_one_table_is_not_named_for_both_sides() -> None:
    with pytest.raises(LLMInitError, match="init_tables.*'P.weight' and 'P.weight'.*overlap.*leave one out"):
        found(Net(P=(9, 3)), n_users=9, n_items=9, named={"item": ["P.weight"], "user": ["P.weight"]})


def test_rows_are_named_as_the_log_shows_them() -> None:
    """Items first, then users, and a row for anything else."""
    net = Net(nodes=(13, 3))
    with pytest.raises(LLMInitError, match="nodes.weight .*: 13 rows, neither users nor items"):
        found(net)
    named: dict[Side, list[str]] = {"item": ["nodes.weight[0:7]"], "user": ["nodes.weight[7:12]"]}
    tables = find_embedding_tables(net, 5, 7, named).tables
    assert [table.label for table in tables] == ["nodes.weight[0:7]", "nodes.weight[7:12]"]
    (table,) = find_embedding_tables(AutoEncoder(further=2), 5, 7, {"item": ["encoder.weight.T[2:9]"]}).tables
    assert (table.label, table.values.shape) == ("encoder.weight.T[2:9]", (7, 4))


def test_a_table_that_is_never_read_cannot_be_named() -> None:
    class NPE(Net):
        pass

    with pytest.raises(LLMInitError, match=naming("'embedding_seq_item.weight'", "never reads it", "another table")):
        found(NPE(embedding_seq_item=(7, 3)), named={"item": ["embedding_seq_item.weight"]})


def test_a_table_of_features_is_no_table_of_items() -> None:
    fields, name = Fields(), "token_embedding_table.embedding.weight"
    fields.token_field_names = ["user_id", "city", "color"]
    with pytest.raises(LLMInitError, match=naming(f"'{name}'", "features", "no item ids")):
        found(fields, named={"item": [name]})
