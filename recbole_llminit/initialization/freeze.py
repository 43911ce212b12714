"""Frozen rows: rows of a table that training leaves as they are (``init_trainable: False``)."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from recbole_llminit.initialization.embedding_table import EmbeddingTable, view

# For each parameter the arguments of `view`, and the ids of the frozen rows in that view.
_frozen: Any = WeakIdKeyDictionary()
# For each optimizer that is in a step: the frozen rows as they were before it.
_before_step: Any = weakref.WeakKeyDictionary()


def freeze_rows_(table: EmbeddingTable, ids: Tensor) -> None:
    """Keep rows of a table as they are, bit for bit, whatever optimizer trains the table.

    The gradients of the rows are set to zero, so that they count neither in a clipped norm nor in a momentum. That is
    not enough, since weight decay moves a row without gradient: so the rows are also restored after each step of any
    torch optimizer in this process. Other writes are not undone, such as loading a checkpoint in place or ``max_norm``.

    Parameters
    ----------
    table : EmbeddingTable
        The table. It stays in the model's ``state_dict`` as it was, and its other rows stay trainable. A table that the
        model itself has frozen stays frozen.
    ids : Tensor of int64, shape [k]
        The users or items whose rows are frozen. They replace the rows that were frozen in this parameter before.
    """
    _freeze(table.weight, {"first": table.first, "rows": table.rows, "columns": table.columns, "ids": ids})


def frozen_rows(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the frozen rows of a model by parameter name, as numbers and tensors, which a checkpoint can hold."""
    return {name: dict(_frozen[weight]) for name, weight in model.named_parameters() if weight in _frozen}


def freeze_again_(model: nn.Module, frozen: Mapping[str, Mapping[str, Any]]) -> None:
    """Freeze in a model the rows that `frozen_rows` returned for another one."""
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
