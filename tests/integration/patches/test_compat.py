"""RecBole 1.2.1 on today's stack: with the patches it does what it did on its own, and without each of them it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy
import torch

from recbole_llminit.integration.patches import compat
from tests import stock
from tests.fresh_process import Outcome, run_each

REFERENCE = json.loads((stock.DATA / "reference.json").read_text())
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3
SCIPY_1_13 = tuple(int(part) for part in scipy.__version__.split(".")[:2]) >= (1, 13)
TORCH_2_6 = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_ml100k_is_as_on_the_stack_recbole_was_written_for(model: str, tmp_path: Path) -> None:
    expected = dict(REFERENCE["ml-100k"][model])
    found = stock.measure_ml100k(model, tmp_path)
    assert found.pop("test_result") == pytest.approx(expected.pop("test_result"), abs=5e-4)
    assert found == expected
    assert (found["n_users"], found["n_items"], found["split_sizes"]) == (944, 1683, [80808, 9596, 9596])


@pytest.mark.parametrize("case", stock.TINY)
def test_missing_values_are_filled_as_on_that_stack(case: str) -> None:
    assert stock.measure_tiny(stock.TINY[case]) == REFERENCE["tiny"][case]


def test_missing_values_literally() -> None:
    from recbole.data import create_dataset

    config = stock.stock_config("BPR", {"dataset": "tiny", "data_path": str(stock.DATA), **stock.TINY["features"]})
    dataset = create_dataset(config)
    ages = [float(line.split("\t")[1]) for line in (stock.DATA / "tiny/tiny.user").read_text().splitlines()[1:]
            if line.split("\t")[1]]  # fmt: skip
    users = dataset.user_feat.set_index("user_id")
    unknown_age = dataset.token2id("user_id", "u07")
    assert users.loc[unknown_age, "age"] == pytest.approx(np.mean(ages))
    assert users.loc[dataset.token2id("user_id", "u09"), "city"] == 0
    items = dataset.item_feat.set_index("item_id")
    assert items.loc[dataset.token2id("item_id", "B005"), "title"].tolist() == []
    assert len(items.loc[dataset.token2id("item_id", "B001"), "title"]) == 3
    assert not dataset.user_feat.isna().any().any()
    assert not dataset.item_feat.isna().any().any()


def test_presplit_sequences_keep_their_lengths(presplit: dict[str, Any]) -> None:
    """`lengths_per_row` in ``SequentialDataset._benchmark_presets``."""
    from recbole.data import create_dataset

    config = stock.stock_config("GRU4Rec", presplit)
    train, valid, test = create_dataset(config).build()
    assert [split.inter_feat["item_length"].tolist() for split in (train, valid, test)] == [[2, 1], [3], [1]]


def test_dok_update_fills_the_matrix() -> None:
    matrix = scipy.sparse.dok_matrix((2, 2), dtype=np.float32)
    matrix._update({(0, 1): 3.0})
    assert matrix.toarray().tolist() == [[0, 3], [0, 0]]


def test_whole_checkpoints_are_loaded_in_recbole_only(tmp_path: Path) -> None:
    from recbole.trainer import trainer

    trainer.torch.save({"config": {1, 2}, "weights": torch.ones(2)}, tmp_path / "c.pth", pickle_protocol=4)
    assert trainer.torch.load(tmp_path / "c.pth")["config"] == {1, 2}
    assert trainer.torch.isnan is torch.isnan
    assert torch.load is not trainer.torch.load


def test_numpy_names_exist() -> None:
    assert (np.float_, np.complex_, np.unicode_) == (np.float64, np.complex128, np.str_)
    assert (np.float, np.bool, np.str) == (np.float64, np.bool_, np.str_)


def test_applying_again_changes_nothing() -> None:
    from recbole.config import Config
    from recbole.data.dataset import Dataset

    def patched() -> tuple[Any, ...]:
        return Dataset._fill_nan, Config._init_device, sys.modules["recbole.trainer.trainer"].torch

    before = patched()
    compat.apply()
    assert before == patched()


def test_weight_decay_reaches_the_optimizer_beside_a_list_of_regularizations(tmp_path: Path) -> None:
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    settings = {"dataset": "tiny", "data_path": str(stock.DATA), "load_col": columns, "checkpoint_dir": str(tmp_path)}
    trained = stock.run_stock("HGN", {**settings, "loss_type": "BPR", "epochs": 1, "weight_decay": 0.1})["trainer"]
    assert trained.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert trained.config["reg_weight"] == [0.0, 0.0]


def test_the_memory_of_a_cpu_is_not_asked_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.utils import utils

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    table = utils.get_environment({"device": torch.device("cpu"), "use_gpu": True}).draw()
    assert "0.0 / 0.0" in table


# Every case below runs in a fork of one process, in which everything is imported, and nothing is called yet.
PRELOAD = """
import importlib, sys, warnings
import numpy, scipy.sparse, torch
import recbole.config, recbole.data.dataset, recbole.data.dataloader, recbole.trainer.trainer, recbole.utils
from recbole.config import Config

def attributes():
    module = recbole.trainer.trainer
    return {
        "numpy": vars(numpy).get("float_"), "filters": len(warnings.filters),
        "scipy": vars(scipy.sparse.dok_matrix).get("_update"),
        "config": Config._init_device, "dataset": recbole.data.dataset.Dataset._fill_nan,
        "loader": recbole.data.dataloader.FullSortEvalDataLoader.__init__, "trainer": module.Trainer.evaluate,
        "torch": module.torch, "usage": module.get_gpu_usage, "folder": recbole.utils.ensure_dir,
        "pandas": recbole.data.dataset.dataset.pd, "len": vars(recbole.data.dataset.dataset).get("len"),
    }

