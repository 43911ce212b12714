"""RecBole's log of one run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from recbole.utils import init_logger

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import reason

_own_handlers: list[logging.Handler] = []


def start_logging(config: Any) -> None:
    """Start RecBole's log for this run, beside handlers of the user's own and instead of an earlier run's.

    RecBole's ``init_logger`` does nothing where the root logger has a handler: a second run in one process would write
    into the first one's file, and a notebook with a handler would see nothing.

    Raises
    ------
    LLMInitError
        If the log cannot be written.
    """
    root = logging.getLogger()
    for handler in _own_handlers:
        root.removeHandler(handler)
        handler.close()
    others, root.handlers[:] = root.handlers[:], []
    try:
        init_logger(config)
    except OSError as error:
        raise LLMInitError(f"RecBole's log cannot be written to {Path('log').absolute()} ({reason(error)})") from error
    finally:
        _own_handlers[:] = root.handlers
        root.handlers.extend(others)
