"""The embedding store: a folder of Arrow shards, its writer, its reader, and what keeps it whole.

A store is a folder of ``part-*.arrow`` files (Arrow IPC, uncompressed, read through a memory map) with the columns
``item_id: string``, ``text_hash: string`` and ``embedding: fixed_size_list<float16 | float32>[llm_dim]``; the facts
about the encoder stand in the metadata of each schema. A folder of Parquet files with ``item_id`` and ``embedding``
(a plain ``list<float>`` too) is read by the same code. Rows are keyed by item token, never by position.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from filelock import FileLock
from pyarrow.fs import LocalFileSystem
from texttable import Texttable

from recbole_llminit.embeddings import ItemEmbeddings, examples
from recbole_llminit.errors import LLMInitError

_FORMAT = 1
_FORMAT_NAMES = {"ipc": "an Arrow", "parquet": "a Parquet"}
_METADATA_KEY = b"recbole_llminit"
_FACTS_THAT_CHANGE_NO_VECTOR = ("encoder", "versions", "ref")
_SETTINGS = ("pooling", "prompt", "max_length", "dtype", "base_url", "text_file")
_TRIES = 5

DEFAULT_CACHE = "~/.cache/recbole-llminit"
SHARD_BYTES = 64 << 20
"""The size of a shard in memory, at most; smaller ones are merged."""

Result = TypeVar("Result")


def fingerprint_facts(facts: Mapping[str, Any]) -> str:
    """Hash the facts about an encoder that change a vector.

    Package versions do not count, nor what the model decided itself, since it follows from the model. The name of a
    local folder does not count either: its content is the ``revision``.
    """
    relevant = {key: value for key, value in facts.items() if key not in _FACTS_THAT_CHANGE_NO_VECTOR}
    if str(relevant.get("revision")).startswith("sha256:"):
        del relevant["model"]
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
        The store, made if it does not exist. Several processes may write into it at once.
    item_ids : sequence of str, shape [n]
        Item tokens. A token that stands in an earlier shard is replaced by this one.
    text_hashes : sequence of str, shape [n]
        `hash_text` of each item's text.
    vectors : ndarray of float16 or float32, shape [n, llm_dim]
        Finite vectors.
    facts : mapping
        Facts about the encoder in JSON types: ``model``, ``revision``, ``pooling``, ``prompt``, ``template``,
        ``fields``, ``max_length``, ``dtype``, and what it decided itself under ``encoder`` and ``versions``.

    Returns
    -------
    Path
        The shard written.

    Raises
    ------
    LLMInitError
        If the numbers of ids, hashes and vectors differ, an id stands twice, a vector is not finite, or the folder
        cannot be written.
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
    check_finite(item_ids, vectors)
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
    with writing(folder), FileLock(folder / ".shards.lock"):
        taken = [re.fullmatch(r"part-(\d+)\.arrow", path.name) for path in folder.iterdir()]
        path = folder / f"part-{max((int(match[1]) for match in taken if match), default=-1) + 1:05d}.arrow"
        temporary = folder / f".{path.name}.writing"
        try:
            with temporary.open("wb") as sink:
                with pa.ipc.new_file(sink, schema) as writer:
                    writer.write_batch(pa.record_batch(columns, schema=schema))
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


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
    except OSError as error:
        raise LLMInitError(
            f"{folder} cannot be written ({error.strerror or error}): what is written is whole; free space or choose "
            f"another folder (llm_cache_dir), and run again to continue"
        ) from error


def read_rows(folder: Path) -> pd.DataFrame:
    """Return the rows of a store without their vectors: columns ``item_id``, ``text_hash`` and ``shard``, a number.

    Where a killed run left an item in two shards, its last row is the valid one.
    """
    return _while_it_changes(_read_rows, folder)


def _read_rows(folder: Path) -> pd.DataFrame:
    frames = [
        _open(path, "ipc").to_table(columns=["item_id", "text_hash"]).to_pandas().assign(shard=number)
        for number, path in enumerate(_shards(folder))
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["item_id", "text_hash", "shard"])


def compact(folder: Path, unwanted: Collection[str] = ()) -> int:
    """Drop replaced rows and those of unwanted items, and merge small shards; return how many rows were dropped.

    Every step leaves a store that reads the same: merged shards are written first, under higher numbers, and the old
    ones deleted then. One process at a time may do this.
    """
    rows = read_rows(folder)
    dead = (rows["item_id"].duplicated(keep="last") | rows["item_id"].isin(list(unwanted))).to_numpy()
    paths = _shards(folder)
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
    facts: Mapping[str, Any]
    fingerprint: str
    width: int
    bytes: int

    def count_items(self) -> int:
        """Return how many items have a vector."""
        return int(read_rows(self.path)["item_id"].nunique())


def list_stores(cache_dir: Path, dataset: str | None = None) -> list[StoreInfo]:
    """Return the stores of a cache folder, ``<cache_dir>/<dataset>/<encoder>-<fingerprint>``, by path."""
    found = []
    for folder in sorted(cache_dir.glob(f"{glob.escape(dataset) if dataset else '*'}/*/")):
        try:
            found.append(_while_it_changes(_describe, folder))
        except LLMInitError as error:
            # A broken store must not keep the others from being found.
            logging.getLogger().warning(f"passed over: {error}")
    return [info for info in found if info is not None]


def describe_stores(cache_dir: Path) -> str:
    """Draw the stores of a cache folder as a table, one store a line."""
    found = list_stores(cache_dir)
    if not found:
        return f"there is no store in {cache_dir}"
    table = Texttable(max_width=0)
    header = ["dataset", "encoder", "settings", "template", "items", "dimensions", "MB", "store"]
    table.set_cols_dtype(["t"] * len(header))
    table.set_deco(Texttable.HEADER)
    rows = [
        [
            store.dataset,
            f"{store.facts.get('model')}@{str(store.facts.get('revision'))[:14]}",
            ", ".join(f"{key} {store.facts[key]}" for key in _SETTINGS if store.facts.get(key) is not None)
            or "its own",
            store.facts.get("template", ""),
            f"{store.count_items():,}",
            store.width,
            f"{store.bytes / 1e6:.1f}",
            store.path,
        ]
        for store in found
    ]
    table.add_rows([header, *rows])
    return str(table.draw())


def _describe(folder: Path) -> StoreInfo | None:
    shards = _shards(folder)
    if not shards:
        return None
    opened = _open(shards[0], "ipc")
    header = _header(opened)
    if header.get("format") != _FORMAT:
        return None
    return StoreInfo(
        path=folder,
        dataset=folder.parent.name,
        facts=header["facts"],
        fingerprint=header["fingerprint"],
        width=opened.schema.field("embedding").type.list_size,
        bytes=sum(path.stat().st_size for path in shards),
    )


def read_store(folder: Path) -> ItemEmbeddings:
    """Open a folder of ``*.arrow`` or ``*.parquet`` shards; vectors of Arrow shards stay mapped.

    Raises
    ------
    LLMInitError
        If there is no shard, one is truncated or of another form, shards differ in width or were made by different
        encoders, or an id stands twice in a folder that `append_shard` did not write.
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
        tokens = tokens.filter(~replaced)
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
    header: dict[str, Any]

    @property
    def width(self) -> int:
        return int(self.parts[0].shape[1])

    def take(self, rows: npt.NDArray[Any]) -> _Shard:
        """Return some of the rows, copied."""
        vectors = np.concatenate(self.parts)[rows]
        return _Shard(self.path, self.tokens.filter(rows), self.text_hashes[rows], (vectors,), self.header)


