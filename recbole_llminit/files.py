"""Files: clear errors for what other libraries read, whole writes, and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from recbole_llminit.errors import LLMInitError

_LONGEST_REASON = 300


def is_file(path: str | Path) -> bool:
    """Return whether a regular file exists; False for a name that the system refuses, such as one that is too long."""
    # Path.is_file raises for some of these names, as Path.is_dir and Path.exists do.
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Return whether a folder exists; False for a name that the system refuses."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Return whether anything exists under a path; False for a name that the system refuses."""
    return os.path.exists(path)  # noqa: PTH110


def require_file(path: str | Path, what: str) -> None:
    """Raise `LLMInitError` unless a regular file exists. A pipe or a device could be read forever.

    Parameters
    ----------
    path : path
        The file.
    what : str
        What the file should be, with its article, for the message.
    """
    if is_file(path):
        return
    if exists(path):
        kind = "a folder" if is_folder(path) else "a pipe or a device"
        raise LLMInitError(f"{path} is {kind}: expected {what}, a regular file")
    raise LLMInitError(f"there is no {path} (looked in {Path.cwd()}): expected {what}, check the path")


@contextlib.contextmanager
def foreign_reader(path: str | Path, expected: str) -> Iterator[None]:
    """Turn whatever another library raises while it reads a file into an `LLMInitError` that names the file.

    Over a damaged file such a reader may raise anything (``struct.error``, ``IndexError``, ``AssertionError``, a panic
    of Rust, ...), so that no list of exceptions is complete. An `LLMInitError` passes unchanged, and so does what
    stops the process, such as `KeyboardInterrupt`.

    Parameters
    ----------
    path : path
        The file.
    expected : str
        What the file should hold, for the message.
    """
    try:
        yield
    except LLMInitError:
        raise
    except BaseException as error:
        # A panic of Rust is no Exception. What stops the process is none either, and must pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise LLMInitError(f"{path} cannot be read ({reason(error)}): expected {expected}") from error


def reason(error: BaseException) -> str:
    """Return an exception as one short line: its type and its message."""
    said = " ".join(str(error).split())
    shortened = said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]} ..."
    return f"{type(error).__name__}: {shortened}" if shortened else type(error).__name__


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to the file at the end. A reader never sees a part of a file.

    What was there before stays until then. If anything is raised, it stays for good.

    Parameters
    ----------
    path : path
        The file to write.
    """
    path = Path(path)
    # Hidden from listings; with the process id, because another process may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8 to a file that appears whole; see `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the contents of files, one after the other, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
