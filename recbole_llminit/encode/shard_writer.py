"""The writer of an encoding: it collects vectors, and writes them to the store as shards while the work goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.shard import append_shard, check_finite
from recbole_llminit.vectors.store import SHARD_BYTES
from recbole_llminit.vectors.tokens import examples

# A killed run loses the work of a second, or of a fiftieth of its time; the work of a day is some 400 shards.
_SECONDS_PER_SHARD = 1.0
_SHARE_PER_SHARD = 0.02


class ShardWriter:
    """Collect vectors and write them as shards; a context manager that writes the rest at its end.

    The rest is written after an error or an interrupt too, so that no vector that was encoded is lost.

    Parameters
    ----------
    folder : Path
        The store.
    metadata : mapping
        The metadata of the store, in JSON types.
    width : int or None
        The dimensions of the vectors that the store holds; None for a new store.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any], width: int | None) -> None:
        self._folder = folder
        self._metadata = metadata
        self._width = width
        self._parts: list[tuple[list[str], npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._started = self._written = time.monotonic()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._write()

    def add(self, ids: list[str], hashes: npt.NDArray[Any], vectors: npt.NDArray[Any]) -> None:
        """Add vectors; write what has been collected where it is large or has waited long.

        Raises
        ------
        LLMInitError
            If a vector is not finite, the vectors have other dimensions than those of the store, or the store cannot
            be written.
        """
        check_finite(ids, vectors)
        self._width = self._width or vectors.shape[1]
        if vectors.shape[1] != self._width:
            raise LLMInitError(
                f"{self._metadata['model']} gives vectors of {vectors.shape[1]} dimensions, and {self._folder} holds "
                f"{self._width}: it is another model now, choose another llm_cache_dir"
            )
        self._parts.append((ids, hashes, vectors))
        now = time.monotonic()
        waited = now - self._written
        size = sum(part.nbytes for _, _, part in self._parts)
        if size >= SHARD_BYTES or waited > max(_SECONDS_PER_SHARD, _SHARE_PER_SHARD * (now - self._started)):
            self._write()

    def _write(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            ids, hashes, vectors = zip(*parts, strict=True)
            append_shard(
                self._folder,
                [item for part in ids for item in part],
                list(np.concatenate(hashes)),
                np.concatenate(vectors),
                self._metadata,
            )
        self._written = time.monotonic()


def as_stored(
    ids: list[str], vectors: npt.NDArray[np.float32], storage: type[np.floating[Any]]
) -> npt.NDArray[np.floating[Any]]:
    """Return vectors in the type of the store; a number that is too large for it becomes infinite.

    Raises
    ------
    LLMInitError
        If float16 rounds all numbers of a vector to zero.
    """
    with np.errstate(over="ignore"):
        stored = vectors.astype(storage)
    vanished = [ids[row] for row in np.flatnonzero(vectors.any(axis=1) & ~stored.any(axis=1))]
    if vanished:
        raise LLMInitError(
            f"the vectors of {len(vanished):,} items ({examples(vanished)}) are so small that float16 makes zeros of "
            f"them: set llm_dtype: float32"
        )
    return stored
