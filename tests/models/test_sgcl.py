"""SGCL: its loss against a restatement, and what it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from recbole.utils import init_seed

from recbole_llminit import get_model
from recbole_llminit.errors import LLMInitError
from recbole_llminit.models import SGCL
from recbole_llminit.models.sgcl import supervised_contrastive_loss
from tests.all_models import load


def restated(users: torch.Tensor, items: torch.Tensor, temperature: float) -> float:
    """The loss as the release forms it, exponentials and all, in Python's own floats."""

    def unit(rows: torch.Tensor) -> list[list[float]]:
        return [[value / math.sqrt(sum(other**2 for other in row)) for value in row] for row in rows.double().tolist()]

    def similarity(one: list[float], other: list[float]) -> float:
        return math.exp(sum(a * b for a, b in zip(one, other, strict=True)) / temperature)

    of_users, of_items = unit(users), unit(items)
    total = 0.0
    for user, item in zip(of_users, of_items, strict=True):
        others = sum(similarity(user, other) for other in of_users) + sum(similarity(item, other) for other in of_items)
        total -= math.log(similarity(user, item) / others)
    return total


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_the_loss_is_the_formula(temperature: float) -> None:
    torch.manual_seed(0)
    users, items = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    # A user who stands in two pairs.
    users[3] = users[1]
    found = supervised_contrastive_loss(users, items, temperature)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(restated(users, items, temperature), rel=1e-12)


def test_two_orthogonal_pairs_literally() -> None:
    """Each user on its item: exp(1) over (exp(1) + exp(0)) twice, at temperature 1."""
    found = supervised_contrastive_loss(torch.eye(2), 3 * torch.eye(2), 1.0)
    assert float(found) == pytest.approx(2 * (math.log(2 * math.e + 2) - 1), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_temperatures_and_half_precision(dtype: torch.dtype) -> None:
    """exp(1 / 0.005) is beyond float32, and exp(1 / 0.05) beyond float16."""
    torch.manual_seed(1)
    users, items = torch.randn(6, 8).to(dtype).requires_grad_(), torch.randn(6, 8).to(dtype)
    loss = supervised_contrastive_loss(users, items, 0.005)
    loss.backward()
    assert users.grad is not None
    assert torch.isfinite(users.grad).all()
    # exp(200) is within Python's floats.
    assert float(loss) == pytest.approx(restated(users.detach(), items, 0.005), rel=1e-5)


def test_autocast_does_not_reach_it() -> None:
    users, items = torch.randn(6, 8), torch.randn(6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = supervised_contrastive_loss(users, items, 0.2)
    assert torch.equal(inside, supervised_contrastive_loss(users, items, 0.2))


def test_the_model_propagates_and_looks_at_pairs_alone(tiny: dict[str, Any]) -> None:
    config, train_data = load("SGCL", tiny)
    assert config.model_class is SGCL
    assert (config["temperature"], config["n_layers"]) == (0.2, 2)
    assert config["train_neg_sample_args"]["distribution"] == "none"
    init_seed(1, True)
    model = get_model("SGCL")(config, train_data._dataset)
    batch = next(iter(train_data))
    assert "neg_item_id" not in batch
    users, items = model.forward()
    expected = restated(users[batch["user_id"]].detach(), items[batch["item_id"]].detach(), 0.2)
    assert float(model.calculate_loss(batch)) == pytest.approx(expected, rel=1e-5)
    # Propagated, not the tables themselves: two layers of D^-1/2 A D^-1/2, averaged with the table.
    degree = train_data._dataset.inter_matrix().toarray()
    pairs = torch.from_numpy(degree).float()
    norm = (pairs.sum(1, keepdim=True) * pairs.sum(0, keepdim=True)).clamp(min=1).rsqrt() * pairs
    start, other = model.user_embedding.weight, model.item_embedding.weight
    first = norm @ other
    second = norm @ (norm.T @ start)
    torch.testing.assert_close(users, (start + first + second) / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, "warm"])
def test_the_temperature_is_checked(temperature: Any, tiny: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=f"temperature.*{temperature!r}.*expect.*number"):
        config, train_data = load("SGCL", {**tiny, "temperature": temperature})
        get_model("SGCL")(config, train_data._dataset)


def test_it_learns_to_rank_what_was_bought(tiny: dict[str, Any]) -> None:
    """After 60 steps a training item ranks above 85 % of the others; random ones rank above half."""
    config, train_data = load("SGCL", {**tiny, "n_layers": 1, "train_batch_size": 512})
    assert config["n_layers"] == 1
    init_seed(1, True)
    model = get_model("SGCL")(config, train_data._dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        model.calculate_loss(next(iter(train_data))).backward()
        optimizer.step()
    users, items = model.forward()
    scores = (users @ items.T)[1:, 1:]
    bought = torch.from_numpy(train_data._dataset.inter_matrix().toarray())[1:, 1:] > 0
    above = (scores[:, :, None] > scores[:, None, :]) & bought[:, :, None] & ~bought[:, None, :]
    pairs = bought[:, :, None] & ~bought[:, None, :]
    assert above.sum() / pairs.sum() > 0.85
