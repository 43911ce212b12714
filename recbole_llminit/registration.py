"""Existing scripts: RecBole's own ``get_model`` and ``load_data_and_model`` replaced by those of this package."""

from __future__ import annotations

import importlib
from logging import getLogger
from typing import Any

from recbole_llminit import quick_start
from recbole_llminit.model import get_model

# recbole.config is not among them: it keeps the stock class in the configuration, and so in the checkpoint.
_MODULES = ("recbole.utils", "recbole.utils.utils")
_MODULES_WITH_RAY = ("recbole.quick_start", "recbole.quick_start.quick_start")
_REPLACEMENTS = {"get_model": get_model, "load_data_and_model": quick_start.load_data_and_model}
_replaced: dict[tuple[str, str], Any] = {}


def register() -> None:
    """Let scripts written for RecBole honour ``init_strategy``, without any other change in them.

    ``get_model`` and ``load_data_and_model`` are replaced in ``recbole.utils`` and, where it can be imported, in
    ``recbole.quick_start``; so ``recbole.quick_start.run_recbole`` starts from the vectors as well. Call it at the top
    of the script: names that were imported from RecBole before stay RecBole's. A script that names a model's class
    itself, as in ``BPR(config, dataset)``, is not reached: there take ``get_model("BPR")``. Calling it again does
    nothing more.

    Notes
    -----
    ``recbole.quick_start`` imports ray, whose version pinned by RecBole fails on NumPy 2: then it is left out, and the
    log says so.
    """
    for path, module in _importable().items():
        for name, replacement in _REPLACEMENTS.items():
            if hasattr(module, name):
                _replaced.setdefault((path, name), getattr(module, name))
                setattr(module, name, replacement)


def unregister() -> None:
    """Undo `register`."""
    for (path, name), original in _replaced.items():
        setattr(importlib.import_module(path), name, original)
    _replaced.clear()


def _importable() -> dict[str, Any]:
    """Import all before the first is replaced: they import the names from each other."""
    modules = {path: importlib.import_module(path) for path in _MODULES}
    try:
        modules.update((path, importlib.import_module(path)) for path in _MODULES_WITH_RAY)
    except Exception as error:
        # ray fails in many ways: ImportError, AttributeError, ...
        getLogger().warning(
            f"recbole.quick_start cannot be imported ({type(error).__name__}: {error}), nor can the run_recbole of a "
            f"script: take recbole_llminit.run_recbole_llminit instead"
        )
    return modules
