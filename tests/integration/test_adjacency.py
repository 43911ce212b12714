"""Graphs from arrays, against RecBole's own methods, which build them through dictionaries."""

import functools
import importlib
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_llminit.integration import adjacency
from recbole_llminit.integration.compat import _GRAPHS, patch_model
from tests.all_models import stand_ins

USERS, ITEMS, ENTITIES = 40, 60, 90


def a_class(path):
    module, _, name = path.rpartition(".")
    with stand_ins():
        found = getattr(importlib.import_module(f"recbole.model.{module}"), name)
    patch_model(found)
    return found


def interactions(twice=30):
    """Unsorted; some stand twice, some users and items have none."""
    generator = np.random.default_rng(0)
    pairs = generator.choice((USERS - 6) * (ITEMS - 6), 300, replace=False)
    users, items = 1 + pairs // (ITEMS - 6), 1 + pairs % (ITEMS - 6)
    users, items = np.append(users, users[:twice]), np.append(items, items[:twice])
    return sp.coo_matrix((generator.integers(1, 6, len(users)), (users, items)), (USERS, ITEMS)).astype(np.float32)


def a_model(model_class, matrix):
    """What the methods read of a model."""
    model = SimpleNamespace(
        interaction_matrix=matrix,
        inter_matrix=matrix,
        n_users=matrix.shape[0],
        n_items=matrix.shape[1],
        n_entities=ENTITIES,
        device=torch.device("cpu"),
    )
    if hasattr(model_class, "get_eye_mat"):
        model.get_eye_mat = functools.partial(model_class.get_eye_mat, model)
    return model


def assert_same(found, expected):
    """Equal to the last bit, entries in the same order."""
    assert found.shape == expected.shape
    assert found.is_coalesced() == expected.is_coalesced()
    assert torch.equal(found._indices(), expected._indices())
    assert found._values().dtype == expected._values().dtype == torch.float32
    assert torch.equal(found._values(), expected._values())


@pytest.mark.parametrize("twice", [0, 30])
@pytest.mark.parametrize("block", [1, 50, adjacency._BLOCK_ENTRIES])
@pytest.mark.parametrize("path", _GRAPHS)
def test_the_graph_is_recboles_to_the_last_bit(path, block, twice, monkeypatch):
    monkeypatch.setattr(adjacency, "_BLOCK_ENTRIES", block)
    model_class, name = a_class(path), _GRAPHS[path][0]
    ours = getattr(model_class, name)
    stock = ours.__wrapped__
    assert "dok_matrix" in inspect.getsource(stock)
    matrix = interactions(twice)
    for options in [{"mode": "bi"}, {"mode": "si"}] if "mode" in inspect.signature(stock).parameters else [{}]:
        model, expected_model = a_model(model_class, matrix), a_model(model_class, matrix)
        found, expected = ours(model, **options), stock(expected_model, **options)
        for one, other in zip(*([x] if torch.is_tensor(x) else x for x in (found, expected)), strict=True):
            assert_same(one, other)
        if hasattr(expected_model, "diag"):
            assert torch.equal(model.diag, expected_model.diag)


def test_an_unknown_mode_is_refused_as_in_recbole():
    model_class = a_class("knowledge_aware_recommender.kgin.KGIN")
    with pytest.raises(NotImplementedError, match="both"):
        model_class.get_norm_inter_matrix(a_model(model_class, interactions()), "both")


def test_no_other_model_of_recbole_builds_a_graph_through_a_dictionary():
    import recbole.model

    found = {
        ".".join(path.with_suffix("").parts[-2:])
        for path in (importlib.resources.files(recbole.model)).rglob("*.py")
        if "dok_matrix" in path.read_text()
    }
    assert found == {path.rpartition(".")[0] for path in _GRAPHS}


def test_the_bipartite_graph_literally():
    matrix = sp.coo_matrix(([5.0, 1.0, 2.0], ([1, 0, 1], [0, 1, 0])), shape=(2, 2))
    found = adjacency.bipartite_adjacency(matrix, 5)
    assert found.toarray().tolist() == [
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
