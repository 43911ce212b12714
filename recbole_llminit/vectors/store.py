"""The embedding store: a folder of Arrow shards, its writer, its reader, and what keeps it whole.

A store is a folder of ``part-*.arrow`` files (Arrow IPC, uncompressed, read through a memory map) with the columns
``item_id: string``, ``text_hash: string`` and ``embedding: fixed_size_list<float16 | float32>[llm_dim]``; the encoder's
metadata stand in the metadata of each schema. A folder of Parquet files with ``item_id`` and ``embedding``
(a plain ``list<float>`` too) is read by the same code. Rows are keyed by item token, never by position.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, hash_files, is_folder, require_file
from recbole_llminit.text_table import draw_table
from recbole_llminit.vectors.embeddings import ItemEmbeddings, as_texts, examples

_FORMAT = 1
_EXPECTED = {
    "ipc": "a whole Arrow file; if it is damaged, delete it and make its vectors again",
    "parquet": "a whole Parquet file; if it is damaged, delete it and make its vectors again",
}
_METADATA_KEY = b"recbole_llminit"
_METADATA_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "revision", "ref", "pooling", "prompt", "dtype", "template"), (str, type(None))),
    **dict.fromkeys(("base_url", "text_file"), (str, type(None))),
    "max_length": (int, type(None)),
    "fields": (list,),
    "encoder": (dict,),
    "versions": (dict,),
}
_CHANGES_NO_VECTOR = ("encoder", "versions", "ref")
_SETTINGS = ("pooling", "prompt", "max_length", "dtype", "base_url", "text_file")
_TRIES = 5

DEFAULT_CACHE = "~/.cache/recbole-llminit"
SHARD_BYTES = 64 << 20
"""The size of a shard in memory, at most; smaller ones are merged."""

Result = TypeVar("Result")


def fingerprint_metadata(metadata: Mapping[str, Any]) -> str:
    """Hash the encoder metadata that change a vector.

    Package versions do not count, nor what the model decided itself, since it follows from the model. The name of a
    local folder does not count either: its content is the ``revision``.
    """
    relevant = {key: value for key, value in metadata.items() if key not in _CHANGES_NO_VECTOR}
    if str(relevant.get("revision")).startswith("sha256:"):
        relevant.pop("model", None)
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def hash_text(text: str) -> str:
    """Hash an item's text, to tell later whether it changed; raise `LLMInitError` where it is no valid Unicode."""
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
    """Write vectors as the next shard of a store; a shard appears whole or not at all.

    Parameters
    ----------
    folder : path
        The store, made if it does not exist. Several processes may write into it at once.
    item_ids : sequence of str, shape [n]
        Item tokens. A token that stands in an earlier shard is replaced by this one.
    text_hashes : sequence of str, shape [n]
        `hash_text` of each item's text.
    vectors : ndarray of float16 or float32, shape [n, llm_dim]
        Finite vectors.
    metadata : mapping
        Encoder metadata in JSON types: ``model``, ``revision``, ``pooling``, ``prompt``, ``template``,
        ``fields``, ``max_length``, ``dtype``, and what it decided itself under ``encoder`` and ``versions``.

    Returns
    -------
    Path
        The shard written.

    Raises
    ------
    LLMInitError
        If the numbers of ids, hashes and vectors differ, an id stands twice, a vector is not finite or has no number,
        the folder cannot be written, or a newer version of this package has written into it.
    """
    folder = Path(folder)
    _check_rows(item_ids, text_hashes, vectors)
    texts = [as_texts(column, str(folder)).cast(pa.string()) for column in (item_ids, text_hashes)]
    batch = _make_batch(texts, vectors, metadata)
    with writing(folder), FileLock(folder / ".shards.lock"):
        _refuse_newer(folder)
        taken = [re.fullmatch(r"part-(\d+)\.arrow", path.name) for path in folder.iterdir()]
        path = folder / f"part-{max((int(match[1]) for match in taken if match), default=-1) + 1:05d}.arrow"
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
        raise LLMInitError("an item id stands more than once in one shard: expected each item once")
    check_finite(item_ids, vectors)


