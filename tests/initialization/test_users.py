"""User rows from their items' values, from vectors of their own, and as the model made them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.rows import Rows
from recbole_llminit.initialization.users import (
    Aggregation,
    FromItems,
    FromModel,
    FromStrategy,
    FromVectors,
    UserInitialization,
    aggregate_users,
)
from recbole_llminit.integration.patches import compat
from recbole_llminit.strategies.auto import Auto
from recbole_llminit.strategies.base import Columns, Factors
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.strategies.noise import Noise
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.initialization.toy_model import INTERACTIONS, ToyModel, initialize
from tests.messages import naming

Embed = Callable[..., AlignedEmbeddings]
Values = npt.NDArray[np.float32]


@pytest.fixture
def dense() -> Values:
    """Interactions at random; user 7 has none."""
    generator = np.random.default_rng(3)
    found = (generator.random((26, 41)) < 0.2).astype(np.float32)
    found[0] = found[:, 0] = 0
    found[7] = 0
    return found


@pytest.fixture
def items() -> Rows:
    """Values of the 40 items of `dense`."""
    values = np.random.default_rng(2).normal(size=(41, 6)).astype(np.float32)
    values[0] = 0
    return Rows(values, np.arange(41) > 0)


def test_mean_of_training_items_literally() -> None:
    items = Rows.of_all_but_padding(np.array([[0, 0], [1, 10], [3, 30], [8, 80]], dtype=np.float32))
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=np.float32))
    users = aggregate_users(items, interactions)
    assert users.values.tolist() == [[0, 0], [2, 20], [8, 80], [0, 0]]
    assert users.has_value.tolist() == [False, True, True, False]
    assert users.values.dtype == np.float32


def test_items_without_a_value_do_not_count() -> None:
    items = Rows(np.array([[0], [1], [0], [5]], dtype=np.float32), np.array([False, True, False, True]))
    users = aggregate_users(items, csr_matrix(np.array([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=np.float32)))
    assert users.values.tolist() == [[3], [0]]
    assert users.has_value.tolist() == [True, False]


def test_equals_a_loop_over_users() -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(size=(40, 6)).astype(np.float32)
    dense = (generator.random((25, 40)) < 0.2).astype(np.float32)
    users = aggregate_users(Rows(values, np.ones(40, dtype=bool)), csr_matrix(dense))
    for user in range(25):
        items = np.flatnonzero(dense[user])
        assert users.has_value[user] == bool(len(items))
        if len(items):
            np.testing.assert_allclose(users.values[user], values[items].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_degree_is_a_step_of_lightgcn(dense: Values, items: Rows) -> None:
    """Against RecBole's own normalized adjacency (recbole/model/general_recommender/lightgcn.py, get_norm_adj_mat)."""
    compat.apply()
    lightgcn = importlib.import_module("recbole.model.general_recommender.lightgcn").LightGCN
    model = SimpleNamespace(n_users=26, n_items=41, interaction_matrix=coo_matrix(dense))
    adjacency = lightgcn.get_norm_adj_mat(model)
    ego = torch.cat([torch.zeros(26, 6), torch.from_numpy(items.values)])
    expected = torch.sparse.mm(adjacency, ego)[:26].numpy()
    users = aggregate_users(items, csr_matrix(dense), "degree")
    np.testing.assert_allclose(users.values, expected, atol=1e-5)
    assert users.has_value.tolist() == (dense.sum(axis=1) > 0).tolist()


def test_idf_is_scikit_learns(dense: Values, items: Rows) -> None:
    weights = TfidfTransformer(norm="l1").fit_transform(dense[1:, 1:])
    users = aggregate_users(items, csr_matrix(dense), "idf")
    np.testing.assert_allclose(users.values[1:], weights @ items.values[1:], atol=1e-5)


@pytest.mark.parametrize("aggregation", ["degree", "idf"])
def test_other_weights_leave_out_items_without_a_value(aggregation: Aggregation) -> None:
    items = Rows(np.array([[0], [2], [0], [6]], dtype=np.float32), np.array([False, True, False, True]))
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=np.float32))
    users = aggregate_users(items, interactions, aggregation)
    # Items 1 and 3 have the degree 1, and the user has three items, of which one has no value.
    expected = {"degree": 8 / np.sqrt(3), "idf": 4}[aggregation]
    assert users.values.ravel().tolist() == pytest.approx([0, expected, 0, 0])
    assert users.has_value.tolist() == [False, True, False, False]


