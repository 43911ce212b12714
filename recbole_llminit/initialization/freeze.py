"""Rows of a table that training leaves as they are."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from recbole_llminit.initialization.tables import EmbeddingTable, view

# By parameter: the arguments of `view`, and the ids within it.
_frozen: Any = WeakIdKeyDictionary()
# What stood in the frozen rows before the step that an optimizer is in.
_before_step: Any = weakref.WeakKeyDictionary()


def freeze_rows_(table: EmbeddingTable, ids: Tensor) -> None:
    """Keep rows of a table bit for bit as they are, whatever optimizer trains it.

    Their gradients are zeroed, so that they count neither in a clipped norm nor in a momentum; and because that is not
    enough (weight decay moves a row without gradient), they are put back after each step of any torch optimizer in
    this process. Other writes, such as loading a checkpoint in place or a ``max_norm``, are free.

    Parameters
    ----------
    table : EmbeddingTable
        Stays in the model's ``state_dict`` as it was, and trainable for its other rows. A table that the model itself
        has frozen stays so.
    ids : Tensor of int64, shape [k]
        The users or items whose rows are frozen; they replace those frozen in this parameter before.
    """
    _freeze(table.weight, {"first": table.first, "rows": table.rows, "columns": table.columns, "ids": ids})


def frozen_rows(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what is frozen in a model, by parameter name, in numbers and tensors alone."""
    return {name: dict(_frozen[weight]) for name, weight in model.named_parameters() if weight in _frozen}


def freeze_again_(model: nn.Module, frozen: Mapping[str, Mapping[str, Any]]) -> None:
    """Freeze in a model what `frozen_rows` returned of another one."""
    parameters = dict(model.named_parameters())
    for name, rows in frozen.items():
        _freeze(parameters[name], rows)


def _freeze(weight: nn.Parameter, rows: Mapping[str, Any]) -> None:
    _hook_optimizers()
    if weight in _frozen:
        _frozen[weight].update(rows)
        return
    _frozen[weight] = dict(rows)
    if weight.requires_grad:
        # The hook holds no weight, which would hold the hook: such a circle through torch is never freed.
        weight.register_hook(functools.partial(_zero, _frozen[weight]))  # type: ignore[no-untyped-call]


@functools.cache
def _hook_optimizers() -> None:
    register_optimizer_step_pre_hook(_remember)
    register_optimizer_step_post_hook(_put_back)


def _rows(matrix: Tensor, frozen: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return a view of a weight or its gradient, and the frozen ids within it."""
    frozen["ids"] = frozen["ids"].to(matrix.device)
    return view(matrix, frozen["first"], frozen["rows"], columns=frozen["columns"]), frozen["ids"]


def _zero(frozen: dict[str, Any], gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        return gradient
    gradient = gradient.clone()
    rows, ids = _rows(gradient, frozen)
    rows.index_fill_(0, ids, 0)
    return gradient


def _remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight in _frozen]
    found = [(weight, *_rows(weight, _frozen[weight])) for weight in weights]
    _before_step[optimizer] = [(weight, rows.index_select(0, ids)) for weight, rows, ids in found]


def _put_back(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for weight, before in _before_step.pop(optimizer, ()):
        rows, ids = _rows(weight, _frozen[weight])
        rows.index_copy_(0, ids, before)