def _make_batch(texts: Sequence[pa.Array], vectors: npt.NDArray[Any], metadata: Mapping[str, Any]) -> pa.RecordBatch:
    """Return ids, text hashes and vectors as the columns of a shard."""
    header = {"format": _FORMAT, "fingerprint": fingerprint_metadata(metadata), "facts": dict(metadata)}
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
    return pa.record_batch([*texts, embedding], schema=schema)


def check_finite(item_ids: Sequence[str], vectors: npt.NDArray[Any]) -> None:
    """Raise `LLMInitError` where a vector to be stored holds NaN or an infinity."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        broken = [item for item, whole in zip(item_ids, finite, strict=True) if not whole]
        half = ", and float16 ends at 65,504: set llm_dtype: float32" if vectors.dtype == np.float16 else ""
        raise LLMInitError(
            f"the vectors of {len(broken):,} items hold NaN or infinite numbers ({examples(broken)}): expected finite "
            f"numbers{half}"
        )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder to write into, and turn what the disk refuses into a clear error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except LLMInitError:
        raise
    # A ValueError for a name that the system refuses.
    except (OSError, ValueError) as error:
        raise LLMInitError(
            f"{folder} cannot be written ({getattr(error, 'strerror', None) or error}): what is written is whole; free "
            f"space or choose another folder (llm_cache_dir), and run again to continue"
        ) from error


def read_rows(folder: Path) -> pd.DataFrame:
    """Return the rows of a store without their vectors: columns ``item_id``, ``text_hash`` and ``shard``, a number.

    Where a killed run left an item in two shards, its last row is the valid one.

    Raises
    ------
    LLMInitError
        If a shard is broken, of another form, or written by a newer version of this package.
    """
    return _while_it_changes(lambda folder: _read_rows(_shards(folder)), folder)


def _read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    names = ["item_id", "text_hash"]
    frames = []
    for number, path in enumerate(paths):
        with _reading(path, "ipc"):
            columns = TableFile.open(path, "ipc").read(names)
            texts = {name: to_tokens(column, path, name) for name, column in zip(names, columns, strict=True)}
            frames.append(pa.table(texts).to_pandas().assign(shard=number))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*names, "shard"])


def compact(folder: Path, unwanted: Collection[str] = ()) -> int:
    """Drop replaced rows and those of unwanted items, and merge small shards; return how many rows were dropped.

    Every step leaves a store that reads the same: merged shards are written first, under higher numbers, and the old
    ones deleted then. One process at a time may do this.

    Raises
    ------
    LLMInitError
        If a shard is broken, of another encoder, or written by a newer version of this package; none is deleted then.
    """
    try:
        return _compact(folder, unwanted)
    except FileNotFoundError as error:
        raise LLMInitError(f"files of {folder} vanished while they were merged: is it being deleted?") from error


def _compact(folder: Path, unwanted: Collection[str]) -> int:
    paths = _shards(folder)
    rows = _read_rows(paths)
    dead = (rows["item_id"].duplicated(keep="last") | rows["item_id"].isin(list(unwanted))).to_numpy()
    touched = set(rows["shard"][dead])
    small = [number for number, path in enumerate(paths) if path.stat().st_size < SHARD_BYTES // 2]
    if len(small) > 1:
        touched.update(small)
    members = rows.groupby("shard").indices
    group: list[_Shard] = []
    for number in sorted(touched):
        shard = _read_shard(paths[number], "ipc", hashes=True)
        if shard is not None:
            group.append(shard.take(~dead[members[number]]))
        if sum(part.nbytes for shard in group for part in shard.parts) >= SHARD_BYTES:
            _append_merged(folder, group)
    _append_merged(folder, group)
    with writing(folder):
        for number in touched:
            paths[number].unlink()
    return int(dead.sum())


def _append_merged(folder: Path, group: list[_Shard]) -> None:
    if any(len(shard.tokens) for shard in group):
        _check_same_kind(group)
        if not group[0].header:
            raise _without_metadata(group[0].path)
        tokens = pa.concat_arrays([shard.tokens for shard in group]).to_pylist()
        hashes = np.concatenate([shard.text_hashes for shard in group])
        vectors = np.concatenate([part for shard in group for part in shard.parts])
        append_shard(folder, tokens, list(hashes), vectors, group[0].header["facts"])
    group.clear()


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk, without its vectors."""

    path: Path
    dataset: str
    metadata: Mapping[str, Any]
    fingerprint: str
    width: int
    bytes: int

    def count_items(self) -> int:
        """Return how many items have a vector."""
        return int(read_rows(self.path)["item_id"].nunique())


