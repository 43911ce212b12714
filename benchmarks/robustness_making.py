"""Small makers of bad files, which several tables share."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from robustness_cases import with_file
from robustness_valid import TOKENS, values

Vectors = npt.NDArray[Any]


def numbers() -> npt.NDArray[np.float32]:
    """Return a vector for each item of the tiny dataset."""
    return values(len(TOKENS), 80)


def file(name: str, content: str | bytes) -> Callable[[], None]:
    """Return what writes a file; a text may hold what is no UTF-8."""
    return with_file(name, content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def folder(name: str) -> Callable[[], None]:
    """Return what makes a folder."""
    return lambda: Path(name).mkdir(parents=True)


def pipe(name: str) -> Callable[[], None]:
    """Return what makes a pipe that nobody writes to."""
    return lambda: os.mkfifo(name)


def link(name: str, target: str) -> Callable[[], None]:
    """Return what makes a symbolic link, as to a device."""
    return lambda: Path(name).symlink_to(target)


def both(*actions: Callable[[], Any]) -> Callable[[], None]:
    """Return what does one after the other."""

    def act() -> None:
        for action in actions:
            action()

    return act


def flipped(path: str, number: int) -> Callable[[], None]:
    """Return what flips all bits of one byte of a file, at a place that the number says."""

    def write() -> None:
        content = bytearray(Path(path).read_bytes())
        content[np.random.default_rng(number).integers(len(content))] ^= 0xFF
        Path(path).unlink()
        Path(path).write_bytes(content)

    return write


def zip_of(entries: dict[str, bytes]) -> bytes:
    """Return a zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


def gzip_bomb() -> bytes:
    """Return 3 GB of spaces in three megabytes: gzip members, one after the other."""
    return gzip.compress(b" " * 10_000_000) * 300


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._called = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._called


def pickled_array(content: Any = None) -> None:
    """Write an array of objects as ``v.npy``, with its ids."""
    array = np.empty((29, 80), dtype=object)
    array[:] = content
    np.save("v.npy", array, allow_pickle=True)
    Path("v.txt").write_text("\n".join(TOKENS))
