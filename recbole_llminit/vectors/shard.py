"""One shard of a store: an Arrow file with item ids, hashes of the item texts, and vectors; its writer and its reader.

A shard is an Arrow IPC file, uncompressed, so that its vectors can be memory-mapped. It has the columns
``item_id: string``, ``text_hash: string`` and ``embedding: fixed_size_list<float16 | float32>[llm_dim]``, and a
`ShardHeader` in the metadata of its schema.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from filelock import FileLock

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, is_folder
from recbole_llminit.vectors.columnar_file import ColumnarFile, Form, reading, to_matrices, to_tokens
from recbole_llminit.vectors.header import ShardHeader
from recbole_llminit.vectors.tokens import as_texts, examples


def hash_text(text: str) -> str:
    """Hash an item's text; a later run compares the hashes to find texts that changed.

    Raises
    ------
    LLMInitError
        If the text contains a lone surrogate (half of a character), which no valid text has.
    """
    try:
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    except UnicodeEncodeError as error:
        raise LLMInitError(
            f"the text {text[error.start : error.start + 40]!a} begins with half of a character (a lone surrogate): "
            f"expected valid Unicode, write the text again"
        ) from error


def append_shard(
    folder: str | Path,
    item_ids: Sequence[str],
    text_hashes: Sequence[str],
    vectors: npt.NDArray[Any],
    metadata: Mapping[str, Any],
) -> Path:
    """Write vectors as the next shard of a store. The shard appears whole or not at all.

    Parameters
    ----------
    folder : path
        The store's folder. It is made if it does not exist, and several processes may write into it at once.
    item_ids : sequence of str, shape [n]
        The item tokens. A token that an earlier shard holds, too, gets the vector of this shard.
    text_hashes : sequence of str, shape [n]
        The `hash_text` of each item's text.
    vectors : ndarray of float16 or float32, shape [n, llm_dim]
        The vectors, of finite numbers.
    metadata : mapping
        Encoder metadata in JSON types: ``model``, ``revision``, ``pooling``, ``prompt``, ``template``,
        ``fields``, ``max_length``, ``dtype``, and what it decided itself under ``encoder`` and ``versions``.

    Returns
    -------
    Path
        The shard's file.

    Raises
    ------
    LLMInitError
        If the numbers of ids, hashes and vectors differ, an id occurs twice, a vector is empty or not finite, the
        folder cannot be written, or a newer version of this package has written into it.
    """
    folder = Path(folder)
    _check_rows(item_ids, text_hashes, vectors)
    texts = [as_texts(column, str(folder)).cast(pa.string()) for column in (item_ids, text_hashes)]
    batch = _make_batch(texts, vectors, metadata)
    with writable_folder(folder), FileLock(folder / ".shards.lock"):
        _refuse_newer(folder)
        path = folder / f"part-{_next_number(folder):05d}.arrow"
        temporary = folder / f".{path.name}.writing"
        try:
            with temporary.open("wb") as sink:
                with pa.ipc.new_file(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _check_rows(item_ids: Sequence[str], text_hashes: Sequence[str], vectors: npt.NDArray[Any]) -> None:
    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32) or not vectors.shape[1]:
        raise LLMInitError(
            f"vectors are {vectors.dtype} of shape {vectors.shape}: expected float16 or float32, [n, d], at least one "
            f"number in each"
        )
    if not len(item_ids) == len(text_hashes) == len(vectors) > 0:
        raise LLMInitError(
            f"{len(item_ids)} ids and {len(text_hashes)} text hashes for {len(vectors)} vectors: expected as many of "
            f"each, and at least one"
        )
    if len(set(item_ids)) != len(item_ids):
        raise LLMInitError("an item id occurs more than once in one shard: expected each item once")
    check_finite(item_ids, vectors)


def check_finite(item_ids: Sequence[str], vectors: npt.NDArray[Any]) -> None:
    """Raise `LLMInitError` if a vector that is to be stored holds NaN or an infinity.

    Parameters
    ----------
    item_ids : sequence of str, shape [n]
        The item tokens, for the message.
    vectors : ndarray of float16 or float32, shape [n, llm_dim]
        The vectors.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        broken = [item for item, whole in zip(item_ids, finite, strict=True) if not whole]
        half = ", and float16 ends at 65,504: set llm_dtype: float32" if vectors.dtype == np.float16 else ""
        raise LLMInitError(
            f"the vectors of {len(broken):,} items hold NaN or infinite numbers ({examples(broken)}): expected finite "
            f"numbers{half}"
        )


