"""Frozen rows under the optimizers of torch, in checkpoints and in copies."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.general_recommender import BPR
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from recbole_llminit.initialization.embedding_table import EmbeddingTable
from recbole_llminit.initialization.freeze import freeze_again_, freeze_rows_, frozen_rows
from recbole_llminit.integration.model import build_model, get_model
from tests.all_models import first_loss, load

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adam": lambda weights: Adam(weights, lr=0.1),
    "adam with weight decay": lambda weights: Adam(weights, lr=0.1, weight_decay=0.1),
    "adamw": lambda weights: AdamW(weights, lr=0.1, weight_decay=0.1),
    "sgd with momentum": lambda weights: SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda weights: Adagrad(weights, lr=0.1, weight_decay=0.1),
}


def freeze(weight: nn.Parameter, ids: Sequence[int]) -> None:
    """Freeze rows of a table that is the whole parameter."""
    freeze_rows_(EmbeddingTable("weight", "item", weight, rows=len(weight)), torch.tensor(ids))


def train(weight: nn.Parameter, optimizer: Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()


def unchanged_rows(weight: torch.Tensor, before: torch.Tensor) -> list[bool]:
    """Which rows are bit for bit as they were."""
    same: list[bool] = (weight == before).all(dim=1).tolist()
    return same


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_rows_stay_bit_for_bit(kind: str) -> None:
    weight = nn.Parameter(torch.randn(6, 3))
    before = weight.detach().clone()
    # Rows 2 and 4 of the weight.
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=4, first=1), torch.tensor([1, 3]))
    train(weight, OPTIMIZERS[kind]([weight]))
    frozen = [2, 4]
    assert torch.equal(weight[frozen], before[frozen])
    others = [0, 1, 3, 5]
    assert (weight[others] != before[others]).all()


def test_columns_are_frozen_as_well() -> None:
    weight = nn.Parameter(torch.randn(3, 6))
    before = weight.detach().clone()
    freeze_rows_(EmbeddingTable("w", "item", weight, rows=6, columns=True), torch.tensor([0, 5]))
    train(weight, AdamW([weight], lr=0.1))
    changed = (weight != before).any(dim=0)
    assert changed.tolist() == [False, True, True, True, True, False]


def test_their_gradients_do_not_count() -> None:
    """In the norm that is clipped."""
    weight = nn.Parameter(torch.full((2, 1), 3.0))
    freeze(weight, [0])
    (weight**2).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0.0], [6.0]]
    assert float(nn.utils.clip_grad_norm_([weight], 1.0)) == 6.0


def test_a_checkpoint_loaded_later_is_not_undone() -> None:
    layer = nn.Embedding(3, 2)
    freeze(layer.weight, [1])
    train(layer.weight, SGD([layer.weight], lr=0.1))
    layer.load_state_dict({"weight": torch.full((3, 2), 7.0)})
    train(layer.weight, SGD([layer.weight], lr=0.1))
    assert layer.weight[1].tolist() == [7, 7]
    assert layer.weight[0].tolist() != [7, 7]


def test_what_is_frozen_is_handed_on() -> None:
    one, other = nn.Embedding(4, 2), nn.Embedding(4, 2)
    freeze(one.weight, [1, 2])
    freeze_again_(other, copy.deepcopy(frozen_rows(one)))
    before = other.weight.detach().clone()
    train(other.weight, AdamW([other.weight], lr=0.1))
    assert unchanged_rows(other.weight, before) == [False, True, True, False]


class Lookahead(Optimizer):
    """An optimizer around another one, over the same parameters."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:
        self.inner.step()
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight += 1


def test_an_optimizer_within_an_optimizer() -> None:
    weight = nn.Parameter(torch.randn(4, 2))
    before = weight.detach().clone()
    freeze(weight, [1, 2])
    train(weight, Lookahead(AdamW([weight], lr=0.1)))
    assert unchanged_rows(weight, before) == [False, True, True, False]


def test_freezing_again_adds_no_hook() -> None:
    """RecBole's evaluation loads the checkpoint into the model each time."""
    weight = nn.Parameter(torch.randn(4, 2))
    for ids in ([0], [1], [1, 2]):
        freeze(weight, ids)
    assert weight._backward_hooks is not None and len(weight._backward_hooks) == 1
    before = weight.detach().clone()
    train(weight, AdamW([weight], lr=0.1))
    assert unchanged_rows(weight, before) == [False, True, True, False]


def test_a_table_that_the_model_has_frozen() -> None:
    weight = nn.Parameter(torch.zeros(4, 2), requires_grad=False)
    freeze(weight, [1])
    assert not weight.requires_grad


def test_a_frozen_table_is_freed() -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    freeze(weight, [1])
    alive = weakref.ref(weight)
    del weight
    gc.collect()
    assert alive() is None


SETTINGS: dict[str, dict[str, Any]] = {
    "BPR": {},
    "FM": {"threshold": {"timestamp": 2}, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}},
    "MultiVAE": {
        "mlp_hidden_size": [12],
        "train_neg_sample_args": None,
        "init_tables": {"item": ["encoder.0.weight.T"]},
    },
}


@pytest.mark.parametrize("model", SETTINGS)
def test_only_the_written_item_rows_of_a_model_are_frozen(model: str, llm: dict[str, Any]) -> None:
    """Users, [PAD] and what has no vector are trained: a table, a slice of one, and columns."""
    config, train_data = load(model, {**llm, **SETTINGS[model], "init_trainable": False})
    net = build_model(config, train_data._dataset)
    (table,) = [table for table in net.init_report.tables if table.frozen]
    assert table.side == "item"
    weight = dict(net.named_parameters())[table.name]
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    optimizer = Adam(net.parameters(), lr=0.05, weight_decay=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        first_loss(net, train_data)
        optimizer.step()
    same = (weight == before[table.name]).all(dim=0 if model == "MultiVAE" else 1)
    expected = torch.zeros_like(same)
    first = 41 if model == "FM" else 0
    expected[first + 1 : first + 30] = True
    assert torch.equal(same, expected)
    assert [name for name, value in net.named_parameters() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("copied", ["pickle", "copy"])
def test_a_copy_of_the_model_is_frozen_as_well(copied: str, llm: dict[str, Any], tmp_path: Path) -> None:
    config, train_data = load("BPR", {**llm, "init_trainable": False})
    model = build_model(config, train_data._dataset)
    if copied == "pickle":
        torch.save(model, tmp_path / "model.pth")
        other = torch.load(tmp_path / "model.pth", weights_only=False)
    else:
        other = copy.deepcopy(model)
    before = other.item_embedding.weight.detach().clone()
    optimizer = AdamW(other.parameters(), lr=0.1)
    first_loss(other, train_data)
    optimizer.step()
    assert torch.equal(other.item_embedding.weight[1:], before[1:])
    assert not torch.equal(other.item_embedding.weight[0], before[0])


def test_without_it_a_checkpoint_has_the_stock_models_keys(llm: dict[str, Any]) -> None:
    config, train_data = load("BPR", llm)
    stock = BPR(config, train_data._dataset)
    assert get_model("BPR")(config, train_data._dataset).other_parameter() == stock.other_parameter() == {}
