"""Existing scripts: RecBole's own ``get_model`` and ``load_data_and_model`` replaced by those of this package."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from recbole.trainer.trainer import AbstractTrainer

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration import compat, quick_start
from recbole_llminit.integration.model import LLMInitMixin, get_model
from recbole_llminit.settings import is_none

# recbole.config is not among them: it keeps the stock class in the configuration, and so in the checkpoint.
_MODULES = ("recbole.utils", "recbole.utils.utils", "recbole.quick_start", "recbole.quick_start.quick_start")
_REPLACEMENTS = {"get_model": get_model, "load_data_and_model": quick_start.load_data_and_model}
_replaced: list[tuple[Any, str, Any]] = []


def register() -> None:
    """Let scripts written for RecBole honour ``init_strategy``, without any other change in them.

    ``get_model`` and ``load_data_and_model`` are replaced in ``recbole.utils`` and ``recbole.quick_start``; so
    ``recbole.quick_start.run_recbole`` starts from the vectors as well. Call it at the top of the script. Names that
    were imported from RecBole before stay RecBole's, and a script that names a model's class itself, as in
    ``BPR(config, dataset)``, is not reached: where ``init_strategy`` is set, RecBole's trainer then raises
    `LLMInitError` instead of training the stock model. Calling it again does nothing more.
    """
    if _replaced:
        return
    compat.import_quick_start()
    # All are imported before the first is replaced: they import the names from each other.
    modules = [importlib.import_module(path) for path in _MODULES]
    for module in modules:
        for name, replacement in _REPLACEMENTS.items():
            if hasattr(module, name):
                _replace(module, name, replacement)
    _replace(AbstractTrainer, "__init__", _refusing_stock_models(AbstractTrainer.__init__))


def unregister() -> None:
    """Undo `register`."""
    while _replaced:
        owner, name, original = _replaced.pop()
        setattr(owner, name, original)


def _replace(owner: Any, name: str, replacement: Any) -> None:
    _replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, replacement)


def _refusing_stock_models(construct: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(construct)
    def refusing(self: Any, config: Any, model: Any) -> None:
        if not is_none(config["init_strategy"]) and not isinstance(model, LLMInitMixin):
            name = type(model).__name__
            raise LLMInitError(
                f"init_strategy is {config['init_strategy']}, but the script made RecBole's own {name}: call "
                f"recbole_llminit.register() before get_model is imported from RecBole, or make the model by "
                f"recbole_llminit.get_model({name!r})"
            )
        construct(self, config, model)

    return refusing
