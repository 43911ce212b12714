"""The standard deviations that ``init_scale`` asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.rows import Rows
from recbole_llminit.initialization.scaling import factor_for_model_scores, std_of
from recbole_llminit.initialization.users import FromItems, FromModel, FromVectors, UserInitialization
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings
from tests.initialization.toy_model import ToyModel, initialize
from tests.messages import naming

Embed = Callable[..., AlignedEmbeddings]


def test_scale_by_number_is_the_standard_deviation_of_the_item_values(vectors: AlignedEmbeddings) -> None:
    model = ToyModel()
    initialize(model, vectors, scale=0.5)
    written = model.items.weight[1:].detach().numpy()
    assert written.std() == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(written / written[0, 0], [[1, 3], [5, 7], [9, 11]], rtol=1e-6)
    np.testing.assert_allclose(model.users.weight[1].detach(), written[:2].mean(axis=0), rtol=1e-6)


def test_scale_model_is_the_standard_deviation_that_the_table_had(vectors: AlignedEmbeddings) -> None:
    model = ToyModel()
    std = float(model.items.weight.detach().std())
    initialize(model, vectors, scale="model")
    assert model.items.weight[1:].detach().numpy().std() == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize("user", ["mean", "idf", "file"])
def test_scale_score_is_the_standard_deviation_of_all_dot_products(embed: Embed, user: str) -> None:
    generator = np.random.default_rng(3)
    items = embed(*generator.normal(size=(3, 4)))
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=np.float32))
    own = ItemEmbeddings(np.array(["u1", "u2"]), (generator.normal(size=(2, 4)),), "users", "0")
    users = {
        "mean": FromItems(),
        "idf": FromItems("idf"),
        "file": FromVectors(own.align(["[PAD]", "u1", "u2"], "toy")),
    }
    model = ToyModel()
    initialize(model, items, interactions=interactions, scale="score", user=users[user])
    written_users, written_items = (weight[1:].detach().numpy() for weight in (model.users.weight, model.items.weight))
    assert (written_users @ written_items.T).std() == pytest.approx(1 / 16, rel=1e-5)
    plain = ToyModel()
    initialize(plain, items, interactions=interactions, user=users[user])
    factor = written_items[0, 0] / plain.items.weight[1, 0].item()
    for side in ("users", "items"):
        scaled, raw = (getattr(one, side).weight[1:].detach().numpy() for one in (model, plain))
        np.testing.assert_allclose(scaled, raw * factor, rtol=1e-5)


def test_scale_score_without_a_user_table_is_that_of_the_items_means(embed: Embed) -> None:
    items = embed(*np.random.default_rng(4).normal(size=(3, 4)))
    model, alone = ToyModel(), ToyModel()
    del alone.users
    initialize(model, items, scale="score", user=FromItems())
    initialize(alone, items, scale="score", user=FromModel())
    np.testing.assert_array_equal(model.items.weight[1:].detach(), alone.items.weight[1:].detach())


def test_scale_score_with_the_users_of_the_model(embed: Embed) -> None:
    """They are not multiplied, so the items take the whole factor."""
    generator = np.random.default_rng(3)
    model = ToyModel()
    with torch.no_grad():
        model.users.weight.copy_(torch.from_numpy(generator.normal(size=(3, 2))))
    users = model.users.weight.detach().clone()
    initialize(model, embed(*generator.normal(size=(3, 4))), scale="score", user=FromModel())
    assert torch.equal(model.users.weight, users)
    scores = users[1:].numpy() @ model.items.weight[1:].detach().numpy().T
    assert scores.std() == pytest.approx(1 / 16, rel=1e-5)


def test_scale_score_of_equal_scores(embed: Embed) -> None:
    users = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]], dtype=np.float32))
    # The users stand at right angles to all differences between items.
    same = embed([3, 9, -1, 9], [-1, 9, 3, 9], [1, 9, 1, 9])
    with pytest.raises(LLMInitError, match=naming("init_scale is score", "every pair the same score", "0.05")):
        initialize(ToyModel(), same, interactions=users, scale="score")
    different, nobody = embed([1, 2, 3, 4], [4, 3, 2, 1], [1, 0, 1, 0]), csr_matrix((3, 4), dtype=np.float32)
    with pytest.raises(LLMInitError, match=naming("init_scale is score", "no user has a training item with a vector")):
        initialize(ToyModel(), different, interactions=nobody, scale="score")


@pytest.mark.parametrize("block_rows", [3, 8192])
def test_the_standard_deviation_is_that_of_rows_with_a_value(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr("recbole_llminit.initialization.rows.BLOCK_ROWS", block_rows)
    # A large mean beside a small spread: a sum of squares would lose it.
    values = (1e4 + np.random.default_rng(5).normal(size=(20, 3))).astype(np.float32)
    has_value = np.arange(20) % 3 > 0
    values[~has_value] = 0
    expected = values[has_value].astype(np.float64).std()
    assert std_of(Rows(values, has_value)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("power", [0.5, 1, 2, 3])
@pytest.mark.parametrize("at_one", [1e-4, 0.24, 1e3])
def test_the_factor_at_which_a_models_scores_have_the_target(power: float, at_one: float) -> None:
    """The model's scores grow with a power of the factor, which the search does not know."""
    asked: list[float] = []

    def std_at(factor: float) -> float:
        asked.append(factor)
        return at_one * factor**power

    found = factor_for_model_scores(std_at, 0.25)
    assert at_one * found**power == pytest.approx(0.25, rel=0.02)
    assert asked[0] == 1 and asked[-1] == found and len(asked) <= 4


