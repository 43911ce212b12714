"""Resuming the training of a checkpoint: what is refused, and RecBole's own resume."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import ModelType
from recbole.utils.argument_list import dataset_arguments

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader
from recbole_llminit.initialization.freeze import frozen_rows
from recbole_llminit.initialization.model_exceptions import NOT_RESUMABLE
from recbole_llminit.integration.checkpoints.reader import read_checkpoint

_logger = getLogger(__name__)

_SAME_TO_RESUME = (
    (
        # What decides which interactions are trained on, and the ids.
        ("model", "dataset", "seed", "eval_args", "drop_train", *dataset_arguments, "kg_reverse_r",
         "entity_kg_num_interval", "relation_kg_num_interval"),
        "resume the same model on the same data and split, else it is tested on what it was trained on",
    ),
    (
        ("valid_metric", "learner", "learning_rate", "weight_decay"),
        "RecBole goes on with the checkpoint's best score and optimizer, so resume with the same",
    ),
)  # fmt: skip


def check_resume(config: Any, path: Path, *, saved: bool, trainable: bool) -> None:
    """Raise `LLMInitError` for a checkpoint that this run cannot resume; warn of what the run does not use.

    Parameters
    ----------
    config : recbole.config.Config
        The run's configuration.
    path : Path
        The checkpoint.
    saved : bool
        Whether the run saves checkpoints: training goes on in the checkpoint's file.
    trainable : bool
        The run's ``init_trainable``.
    """
    checkpoint = read_checkpoint(path)
    _check_content(checkpoint, path)
    theirs = checkpoint["config"]
    _check_same(theirs, config, path)
    if config["MODEL_TYPE"] in (ModelType.TRADITIONAL, ModelType.DECISIONTREE):
        raise LLMInitError(f"{config['model']} is not trained in epochs: there is nothing to resume")
    if config["model"] in NOT_RESUMABLE:
        raise LLMInitError(f"RecBole cannot resume {config['model']}: {NOT_RESUMABLE[config['model']]}")
    if config["epochs"] <= checkpoint["epoch"] + 1:
        raise LLMInitError(
            f"{path} is of epoch {checkpoint['epoch'] + 1}, the best of its run, and epochs is {config['epochs']}: "
            f"nothing is left to train, set more epochs"
        )
    if not saved:
        raise LLMInitError("resume needs saved=True: training goes on in the checkpoint's file")
    if theirs["init_strategy"] != config["init_strategy"]:
        _logger.warning(
            f"{path} was initialized with init_strategy: {theirs['init_strategy']}; the {config['init_strategy']} of "
            f"this run is not used"
        )
    if not trainable and "frozen_rows" not in (checkpoint.get("other_parameter") or {}):
        raise LLMInitError(f"init_trainable is False, but {path} was trained without it and has no frozen rows")


def resume_(trainer: Any, path: str | Path) -> None:
    """Load a checkpoint into a trainer by RecBole's ``Trainer.resume_checkpoint``, and say where training goes on."""
    with foreign_reader(path, "a checkpoint of the model of this configuration"):
        trainer.resume_checkpoint(path)
    frozen = sum(len(rows["ids"]) for rows in frozen_rows(trainer.model).values())
    _logger.info(
        f"Nothing is written from vectors: training goes on after epoch {trainer.start_epoch}, the best of the run "
        f"that saved {path}" + (f"; {frozen:,} frozen rows stay so" if frozen else "")
    )


def _check_content(checkpoint: dict[str, Any], path: Path) -> None:
    """Raise where a checkpoint lacks what training goes on with."""
    lacking = {"optimizer", "cur_step", "best_valid_score"} - checkpoint.keys()
    if lacking:
        raise LLMInitError(f"{path} has no {' and no '.join(sorted(lacking))}: there is nothing to go on with")
    for key, kind in (("epoch", int), ("cur_step", int), ("best_valid_score", int | float)):
        if not isinstance(checkpoint[key], kind) or (kind is int and checkpoint[key] < 0):
            raise LLMInitError(
                f"{path} has {checkpoint[key]!r} as its {key}: expected a number, take another checkpoint"
            )


def _check_same(theirs: Any, config: Any, path: Path) -> None:
    """Raise where the checkpoint's run had other data, another split, metric or optimizer."""
    for keys, why in _SAME_TO_RESUME:
        for key in keys:
            if _normalized(theirs[key]) != _normalized(config[key]):
                raise LLMInitError(
                    f"{path} was trained with {key}: {theirs[key]}, and this run has {config[key]}: {why}"
                )
    if theirs["data_path"] != config["data_path"]:
        _logger.warning(
            f"{path} was trained on {theirs['data_path']}, this run reads {config['data_path']}: if the files differ, "
            f"it is tested on what it was trained on"
        )


def _normalized(value: Any) -> Any:
    """Make values equal that RecBole reads alike: no columns in any spelling, a tuple or a list."""
    if isinstance(value, dict):
        return {key: _normalized(inner) for key, inner in value.items()} or None
    return (list(value) or None) if isinstance(value, list | tuple) else value