def list_stores(cache_dir: Path, dataset: str | None = None) -> list[StoreInfo]:
    """Return the stores of a cache folder, ``<cache_dir>/<dataset>/<encoder>-<fingerprint>``, by path.

    One that is broken, or that a newer version of this package wrote, is named in a warning and passed over.
    """
    datasets = [cache_dir / dataset] if dataset else _folders(cache_dir)
    folders = (folder for path in datasets for folder in _pass_over_broken(_folders, path) or ())
    found = (_pass_over_broken(_while_it_changes, _describe, folder) for folder in folders)
    return [info for info in found if info is not None]


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder, none where there is no folder."""
    if not is_folder(path):
        return []
    with foreign_reader(path, "a folder that may be read"):
        return sorted(entry for entry in path.iterdir() if is_folder(entry))


def _pass_over_broken(read: Callable[..., Result], *arguments: Any) -> Result | None:
    """Read one of several stores; None where it cannot be read, which must not keep the others from being found."""
    try:
        return read(*arguments)
    except LLMInitError as error:
        logging.getLogger().warning(f"passed over: {error}")
        return None


def describe_stores(cache_dir: Path) -> str:
    """Draw the stores of a cache folder as a table, one store a line."""
    rows = [row for store in list_stores(cache_dir) if (row := _pass_over_broken(_draw_store, store)) is not None]
    if not rows:
        return f"there is no store in {cache_dir}"
    header = ["dataset", "encoder", "settings", "template", "items", "dimensions", "MB", "store"]
    return draw_table(header, rows, frame=False)


def _draw_store(store: StoreInfo) -> list[Any]:
    return [
        store.dataset,
        f"{store.metadata.get('model')}@{str(store.metadata.get('revision'))[:14]}",
        ", ".join(f"{key} {store.metadata[key]}" for key in _SETTINGS if store.metadata.get(key) is not None)
        or "its own",
        store.metadata.get("template", ""),
        f"{store.count_items():,}",
        store.width,
        f"{store.bytes / 1e6:.1f}",
        store.path,
    ]


def _describe(folder: Path) -> StoreInfo | None:
    shards = _shards(folder)
    if not shards:
        return None
    with _reading(shards[0], "ipc"):
        opened = TableFile.open(shards[0], "ipc")
        if not opened.header:
            raise _without_metadata(shards[0])
        kind = opened.kind("embedding")
        _check_kind(kind, shards[0])
        if not pa.types.is_fixed_size_list(kind) or kind.list_size < 1:
            raise LLMInitError(
                f"the embedding column of {shards[0]} is {kind}: expected lists of one size, as encode writes them; it "
                f"is damaged, delete {folder} and encode again"
            )
    return StoreInfo(
        path=folder,
        dataset=folder.parent.name,
        metadata=opened.header["facts"],
        fingerprint=opened.header["fingerprint"],
        width=kind.list_size,
        bytes=sum(path.stat().st_size for path in shards),
    )


def _without_metadata(path: Path) -> LLMInitError:
    return LLMInitError(
        f"{path} has no encoder metadata: it is no store that encode wrote; use its vectors by "
        f"llm_embedding={path.parent}"
    )


def read_store(folder: Path) -> ItemEmbeddings:
    """Open a folder of ``*.arrow`` or ``*.parquet`` shards; vectors of Arrow shards stay mapped.

    Raises
    ------
    LLMInitError
        If there is no shard, one is broken, of another form or written by a newer version of this package, shards
        differ in width or were made by different encoders, or an id stands twice in a folder that `append_shard` did
        not write.
    """
    return _while_it_changes(_read_store, folder)


def _while_it_changes(read: Callable[[Path], Result], folder: Path) -> Result:
    """Read a folder again where another process merged its shards between the listing and the reading."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return read(folder)
    raise LLMInitError(f"the files of {folder} vanish while they are read: is it being deleted?")


