"""The class that a model's name, dotted path or class stands for."""

from __future__ import annotations

import importlib
from typing import Any

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import reason
from recbole_llminit.integration import compat, distributed
from recbole_llminit.integration.model_support import list_models
from recbole_llminit.suggest import suggest

compat.apply()
distributed.apply()

from recbole.utils import get_model as get_stock_model  # noqa: E402  after the check that it is there

from recbole_llminit import models  # noqa: E402


def is_own_or_recboles(model_class: type) -> bool:
    """Whether a model class is RecBole's or this package's, so that all keys it reads are known."""
    return model_class.__module__.startswith(("recbole.", "recbole_llminit."))


def resolve_model_class(model: str | type) -> type:
    """Return the stock class of a RecBole model's name, a dotted path ``package.module.Class``, or a model class."""
    found: Any
    if not isinstance(model, str | type):
        raise LLMInitError(f"the model is {model!r}, a {type(model).__name__}: expected a name, a class or its path")
    if not isinstance(model, str):
        # A user's subclass of one of ours inherits the attribute, and is itself what the user wants.
        found = vars(model).get("stock_class", model)
    elif "." in model:
        module_name, _, class_name = model.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (Exception, SystemExit) as error:
            # The module is the user's own and may raise anything.
            raise LLMInitError(
                f"the model {model!r} cannot be imported ({reason(error)}): expected package.module.Class on the "
                f"Python path"
            ) from error
    elif model in models.__all__:
        found = getattr(models, model)
    else:
        try:
            found = get_stock_model(model)
        except (ImportError, ValueError, AttributeError) as error:
            # RecBole ends its search for a name in models of optional packages, whose import error says nothing of it.
            if model.lower() in ("lightgbm", "xgboost") and isinstance(error, ModuleNotFoundError):
                raise LLMInitError(f"RecBole's {model} cannot be imported: pip install {error.name}") from error
            names = [row.model for row in list_models()]
            raise LLMInitError(
                f"the model {model!r} is none of RecBole's{suggest(model, names, cutoff=0.7)} (a class of your own is "
                f"named with its module, as my_model.MyModel)"
            ) from error
    if not isinstance(found, type) or not hasattr(found, "type"):
        raise LLMInitError(
            f"the model {model!r} is {found!r}: expected a subclass of one of RecBole's, such as GeneralRecommender"
        )
    compat.patch_model(found)
    return found
