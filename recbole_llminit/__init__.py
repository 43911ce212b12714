"""Start any RecBole recommender from LLM item embeddings with one config line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_llminit.config import Config as Config
    from recbole_llminit.encode_options import EncodeOptions as EncodeOptions
    from recbole_llminit.encoding import encode_items as encode_items
    from recbole_llminit.errors import LLMInitError as LLMInitError
    from recbole_llminit.files import read_embeddings as read_embeddings
    from recbole_llminit.initializer import InitReport as InitReport
    from recbole_llminit.initializer import initialize_embeddings_ as initialize_embeddings_
    from recbole_llminit.model import get_model as get_model
    from recbole_llminit.model import with_llm_init as with_llm_init
    from recbole_llminit.quick_start import load_data_and_model as load_data_and_model
    from recbole_llminit.quick_start import objective_function as objective_function
    from recbole_llminit.quick_start import run_recbole_llminit as run_recbole_llminit
    from recbole_llminit.registration import register as register
    from recbole_llminit.registration import unregister as unregister

__version__ = "0.1.0"

_modules = {
    "Config": "config",
    "EncodeOptions": "encode_options",
    "InitReport": "initializer",
    "LLMInitError": "errors",
    "encode_items": "encoding",
    "get_model": "model",
    "initialize_embeddings_": "initializer",
    "load_data_and_model": "quick_start",
    "objective_function": "quick_start",
    "read_embeddings": "files",
    "register": "registration",
    "run_recbole_llminit": "quick_start",
    "unregister": "registration",
    "with_llm_init": "model",
}

__all__ = [
    *_modules,
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and RecBole take seconds."""
    if name in _modules:
        return getattr(importlib.import_module(f"{__name__}.{_modules[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
