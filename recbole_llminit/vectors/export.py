"""Export of vectors to one file that other programs read: .parquet, or .npy with the ids in a .json beside it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, reason, whole_file
from recbole_llminit.vectors.column_names import ITEM_ID
from recbole_llminit.vectors.embeddings import ItemEmbeddings, require_float32_range

_BLOCK_ROWS = 65536


def export_embeddings(embeddings: ItemEmbeddings, path: str | Path) -> list[Path]:
    """Write vectors to ``.parquet``, or to ``.npy`` with the ids in a ``.json`` file beside it.

    `read_embeddings` reads both forms. The files appear whole or not at all. Vectors are copied block by block.

    Parameters
    ----------
    embeddings : ItemEmbeddings
        The vectors.
    path : path
        The file to write; its suffix chooses the form.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    LLMInitError
        If the path has another suffix, something exists there already, it cannot be written, or a vector is empty or
        holds NaN, an infinity or a number beyond float32.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".npy"):
        raise LLMInitError(f"{path} has the suffix {path.suffix!r}: expected .parquet, or .npy")
    paths = [path] if path.suffix == ".parquet" else [path, path.with_suffix(".json")]
    there = [str(target) for target in paths if exists(target)]
    if there:
        raise LLMInitError(f"{' and '.join(there)} is there already: choose another path, or delete it")
    if not embeddings.width:
        raise LLMInitError(f"{embeddings.source} holds empty vectors: expected at least one number in each")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            _write_parquet(embeddings, path)
        else:
            _write_npy(embeddings, *paths)
    except LLMInitError:
        raise
    except Exception as error:
        raise LLMInitError(f"{path} cannot be written ({reason(error)}): free space, or choose another path") from error
    return paths


def _write_parquet(embeddings: ItemEmbeddings, path: Path) -> None:
    values = pa.list_(pa.from_numpy_dtype(_common_dtype(embeddings)), embeddings.width)
    schema = pa.schema(
        [pa.field(ITEM_ID, pa.string()), pa.field("embedding", values)],
        metadata={"encoder": json.dumps({**embeddings.metadata, "fingerprint": embeddings.fingerprint})},
    )
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start, vectors in _blocks(embeddings):
            ids = embeddings.tokens.slice(start, len(vectors)).cast(pa.string())
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            columns = [ids, pa.FixedSizeListArray.from_arrays(flat, type=values)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_npy(embeddings: ItemEmbeddings, path: Path, ids: Path) -> None:
    shape = (len(embeddings.tokens), embeddings.width)
    try:
        # The ids appear first: wherever the vectors are, the ids are, too.
        with whole_file(path) as temporary, whole_file(ids) as temporary_ids:
            with temporary.open("wb") as file:
                header = {"descr": _common_dtype(embeddings).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, vectors in _blocks(embeddings):
                    file.write(np.ascontiguousarray(vectors).tobytes())
            temporary_ids.write_text(json.dumps(embeddings.tokens.to_pylist()), encoding="utf-8")
    except BaseException:
        if not exists(path) and exists(ids):
            ids.unlink()
        raise


def _common_dtype(embeddings: ItemEmbeddings) -> np.dtype[Any]:
    """Return the type that holds the numbers of all chunks, at most float64; chunks of a Parquet folder may differ."""
    found = np.result_type(*embeddings.chunks).newbyteorder("=")
    return found if found.itemsize <= 8 else np.dtype(np.float64)


def _blocks(embeddings: ItemEmbeddings) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the first row of each block and its vectors, checked, shape ``[k, llm_dim]``."""
    kind, start = _common_dtype(embeddings), 0
    for chunk in embeddings.chunks:
        for first in range(0, len(chunk), _BLOCK_ROWS):
            with np.errstate(over="ignore"):
                block = chunk[first : first + _BLOCK_ROWS].astype(kind, copy=False)
            tokens = embeddings.tokens.slice(start, len(block))
            require_float32_range(block, functools.partial(_filter, tokens), embeddings.source)
            yield start, block
            start += len(block)


def _filter(tokens: pa.LargeStringArray, mask: npt.NDArray[np.bool_]) -> pa.LargeStringArray:
    return tokens.filter(pa.array(mask))