def _read_store(folder: Path) -> ItemEmbeddings:
    paths, format_ = _shards(folder), "ipc"
    if not paths:
        paths, format_ = _shards(folder, "parquet"), "parquet"
    if not paths:
        raise LLMInitError(f"{folder} holds no .arrow or .parquet file: expected an embedding store")
    shards = [shard for path in paths if (shard := _read_shard(path, format_)) is not None]
    if not shards:
        raise LLMInitError(f"{folder} holds no vectors")
    first = shards[0]
    _check_same_kind(shards)
    tokens = pa.concat_arrays([shard.tokens for shard in shards])
    chunks = [part for shard in shards for part in shard.parts]
    if "format" in first.header and len(tokens.unique()) < len(tokens):
        replaced = pd.Index(tokens.to_pylist()).duplicated(keep="last")
        masks = np.split(~replaced, np.cumsum([len(chunk) for chunk in chunks])[:-1])
        # A shard that lost no row stays mapped.
        chunks = [chunk if mask.all() else chunk[mask] for chunk, mask in zip(chunks, masks, strict=True)]
        tokens = tokens.filter(pa.array(~replaced))
    fingerprint = first.header.get("fingerprint") or hash_files(paths)
    return ItemEmbeddings(tokens, tuple(chunks), str(folder), fingerprint, first.header.get("facts", {}))


def _check_same_kind(shards: Sequence[_Shard]) -> None:
    first = shards[0]
    for shard in shards:
        if shard.width != first.width:
            raise LLMInitError(
                f"{shard.path} holds vectors of {shard.width} dimensions, {first.path.name} of "
                f"{first.width}: expected one width in a store, remove the shard that does not belong to it"
            )
        if shard.header.get("fingerprint") != first.header.get("fingerprint"):
            raise LLMInitError(
                f"{shard.path} was made by another encoder than {first.path.name} (fingerprints "
                f"{shard.header.get('fingerprint')}, {first.header.get('fingerprint')}): expected vectors of one kind"
            )


@dataclass(frozen=True)
class _Shard:
    path: Path
    tokens: pa.LargeStringArray
    text_hashes: npt.NDArray[Any]
    parts: tuple[npt.NDArray[Any], ...]
    header: Mapping[str, Any]

    @property
    def width(self) -> int:
        return int(self.parts[0].shape[1])

    def take(self, rows: npt.NDArray[Any]) -> _Shard:
        """Return some of the rows, copied."""
        vectors = np.concatenate(self.parts)[rows]
        return _Shard(self.path, self.tokens.filter(pa.array(rows)), self.text_hashes[rows], (vectors,), self.header)


