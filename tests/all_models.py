"""Every model of ``recbole.model``, and what each needs to be built and trained on the tiny dataset."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import recbole.model
import torch
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.model.general_recommender import RecVAE
from recbole.utils import KGDataLoaderState, init_seed

from recbole_llminit.integration.config import Config
from recbole_llminit.models import SGCL
from tests.stock import DATA

FAMILIES = ("general", "sequential", "context_aware", "knowledge_aware", "exlib")
INTERACTIONS = ["user_id", "item_id", "rating", "timestamp"]
GRAPH = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
SETTINGS = {
    "exlib": {},
    "general": {"load_col": {"inter": INTERACTIONS}},
    "sequential": {
        "load_col": {"inter": INTERACTIONS, "item": ["item_id", "kind"]},
        "MAX_ITEM_LIST_LENGTH": 6,
        "train_neg_sample_args": None,
    },
    "context_aware": {
        "load_col": {"inter": INTERACTIONS, "user": ["user_id", "city"], "item": ["item_id", "kind"]},
        "threshold": {"rating": 3},
    },
    "knowledge_aware": {"load_col": {"inter": INTERACTIONS, **GRAPH}},
}
NEGATIVES = {"distribution": "uniform", "sample_num": 1}
PRELOADED = {
    "load_col": {"inter": INTERACTIONS, **GRAPH, "ent": ["ent_id", "ent_emb"], "rel": ["rel_id", "rel_emb"]},
    "additional_feat_suffix": ["ent", "rel"],
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
    "embedding_size": 8,
    "kg_embedding_size": 8,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
}
# What a model needs beyond its family's settings: mostly sizes that fit a dataset of 29 items.
ON_LISTS = ("MultiDAE", "MultiVAE", "MacridVAE", "CDAE", "ENMF", "RecVAE", "RaCT", "DiffRec", "LDiffRec")
NEEDS = {
    **{name: {"train_neg_sample_args": None} for name in ON_LISTS},
    **{name: {"train_neg_sample_args": NEGATIVES} for name in ("FPMC", "TransRec")},
    **{name: {"selected_features": ["kind"]} for name in ("FDSA", "GRU4RecF", "SASRecF")},
    "GRU4RecKG": PRELOADED,
    "KSR": PRELOADED,
    **{name: {**SETTINGS["context_aware"], "train_neg_sample_args": NEGATIVES} for name in ("DIN", "DIEN")},
    "NCL": {"num_clusters": 4},
    "S3Rec": {"item_attribute": "kind"},
    "GRU4RecCPR": {"reranker_CAN_NUM": 5},
    "SASRecCPR": {"reranker_CAN_NUM": 5},
}
# These have their items in linear layers, which init_tables has to name.
NAMED = {
    "MultiDAE": {"item": ["encoder.mlp_layers.1.weight.T", "decoder.2.weight"]},
    "MultiVAE": {"item": ["encoder.0.weight.T", "decoder.2.weight"]},
    "RaCT": {"item": ["encoder.0.weight.T", "decoder.2.weight"]},
    "RecVAE": {"item": ["encoder.fc1.weight.T", "decoder.weight"]},
    "CDAE": {"user": ["h_user.weight"], "item": ["h_item.weight.T", "out_layer.weight"]},
    "DiffRec": {"item": ["mlp.mlp_layers.mlp_layers.1.weight.T", "mlp.mlp_layers.mlp_layers.4.weight"]},
    "LDiffRec": {"item": ["autoencoder.encoder.mlp_layers.1.weight.T", "autoencoder.decoder.mlp_layers.1.weight"]},
    "DMF": {"user": ["item_linear.weight.T"], "item": ["user_linear.weight.T"]},
}


def scatter_mean(src: torch.Tensor, index: torch.Tensor, dim: int, dim_size: int) -> torch.Tensor:
    """The mean of the rows with the same index, as torch_scatter's function of this name."""
    return torch.zeros(dim_size, src.shape[1]).index_reduce(dim, index, src, "mean", include_self=False)


def scatter_softmax(src: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    """The softmax over the rows with the same index, as torch_scatter's function of this name."""
    exponentials = src.exp()
    return exponentials / torch.zeros(int(index.max()) + 1, src.shape[1]).index_add(dim, index, exponentials)[index]


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Replace what is not installed: the trees' packages, to import a class, and torch-scatter for KGIN and MCCLK."""
    scatter = types.ModuleType("torch_scatter")
    scatter.scatter_mean, scatter.scatter_softmax = scatter_mean, scatter_softmax
    trees = types.SimpleNamespace(Booster=object)
    others = {"lightgbm": trees, "xgboost": trees, "torch_scatter": scatter}
    with mock.patch.dict(sys.modules, others):
        yield


def all_models() -> dict[str, tuple[str, type[AbstractRecommender]]]:
    """The family and class of each model, by its name."""
    with stand_ins():
        return {"SGCL": ("general", SGCL)} | {
            name: (family, model_class)
            for family in FAMILIES
            for path in sorted((Path(recbole.model.__path__[0]) / f"{family}_recommender").glob("[a-z]*.py"))
            for module in [importlib.import_module(f"recbole.model.{family}_recommender.{path.stem}")]
            for name, model_class in inspect.getmembers(module, inspect.isclass)
            if model_class.__module__ == module.__name__ and hasattr(model_class, "type") and name.lower() == path.stem
        }


MODELS = all_models()


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a short run of a model on the tiny dataset, with RecBole's default sizes."""
    return {
        "dataset": "tiny",
        "data_path": str(DATA),
        "epochs": 2,
        "train_batch_size": 64,
        "show_progress": False,
        **SETTINGS[MODELS[name][0]],
        **NEEDS.get(name, {}),
    }


def prepare(name: str, **settings: Any) -> tuple[Config, Any]:
    """The configuration of a model with `settings_of` and these settings, and its training data."""
    return load(name, {**settings_of(name), **settings})


def load(model: str | type, settings: dict[str, Any]) -> tuple[Config, Any]:
    """The configuration of a model with these settings alone, and its training data."""
    config = Config(model, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train_data, *_ = data_preparation(config, create_dataset(config))
    return config, train_data


def first_loss(model: Any, train_data: Any) -> torch.Tensor:
    """Return the loss of the first batch as the model's trainer computes it, after its gradients."""
    if hasattr(train_data, "set_mode"):
        train_data.set_mode(KGDataLoaderState.RSKG)
    model.train()
    if hasattr(model, "e_step"):
        model.e_step()
    batch = next(iter(train_data))
    if hasattr(model, "calculate_rs_loss"):
        loss = model.calculate_rs_loss(batch)
    elif isinstance(model, RecVAE):
        loss = model.calculate_loss(batch, encoder_flag=True)
    else:
        loss = model.calculate_loss(batch)
    loss = sum(loss) if isinstance(loss, tuple) else loss
    loss.backward()
    return loss.detach()