before = attributes()
import recbole_llminit.integration.config, recbole_llminit.integration.quick_start
import recbole_llminit.integration.registration, recbole_llminit.inspection, recbole_llminit.compare.comparison
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.patches import compat
from tests import stock
after_import = attributes()

tiny = {"dataset": "tiny", "data_path": str(stock.DATA), "load_col": {"inter": ["user_id", "item_id"]}, "epochs": 1}
titles = {"inter": ["user_id", "item_id"], "item": ["item_id", "title"]}
times = {"inter": ["user_id", "item_id", "timestamp"]}
knowledge = {"inter": ["user_id", "item_id"], "link": ["item_id", "entity_id"], "kg": ["head_id", "relation_id", "tail_id"]}

def train(model, **settings):
    return stock.run_stock(model, {**tiny, **settings})

def build(model, **settings):
    return train(model, **settings, eval_args={"mode": "full"})["splits"][0]
"""
# By the patch that is left out: what then fails, how, and on which versions.
FAILURES: Mapping[str, tuple[str, str, bool]] = {
    "restore_numpy_aliases": ("Config('BPR', 'ml-100k')", "np.float_` was removed", NUMPY_2),
    "restore_dok_update": ("build('LightGCN')", "has no attribute '_update'", SCIPY_1_13),
    "save_and_load_checkpoints_safely": ("train('BPR')", "Weights only load failed", TORCH_2_6),
    "lengths_per_row": ("build('BPR', load_col=titles)", "does not match length of index", PANDAS_3),
    "fill_missing_sequences": (
        "build('BPR', load_col=titles)", "'float' object has no attribute 'split'", PANDAS_3
    ),
    "fill_missing_values": (
        "data = build('BPR', load_col={'inter': ['user_id', 'item_id', 'rating']})\n"
        "assert not data.inter_feat['rating'].isnan().any(), 'ratings are NaN'",
        "ratings are NaN", PANDAS_3,
    ),
    "accept_former_dgl_arguments": (
        "build('KGAT', load_col=knowledge)", "unexpected keyword argument 'preserve_nodes'", find_spec("dgl") is not None
    ),
    "decay_weights_beside_a_list_of_regularizations": (
        "train('HGN', loss_type='BPR', weight_decay=0.1, load_col=times)", "can't multiply sequence by non-int of type 'float'", True
    ),
    "import_quick_start": (
        "import recbole.quick_start", "has no attribute 'bool8'", NUMPY_2 and find_spec("ray") is not None
    ),
}  # fmt: skip
# A model's module that is imported after the patches were applied.
RESOLVED = {
    "name": "resolve_model_class('S3Rec')",
    "dotted path": "resolve_model_class('recbole.model.sequential_recommender.s3rec.S3Rec')",
    "class": "resolve_model_class(importlib.import_module('recbole.model.sequential_recommender').S3Rec)",
}
ENTRIES = {
    "Config": "recbole_llminit.Config('BPR', 'ml-100k')",
    "resolve_model_class": "from recbole_llminit.integration.model_class import resolve_model_class\nresolve_model_class('BPR')",
    "get_model": "recbole_llminit.get_model('BPR')",
    "with_llm_init": "from recbole.model.general_recommender import BPR\nrecbole_llminit.with_llm_init(BPR)",
    "read_checkpoint": "from recbole_llminit.integration.checkpoints.reader import read_checkpoint\nread_checkpoint('none.pth')",
    "load_data_and_model": "recbole_llminit.load_data_and_model('none.pth')",
    "objective_function": "recbole_llminit.objective_function({'model': 'BPR', 'dataset': 'none'})",
    "run_recbole_llminit": "recbole_llminit.run_recbole_llminit('BPR', 'none')",
    "register": "recbole_llminit.register()",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What the cases do, by their names."""
    without = {
        patch: f"setattr(compat, {patch!r}, lambda: None)\ncompat.apply()\n{code}"
        for patch, (code, _, broken) in FAILURES.items()
        if broken
    }
    resolved = {
        how: f"""
compat.apply()
assert "recbole.model.sequential_recommender.s3rec" not in sys.modules
from recbole_llminit.integration.model_class import resolve_model_class
module = sys.modules[{code}.__module__]
torch.save({{"config": {{1, 2}}}}, "c.pth")
assert module.torch.load("c.pth") == {{"config": {{1, 2}}}}
"""
        for how, code in RESOLVED.items()
    }
    entered = {
        entry: f"""
try:
    exec({code!r})
except LLMInitError as error:
    print(error)
now = attributes()
unchanged = {{name for name in now if now[name] is before[name]}} - {{"numpy", "scipy", "filters"}}
assert not unchanged, unchanged
"""
        for entry, code in ENTRIES.items()
    }
    imported = {"import": "assert after_import == before, (before, after_import)"}
    return run_each({**without, **resolved, **entered, **imported}, preload=PRELOAD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "message"),
    [
        pytest.param(patch, message, marks=pytest.mark.skipif(not broken, reason="RecBole needs no patch here"))
        for patch, (_, message, broken) in FAILURES.items()
    ],
)
def test_the_bug_without_its_patch(patch: str, message: str, outcomes: dict[str, Outcome]) -> None:
    assert message in outcomes[patch].error


@pytest.mark.slow
@pytest.mark.parametrize("how", RESOLVED)
def test_pretrained_weights_of_a_model_are_loaded(how: str, outcomes: dict[str, Outcome]) -> None:
    """``s3rec.py:120``: the module is imported after the patches were applied."""
    assert outcomes[how].error == ""


@pytest.mark.slow
def test_an_import_patches_nothing(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["import"].error == ""


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_call_patches(entry: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[entry].error == ""