def _shards(folder: Path, suffix: str = "arrow") -> list[Path]:
    """Return the shards of a folder, if there is one, in their order; numbers of more digits come later."""
    if not is_folder(folder):
        return []
    with foreign_reader(folder, "a folder that may be read"):
        found = [path for path in folder.iterdir() if path.suffix == f".{suffix}" and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _refuse_newer(folder: Path) -> None:
    """Raise where a newer version of this package has written one of the shards."""
    for path in _shards(folder):
        # Another process may merge shards meanwhile.
        with contextlib.suppress(FileNotFoundError):
            TableFile.open(path, "ipc")


@contextlib.contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Turn what a broken shard makes its reader raise into a clear error; one that vanishes stays what it is."""
    try:
        with foreign_reader(path, _EXPECTED[form]):
            if exists(path):
                require_file(path, _EXPECTED[form])
            yield
    except LLMInitError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


@dataclass(frozen=True)
class TableFile:
    """An Arrow file, mapped, or a Parquet file: its schema is read, its columns are not yet.

    Parameters
    ----------
    path : Path
        The file.
    form : str
        ``ipc`` or ``parquet``.
    file : RecordBatchFileReader or ParquetFile
        The open file.
    schema : Schema
        The columns' types.
    names : tuple of str
        The columns' names.
    header : mapping
        What `append_shard` wrote into the metadata: ``format``, ``fingerprint``, ``metadata``; empty in files of
        others.
    """

    path: Path
    form: str
    file: Any
    schema: pa.Schema
    names: tuple[str, ...]
    header: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, form: str) -> TableFile:
        """Open a file.

        Raises
        ------
        LLMInitError
            If it is broken, or a newer version of this package wrote it.
        """
        with _reading(path, form):
            if form == "parquet":
                file = pq.ParquetFile(path, memory_map=True)
                schema = file.schema_arrow
            else:
                file = pa.ipc.open_file(pa.memory_map(str(path)))
                schema = file.schema
            return cls(path, form, file, schema, tuple(schema.names), _header(schema, path))

    def kind(self, name: str) -> pa.DataType:
        """Return the type of a column; raise `LLMInitError` where it is missing or stands more than once."""
        count = self.names.count(name)
        if count != 1:
            raise LLMInitError(
                f"{self.path} has {f'{count} columns' if count else 'no column'} {name} (it has "
                f"{examples(self.names, 8)}): expected one"
            )
        return self.schema.field(name).type

    def read(self, names: Sequence[str]) -> list[pa.ChunkedArray]:
        """Read columns, mapped where the format allows, and validate them.

        What is not validated can crash the process once anything computes on it: a flipped byte can make a buffer
        seem longer than it is. Lists of one size without missing ones are validated without a look at their numbers.

        Raises
        ------
        LLMInitError
            If a column is missing, or broken.
        """
        kinds = [self.kind(name) for name in names]
        with _reading(self.path, self.form):
            if self.form == "parquet":
                self._refuse_more_than_memory(names)
                # In one thread: one of several that reads on after another's error can end the process.
                tables = [self.file.read(columns=list(names), use_threads=False)]
            else:
                # Not only the columns asked for: Arrow would copy them.
                tables = [self.file.get_batch(number) for number in range(self.file.num_record_batches)]
            for table in tables:
                table.validate()
            columns = [[chunk for table in tables for chunk in _chunks(table.column(name))] for name in names]
            for chunk in (chunk for chunks in columns for chunk in chunks):
                chunk.validate(full=True)
            return [
                pa.chunked_array(chunks, chunks[0].type if chunks else kind)
                for chunks, kind in zip(columns, kinds, strict=True)
            ]

    def _refuse_more_than_memory(self, names: Sequence[str]) -> None:
        """Raise where a Parquet file's numbers, which are packed, cannot be held; the system would kill the process."""
        metadata = self.file.metadata
        for number in range(metadata.num_row_groups):
            # Of a column's broken metadata the first row is an error, and a look at the metadata the process's end.
            next(
                self.file.iter_batches(batch_size=1, row_groups=[number], columns=list(names), use_threads=False), None
            )
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        leaves = [number for number in range(metadata.num_columns) if _top_level(metadata, number) in names]
        numbers = sum(group.column(leaf).num_values for group in groups for leaf in leaves)
        # Half precision has two bytes, the smallest of what is read.
        if 2 * numbers > (memory := _memory()):
            raise LLMInitError(
                f"{self.path} holds {numbers:,} numbers, more than fit into the {memory / 1e9:.1f} GB of this machine: "
                f"expected vectors that fit; write them as .npy, which is read from the disk"
            )


def _top_level(metadata: pq.FileMetaData, number: int) -> str:
    return str(metadata.schema.column(number).path).partition(".")[0]


def _memory() -> float:
    """Return the bytes of this machine's memory, where the system says it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _header(schema: pa.Schema, path: Path) -> dict[str, Any]:
    """Return what `append_shard` wrote into a schema's metadata, checked."""
    text = (schema.metadata or {}).get(_METADATA_KEY)
    if text is None:
        return {}
    expected = "encoder metadata in its schema; it is damaged, delete it and encode again"
    with foreign_reader(path, expected):
        header: Any = json.loads(text)
        if not isinstance(header, dict):
            raise TypeError(f"the metadata are a {type(header).__name__}")
        version = header.get("format")
        if type(version) is int and version > _FORMAT:
            raise LLMInitError(
                f"{path} has the format {version}, written by a newer version of this package, and this one knows "
                f"{_FORMAT}: upgrade recbole-llminit, or give another folder (llm_embedding, llm_cache_dir)"
            )
        if type(version) is not int or version < 1:
            raise ValueError(f"the format is {version!r}")
        _check_metadata(header.get("fingerprint"), header.get("facts"))
    return header


def _check_metadata(fingerprint: Any, metadata: Any) -> None:
    """Raise `TypeError` where a store's metadata are not of the types that `append_shard` is given."""
    if not isinstance(fingerprint, str):
        raise TypeError(f"the fingerprint is {fingerprint!r}")
    if not isinstance(metadata, dict):
        raise TypeError(f"the encoder metadata are a {type(metadata).__name__}")
    for name, kinds in _METADATA_TYPES.items():
        if name in metadata and not isinstance(metadata[name], kinds):
            raise TypeError(f"the metadata {name} is a {type(metadata[name]).__name__}")
    if metadata.get("ref") is not None and metadata.get("revision") is None:
        raise ValueError(f"there is no revision of {metadata['ref']}")


def _read_shard(path: Path, form: str, *, hashes: bool = False) -> _Shard | None:
    """Read one file, its vectors mapped where the format allows; None for one without rows, as Spark may write."""
    with _reading(path, form):
        opened = TableFile.open(path, form)
        ids, embedding, *others = opened.read(["item_id", "embedding", *(["text_hash"] if hashes else [])])
        if not len(ids):
            return None
        text_hashes = to_tokens(others[0], path, "text_hash").to_numpy(zero_copy_only=False) if hashes else np.empty(0)
        return _Shard(path, to_tokens(ids, path, "item_id"), text_hashes, to_matrices(embedding, path), opened.header)


def to_tokens(column: pa.ChunkedArray, path: Path, name: str) -> pa.LargeStringArray:
    """Copy a validated column of ids as texts.

    Raises
    ------
    LLMInitError
        If the cells are neither texts nor whole numbers, or one is empty.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if str(kind) not in ("string", "large_string", "string_view") and not pa.types.is_integer(kind):
        raise LLMInitError(f"the {name} column of {path} is {kind}: expected texts or whole numbers")
    if column.type != kind and any(len(chunk.indices.unique()) < len(chunk) for chunk in column.chunks):
        # Written out, a few long texts could fill the memory.
        raise LLMInitError(f"{path} has cells of {name} more than once: expected each once, remove the duplicates")
    texts = column.cast(kind).cast(pa.large_string()).combine_chunks()
    # Of a dictionary the texts may be missing as well as the cells.
    if texts.null_count:
        raise LLMInitError(f"{path} has empty cells in {name}: expected a text or a whole number in each row")
    return texts


def to_matrices(column: pa.ChunkedArray, path: Path) -> tuple[npt.NDArray[Any], ...]:
    """View a validated column of lists as matrices ``[n_chunk, llm_dim]``, without a copy where Arrow allows.

    Raises
    ------
    LLMInitError
        If the cells are no lists of floating-point numbers, one is empty, or they differ in length.
    """
    width = _width(column, path)
    return tuple(_chunk_to_matrix(chunk, width) for chunk in column.chunks if len(chunk))


def _width(column: pa.ChunkedArray, path: Path) -> int:
    """Return the one length of all lists of a column."""
    kind = column.type
    _check_kind(kind, path)
    if column.null_count:
        raise LLMInitError(f"{path} has empty cells among its vectors: expected a vector in each row")
    fixed = pa.types.is_fixed_size_list(kind)
    widths = [kind.list_size] if fixed else sorted(pc.list_value_length(column).unique().to_pylist())
    if len(widths) > 1:
        raise LLMInitError(f"{path} holds vectors of {examples(widths)} dimensions: expected one width")
    if widths == [0]:
        raise LLMInitError(f"{path} holds empty vectors: expected at least one number in each")
    return int(widths[0])


def _check_kind(kind: pa.DataType, path: Path) -> None:
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise LLMInitError(f"the embedding column of {path} is {kind}: expected lists of numbers")
    if not pa.types.is_floating(kind.value_type):
        raise LLMInitError(f"the embedding column of {path} holds {kind.value_type}: expected floating-point numbers")


def _chunk_to_matrix(column: pa.Array, width: int) -> npt.NDArray[Any]:
    values = column.flatten()
    # A missing number becomes NaN, which the reader of the block reports with the item's id.
    return np.asarray(values.to_numpy(zero_copy_only=values.null_count == 0)).reshape(-1, width)
