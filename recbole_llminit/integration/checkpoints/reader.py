"""RecBole's checkpoints, read with their configuration and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from recbole_llminit.encode.options import check_dataset_name
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.checkpoints.files import load
from recbole_llminit.integration.patches import compat
from recbole_llminit.vectors.tokens import examples

_TYPES = {"model": str, "dataset": str, "data_path": str, "seed": int, "device": torch.device, "topk": list}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of RecBole's trainer onto the CPU, with its configuration.

    Returns
    -------
    dict
        What the trainer saved: ``config``, ``state_dict``, ``epoch`` and others.

    Raises
    ------
    LLMInitError
        If there is none, it is damaged, it is no checkpoint of RecBole's trainer, or it holds a class that is neither
        RecBole's nor trusted (`recbole_llminit.integration.checkpoints.trust.trusting`).
    """
    # A configuration that is unpickled has no constructor that would patch RecBole.
    compat.apply()
    path = Path(path)
    checkpoint = load(path, "cpu")
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "epoch"} <= checkpoint.keys():
        raise LLMInitError(f"{path} is no checkpoint of RecBole's trainer: expected config, state_dict and epoch in it")
    _refuse_other_config(checkpoint["config"], path)
    _refuse_other_weights(checkpoint["state_dict"], path)
    return cast("dict[str, Any]", checkpoint)


def _refuse_other_config(config: Any, path: Path) -> None:
    """Raise where a checkpoint's configuration is not one that RecBole's trainer saves."""
    settings = vars(config).get("final_config_dict") if hasattr(config, "__dict__") else None
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), kind) for key, kind in _TYPES.items()):
        raise LLMInitError(f"{path} holds a {type(config).__name__} as its config: expected RecBole's configuration")
    if settings["model"] != getattr(vars(config).get("model_class"), "__name__", None):
        raise LLMInitError(
            f"{path} says that its model is {settings['model']}, but names another class: take another checkpoint"
        )
    check_dataset_name(settings["dataset"])


def _refuse_other_weights(weights: Any, path: Path) -> None:
    """Raise where a checkpoint's weights are not dense tensors of finite numbers."""
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise LLMInitError(f"{path} has no weights in its state_dict: expected tensors by name")
    other = [name for name, value in weights.items() if value.layout != torch.strided or value.is_meta]
    if other:
        raise LLMInitError(f"{path} has sparse weights or none in {examples(other)}: expected a dense tensor each")
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise LLMInitError(
            f"{path} has NaN or infinite numbers in {examples(broken)}: expected the weights of a trained model, take "
            f"another checkpoint"
        )
