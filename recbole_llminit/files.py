"""Files: what another library reads fails with a clear error, and what is written appears whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from recbole_llminit.errors import LLMInitError

_LONGEST_REASON = 300


def is_file(path: str | Path) -> bool:
    """Whether a regular file is there; False too for a name that the system refuses, as one that is too long."""
    # Path.is_file raises for some of those.
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; False too for a name that the system refuses."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Whether anything is there; False too for a name that the system refuses."""
    return os.path.exists(path)  # noqa: PTH110


def require_file(path: str | Path, what: str) -> None:
    """Raise `LLMInitError` where there is no regular file: a pipe or a device could be read for ever.

    Parameters
    ----------
    path : path
        Where it should be.
    what : str
        What it should be, with its article, for the message.
    """
    if is_file(path):
        return
    if exists(path):
        kind = "a folder" if is_folder(path) else "a pipe or a device"
        raise LLMInitError(f"{path} is {kind}: expected {what}, a regular file")
    raise LLMInitError(f"there is no {path} (looked in {Path.cwd()}): expected {what}, check the path")


@contextlib.contextmanager
def foreign_reader(path: str | Path, expected: str) -> Iterator[None]:
    """Turn whatever a foreign reader raises over a file into an `LLMInitError` that names it.

    Readers of foreign formats raise what their insides happen to raise over a broken file (``struct.error``,
    ``IndexError``, ``AssertionError``, a panic of Rust, ...), so that no list of exceptions is complete. Errors of this
    package pass.

    Parameters
    ----------
    path : path
        The file.
    expected : str
        What it should hold, for the message.
    """
    try:
        yield
    except LLMInitError:
        raise
    except BaseException as error:
        # A panic is no Exception; what stops the process is none either, and passes.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise LLMInitError(f"{path} cannot be read ({reason(error)}): expected {expected}") from error


def reason(error: BaseException) -> str:
    """Return an exception in one short line: its kind and what it says."""
    said = " ".join(str(error).split())
    shortened = said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]} ..."
    return f"{type(error).__name__}: {shortened}" if shortened else type(error).__name__


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give another name beside a file's to write to, and rename it in the end: a reader never sees a part.

    What was there before stays until then, and stays for good where anything is raised.
    """
    path = Path(path)
    # Hidden, and another process may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as a `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