def _make_batch(texts: Sequence[pa.Array], vectors: npt.NDArray[Any], metadata: Mapping[str, Any]) -> pa.RecordBatch:
    """Return ids, text hashes and vectors as the columns of a shard."""
    width = vectors.shape[1]
    # Not nullable at any level, so that no null vector can be written.
    values = pa.field("item", pa.from_numpy_dtype(vectors.dtype), nullable=False)
    schema = pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("text_hash", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(values, width), nullable=False),
        ],
        metadata=ShardHeader.of(metadata).to_schema_metadata(),
    )
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(values, width))
    return pa.record_batch([*texts, embedding], schema=schema)


@contextlib.contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and turn what the disk refuses while it is written into an `LLMInitError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except LLMInitError:
        raise
    # ValueError: a name that the system refuses.
    except (OSError, ValueError) as error:
        raise LLMInitError(
            f"{folder} cannot be written ({getattr(error, 'strerror', None) or error}): what is written is whole; free "
            f"space or choose another folder (llm_cache_dir), and run again to continue"
        ) from error


def _next_number(folder: Path) -> int:
    taken = [re.fullmatch(r"part-(\d+)\.arrow", path.name) for path in folder.iterdir()]
    return max((int(match[1]) for match in taken if match), default=-1) + 1


def _refuse_newer(folder: Path) -> None:
    """Raise `LLMInitError` if a newer version of this package wrote one of the shards."""
    for path in list_shards(folder):
        # Another process may merge shards meanwhile.
        with contextlib.suppress(FileNotFoundError):
            ColumnarFile.open(path, "arrow")


def list_shards(folder: Path, form: Form = "arrow") -> list[Path]:
    """Return the files of one form in a folder in the order of their numbers; none if there is no folder.

    A number with more digits comes later. Hidden files, which are being written, are left out.

    Raises
    ------
    LLMInitError
        If the folder may not be read.
    """
    if not is_folder(folder):
        return []
    with foreign_reader(folder, "a folder that may be read"):
        found = [path for path in folder.iterdir() if path.suffix == f".{form}" and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


@dataclass(frozen=True)
class Shard:
    """The rows of one shard, its vectors memory-mapped where the form allows it.

    Parameters
    ----------
    path : Path
        The shard's file.
    tokens : LargeStringArray of Arrow, shape [n]
        The item tokens.
    text_hashes : ndarray of str, shape [n]
        The hashes of the item texts; empty if they were not read.
    parts : tuple of ndarray, each of shape [n_part, llm_dim]
        The vectors, one array per record batch.
    header : ShardHeader, optional
        The header that `append_shard` wrote. None in a file of another program.
    """

    path: Path
    tokens: pa.LargeStringArray
    text_hashes: npt.NDArray[Any]
    parts: tuple[npt.NDArray[Any], ...]
    header: ShardHeader | None

    @property
    def width(self) -> int:
        """The number of dimensions of a vector, ``llm_dim``."""
        return int(self.parts[0].shape[1])

    @property
    def bytes(self) -> int:
        """The size of the vectors in memory."""
        return sum(part.nbytes for part in self.parts)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint in the header, if there is one."""
        return self.header.fingerprint if self.header else None

    def take(self, rows: npt.NDArray[np.bool_]) -> Shard:
        """Copy the rows where a mask, shape [n], is True."""
        vectors = np.concatenate(self.parts)[rows]
        tokens = self.tokens.filter(pa.array(rows))
        return replace(self, tokens=tokens, text_hashes=self.text_hashes[rows], parts=(vectors,))


def read_shard(path: Path, form: Form, *, with_hashes: bool = False) -> Shard | None:
    """Read one file of a store; None for a file without rows, which Spark may write for an empty partition.

    Parameters
    ----------
    path : Path
        The file.
    form : {"arrow", "parquet"}
        The file's form.
    with_hashes : bool
        Whether the text hashes are read; files of other programs have none.

    Raises
    ------
    LLMInitError
        If the file is damaged or has other columns, or a newer version of this package wrote it.
    FileNotFoundError
        If the file is not there.
    """
    with reading(path, form):
        opened = ColumnarFile.open(path, form)
        ids, embedding, *others = opened.read(["item_id", "embedding", *(["text_hash"] if with_hashes else [])])
        if not len(ids):
            return None
        hashes = to_tokens(others[0], path, "text_hash").to_numpy(zero_copy_only=False) if others else np.empty(0)
        return Shard(path, to_tokens(ids, path, "item_id"), hashes, to_matrices(embedding, path), opened.header)
