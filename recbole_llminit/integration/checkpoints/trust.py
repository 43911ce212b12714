"""Which files are unpickled as a whole, which can run code: those that the user trusts, and those of this run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _Trust:
    """What the user trusts: every pickle that is read, or a model class of their own."""

    pickles: bool = False
    model_class: type | None = None


_trust: ContextVar[_Trust] = ContextVar("trust", default=_Trust())  # noqa: B039  it is frozen
# The files that this process, or another one of its run, has written: by path, the file's state at that time.
_own_files: dict[str, tuple[int, int, int]] = {}


@contextlib.contextmanager
def trusting(pickles: bool, model_class: type | None = None) -> Iterator[None]:
    """Trust files, or a model class, as long as the context lasts.

    Parameters
    ----------
    pickles : bool
        Whether every file is unpickled as a whole, whatever it holds.
    model_class : type, optional
        A model class of the user's own, which a checkpoint may name.
    """
    token = _trust.set(_Trust(pickles, model_class))
    try:
        yield
    finally:
        _trust.reset(token)


def trusted_model_class() -> type | None:
    """Return the model class of the user's own that a checkpoint may name, if there is one."""
    return _trust.get().model_class


def adopt(path: str | Path) -> None:
    """Trust a file of this run's own until another process writes it."""
    _own_files[os.path.realpath(path)] = _state_of(path)


def is_trusted(path: Path) -> bool:
    """Whether a file may be unpickled as a whole: the user trusts all files, or this run has written it."""
    return _trust.get().pickles or _own_files.get(os.path.realpath(path)) == _state_of(path)


def _state_of(path: str | Path) -> tuple[int, int, int]:
    state = Path(path).stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


def how_to_trust(path: Path) -> str:
    """Return the end of a message on a file that is not trusted: how the user says that it is."""
    return (
        f": if you trust whoever made {path.name}, say so with --trust-pickles (in Python trust_pickles=True), "
        f"and it is read whole"
    )