def _shards(folder: Path, suffix: str = "arrow") -> list[Path]:
    """Return the shards of a folder in their order; numbers of more digits come later."""
    found = [path for path in folder.glob(f"*.{suffix}") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _open(path: Path, format_: str) -> ds.Dataset:
    # Without use_mmap pyarrow copies the whole file into memory.
    try:
        return ds.dataset(str(path), format=format_, filesystem=LocalFileSystem(use_mmap=True))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, format_, error) from error


def _broken(path: Path, format_: str, error: Exception) -> LLMInitError:
    return LLMInitError(
        f"{path} is truncated or not {_FORMAT_NAMES[format_]} file ({error}): delete it and make its vectors again"
    )


def _header(dataset: ds.Dataset) -> dict[str, Any]:
    header: dict[str, Any] = json.loads((dataset.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    return header


def _read_shard(path: Path, format_: str, *, hashes: bool = False) -> _Shard | None:
    """Read one file, its vectors mapped where the format allows; None for one without rows, as Spark may write."""
    dataset = _open(path, format_)
    lacking = {"item_id", "embedding"} - set(dataset.schema.names)
    if lacking:
        raise LLMInitError(
            f"{path} has no column {' or '.join(sorted(lacking))} (it has {', '.join(dataset.schema.names)}): "
            f"expected item_id and embedding"
        )
    try:
        table = dataset.to_table(columns=["item_id", "embedding", *(["text_hash"] if hashes else [])])
        table["item_id"].validate(full=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, format_, error) from error
    if table["item_id"].null_count or table["embedding"].null_count:
        raise LLMInitError(f"{path} has empty cells in item_id or embedding: expected an id and a vector in each row")
    if not table.num_rows:
        return None
    kind = table["item_id"].type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise LLMInitError(f"the item_id column of {path} is {kind}: expected texts or whole numbers")
    tokens = table["item_id"].cast(pa.string()).cast(pa.large_string()).combine_chunks()
    text_hashes = table["text_hash"].to_numpy().astype(object) if hashes else np.empty(0)
    return _Shard(path, tokens, text_hashes, to_matrices(table["embedding"], path), _header(dataset))


def to_matrices(column: pa.ChunkedArray, path: Path) -> tuple[npt.NDArray[Any], ...]:
    """View a column of lists as matrices ``[n_chunk, llm_dim]``, without a copy where Arrow allows.

    Raises
    ------
    LLMInitError
        If the cells are no lists of floating-point numbers, or differ in length.
    """
    width = _width(column, path)
    return tuple(_chunk_to_matrix(chunk, width, path) for chunk in column.chunks if len(chunk))


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


def _chunk_to_matrix(column: pa.Array, width: int, path: Path) -> npt.NDArray[Any]:
    values = column.flatten()
    if not pa.types.is_floating(values.type):
        raise LLMInitError(f"the embedding column of {path} holds {values.type}: expected floating-point numbers")
    # A missing number becomes NaN, which the reader of the block reports with the item's id.
    return np.asarray(values.to_numpy(zero_copy_only=values.null_count == 0)).reshape(-1, width)


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
