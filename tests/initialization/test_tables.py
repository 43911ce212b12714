import pytest
import torch
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.tables import find_embedding_tables


class Net(nn.Module):
    def __init__(self, **tables):
        super().__init__()
        for name, (rows, width) in tables.items():
            setattr(self, name, nn.Embedding(rows, width))


def found(net, n_users=5, n_items=7, **options):
    tables = find_embedding_tables(net, n_users, n_items, **options).tables
    return [(table.name, table.side, (table.first, table.rows), table.width) for table in tables]


def skipped(net, n_users=5, n_items=7, **options):
    return dict(find_embedding_tables(net, n_users, n_items, **options).skipped)


def test_rows_decide():
    net = Net(P=(5, 3), Q=(7, 4), words=(6, 3))
    assert found(net) == [("P.weight", "user", (0, 5), 3), ("Q.weight", "item", (0, 7), 4)]
    assert skipped(net) == {"words.weight": "6 rows, neither users nor items"}


def test_several_tables_a_side():
    """FPMC, whose names say nothing, and NeuMF, whose names do; each at its own width."""
    net = Net(UI=(5, 3), IU=(7, 3), LI=(7, 4))
    assert [name for name, *_ in found(net)] == ["UI.weight", "IU.weight", "LI.weight"]
    net = Net(user_mf=(5, 3), item_mf=(7, 3), user_mlp=(5, 2), item_mlp=(7, 2))
    assert [(name, width) for name, *_, width in found(net)] == [
        ("user_mf.weight", 3),
        ("item_mf.weight", 3),
        ("user_mlp.weight", 2),
        ("item_mlp.weight", 2),
    ]


def test_tables_of_another_meaning_are_left_alone():
    net = Net(item_embedding=(7, 4), item_bias=(7, 1), position_embedding=(7, 4), user_neigh=(7, 4), factors=(7, 2))
    net.item_frozen = nn.Embedding(7, 4)
    net.item_frozen.weight.requires_grad = False
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
    assert skipped(net) == {
        "item_bias.weight": "one number a row",
        "position_embedding.weight": "positions",
        "user_neigh.weight": "7 rows, not those of the users",
        "factors.weight": "as many rows as items, but other tables' names say whose they are",
        "item_frozen.weight": "frozen by the model",
    }


def test_a_table_as_long_by_chance_is_left_alone_where_names_speak():
    """SASRec on as many users as it has positions of some kind, SINE on as many as it has prototypes."""
    net = Net(item_embedding=(7, 4), C=(5, 4))
    net.mixing = nn.Parameter(torch.zeros(5, 5))
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
    assert skipped(net) == dict.fromkeys(
        ("C.weight", "mixing"), "as many rows as users, but other tables' names say whose they are"
    )


def test_exceptions_go_by_model_and_parameter():
    class FOSSIL(Net):
        pass

    class Mine(FOSSIL):
        pass

    for model in (FOSSIL, Mine):
        net = model(item_embedding=(7, 4), user_lambda=(5, 3))
        assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
        assert skipped(net) == {"user_lambda.weight": "how much each of a user's last items weighs"}
    assert len(found(Net(item_embedding=(7, 4), user_lambda=(5, 3)))) == 2


def test_a_row_more_is_a_mask_token_where_the_name_says_item():
    assert found(Net(item_embedding=(8, 3))) == [("item_embedding.weight", "item", (0, 7), 3)]
    # As many users as items and mask token: the name decides.
    assert found(Net(item_embedding=(8, 3)), n_users=8) == [("item_embedding.weight", "item", (0, 7), 3)]
    with pytest.raises(LLMInitError, match=r"words.weight \(8, 3\): 8 rows, neither users nor items"):
        found(Net(words=(8, 3)))


