"""A whole run: stock without a strategy, initialized with one, and the same each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer import Trainer

from recbole_llminit import run_recbole_llminit
from recbole_llminit.initialization.report import InitReport
from tests import stock

RESULT_KEYS = ["best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"]


@pytest.fixture(scope="module")
def run_stock(
    tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """A function that trains a stock model of RecBole's by its name: once, whatever number of tests ask for it."""
    runs: dict[str, dict[str, Any]] = {}

    def run(model: str) -> dict[str, Any]:
        if model not in runs:
            folder = str(tmp_path_factory.mktemp("stock"))
            runs[model] = stock.run_stock(model, {**for_model(model, tiny_settings), "checkpoint_dir": folder})
        return runs[model]

    return run


def for_model(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with what the model needs besides them."""
    return {**settings, "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 12} if model == "SASRec" else settings


@pytest.mark.parametrize("strategy", [{}, {"init_strategy": "none"}], ids=["absent", "none"])
@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF", "SASRec"])
def test_without_a_strategy_the_run_is_stock(
    model: str,
    strategy: dict[str, str],
    tiny: dict[str, Any],
    run_stock: Callable[[str], dict[str, Any]],
    trainers: list[Trainer],
) -> None:
    expected = run_stock(model)
    trainers.clear()
    found = run_recbole_llminit(model, config_dict={**for_model(model, tiny), **strategy})
    assert trainers[0].train_loss_dict == expected["losses"]
    assert len(expected["losses"]) == 3
    assert {key: found[key] for key in RESULT_KEYS[2:]} == {key: expected[key] for key in RESULT_KEYS[2:]}
    assert found["best_valid_score"] == expected["best_valid_score"]
    assert found["init_report"] is None
    assert not list(Path(tiny["checkpoint_dir"]).glob("*.json"))
    ours, theirs = (
        torch.load(trainer.saved_model_file, weights_only=False) for trainer in (trainers[0], expected["trainer"])
    )
    assert list(ours) == list(theirs)
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    assert all(torch.equal(value, theirs["state_dict"][name]) for name, value in ours["state_dict"].items())
    assert type(ours["config"]) is type(theirs["config"])


def test_the_initialized_model_is_trained_and_reported(llm: dict[str, Any], trainers: list[Trainer]) -> None:
    result = run_recbole_llminit("LightGCN", config_dict=llm)
    assert list(result) == [*RESULT_KEYS, "init_report"]
    assert isinstance(result["init_report"], InitReport)
    assert list(trainers[0].train_loss_dict) == [0, 1, 2]
    saved = json.loads(Path(trainers[0].saved_model_file).with_suffix(".json").read_text())
    assert saved == result["init_report"].to_dict()
    assert saved["strategy"] == "Variance(popular_ratio=0.2)"
    assert (saved["items"], saved["items_with_vector"], saved["users"], saved["users_with_items"]) == (29, 29, 40, 40)
    assert len(saved["reductions"]["16"]["dimensions"]) == 16
    assert len(saved["fingerprint"]) == 16
    assert all(type(value) is float for value in result["test_result"].values())


def test_the_same_run_twice_is_the_same(llm: dict[str, Any], trainers: list[Trainer]) -> None:
    first, second = (run_recbole_llminit("BPR", config_dict=llm, saved=False) for _ in range(2))
    assert first["test_result"] == second["test_result"]
    assert first["init_report"].reductions == second["init_report"].reductions
    assert trainers[0].train_loss_dict == trainers[1].train_loss_dict
