"""Existing scripts: RecBole's own ``get_model`` and ``load_data_and_model`` are replaced by those of this package."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.model import LLMInitMixin, get_model
from recbole_llminit.integration.patches import compat
from recbole_llminit.integration.patches.patching import Patches
from recbole_llminit.integration.quick_start import load_data_and_model
from recbole_llminit.settings import is_none

_QUICK_START = "recbole.quick_start"
# recbole.config is not among them: it keeps the stock class in the configuration, and so in the checkpoint.
_MODULES = ("recbole.utils", "recbole.utils.utils", _QUICK_START, f"{_QUICK_START}.quick_start")
_REPLACEMENTS = {"get_model": get_model, "load_data_and_model": load_data_and_model}

_patches = Patches()


def register() -> None:
    """Let scripts written for RecBole honor ``init_strategy``, without any other change in them.

    Call it at the top of the script; a second call changes nothing. `unregister` undoes it.

    Notes
    -----
    ``get_model`` and ``load_data_and_model`` are replaced in ``recbole.utils`` and ``recbole.quick_start``, so that
    ``recbole.quick_start.run_recbole`` initializes models as well. Names that were imported from RecBole before stay
    RecBole's, and a script that names a model's class itself, as in ``BPR(config, dataset)``, is not reached: where
    ``init_strategy`` is set, RecBole's trainer then raises `LLMInitError` instead of training the stock model.
    """
    compat.apply()
    import_quick_start()
    # All modules are imported before the first name is replaced: they import the names from each other.
    modules = [importlib.import_module(path) for path in _MODULES]
    for module in modules:
        for name, replacement in _REPLACEMENTS.items():
            if hasattr(module, name):
                _patches.replace(module, name, replacement)
    from recbole.trainer.trainer import AbstractTrainer

    _patches.wrap(AbstractTrainer, "__init__", _refusing_stock_models)


def unregister() -> None:
    """Undo `register`; where it was not called, nothing happens. The patches that RecBole needs to run stay."""
    _patches.undo()


def _refusing_stock_models(construct: Callable[..., None]) -> Callable[..., None]:
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


def import_quick_start() -> types.ModuleType:
    """Import ``recbole.quick_start`` also where ray is missing or broken.

    Where: ``recbole/quick_start/quick_start.py:19`` imports ``ray.tune``, which only a search with ray calls.
    Versions: RecBole pins ray <= 2.6.3: ``np.bool8`` fails on NumPy >= 2, ``pkg_resources`` on setuptools >= 81, and
    there is no wheel for Python >= 3.12. An empty module stands in for ray while ``recbole.quick_start`` is imported;
    a script that imports ray afterwards gets ray's own error.
    Until: RecBole imports ray where it calls it.
    """
    try:
        return importlib.import_module(_QUICK_START)
    except Exception:
        # A broken ray raises ImportError, AttributeError, ...
        stand_in: Any = types.ModuleType("ray")
        stand_in.tune = types.ModuleType("ray.tune")
        before = {
            key: sys.modules.pop(key) for key in list(sys.modules) if key == "ray" or key.startswith(_QUICK_START)
        }
        sys.modules["ray"] = stand_in
        try:
            return importlib.import_module(_QUICK_START)
        finally:
            del sys.modules["ray"]
            sys.modules.update({key: module for key, module in before.items() if key == "ray"})