def test_the_head_of_an_entity_table():
    net = Net(user_embedding=(5, 3), entity_embedding=(9, 3))
    net.n_entities = 9
    assert found(net)[1] == ("entity_embedding.weight", "item", (0, 7), 3)
    # MKR: the items' own table is as long as the entities'.
    net = Net(user_embedding=(5, 3), entity_embedding=(9, 3), item_embedding=(9, 3))
    net.n_entities = 9
    assert found(net)[1:] == [("item_embedding.weight", "item", (0, 7), 3)]
    assert skipped(net) == {"entity_embedding.weight": "entities, beside the items' own table"}
    # As many entities as users: the name decides.
    net = Net(user_embedding=(9, 3), entity_embedding=(9, 3))
    net.n_entities = 9
    assert found(net, n_users=9)[1] == ("entity_embedding.weight", "item", (0, 7), 3)


def test_users_and_items_in_one_table():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.zeros(12, 3))])
            self.mixing = nn.Parameter(torch.zeros(3, 3))

    assert found(Graph()) == [("weights.0", "user", (0, 5), 3), ("weights.0", "item", (5, 7), 3)]
    assert skipped(Graph()) == {}
    assert found(Graph(), named={"item": ["weights.0"]}) == [("weights.0", "item", (5, 7), 3)]
    assert found(Net(user_item=(12, 3)))[1] == ("user_item.weight", "item", (5, 7), 3)


def test_a_parameter_of_the_models_own_is_a_table():
    net = nn.Module()
    net.item_factors = nn.Parameter(torch.zeros(7, 3))
    net.item_layer = nn.GRU(3, 3)
    assert found(net) == [("item_factors", "item", (0, 7), 3)]


class Fields(nn.Module):
    """The token fields of a context-aware model."""

    def __init__(self):
        super().__init__()
        self.token_field_names = ["user_id", "city", "item_id"]
        self.token_field_dims = [5, 2, 7]
        self.token_embedding_table = Net(embedding=(14, 3))
        self.first_order = Net(embedding=(14, 1))


def test_slices_of_a_table_of_token_fields():
    name = "token_embedding_table.embedding.weight"
    assert found(Fields()) == [(name, "user", (0, 5), 3), (name, "item", (7, 7), 3)]
    assert skipped(Fields()) == {"first_order.embedding.weight": "one number a row"}
    assert found(Fields(), named={"item": [name]}) == [(name, "item", (7, 7), 3)]
    assert found(Fields(), id_fields={"user": "uid", "item": "city"}, n_items=2) == [(name, "item", (5, 2), 3)]


def test_a_view_begins_where_its_rows_do():
    fields = Fields()
    weight = fields.token_embedding_table.embedding.weight
    cities = weight[5:7, 0].tolist()
    user, item = find_embedding_tables(fields, 5, 7).tables
    item.values.fill_(1)
    user.values.fill_(2)
    assert weight[:, 0].tolist() == [2] * 5 + cities + [1] * 7


def test_tied_tables_are_one():
    net = Net(item=(7, 4))
    net.tied = nn.Embedding(7, 4)
    net.tied.weight = net.item.weight
    assert found(net) == [("item.weight", "item", (0, 7), 4)]


class AutoEncoder(nn.Module):
    def __init__(self, n_items=7, further=0):
        super().__init__()
        self.encoder = nn.Linear(n_items + further, 4)
        self.decoder = nn.Linear(4, n_items)


def test_items_in_linear_layers_are_refused_with_the_line_to_add():
    with pytest.raises(
        LLMInitError, match=r"add init_tables: \{item: \[encoder.weight.T, decoder.weight\]\}, or remove"
    ):
        found(AutoEncoder())
    net = AutoEncoder()
    net.h_user = nn.Embedding(5, 4)
    with pytest.raises(
        LLMInitError, match=r"add init_tables: \{user: \[h_user.weight\], item: \[encoder.weight.T, decoder.weight\]\}"
    ):
        found(net)


