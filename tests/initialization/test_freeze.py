import copy
import gc
import weakref

import pytest
import torch
from recbole.model.general_recommender import BPR
from torch import nn

from recbole_llminit.initialization.freeze import freeze_again_, freeze_rows_, frozen_rows
from recbole_llminit.initialization.tables import EmbeddingTable
from recbole_llminit.integration.model import build_model, get_model
from tests.all_models import first_loss
from tests.integration.test_model import prepare

OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1),
    "adam with weight decay": lambda weights: torch.optim.Adam(weights, lr=0.1, weight_decay=0.1),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.1),
    "sgd with momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda weights: torch.optim.Adagrad(weights, lr=0.1, weight_decay=0.1),
}


def train(weight, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_rows_stay_bit_for_bit(kind):
    weight = nn.Parameter(torch.randn(6, 3))
    start = weight.detach().clone()
    # Rows 2 and 4 of the weight.
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=4, first=1), torch.tensor([1, 3]))
    train(weight, OPTIMIZERS[kind]([weight]))
    frozen = [2, 4]
    assert torch.equal(weight[frozen], start[frozen])
    others = [0, 1, 3, 5]
    assert (weight[others] != start[others]).all()


def test_columns_are_frozen_as_well():
    weight = nn.Parameter(torch.randn(3, 6))
    start = weight.detach().clone()
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=6, columns=True), torch.tensor([0, 5]))
    train(weight, torch.optim.AdamW([weight], lr=0.1))
    changed = (weight != start).any(dim=0)
    assert changed.tolist() == [False, True, True, True, True, False]


def test_their_gradients_do_not_count():
    """In the norm that is clipped."""
    weight = nn.Parameter(torch.full((2, 1), 3.0))
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=2), torch.tensor([0]))
    (weight**2).sum().backward()
    assert weight.grad.tolist() == [[0.0], [6.0]]
    assert float(nn.utils.clip_grad_norm_([weight], 1.0)) == 6.0


def test_a_checkpoint_loaded_later_is_not_undone():
    layer = nn.Embedding(3, 2)
    freeze_rows_(EmbeddingTable("weight", "item", layer.weight, rows=3), torch.tensor([1]))
    train(layer.weight, torch.optim.SGD([layer.weight], lr=0.1))
    layer.load_state_dict({"weight": torch.full((3, 2), 7.0)})
    train(layer.weight, torch.optim.SGD([layer.weight], lr=0.1))
    assert layer.weight[1].tolist() == [7, 7]
    assert layer.weight[0].tolist() != [7, 7]


def test_what_is_frozen_is_handed_on():
    one, other = nn.Embedding(4, 2), nn.Embedding(4, 2)
    freeze_rows_(EmbeddingTable("weight", "item", one.weight, rows=4), torch.tensor([1, 2]))
    freeze_again_(other, copy.deepcopy(frozen_rows(one)))
    start = other.weight.detach().clone()
    train(other.weight, torch.optim.AdamW([other.weight], lr=0.1))
    assert (other.weight == start).all(dim=1).tolist() == [False, True, True, False]


class Lookahead(torch.optim.Optimizer):
    """An optimizer around another one, over the same parameters."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        self.inner.step()
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight += 1


def test_an_optimizer_within_an_optimizer():
    weight = nn.Parameter(torch.randn(4, 2))
    start = weight.detach().clone()
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=4), torch.tensor([1, 2]))
    train(weight, Lookahead(torch.optim.AdamW([weight], lr=0.1)))
    assert (weight == start).all(dim=1).tolist() == [False, True, True, False]


def test_freezing_again_adds_no_hook():
    """RecBole's evaluation loads the checkpoint into the model each time."""
    weight = nn.Parameter(torch.randn(4, 2))
    for ids in ([0], [1], [1, 2]):
        freeze_rows_(EmbeddingTable("w", "item", weight, rows=4), torch.tensor(ids))
    assert len(weight._backward_hooks) == 1
    start = weight.detach().clone()
    train(weight, torch.optim.AdamW([weight], lr=0.1))
    assert (weight == start).all(dim=1).tolist() == [False, True, True, False]


def test_a_table_that_the_model_has_frozen():
    weight = nn.Parameter(torch.zeros(4, 2), requires_grad=False)
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=4), torch.tensor([1]))
    assert not weight.requires_grad


def test_a_frozen_table_is_freed():
    weight = nn.Parameter(torch.zeros(3, 2))
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=3), torch.tensor([1]))
    alive = weakref.ref(weight)
    del weight
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("model", ["BPR", "FM", "MultiVAE"])
def test_only_the_written_item_rows_of_a_model_are_frozen(model, llm):
    """Users, [PAD] and what has no vector are trained: a table, a slice of one, and columns."""
    settings = {"FM": {"threshold": {"timestamp": 2}, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}},
                "MultiVAE": {"mlp_hidden_size": [12], "train_neg_sample_args": None,
                             "init_tables": {"item": ["encoder.0.weight.T"]}}}  # fmt: skip
    config, train_data = prepare(model, {**llm, **settings.get(model, {}), "init_trainable": False})
    net = build_model(config, train_data._dataset)
    (table,) = [table for table in net.init_report.tables if table.frozen]
    assert table.side == "item"
    weight = dict(net.named_parameters())[table.name]
    start = {name: value.detach().clone() for name, value in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        first_loss(net, train_data)
        optimizer.step()
    same = (weight == start[table.name]).all(dim=0 if model == "MultiVAE" else 1)
    expected = torch.zeros_like(same)
    first = 41 if model == "FM" else 0
    expected[first + 1 : first + 30] = True
    assert torch.equal(same, expected)
    assert [name for name, value in net.named_parameters() if torch.equal(value, start[name])] == []


@pytest.mark.parametrize("copied", ["pickle", "copy"])
def test_a_copy_of_the_model_is_frozen_as_well(copied, llm, tmp_path):
    config, train_data = prepare("BPR", {**llm, "init_trainable": False})
    model = build_model(config, train_data._dataset)
    if copied == "pickle":
        torch.save(model, tmp_path / "model.pth")
        other = torch.load(tmp_path / "model.pth", weights_only=False)
    else:
        other = copy.deepcopy(model)
    start = other.item_embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    first_loss(other, train_data)
    optimizer.step()
    assert torch.equal(other.item_embedding.weight[1:], start[1:])
    assert not torch.equal(other.item_embedding.weight[0], start[0])


def test_without_it_a_checkpoint_has_the_stock_models_keys(llm):
    config, train_data = prepare("BPR", llm)
    stock = BPR(config, train_data._dataset)
    assert get_model("BPR")(config, train_data._dataset).other_parameter() == stock.other_parameter() == {}
