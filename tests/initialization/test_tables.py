"""Which of a model's parameters are taken for the users' and the items' tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.embedding_table import Exclusion
from tests.initialization.searched_models import AutoEncoder, Net, found, skipped
from tests.messages import naming

UNNAMED = "but other tables' names say whose they are"


def test_rows_decide() -> None:
    net = Net(P=(5, 3), Q=(7, 4), words=(6, 3))
    assert found(net) == [("P.weight", "user", (0, 5), 3), ("Q.weight", "item", (0, 7), 4)]
    assert skipped(net) == {"words.weight": (Exclusion.OTHER_ROWS, "6 rows, neither users nor items")}


def test_several_tables_a_side() -> None:
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


def test_tables_of_another_meaning_are_skipped() -> None:
    net = Net(item_embedding=(7, 4), item_bias=(7, 1), position_embedding=(7, 4), user_neigh=(7, 4), factors=(7, 2))
    net.item_frozen = nn.Embedding(7, 4)
    net.item_frozen.weight.requires_grad = False
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
    assert skipped(net) == {
        "item_bias.weight": (Exclusion.BIAS, "one number a row"),
        "position_embedding.weight": (Exclusion.POSITIONS, "positions"),
        "user_neigh.weight": (Exclusion.OTHER_ROWS, "7 rows, not those of the users"),
        "factors.weight": (Exclusion.UNNAMED, f"as many rows as items, {UNNAMED}"),
        "item_frozen.weight": (Exclusion.FROZEN, "frozen by the model"),
    }


def test_a_table_as_long_by_chance_is_skipped_where_names_speak() -> None:
    """SASRec on as many users as it has positions of some kind, SINE on as many as it has prototypes."""
    net = Net(item_embedding=(7, 4), C=(5, 4))
    net.mixing = nn.Parameter(torch.zeros(5, 5))
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
    assert skipped(net) == dict.fromkeys(
        ("C.weight", "mixing"), (Exclusion.UNNAMED, f"as many rows as users, {UNNAMED}")
    )


def test_exceptions_go_by_model_and_parameter() -> None:
    class FOSSIL(Net):
        pass

    class Mine(FOSSIL):
        pass

    for model in (FOSSIL, Mine):
        net = model(item_embedding=(7, 4), user_lambda=(5, 3))
        assert found(net) == [("item_embedding.weight", "item", (0, 7), 4)]
        reason = "how much each of a user's last items weighs"
        assert skipped(net) == {"user_lambda.weight": (Exclusion.OTHER_MEANING, reason)}
    assert len(found(Net(item_embedding=(7, 4), user_lambda=(5, 3)))) == 2


def test_a_table_that_is_never_read_is_skipped() -> None:
    class NPE(Net):
        pass

    net = NPE(item_embedding=(7, 3), embedding_seq_item=(7, 3))
    assert found(net) == [("item_embedding.weight", "item", (0, 7), 3)]
    assert skipped(net) == {"embedding_seq_item.weight": (Exclusion.NEVER_READ, Exclusion.NEVER_READ.value)}


def test_a_row_more_is_a_mask_token_where_the_name_says_item() -> None:
    assert found(Net(item_embedding=(8, 3))) == [("item_embedding.weight", "item", (0, 7), 3)]
    # As many users as items and mask token: the name decides.
    assert found(Net(item_embedding=(8, 3)), n_users=8) == [("item_embedding.weight", "item", (0, 7), 3)]
    with pytest.raises(LLMInitError, match=r"words.weight \(8, 3\): 8 rows, neither users nor items"):
        found(Net(words=(8, 3)))


def test_the_head_of_an_entity_table() -> None:
    net = Net(user_embedding=(5, 3), entity_embedding=(9, 3))
    net.n_entities = 9
    assert found(net)[1] == ("entity_embedding.weight", "item", (0, 7), 3)
    # MKR: the items' own table is as long as the entities'.
    net = Net(user_embedding=(5, 3), entity_embedding=(9, 3), item_embedding=(9, 3))
    net.n_entities = 9
    assert found(net)[1:] == [("item_embedding.weight", "item", (0, 7), 3)]
    reason = "entities, beside the items' own table"
    assert skipped(net) == {"entity_embedding.weight": (Exclusion.ENTITIES, reason)}
    # As many entities as users: the name decides.
    net = Net(user_embedding=(9, 3), entity_embedding=(9, 3))
    net.n_entities = 9
    assert found(net, n_users=9)[1] == ("entity_embedding.weight", "item", (0, 7), 3)


def test_users_and_items_in_one_table() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.zeros(12, 3))])
            self.mixing = nn.Parameter(torch.zeros(3, 3))

    assert found(Graph()) == [("weights.0", "user", (0, 5), 3), ("weights.0", "item", (5, 7), 3)]
    assert skipped(Graph()) == {}
    assert found(Graph(), named={"item": ["weights.0"]}) == [("weights.0", "item", (5, 7), 3)]
    assert found(Net(user_item=(12, 3)))[1] == ("user_item.weight", "item", (5, 7), 3)


def test_items_in_linear_layers_are_refused_with_the_line_to_add() -> None:
    line = "init_tables: {item: [encoder.weight.T, decoder.weight]}"
    with pytest.raises(LLMInitError, match=naming("AutoEncoder", line, "remove init_strategy")):
        found(AutoEncoder())
    net = AutoEncoder()
    net.h_user = nn.Embedding(5, 4)
    line = "init_tables: {user: [h_user.weight], item: [encoder.weight.T, decoder.weight]}"
    with pytest.raises(LLMInitError, match=naming(line)):
        found(net)


def test_layers_that_fit_in_two_ways_are_not_suggested() -> None:
    """As many users as items, or as hidden units as items: the line to add would be a guess."""
    with pytest.raises(
        LLMInitError,
        match=naming("encoder.weight (4, 7), decoder.weight (7, 4)", "cannot be said", "7; users: 7", "init_tables"),
    ):
        found(AutoEncoder(), n_users=7)
    net = AutoEncoder()
    net.hidden = nn.Linear(7, 7)
    with pytest.raises(LLMInitError, match=naming("init_tables: {item: [encoder.weight.T, decoder.weight]}")):
        found(net)


def test_words_are_not_found_within_words() -> None:
    net = Net(item_identity=(7, 3), item_decomposition=(7, 3))
    assert [name for name, *_ in found(net)] == ["item_identity.weight", "item_decomposition.weight"]


def test_as_many_users_as_items_is_told_by_the_name() -> None:
    assert found(Net(user_embedding=(5, 3), item_embedding=(5, 3)), 5, 5) == [
        ("user_embedding.weight", "user", (0, 5), 3),
        ("item_embedding.weight", "item", (0, 5), 3),
    ]


@pytest.mark.parametrize("name", ["P", "user_item_table"])
def test_as_many_users_as_items_is_never_guessed(name: str) -> None:
    line = f"init_tables: {{user: [...], item: [{name}.weight]}}"
    with pytest.raises(LLMInitError, match=naming(f"{name}.weight of 5 rows", "as many users as items", line)):
        found(Net(**{name: (5, 3)}), 5, 5)


def test_users_alone_are_not_enough() -> None:
    with pytest.raises(LLMInitError, match=naming("no trainable item embedding table", "h_user.weight (5, 3): users")):
        found(Net(h_user=(5, 3)))


def test_no_table() -> None:
    with pytest.raises(
        LLMInitError,
        match=naming(
            "Net has no trainable item embedding table",
            "7 rows",
            "words.weight (100, 3): 100 rows, neither",
            "remove init_strategy",
            "init_tables",
        ),
    ):
        found(Net(words=(100, 3)))
    with pytest.raises(LLMInitError, match=naming("7 rows", "it has none")):
        found(nn.Module())
