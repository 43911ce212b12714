"""Start any RecBole recommender from LLM item embeddings with one config line."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_llminit.encode.options import EncodeOptions as EncodeOptions
    from recbole_llminit.encode.pipeline import encode_items as encode_items
    from recbole_llminit.errors import LLMInitError as LLMInitError
    from recbole_llminit.initialization.initializer import InitReport as InitReport
    from recbole_llminit.initialization.initializer import initialize_embeddings_ as initialize_embeddings_
    from recbole_llminit.integration.config import Config as Config
    from recbole_llminit.integration.model import get_model as get_model
    from recbole_llminit.integration.model import with_llm_init as with_llm_init
    from recbole_llminit.integration.quick_start import load_data_and_model as load_data_and_model
    from recbole_llminit.integration.quick_start import objective_function as objective_function
    from recbole_llminit.integration.quick_start import run_recbole_llminit as run_recbole_llminit
    from recbole_llminit.integration.registration import register as register
    from recbole_llminit.integration.registration import unregister as unregister
    from recbole_llminit.vectors.readers import read_embeddings as read_embeddings

__version__ = "0.1.0"

_modules = {
    "Config": "integration.config",
    "EncodeOptions": "encode.options",
    "InitReport": "initialization.initializer",
    "LLMInitError": "errors",
    "encode_items": "encode.pipeline",
    "get_model": "integration.model",
    "initialize_embeddings_": "initialization.initializer",
    "load_data_and_model": "integration.quick_start",
    "objective_function": "integration.quick_start",
    "read_embeddings": "vectors.readers",
    "register": "integration.registration",
    "run_recbole_llminit": "integration.quick_start",
    "unregister": "integration.registration",
    "with_llm_init": "integration.model",
}

__all__ = [
    *_modules,
]


def import_when_used(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__``, which imports a public name when it is first used.

    Parameters
    ----------
    package : str
        The package's name.
    modules : mapping of str to str
        The module of each public name. torch and RecBole take seconds.
    """

    def import_name(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return import_name


__getattr__ = import_when_used(__name__, _modules)
