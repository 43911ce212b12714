"""The evaluation of a model before its training, which leaves the training as it is."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer import Trainer

from recbole_llminit import run_recbole_llminit
from tests.messages import logged

LISTS: dict[str, Any] = {"train_neg_sample_args": None}
SEQUENTIAL: dict[str, Any] = {**LISTS, "MAX_ITEM_LIST_LENGTH": 12}
# Sampled negatives of a validation, and its workers, draw random numbers.
SAMPLED: dict[str, Any] = {"eval_args": {"mode": {"valid": "uni5", "test": "full"}}}
WORKERS: dict[str, Any] = {**SAMPLED, "worker": 1}


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    saved: dict[str, torch.Tensor] = torch.load(trainer.saved_model_file, weights_only=False)["state_dict"]
    return saved


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("BPR", {}),
        ("BPR", SAMPLED),
        ("BPR", WORKERS),
        ("LightGCN", {}),
        ("SASRec", SEQUENTIAL),
        ("MultiVAE", LISTS),
        ("EASE", {}),
    ],
    ids=["BPR", "BPR-sampled", "BPR-workers", "LightGCN", "SASRec", "MultiVAE", "EASE"],
)
def test_the_training_is_the_same_with_it(
    model: str, settings: dict[str, Any], tiny: dict[str, Any], trainers: list[Trainer]
) -> None:
    without, found = (
        run_recbole_llminit(model, config_dict={**tiny, **settings}, untrained=untrained) for untrained in (False, True)
    )
    measured = {key: found.pop(key) for key in list(found) if key.startswith("untrained")}
    assert found == without
    first, second = trainers
    assert first.train_loss_dict == second.train_loss_dict
    assert tensors(first).keys() == tensors(second).keys()
    assert all(torch.equal(value, tensors(second)[name]) for name, value in tensors(first).items())
    assert bool(measured) == (model != "EASE")


def test_it_is_what_recbole_says_of_the_initialized_model(llm: dict[str, Any]) -> None:
    """With a learning rate that moves no number in single precision the trained model is the initialized one."""
    result = run_recbole_llminit("LightGCN", config_dict={**llm, "learning_rate": 1e-30}, untrained=True)
    assert result["untrained_valid_score"] == result["best_valid_score"] > 0
    assert result["untrained_test_result"] == result["test_result"]
    assert list(result["untrained_test_result"]) == list(result["test_result"])
    assert 0 < result["untrained_seconds"] < 60


def test_a_model_that_gives_no_scores_before_its_training_is_trained_all_the_same(
    tiny: dict[str, Any], trainers: list[Trainer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its evaluation fails after some batches, of which nothing may be left."""
    settings = {**tiny, "eval_batch_size": 30}
    expected = run_recbole_llminit("BPR", config_dict=settings)
    evaluate, calls = Trainer._full_sort_batch_eval, itertools.count()

    def fail_once(self: Trainer, batch: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("no centers yet")
        return evaluate(self, batch)

    monkeypatch.setattr(Trainer, "_full_sort_batch_eval", fail_once)
    with caplog.at_level("WARNING"):
        found = run_recbole_llminit("BPR", config_dict=settings, untrained=True)
    assert logged(caplog, "BPR", "before its training", "no centers yet")
    assert found == expected and trainers[0].train_loss_dict == trainers[1].train_loss_dict


@pytest.mark.parametrize("model", ["EASE", "Pop", "ItemKNN"])
def test_a_model_that_is_not_trained_by_gradients_is_not_measured(model: str, tiny: dict[str, Any]) -> None:
    result = run_recbole_llminit(model, config_dict=tiny, untrained=True)
    assert not [key for key in result if key.startswith("untrained")]


def test_a_resumed_model_is_not_untrained(llm: dict[str, Any], trainers: list[Trainer]) -> None:
    run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1})
    checkpoint = Path(trainers[0].saved_model_file)
    result = run_recbole_llminit("BPR", config_dict=llm, resume=checkpoint, untrained=True)
    assert not [key for key in result if key.startswith("untrained")]
