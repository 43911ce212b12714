"""The one version of RecBole that this package works with."""

from __future__ import annotations

import importlib
import importlib.util

from recbole_llminit.errors import LLMInitError

RECBOLE_VERSION = "1.2.1"


def check_recbole_version() -> None:
    """Raise where RecBole is not installed, or is another version than the patches were written for.

    Modules that subclass or import RecBole call this before they do so. It changes nothing.

    Raises
    ------
    LLMInitError
        If the RecBole installed is not 1.2.1.
    """
    if importlib.util.find_spec("recbole") is None:
        raise LLMInitError(
            f"RecBole is not installed: pip install recbole=={RECBOLE_VERSION} "
            f"(on Python 3.12 and later: pip install --no-deps recbole=={RECBOLE_VERSION})"
        )
    found = importlib.import_module("recbole").__version__
    if found != RECBOLE_VERSION:
        raise LLMInitError(
            f"recbole-llminit works with RecBole {RECBOLE_VERSION}, but RecBole {found} is installed: "
            f"pip install recbole=={RECBOLE_VERSION}"
        )