@pytest.mark.parametrize("aggregation", ["mean", "degree", "idf"])
def test_users_come_in_blocks(aggregation: Aggregation, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    interactions = csr_matrix((generator.random((23, 11)) < 0.3).astype(np.float32))
    items = Rows(generator.normal(size=(11, 4)).astype(np.float32), np.arange(11) > 1)
    items.values[~items.has_value] = 0
    expected = aggregate_users(items, interactions, aggregation)
    monkeypatch.setattr("recbole_llminit.initialization.users._BLOCK_USERS", 5)
    found = aggregate_users(items, interactions, aggregation)
    assert found.has_value.tolist() == expected.has_value.tolist() and not found.has_value.all()
    np.testing.assert_array_equal(found.values, expected.values)


def test_users_left_as_they_are(vectors: AlignedEmbeddings) -> None:
    model = ToyModel()
    report = initialize(model, vectors, user=FromModel())
    assert model.users.weight.tolist() == [[-1, -1], [-2, -2], [-3, -3]]
    assert [table.name for table in report.tables] == ["items.weight"]
    assert report.skipped == {"users.weight": "init_user is none"}
    assert "3 of 3 items, no user table written" in str(report)


def test_users_at_vectors_of_their_own(embed: Embed, vectors: AlignedEmbeddings) -> None:
    # The second of two users has a vector; both reductions are uni's columns 0 and 2, scaled alike.
    users = embed(None, [4, 0, 8, 0], tokens=["u1", "u2"])
    model, plain = ToyModel(), ToyModel()
    report = initialize(model, vectors, user=FromVectors(users), scale=0.5)
    initialize(plain, vectors, scale=0.5)
    factor = plain.items.weight[1, 0].item()
    assert torch.equal(model.items.weight, plain.items.weight)
    assert model.users.weight.tolist()[:2] == [[-1, -1], [-2, -2]]
    assert model.users.weight[2].tolist() == pytest.approx([4 * factor, 8 * factor])
    assert (report.users_with_items, report.user) == (1, "vectors")
    assert "1 of 2 users (vectors)" in str(report)


def test_what_looks_wrong_with_the_users_vectors_is_said(embed: Embed, vectors: AlignedEmbeddings) -> None:
    users = embed([1, 2, 3, 4], None, None, tokens=["u1", "u2", "u3"])
    users = replace(
        users, embeddings=replace(users.embeddings, metadata={"model": "other"}), warnings=("is keyed 0...2",)
    )
    items = replace(vectors, embeddings=replace(vectors.embeddings, metadata={"model": "one"}))
    model = ToyModel()
    model.users = nn.Embedding(4, 2)
    # As many users as items: the names tell them apart.
    tables = {"user": ["users.weight"], "item": ["items.weight"]}
    interactions = csr_matrix((4, 4), dtype=np.float32)
    report = initialize(model, items, interactions=interactions, user=FromVectors(users), tables=tables)
    given, coverage, space = report.warnings
    assert given == "is keyed 0...2"
    for fact in ("only 1 of 3 users", "in vectors", "the model's own", "check that the file belongs to this dataset"):
        assert fact in coverage
    for fact in ("the users' vectors", "by other", "the items' by one", "not in one space"):
        assert fact in space
    assert "2 users without a vector" in str(report)


def test_users_of_another_space_are_refused(embed: Embed, vectors: AlignedEmbeddings) -> None:
    users = FromVectors(embed([1, 2, 3], [4, 5, 6], tokens=["u1", "u2"]))
    with pytest.raises(LLMInitError, match="users' vectors in vectors .*3 dimensions.* items' in vectors 4.*encoder"):
        initialize(ToyModel(), vectors, user=users)
    for strategy in (Noise(), LinearAutoencoder(), Auto()):
        facts = naming("init_user is vectors", repr(strategy), "no values of a vector alone", "mean", "none")
        with pytest.raises(LLMInitError, match=facts):
            initialize(ToyModel(), vectors, strategy, user=users)


def factors() -> Factors:
    """Values of the toy model's items and users, of which the third item and the second user have none."""
    items = np.array([[7, 7], [1, 2], [3, 4], [0, 0]], dtype=np.float32)
    return Factors(items, np.array([[0, 0], [5, 6], [0, 0]], dtype=np.float32))


def test_users_at_the_factors_of_the_strategy() -> None:
    """A row of zeros is no value."""
    users = FromStrategy().rows(Rows.of_nonzero(factors().items), INTERACTIONS, factors())
    assert users.values.tolist() == [[0, 0], [5, 6], [0, 0]] and users.has_value.tolist() == [False, True, False]
    assert not FromStrategy().follows_items(factors()) and FromStrategy().describe(factors()) == "factors"


@pytest.mark.parametrize("user", [FromItems(), FromItems("idf"), FromModel()], ids=["mean", "idf", "none"])
def test_users_that_are_asked_for_are_not_those_of_the_strategy(embed: Embed, user: UserInitialization) -> None:
    generator = np.random.default_rng(0)
    dense = (generator.random((20, 13)) < 0.4).astype(np.float32)
    dense[0] = dense[:, 0] = dense[5] = 0
    interactions = csr_matrix(dense)
    model = nn.ModuleDict({"user": nn.Embedding(20, 3), "item": nn.Embedding(13, 3)})
    before = model["user"].weight.detach().clone()
    strategy = LinearAutoencoder(lam=2, kappa=3)
    report = initialize(model, embed(*generator.normal(size=(12, 5))), strategy, interactions, user=user)
    assert report.user == user.label and report.scale == "score"
    users, items = (model[name].weight.detach().numpy() for name in ("user", "item"))
    if isinstance(user, FromItems):
        expected = aggregate_users(
            Rows.of_all_but_padding(items * (np.arange(13) > 0)[:, None]), interactions, user.aggregation
        )
        np.testing.assert_allclose(users[expected.has_value], expected.values[expected.has_value], atol=1e-5)
    else:
        assert np.array_equal(users, before)
    scored = users[1:] if isinstance(user, FromModel) else users[dense.any(axis=1)]
    assert (scored @ items[1:].T).std() == pytest.approx(LinearAutoencoder.score_std, rel=1e-3)


def test_users_of_a_strategy_without_users_are_the_mean() -> None:
    items, reduction = Rows.of_nonzero(factors().items), Columns((0, 1))
    users = FromStrategy().rows(items, INTERACTIONS, reduction)
    assert users.values[1].tolist() == [2, 3] and users.has_value.tolist() == [False, True, False]
    assert FromStrategy().follows_items(reduction)
    assert FromStrategy().describe(reduction) == FromStrategy().label == "mean"


def test_users_by_degree(vectors: AlignedEmbeddings) -> None:
    model = ToyModel()
    report = initialize(model, vectors, user=FromItems("degree"))
    # Items 1 and 2 have one user, who has two items.
    assert model.users.weight[1].tolist() == pytest.approx([6 / 2**0.5, 10 / 2**0.5])
    assert "1 of 2 users (degree)" in str(report)
