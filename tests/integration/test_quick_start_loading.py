"""The checkpoint of a run: loaded without its vectors, without a GPU, and by stock RecBole without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer
from recbole.utils import get_trainer

from recbole_llminit import load_data_and_model, run_recbole_llminit


@dataclass(frozen=True)
class SavedRun:
    """The checkpoint of a run, and what the run returned."""

    path: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def saved_runs(
    llm_settings: dict[str, Any], tiny_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SavedRun]:
    """LightGCN and SASRec, initialized from a store that is gone afterwards; no test changes the checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    store = folder / "moved"
    store.symlink_to(tiny_store)
    runs = {}
    for model, more in (("LightGCN", {}), ("SASRec", {"train_neg_sample_args": None, "epochs": 1})):
        settings = {**llm_settings, **more, "llm_embedding": str(store), "checkpoint_dir": str(folder / model)}
        result = run_recbole_llminit(model, config_dict=settings)
        (path,) = (folder / model).glob("*.pth")
        runs[model] = SavedRun(path, result)
    store.unlink()
    return runs


@pytest.fixture(scope="module")
def read_by_stock(saved_runs: dict[str, SavedRun], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that cannot import this package makes of these checkpoints, by model."""
    script = Path(__file__).parents[1] / "stock_reads_checkpoint.py"
    ran = subprocess.run(
        [sys.executable, str(script), *(str(run.path) for run in saved_runs.values())],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(zip(saved_runs, map(json.loads, ran.stdout.splitlines()[-len(saved_runs) :]), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["LightGCN", "SASRec"])
def test_a_checkpoint_opens_without_the_package(
    model: str, saved_runs: dict[str, SavedRun], read_by_stock: dict[str, Any]
) -> None:
    read = read_by_stock[model]
    assert read["result"] == saved_runs[model].result["test_result"]
    assert read["modules"][0] == "recbole.config.configurator"
    assert read["modules"][1] == f"recbole.model.{read['modules'][1].split('.')[2]}.{model.lower()}"


def test_load_data_and_model_needs_no_store(saved_runs: dict[str, SavedRun]) -> None:
    run = saved_runs["LightGCN"]
    config, model, dataset, train_data, _, test_data = load_data_and_model(run.path)
    assert not Path(config["llm_embedding"]).exists()
    assert (config["model"], dataset.user_num) == ("LightGCN", 41)
    assert len(train_data._dataset.inter_feat) > 0
    saved = torch.load(run.path, weights_only=False)["other_parameter"]
    assert torch.equal(model.restore_item_e, saved["restore_item_e"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert trainer.evaluate(test_data, load_best_model=False) == run.result["test_result"]


class Own(BPR):
    """A user's own model."""


def test_a_checkpoint_of_ones_own_model_is_loaded(llm: dict[str, Any], trainers: list[Trainer]) -> None:
    run_recbole_llminit(Own, config_dict={**llm, "epochs": 1})
    config, model, *_ = load_data_and_model(trainers[0].saved_model_file)
    assert config["model"] == "Own"
    assert isinstance(model, Own)
    assert torch.equal(model.item_embedding.weight, trainers[0].model.item_embedding.weight)


def test_a_checkpoint_of_a_gpu_opens_on_the_cpu(frozen_checkpoint: Path) -> None:
    checkpoint = torch.load(frozen_checkpoint, weights_only=False)
    checkpoint["config"]["device"] = torch.device("cuda")
    torch.save(checkpoint, frozen_checkpoint)
    config, model, *_ = load_data_and_model(frozen_checkpoint)
    assert config["device"] == model.item_embedding.weight.device == torch.device("cpu")


def test_a_loaded_model_is_still_frozen(frozen_run: Path) -> None:
    _, model, _, train_data, *_ = load_data_and_model(frozen_run)
    items, users = (table.weight.detach().clone() for table in (model.item_embedding, model.user_embedding))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.calculate_loss(next(iter(train_data))).backward()
    optimizer.step()
    assert torch.equal(model.item_embedding.weight[1:], items[1:])
    assert not torch.equal(model.user_embedding.weight, users)
