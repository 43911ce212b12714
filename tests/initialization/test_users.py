import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer

from recbole_llminit.initialization.users import aggregate_users
from recbole_llminit.integration import compat


def test_mean_of_training_items_literally():
    values = np.array([[0, 0], [1, 10], [3, 30], [8, 80]], dtype=np.float32)
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=np.float32))
    users, has_value = aggregate_users(values, np.array([False, True, True, True]), interactions)
    assert users.tolist() == [[0, 0], [2, 20], [8, 80], [0, 0]]
    assert has_value.tolist() == [False, True, True, False]
    assert users.dtype == np.float32


def test_items_without_a_value_do_not_count():
    values = np.array([[0], [1], [0], [5]], dtype=np.float32)
    interactions = csr_matrix(np.array([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=np.float32))
    users, has_value = aggregate_users(values, np.array([False, True, False, True]), interactions)
    assert users.tolist() == [[3], [0]]
    assert has_value.tolist() == [True, False]


def test_equals_a_loop_over_users():
    generator = np.random.default_rng(2)
    values = generator.normal(size=(40, 6)).astype(np.float32)
    dense = (generator.random((25, 40)) < 0.2).astype(np.float32)
    users, has_value = aggregate_users(values, np.ones(40, dtype=bool), csr_matrix(dense))
    for user in range(25):
        items = np.flatnonzero(dense[user])
        assert has_value[user] == bool(len(items))
        if len(items):
            np.testing.assert_allclose(users[user], values[items].mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.fixture
def dense():
    generator = np.random.default_rng(3)
    found = (generator.random((26, 41)) < 0.2).astype(np.float32)
    found[0] = found[:, 0] = 0
    found[7] = 0
    return found


def test_degree_is_a_step_of_lightgcn(dense):
    """Against RecBole's own normalised adjacency (recbole/model/general_recommender/lightgcn.py, get_norm_adj_mat)."""
    compat.apply()
    lightgcn = importlib.import_module("recbole.model.general_recommender.lightgcn").LightGCN
    model = SimpleNamespace(n_users=26, n_items=41, interaction_matrix=coo_matrix(dense))
    adjacency = lightgcn.get_norm_adj_mat(model)
    values = np.random.default_rng(2).normal(size=(41, 6)).astype(np.float32)
    values[0] = 0
    ego = torch.cat([torch.zeros(26, 6), torch.from_numpy(values)])
    expected = torch.sparse.mm(adjacency, ego)[:26].numpy()
    users, has_value = aggregate_users(values, np.arange(41) > 0, csr_matrix(dense), "degree")
    np.testing.assert_allclose(users, expected, atol=1e-5)
    assert has_value.tolist() == (dense.sum(axis=1) > 0).tolist()


def test_idf_is_scikit_learns(dense):
    values = np.random.default_rng(2).normal(size=(41, 6)).astype(np.float32)
    values[0] = 0
    weights = TfidfTransformer(norm="l1").fit_transform(dense[1:, 1:])
    users, _ = aggregate_users(values, np.arange(41) > 0, csr_matrix(dense), "idf")
    np.testing.assert_allclose(users[1:], weights @ values[1:], atol=1e-5)


@pytest.mark.parametrize("how", ["degree", "idf"])
def test_other_weights_leave_out_items_without_a_value(how):
    values = np.array([[0], [2], [0], [6]], dtype=np.float32)
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=np.float32))
    users, has_value = aggregate_users(values, np.array([False, True, False, True]), interactions, how)
    # Items 1 and 3 have the degree 1, and the user has three items, of which one has no value.
    assert users.ravel().tolist() == pytest.approx([0, {"degree": 8 / np.sqrt(3), "idf": 4}[how], 0, 0])
    assert has_value.tolist() == [False, True, False, False]


@pytest.mark.parametrize("how", ["mean", "degree", "idf"])
def test_users_come_in_blocks(how, monkeypatch):
    generator = np.random.default_rng(3)
    interactions = csr_matrix((generator.random((23, 11)) < 0.3).astype(np.float32))
    values, has_value = generator.normal(size=(11, 4)).astype(np.float32), np.arange(11) > 1
    values[~has_value] = 0
    expected = aggregate_users(values, has_value, interactions, how)
    monkeypatch.setattr("recbole_llminit.initialization.users._BLOCK_USERS", 5)
    found = aggregate_users(values, has_value, interactions, how)
    assert found[1].tolist() == expected[1].tolist() and not found[1].all()
    np.testing.assert_array_equal(found[0], expected[0])
