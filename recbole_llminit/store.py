"""Item vectors on disk: the store of Arrow shards, its one writer and its one reader.

A store is a folder of ``part-*.arrow`` files (Arrow IPC, uncompressed, read through a memory map) with the columns
``item_id: string``, ``text_hash: string`` and ``embedding: fixed_size_list<float16 | float32>[llm_dim]``; the facts
about the encoder stand in the metadata of each schema. A folder of Parquet files with ``item_id`` and ``embedding``
(a plain ``list<float>`` too) is read by the same code. Rows are keyed by item token, never by position.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from recbole_llminit.embeddings import ItemEmbeddings
from recbole_llminit.errors import LLMInitError

_FORMAT = 1
_FORMAT_NAMES = {"ipc": "an Arrow", "parquet": "a Parquet"}
_METADATA_KEY = b"recbole_llminit"
_FACTS_THAT_CHANGE_NO_VECTOR = ("versions", "made_by")


def fingerprint_facts(facts: Mapping[str, Any]) -> str:
    """Hash the facts about an encoder that change a vector; package versions do not count."""
    relevant = {key: value for key, value in facts.items() if key not in _FACTS_THAT_CHANGE_NO_VECTOR}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def hash_text(text: str) -> str:
    """Hash an item's text, to tell later whether it changed."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def append_shard(
    folder: str | Path,
    item_ids: Sequence[str],
    text_hashes: Sequence[str],
    vectors: npt.NDArray[Any],
    facts: Mapping[str, Any],
) -> Path:
    """Write vectors as the next shard of a store; a shard appears whole or not at all.

    Parameters
    ----------
    folder : path
        The store, made if it does not exist.
    item_ids : sequence of str, shape [n]
        Item tokens. A token that stands in an earlier shard is replaced by this one.
    text_hashes : sequence of str, shape [n]
        `hash_text` of each item's text.
    vectors : ndarray of float16 or float32, shape [n, llm_dim]
        Finite vectors.
    facts : mapping
        Facts about the encoder in JSON types: ``model``, ``revision``, ``pooling``, ``prompt``, ``template``,
        ``fields``, ``max_length``, ``normalize``, ``dtype``, ``versions``.

    Returns
    -------
    Path
        The shard written.

    Raises
    ------
    LLMInitError
        If the numbers of ids, hashes and vectors differ, an id stands twice, or a vector is not finite.
    """
    folder = Path(folder)
    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        raise LLMInitError(f"vectors are {vectors.dtype} of shape {vectors.shape}: expected float16 or float32, [n, d]")
    if not len(item_ids) == len(text_hashes) == len(vectors) > 0:
        raise LLMInitError(
            f"{len(item_ids)} ids and {len(text_hashes)} text hashes for {len(vectors)} vectors: expected as many of "
            f"each, and at least one"
        )
    if len(set(item_ids)) != len(item_ids):
        raise LLMInitError("an item id stands more than once in one shard: expected each item once")
    if not np.isfinite(vectors).all():
        raise LLMInitError("the vectors hold NaN or infinite numbers: expected finite numbers")
    folder.mkdir(parents=True, exist_ok=True)
    taken = [re.fullmatch(r"part-(\d+)\.arrow", path.name) for path in folder.iterdir()]
    number = max((int(match[1]) for match in taken if match), default=-1) + 1
    path = folder / f"part-{number:05d}.arrow"
    header = {"format": _FORMAT, "fingerprint": fingerprint_facts(facts), "facts": dict(facts)}
    width = vectors.shape[1]
    # Non-nullable all the way down: a null vector cannot be written.
    values = pa.field("item", pa.from_numpy_dtype(vectors.dtype), nullable=False)
    schema = pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("text_hash", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(values, width), nullable=False),
        ],
        metadata={_METADATA_KEY: json.dumps(header)},
    )
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(values, width))
    columns = [pa.array(item_ids, pa.string()), pa.array(text_hashes, pa.string()), embedding]
    temporary = folder / f".{path.name}.writing"
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_embeddings(path: str | Path) -> ItemEmbeddings:
    """Open item vectors: a store, a folder of Parquet with the same columns, or an ``.npy`` with its ids beside it.

    Parameters
    ----------
    path : path
        A folder of ``*.arrow`` or ``*.parquet`` files, or ``vectors.npy`` beside ``vectors.txt`` (one item id a line)
        or ``vectors.json`` (a list of item ids).

    Raises
    ------
    LLMInitError
        If there is nothing at the path, a file is truncated or of another form, its shards differ in width or were
        made by different encoders, or an id stands twice in a folder that `append_shard` did not write.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npy" and path.is_file():
        return _read_npy(path)
    if not path.exists():
        raise LLMInitError(f"there is no embedding store at {path}: check llm_embedding")
    raise LLMInitError(
        f"{path} is not a form of vectors that can be read: expected a folder of .arrow or .parquet files, or an "
        f".npy file with its ids beside it"
    )


def _read_folder(folder: Path) -> ItemEmbeddings:
    paths = sorted(path for path in folder.glob("*.arrow") if not path.name.startswith("."))
    format_ = "ipc"
    if not paths:
        paths = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
        format_ = "parquet"
    if not paths:
        raise LLMInitError(f"{folder} holds no .arrow or .parquet file: expected an embedding store")
    shards = {path: shard for path in paths if (shard := _read_shard(path, format_)) is not None}
    if not shards:
        raise LLMInitError(f"{folder} holds no vectors")
    paths = list(shards)
    tokens, chunks, headers = (list(column) for column in zip(*shards.values(), strict=True))
    width = chunks[0].shape[1]
    for path, chunk in zip(paths, chunks, strict=True):
        if chunk.shape[1] != width:
            raise LLMInitError(
                f"{path} holds vectors of {chunk.shape[1]} dimensions, {paths[0].name} of {width}: "
                f"expected one width in a store, remove the shard that does not belong to it"
            )
    for path, header in zip(paths, headers, strict=True):
        if header.get("fingerprint") != headers[0].get("fingerprint"):
            raise LLMInitError(
                f"{path} was made by another encoder than {paths[0].name} (fingerprints "
                f"{header.get('fingerprint')}, {headers[0].get('fingerprint')}): expected vectors of one kind"
            )
    all_tokens = np.concatenate(tokens)
    if "format" in headers[0]:
        replaced = pd.Index(all_tokens).duplicated(keep="last")
        if replaced.any():
            masks = np.split(~replaced, np.cumsum([len(chunk) for chunk in chunks])[:-1])
            # A shard that lost no row stays mapped.
            chunks = [chunk if mask.all() else chunk[mask] for chunk, mask in zip(chunks, masks, strict=True)]
            all_tokens = all_tokens[~replaced]
    fingerprint = headers[0].get("fingerprint") or _fingerprint_files(paths)
    return ItemEmbeddings(all_tokens, tuple(chunks), str(folder), fingerprint, headers[0].get("facts", {}))


def _read_shard(path: Path, format_: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]] | None:
    """Read one file: item tokens ``[n]``, vectors ``[n, llm_dim]`` (mapped where the format allows), its header.

    A file without rows, as Spark writes for an empty partition, is None.
    """
    # Without use_mmap pyarrow copies the whole file into memory.
    try:
        dataset = ds.dataset(str(path), format=format_, filesystem=LocalFileSystem(use_mmap=True))
        lacking = {"item_id", "embedding"} - set(dataset.schema.names)
        if lacking:
            raise LLMInitError(
                f"{path} has no column {' or '.join(sorted(lacking))} (it has {', '.join(dataset.schema.names)}): "
                f"expected item_id and embedding"
            )
        table = dataset.to_table(columns=["item_id", "embedding"])
        table["item_id"].validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise LLMInitError(
            f"{path} is truncated or not {_FORMAT_NAMES[format_]} file ({error}): delete it and make its vectors again"
        ) from error
    header = json.loads((dataset.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    if table["item_id"].null_count or table["embedding"].null_count:
        raise LLMInitError(f"{path} has empty cells in item_id or embedding: expected an id and a vector in each row")
    if not table.num_rows:
        return None
    tokens = table["item_id"].cast(pa.string()).to_numpy().astype(object)
    width = _width(table["embedding"], path)
    chunks = [_to_matrix(chunk, width, path) for chunk in table["embedding"].chunks if len(chunk)]
    return tokens, chunks[0] if len(chunks) == 1 else np.concatenate(chunks), header


def _width(column: pa.ChunkedArray, path: Path) -> int:
    """Return the one length of all lists of a column."""
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise LLMInitError(f"the embedding column of {path} is {kind}: expected lists of numbers")
    widths = sorted(pc.list_value_length(column).unique().to_pylist())
    if len(widths) > 1:
        raise LLMInitError(f"{path} holds vectors of {widths} dimensions: expected one width")
    if widths == [0]:
        raise LLMInitError(f"{path} holds empty vectors: expected at least one number in each")
    return int(widths[0])


def _to_matrix(column: pa.Array, width: int, path: Path) -> npt.NDArray[Any]:
    """View a list column as a matrix ``[n, width]``, without a copy where Arrow allows."""
    values = column.flatten()
    if not pa.types.is_floating(values.type):
        raise LLMInitError(f"the embedding column of {path} holds {values.type}: expected floating-point numbers")
    # A missing number becomes NaN, which the reader of the block reports with the item's id.
    return np.asarray(values.to_numpy(zero_copy_only=values.null_count == 0)).reshape(-1, width)


def _read_npy(path: Path) -> ItemEmbeddings:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise LLMInitError(f"{path} cannot be read as an array of numbers ({error})") from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise LLMInitError(f"{path} is {vectors.dtype} of shape {vectors.shape}: expected floating-point, [n, llm_dim]")
    candidates = [path.with_suffix(".txt"), path.with_suffix(".json")]
    beside = [candidate for candidate in candidates if candidate.is_file()]
    if len(beside) != 1:
        raise LLMInitError(
            f"{path} has {'no ids' if not beside else 'two files of ids'} beside it: expected {candidates[0].name} "
            f"(one item id a line) or {candidates[1].name} (a list), in the order of the rows; row numbers are never "
            f"taken for ids"
        )
    ids = _read_ids(beside[0])
    tokens = np.array([str(token) for token in ids], dtype=object)
    return ItemEmbeddings(tokens, (vectors,), str(path), _fingerprint_files([path, beside[0]]))


def _read_ids(path: Path) -> list[Any]:
    try:
        # A byte order mark would be part of the first id.
        text = path.read_text(encoding="utf-8-sig")
        ids = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError as error:
        raise LLMInitError(f"the ids in {path} cannot be read ({error}): expected UTF-8 text") from error
    if not isinstance(ids, list):
        raise LLMInitError(f"{path} holds a {type(ids).__name__}: expected a list of item ids")
    return ids


def _fingerprint_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
