"""RecBole's graph models: their graphs against RecBole's own methods, and mixed precision."""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import inspect
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_llminit.integration.patches import adjacency, compat
from recbole_llminit.integration.patches.graphs import GRAPH_BUILDERS
from recbole_llminit.integration.quick_start import run_recbole_llminit
from tests.all_models import stand_ins

USERS, ITEMS, ENTITIES = 40, 60, 90


def patched_class(path: str) -> Any:
    """One of RecBole's model classes, by its path in ``recbole.model``, after it was patched."""
    module, _, name = path.rpartition(".")
    with stand_ins():
        found = getattr(importlib.import_module(f"recbole.model.{module}"), name)
    compat.patch_model(found)
    return found


def interactions(twice: int = 30) -> sp.coo_matrix:
    """Unsorted interactions; the first ``twice`` stand twice, some users and items have none."""
    generator = np.random.default_rng(0)
    pairs = generator.choice((USERS - 6) * (ITEMS - 6), 300, replace=False)
    users, items = 1 + pairs // (ITEMS - 6), 1 + pairs % (ITEMS - 6)
    users, items = np.append(users, users[:twice]), np.append(items, items[:twice])
    return sp.coo_matrix((generator.integers(1, 6, len(users)), (users, items)), (USERS, ITEMS)).astype(np.float32)


def model_with(model_class: Any, matrix: sp.coo_matrix) -> SimpleNamespace:
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


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to the last bit, entries in the same order."""
    assert found.shape == expected.shape
    assert found.is_coalesced() == expected.is_coalesced()
    assert torch.equal(found._indices(), expected._indices())
    assert found._values().dtype == expected._values().dtype == torch.float32
    assert torch.equal(found._values(), expected._values())


@pytest.mark.parametrize("twice", [0, 30])
@pytest.mark.parametrize("block", [1, 50, adjacency._BLOCK_ENTRIES])
@pytest.mark.parametrize("path", GRAPH_BUILDERS)
def test_the_graph_is_recboles_to_the_last_bit(
    path: str, block: int, twice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adjacency, "_BLOCK_ENTRIES", block)
    model_class, name = patched_class(path), GRAPH_BUILDERS[path][0]
    ours = getattr(model_class, name)
    stock = ours.__wrapped__
    # Each class has its own method behind the patch, though several share a builder.
    assert stock.__module__ == model_class.__module__
    assert "dok_matrix" in inspect.getsource(stock)
    matrix = interactions(twice)
    for options in [{"mode": "bi"}, {"mode": "si"}] if "mode" in inspect.signature(stock).parameters else [{}]:
        model, expected_model = model_with(model_class, matrix), model_with(model_class, matrix)
        found, expected = ours(model, **options), stock(expected_model, **options)
        for one, other in zip(*([x] if torch.is_tensor(x) else x for x in (found, expected)), strict=True):
            assert_same(one, other)
        if hasattr(expected_model, "diag"):
            assert torch.equal(model.diag, expected_model.diag)


def test_an_unknown_mode_is_refused_as_in_recbole() -> None:
    model_class = patched_class("knowledge_aware_recommender.kgin.KGIN")
    with pytest.raises(NotImplementedError, match="both"):
        model_class.get_norm_inter_matrix(model_with(model_class, interactions()), "both")


def test_no_other_model_of_recbole_builds_a_graph_through_a_dictionary() -> None:
    import recbole.model

    found = {
        ".".join(path.with_suffix("").parts[-2:])
        for path in (importlib.resources.files(recbole.model)).rglob("*.py")  # type: ignore[attr-defined]
        if "dok_matrix" in path.read_text()
    }
    assert found == {path.rpartition(".")[0] for path in GRAPH_BUILDERS}


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NGCF", "DGCF", "GCMC", "SGL", "SpectralCF"])
def test_mixed_precision_trains_what_full_precision_does(model: str, tiny: dict[str, Any]) -> None:
    """`multiply_sparse_matrices_in_full_precision`; stock RecBole's graph models raise here."""
    settings = {**tiny, "init_strategy": "none", "gpu_id": ""}
    if model == "GCMC":
        settings["embedding_size"] = 64
    losses = []
    for amp in (False, True):
        with mock.patch("recbole.trainer.trainer.Trainer._add_train_loss_to_tensorboard") as logged:
            run_recbole_llminit(model, config_dict={**settings, "enable_amp": amp})
        losses.append([np.sum(call.args[1]) for call in logged.call_args_list])
    assert len(losses[0]) == 3
    # bfloat16 has eight bits.
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


@pytest.mark.parametrize("other", [torch.ones(2, 3), torch.eye(2, 3).to_sparse()], ids=["dense", "sparse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_products_under_autocast_literally(other: torch.Tensor, dtype: torch.dtype) -> None:
    from recbole.model.general_recommender import lightgcn

    compat.patch_model(lightgcn.LightGCN)
    matrix = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse().to(dtype)
    with torch.autocast("cpu"):
        found = lightgcn.torch.sparse.mm(matrix, other.to(dtype))
    assert found.dtype == torch.float32
    assert found.to_dense().tolist() == (matrix.float().to_dense() @ other.to_dense()).tolist()
    assert lightgcn.torch.sparse.sum is torch.sparse.sum
    assert lightgcn.torch.cat is torch.cat


def test_a_module_that_loads_checkpoints_multiplies_in_full_precision_as_well() -> None:
    """Two patches override names of torch in the same module."""
    from recbole.model.general_recommender import neumf

    compat.patch_model(neumf.NeuMF)
    assert neumf.torch.load is not torch.load
    assert neumf.torch.sparse.mm is not torch.sparse.mm
    assert neumf.torch.cat is torch.cat
