import pytest
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.tables import find_embedding_tables


class Net(nn.Module):
    def __init__(self, **tables):
        super().__init__()
        for name, (rows, width) in tables.items():
            setattr(self, name, nn.Embedding(rows, width))


def found(net, n_users=5, n_items=7, **options):
    return [
        (table.name, table.side, table.rows, table.width)
        for table in find_embedding_tables(net, n_users, n_items, **options)
    ]


def test_rows_decide():
    net = Net(P=(5, 3), Q=(7, 4), words=(6, 3))
    assert found(net) == [("P.weight", "user", 5, 3), ("Q.weight", "item", 7, 4)]


def test_tables_of_another_meaning_are_left_alone():
    """A bias, positions in a sequence as long as there are items, and NNCF's neighbours of a user: items."""
    net = Net(item_embedding=(7, 4), item_bias=(7, 1), position_embedding=(7, 4), user_neigh_embedding=(7, 4))
    assert found(net) == [("item_embedding.weight", "item", 7, 4)]


def test_an_item_table_with_as_many_rows_as_users_is_no_user_table():
    """BERT4Rec with its mask token, where there is one user more than items."""
    with pytest.raises(LLMInitError, match=r"no trainable item embedding table \(5 rows; it has item_embedding.weight"):
        found(Net(item_embedding=(6, 3)), n_users=6, n_items=5)


def test_users_alone_are_not_enough():
    """CDAE: a user table, and items as columns of linear layers; users would start where no item is."""
    with pytest.raises(
        LLMInitError, match=r"no trainable item embedding table \(7 rows; it has h_user.weight \(5, 3\)\)"
    ):
        found(Net(h_user=(5, 3)))


def test_linear_layers_frozen_and_tied_tables_are_no_tables():
    net = Net(item=(7, 4), frozen=(7, 4))
    net.frozen.weight.requires_grad = False
    net.decoder = nn.Linear(4, 7)
    net.tied = nn.Embedding(7, 4)
    net.tied.weight = net.item.weight
    assert found(net) == [("item.weight", "item", 7, 4)]


def test_as_many_users_as_items_is_told_by_the_name():
    assert found(Net(user_embedding=(5, 3), item_embedding=(5, 3)), 5, 5) == [
        ("user_embedding.weight", "user", 5, 3),
        ("item_embedding.weight", "item", 5, 3),
    ]


@pytest.mark.parametrize("name", ["P", "user_item_table"])
def test_as_many_users_as_items_is_never_guessed(name):
    with pytest.raises(
        LLMInitError, match=rf"as many users as items: name its tables, e.g. init_tables: .*{name}.weight"
    ):
        found(Net(**{name: (5, 3)}), 5, 5)


def test_named_tables_replace_the_search():
    net = Net(P=(8, 3), Q=(5, 3), item=(7, 3))
    assert found(net, 5, 5, named={"item": ["P.weight"], "user": ["Q.weight"]}) == [
        ("P.weight", "item", 5, 3),
        ("Q.weight", "user", 5, 3),
    ]


def test_named_tables_are_checked():
    with pytest.raises(
        LLMInitError, match=r"init_tables names 'R.weight', which Net does not have: expected one of P.weight"
    ):
        found(Net(P=(8, 3)), named={"item": ["R.weight"]})
    with pytest.raises(LLMInitError, match="4 rows for 7 items"):
        found(Net(P=(4, 3)), named={"item": ["P.weight"]})


def test_no_table():
    with pytest.raises(
        LLMInitError, match=r"Net has no trainable item embedding table \(7 rows; it has words.weight \(100, 3\)\)"
    ):
        found(Net(words=(100, 3)))
