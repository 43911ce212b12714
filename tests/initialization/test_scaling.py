"""The standard deviations that ``init_scale`` asks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.rows import Rows
from recbole_llminit.initialization.scaling import std_of
from recbole_llminit.initialization.users import FromItems, FromModel, FromVectors
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
