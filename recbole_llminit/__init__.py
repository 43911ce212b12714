"""Initialize any RecBole recommender from LLM item embeddings with one config line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from recbole_llminit.version import __version__ as __version__

if TYPE_CHECKING:
    from recbole_llminit.encode.options import EncodeOptions as EncodeOptions
    from recbole_llminit.encode.pipeline import encode_items as encode_items
    from recbole_llminit.errors import LLMInitError as LLMInitError
    from recbole_llminit.initialization.initializer import InitSettings as InitSettings
    from recbole_llminit.initialization.initializer import initialize_embeddings_ as initialize_embeddings_
    from recbole_llminit.initialization.report import InitReport as InitReport
    from recbole_llminit.integration.config import Config as Config
    from recbole_llminit.integration.model import get_model as get_model
    from recbole_llminit.integration.model import with_llm_init as with_llm_init
    from recbole_llminit.integration.quick_start import load_data_and_model as load_data_and_model
    from recbole_llminit.integration.quick_start import objective_function as objective_function
    from recbole_llminit.integration.quick_start import run_recbole_llminit as run_recbole_llminit
    from recbole_llminit.integration.registration import register as register
    from recbole_llminit.integration.registration import unregister as unregister
    from recbole_llminit.vectors.readers import read_embeddings as read_embeddings

# torch and RecBole take seconds to import: a public name is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "encode.options": ["EncodeOptions"],
        "encode.pipeline": ["encode_items"],
        "errors": ["LLMInitError"],
        "initialization.initializer": ["InitSettings", "initialize_embeddings_"],
        "initialization.report": ["InitReport"],
        "integration.config": ["Config"],
        "integration.model": ["get_model", "with_llm_init"],
        "integration.quick_start": ["load_data_and_model", "objective_function", "run_recbole_llminit"],
        "integration.registration": ["register", "unregister"],
        "vectors.readers": ["read_embeddings"],
    },
)