def test_the_factor_where_scores_grow_unevenly() -> None:
    """A part of the scores, their bias, does not follow the tables."""
    found = factor_for_model_scores(lambda factor: (factor**4 + 0.1**2) ** 0.5, 0.25)
    assert (found**4 + 0.01) ** 0.5 == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(
    "std_at",
    [
        lambda factor: None,
        lambda factor: 0.0,
        lambda factor: float("nan"),
        lambda factor: float("inf"),
        lambda factor: 3.0,
        lambda factor: 3.0 * factor**0.1,
        lambda factor: 3.0 / factor,
        lambda factor: 3.0 if factor == 1 else None,
        lambda factor: 3.0 if factor == 1 else float("nan"),
    ],
    ids=["not asked", "0", "nan", "inf", "constant", "hardly", "falling", "once", "nan later"],
)
def test_the_factor_is_1_where_scores_do_not_follow(std_at: Callable[[float], float | None]) -> None:
    """And the values are those of this factor at the end."""
    asked: list[float] = []
    assert factor_for_model_scores(lambda factor: asked.append(factor) or std_at(factor), 0.25) == 1
    assert asked[0] == asked[-1] == 1


def propagated_std(model: torch.nn.Module) -> float:
    """The standard deviation of the scores of a model that takes the mean of each item with the next one."""
    users, items = (table.weight[1:].detach().numpy() for table in (model.users, model.items))
    return float((users @ (items + np.roll(items, 1, axis=0)).T / 2).std())


TWO_USERS = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=np.float32))


@pytest.mark.parametrize("user", [FromItems(), FromModel()], ids=["mean", "none"])
def test_scale_score_is_that_of_the_models_own_scores(embed: Embed, user: UserInitialization) -> None:
    generator = np.random.default_rng(3)
    vectors, model, plain = embed(*generator.normal(size=(3, 4))), ToyModel(), ToyModel()
    with torch.no_grad():
        for one in (model, plain):
            one.users.weight.copy_(torch.arange(6.0).reshape(3, 2) ** 2)
    report = initialize(model, vectors, interactions=TWO_USERS, scale="score", user=user, score_std=propagated_std)
    assert propagated_std(model) == pytest.approx(1 / 16, rel=0.021)
    before = initialize(plain, vectors, interactions=TWO_USERS, scale="score", user=user)
    assert propagated_std(plain) != pytest.approx(1 / 16, rel=0.1)
    # Both sides by one factor, but [PAD]; the model's own users by none.
    factor = model.items.weight[1, 0].item() / plain.items.weight[1, 0].item()
    np.testing.assert_allclose(model.items.weight[1:].detach(), factor * plain.items.weight[1:].detach(), rtol=1e-5)
    of_users = 1 if isinstance(user, FromModel) else factor
    np.testing.assert_allclose(model.users.weight[1:].detach(), of_users * plain.users.weight[1:].detach(), rtol=1e-5)
    assert model.items.weight[0].tolist() == [-10, -10]
    for ours, theirs in zip(report.tables, before.tables, strict=True):
        assert ours.std_after == pytest.approx(theirs.std_after * factor)
        written = getattr(model, ours.name.partition(".")[0]).weight[1:].detach().numpy()
        assert ours.std_after == pytest.approx(written.std(), rel=1e-5)


@pytest.mark.parametrize("scale", ["raw", "model", 0.3])
def test_other_scales_do_not_ask_the_model(embed: Embed, scale: Any) -> None:
    vectors = embed(*np.random.default_rng(3).normal(size=(3, 4)))
    initialize(ToyModel(), vectors, scale=scale, score_std=lambda model: pytest.fail("the model was asked"))


@pytest.mark.parametrize("answer", [None, 0.7], ids=["cannot be asked", "normalizes its scores"])
def test_the_dot_products_where_the_models_scores_do_not_follow(embed: Embed, answer: float | None) -> None:
    vectors, model, plain = embed(*np.random.default_rng(3).normal(size=(3, 4))), ToyModel(), ToyModel()
    ours = initialize(model, vectors, interactions=TWO_USERS, scale="score", score_std=lambda model: answer)
    theirs = initialize(plain, vectors, interactions=TWO_USERS, scale="score")
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert ours.tables == theirs.tables


def test_tables_at_length_1_stay_so_and_frozen_rows_stay_frozen(embed: Embed) -> None:
    vectors, model = embed(*np.random.default_rng(3).normal(size=(3, 4))), ToyModel()
    with torch.no_grad():
        model.users.weight.copy_(torch.nn.functional.normalize(torch.randn(3, 2), dim=1))
    report = initialize(
        model, vectors, interactions=TWO_USERS, scale="score", trainable=False, score_std=propagated_std
    )
    users, items = report.tables
    assert users.unit and not items.unit and items.frozen
    np.testing.assert_allclose(model.users.weight.detach().norm(dim=1), 1, rtol=1e-5)
    assert propagated_std(model) == pytest.approx(1 / 16, rel=0.021)
    before = model.items.weight.detach().clone()
    (model.users.weight[1:] @ model.items.weight.T).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert torch.equal(model.items.weight[1:], before[1:])