def test_linear_layers_are_taken_where_they_are_named():
    net = AutoEncoder(further=2)
    named = {"item": ["encoder.weight.T[0:7]", "decoder.weight"]}
    assert found(net, named=named) == [("encoder.weight", "item", (0, 7), 4), ("decoder.weight", "item", (0, 7), 4)]
    encoder, _ = find_embedding_tables(net, 5, 7, named).tables
    encoder.values[6] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert net.encoder.weight[:, 6].tolist() == [1, 2, 3, 4]
    # Beside a table that is found, they are left alone.
    net.item_embedding = nn.Embedding(7, 4)
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
    assert skipped(net) == {"decoder.weight": "a linear layer as long as there are items, not named in init_tables"}


def test_rows_and_columns_are_not_mixed_up():
    """A hidden layer of more rows than there are items is no table of items."""
    net = AutoEncoder()
    net.encoder = nn.Linear(7, 600)
    with pytest.raises(
        LLMInitError, match=r"600 rows for 7 items: expected one for each, .*, or encoder.weight.T, which has 7"
    ):
        found(net, named={"item": ["encoder.weight"]})
    with pytest.raises(
        LLMInitError, match=r"4 columns for 7 items: expected one for each, or decoder.weight, which has 7"
    ):
        found(net, named={"item": ["decoder.weight.T"]})


def test_layers_that_fit_in_two_ways_are_not_suggested():
    """As many users as items, or as hidden units as items: the line to add would be a guess."""
    with pytest.raises(
        LLMInitError, match=r"encoder.weight \(4, 7\), decoder.weight \(7, 4\) it cannot be said which hold"
    ):
        found(AutoEncoder(), n_users=7)
    net = AutoEncoder()
    net.hidden = nn.Linear(7, 7)
    with pytest.raises(LLMInitError, match=r"init_tables: \{item: \[encoder.weight.T, decoder.weight\]\}"):
        found(net)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"item": ["user_embedding.weight"]}, "table of items, but it has 9 rows for 7 items"),
        (
            {"item": ["item_embedding.weight.T"]},
            r"has 20 columns for 7 items: expected one for each, or which, as item_embedding.weight.T\[0:7\]$",
        ),
        ({"user": ["decoder.weight.T"]}, r"20 columns for 9 users: expected .* as decoder.weight.T\[0:9\]"),
        ({"item": ["item_embeding.weight"]}, "did you mean 'item_embedding.weight'"),
        ({"item": ["decoder.wieght.T"]}, "did you mean 'decoder.weight.T'"),
        ({"item": ["joint.weight[0:9]"]}, r"expected 7 rows or columns of its \(16, 20\)"),
        ({"item": ["joint.weight[10:17]"]}, r"expected 7 rows or columns of its \(16, 20\)"),
        ({"item": ["joint.weight"], "user": ["joint.weight[1:10]"]}, "overlap: leave one out"),
        (
            {"item": ["decoder.weight.T"]},
            "20 columns for 7 items: expected one for each, .*, or decoder.weight, which has 7",
        ),
        ({"item": ["item_embedding.weight"], "user": ["item_embedding.weight"]}, "7 rows for 9 users"),
        ({"item": ["joint.weight"], "user": ["joint.weight", "joint.weight"]}, None),
    ],
)
def test_a_name_given_for_the_wrong_side_or_axis(named, message):
    net = Net(user_embedding=(9, 20), item_embedding=(7, 20), joint=(16, 20))
    net.decoder = nn.Linear(20, 7)
    if message:
        with pytest.raises(LLMInitError, match=message):
            found(net, n_users=9, named=named)
    else:
        assert [(side, rows) for _, side, rows, _ in found(net, n_users=9, named=named)] == [
            ("item", (9, 7)),
            ("user", (0, 9)),
        ]


def test_one_table_is_not_named_for_both_sides():
    with pytest.raises(LLMInitError, match="names 'P.weight' and 'P.weight', which overlap"):
        found(Net(P=(9, 3)), n_users=9, n_items=9, named={"item": ["P.weight"], "user": ["P.weight"]})


