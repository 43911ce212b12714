"""Stock RecBole, driven as its ``run_recbole`` does (without ``get_flops``); imports nothing of the package.

As a script, ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python tests/stock.py`` prints what ``tests/data/reference.json``
holds. The committed file was made on NumPy 1.26.4, pandas 2.2.3 and SciPy 1.11.4, where RecBole 1.2.1 needs no
patch, only that environment variable.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

DATA = Path(__file__).parent / "data"


def stock_config(model: str, config_dict: Mapping[str, Any]) -> Any:
    """RecBole's own configuration, which would read this process's arguments."""
    from recbole.config import Config

    with mock.patch.object(sys, "argv", ["stock"]):
        return Config(model=model, config_dict=dict(config_dict))


def run_stock(model: str, config_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Train and test; return the trainer, per-epoch losses, and results."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = stock_config(model, config_dict)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    net = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, net)
    best_score, best_result = trainer.fit(train_data, valid_data, saved=True, show_progress=False, verbose=False)
    test_result = trainer.evaluate(test_data, load_best_model=True, show_progress=False)
    return {
        "trainer": trainer,
        "losses": dict(trainer.train_loss_dict),
        "best_valid_score": best_score,
        "best_valid_result": best_result,
        "test_result": test_result,
        "dataset": dataset,
        "splits": (train_data._dataset, valid_data._dataset, test_data._dataset),
    }


def _digest(values: Iterable[Any]) -> str:
    return hashlib.sha256("\n".join(str(value) for value in values).encode()).hexdigest()


def measure_ml100k(model: str, folder: str | Path) -> dict[str, Any]:
    """Statistics, id maps, splits and metrics of one epoch on ml-100k."""
    found = run_stock(model, {"dataset": "ml-100k", "epochs": 1, "checkpoint_dir": str(folder)})
    dataset = found["dataset"]
    return {
        "n_users": int(dataset.user_num),
        "n_items": int(dataset.item_num),
        "n_interactions": int(dataset.inter_num),
        "user_tokens": _digest(dataset.field2id_token["user_id"]),
        "item_tokens": _digest(dataset.field2id_token["item_id"]),
        "splits": [
            _digest(zip(split.inter_feat["user_id"].tolist(), split.inter_feat["item_id"].tolist(), strict=True))
            for split in found["splits"]
        ],
        "split_sizes": [len(split.inter_feat) for split in found["splits"]],
        "test_result": {name: float(value) for name, value in found["test_result"].items()},
    }


TINY: dict[str, dict[str, Any]] = {
    "ratings": {},
    "labels": {"threshold": {"rating": 3}},
    "features": {"load_col": {"inter": ["user_id", "item_id"], "user": "*", "item": "*"}},
    "normalized": {
        "load_col": {"inter": ["user_id", "item_id", "rating"], "item": "*"},
        "normalize_all": True,
    },
}


def measure_tiny(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every feature of the tiny dataset, which has missing values of all kinds, as RecBole loads it."""
    from recbole.data import create_dataset

    load = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
    config = stock_config("BPR", {"dataset": "tiny", "data_path": str(DATA), **load, **settings})
    dataset = create_dataset(config)
    dataset._change_feat_format()
    features = {}
    for name in dataset.feat_name_list:
        for field, values in getattr(dataset, name).interaction.items():
            features[f"{name}.{field}"] = [
                str(values.dtype),
                _digest(values.double().round(decimals=5).tolist()),
            ]
    return {
        "tokens": {field: _digest(tokens) for field, tokens in dataset.field2id_token.items()},
        "features": features,
    }


if __name__ == "__main__":
    import numpy as np
    import pandas as pd
    import scipy

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        reference = {
            "versions": {"numpy": np.__version__, "pandas": pd.__version__, "scipy": scipy.__version__},
            "ml-100k": {model: measure_ml100k(model, scratch) for model in ("BPR", "LightGCN")},
            "tiny": {name: measure_tiny(settings) for name, settings in TINY.items()},
        }
    print(json.dumps(reference, indent=1))
