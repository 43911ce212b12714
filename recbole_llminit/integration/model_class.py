"""The class that a model's name, dotted path or class stands for."""

from __future__ import annotations

import importlib
from typing import Any

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import reason
from recbole_llminit.initialization.model_exceptions import OPTIONAL_PACKAGES
from recbole_llminit.integration.model_support import list_models
from recbole_llminit.integration.recbole_version import check_recbole_version
from recbole_llminit.suggest import suggest

check_recbole_version()

# Bound here, before `register` replaces the name in recbole.utils.
from recbole.utils import get_model as get_stock_model  # noqa: E402  after the check that it is there

from recbole_llminit import models  # noqa: E402
from recbole_llminit.integration.patches import compat  # noqa: E402


def is_own_or_recboles(model_class: type) -> bool:
    """Whether a model class is RecBole's or this package's, so that all keys it reads are known."""
    return model_class.__module__.startswith(("recbole.", "recbole_llminit."))


def resolve_model_class(model: str | type) -> type:
    """Return the class that a model's name, dotted path or class stands for, and patch RecBole for it.

    Parameters
    ----------
    model : str or class
        The name of a model of RecBole's or of this package; ``package.module.Class``; or a class. Of a class that
        `with_llm_init` has made, the class it was made from is returned.

    Raises
    ------
    LLMInitError
        If there is no such model, or its module cannot be imported.
    """
    found: Any
    if isinstance(model, type):
        # A user's subclass of one of ours inherits the attribute, and is itself what the user wants.
        found = vars(model).get("stock_class", model)
    elif not isinstance(model, str):
        raise LLMInitError(f"the model is {model!r}, a {type(model).__name__}: expected a name, a class or its path")
    elif "." in model:
        found = _import_class(model)
    elif model in models.__all__:
        found = getattr(models, model)
    else:
        found = _find_stock_model(model)
    if not isinstance(found, type) or not hasattr(found, "type"):
        raise LLMInitError(
            f"the model {model!r} is {found!r}: expected a subclass of one of RecBole's, such as GeneralRecommender"
        )
    compat.patch_model(found)
    return found


def _import_class(path: str) -> Any:
    module_name, _, class_name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:
        # The module is the user's own and may raise anything.
        raise LLMInitError(
            f"the model {path!r} cannot be imported ({reason(error)}): expected package.module.Class on the Python path"
        ) from error


def _find_stock_model(name: str) -> Any:
    try:
        return get_stock_model(name)
    except (ImportError, ValueError, AttributeError) as error:
        # RecBole ends its search for any name with the models of optional packages; only for those does the import
        # error say what is missing.
        if name.lower() in OPTIONAL_PACKAGES and isinstance(error, ModuleNotFoundError):
            raise LLMInitError(f"RecBole's {name} cannot be imported: pip install {error.name}") from error
        names = [row.model for row in list_models()]
        raise LLMInitError(
            f"the model {name!r} is none of RecBole's{suggest(name, names, cutoff=0.7)} (a class of your own is "
            f"named with its module, as my_model.MyModel)"
        ) from error