def test_rows_are_named_as_the_log_shows_them():
    """Items first, then users, and a row for anything else."""
    net = Net(nodes=(13, 3))
    with pytest.raises(LLMInitError, match="nodes.weight .*: 13 rows, neither users nor items"):
        found(net)
    named = {"item": ["nodes.weight[0:7]"], "user": ["nodes.weight[7:12]"]}
    tables = find_embedding_tables(net, 5, 7, named).tables
    assert [table.label for table in tables] == ["nodes.weight[0:7]", "nodes.weight[7:12]"]
    net = AutoEncoder(further=2)
    (table,) = find_embedding_tables(net, 5, 7, {"item": ["encoder.weight.T[2:9]"]}).tables
    assert (table.label, table.values.shape) == ("encoder.weight.T[2:9]", (7, 4))


def test_a_table_that_is_never_read_cannot_be_named():
    class NPE(Net):
        pass

    with pytest.raises(LLMInitError, match="never reads it: name another table"):
        found(NPE(embedding_seq_item=(7, 3)), named={"item": ["embedding_seq_item.weight"]})


def test_a_table_of_features_is_no_table_of_items():
    fields = Fields()
    fields.token_field_names = ["user_id", "city", "colour"]
    with pytest.raises(LLMInitError, match="holds features and no item ids"):
        found(fields, named={"item": ["token_embedding_table.embedding.weight"]})


def test_words_are_not_found_within_words():
    net = Net(item_identity=(7, 3), item_decomposition=(7, 3))
    assert [name for name, *_ in found(net)] == ["item_identity.weight", "item_decomposition.weight"]


def test_as_many_users_as_items_is_told_by_the_name():
    assert found(Net(user_embedding=(5, 3), item_embedding=(5, 3)), 5, 5) == [
        ("user_embedding.weight", "user", (0, 5), 3),
        ("item_embedding.weight", "item", (0, 5), 3),
    ]


@pytest.mark.parametrize("name", ["P", "user_item_table"])
def test_as_many_users_as_items_is_never_guessed(name):
    message = (
        rf"as many users as items: name its tables, e.g. init_tables: \{{user: \[...\], item: \[{name}.weight\]\}}"
    )
    with pytest.raises(LLMInitError, match=message):
        found(Net(**{name: (5, 3)}), 5, 5)


def test_named_tables_replace_the_search():
    net = Net(P=(6, 3), Q=(5, 3), item=(7, 3))
    assert found(net, 5, 5, named={"item": ["P.weight"], "user": ["Q.weight"]}) == [
        ("P.weight", "item", (0, 5), 3),
        ("Q.weight", "user", (0, 5), 3),
    ]
    assert skipped(net, named={"item": ["item.weight"]}) == {
        "P.weight": "not named in init_tables",
        "Q.weight": "not named in init_tables",
    }


def test_named_tables_are_checked():
    with pytest.raises(
        LLMInitError, match=r"names 'R.weight', which Net does not have: did you mean 'P.weight'\? \(it has P.weight\)"
    ):
        found(Net(P=(8, 3)), named={"item": ["R.weight"]})
    with pytest.raises(LLMInitError, match="4 rows for 7 items"):
        found(Net(P=(4, 3)), named={"item": ["P.weight"]})


def test_users_alone_are_not_enough():
    with pytest.raises(LLMInitError, match=r"no trainable item embedding table .*h_user.weight \(5, 3\): users\)"):
        found(Net(h_user=(5, 3)))


def test_no_table():
    with pytest.raises(
        LLMInitError,
        match=r"Net has no trainable item embedding table \(7 rows; it has words.weight \(100, 3\): 100 rows, neither",
    ):
        found(Net(words=(100, 3)))
    with pytest.raises(LLMInitError, match=r"\(7 rows; it has none\)"):
        found(nn.Module())
