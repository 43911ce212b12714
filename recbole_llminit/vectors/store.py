"""The embedding store: a folder of shards that is read as one set of vectors.

A store is a folder of ``part-*.arrow`` files as `append_shard` writes them. Rows are keyed by item token, never by
position; if a token occurs in several shards, the last row is valid. A folder of Parquet files with ``item_id`` and
``embedding`` (a plain ``list<float>``, too), as other engines write it, is read by the same code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import hash_files
from recbole_llminit.vectors.columnar_file import ColumnarFile, Form, reading, to_tokens
from recbole_llminit.vectors.embeddings import ItemEmbeddings
from recbole_llminit.vectors.shard import Shard, append_shard, list_shards, read_shard, writable_folder

_TRIES = 5

SHARD_BYTES = 64 << 20
"""The largest size of a shard's vectors in memory. `compact` merges shards below half of it."""

Result = TypeVar("Result")


def read_store(folder: Path) -> ItemEmbeddings:
    """Open a folder of ``*.arrow`` or ``*.parquet`` shards. The vectors of Arrow shards stay memory-mapped.

    Raises
    ------
    LLMInitError
        If there is no shard, a shard is damaged, of another form or written by a newer version of this package, the
        shards differ in width or encoder, or an id occurs twice in a folder that `append_shard` did not write.
    """
    return read_while_merged(_read_store, folder)


def _read_store(folder: Path) -> ItemEmbeddings:
    paths, form = _list_files(folder)
    shards = [shard for path in paths if (shard := read_shard(path, form)) is not None]
    if not shards:
        raise LLMInitError(f"{folder} holds no vectors: expected one per item")
    _require_same_kind(shards)
    tokens = pa.concat_arrays([shard.tokens for shard in shards])
    chunks = [part for shard in shards for part in shard.parts]
    header = shards[0].header
    if header is None:
        return ItemEmbeddings(tokens, tuple(chunks), str(folder), hash_files(paths))
    if len(tokens.unique()) < len(tokens):
        replaced = pd.Index(tokens.to_pylist()).duplicated(keep="last")
        masks = np.split(~replaced, np.cumsum([len(chunk) for chunk in chunks])[:-1])
        # A chunk without a replaced row stays memory-mapped.
        chunks = [chunk if mask.all() else chunk[mask] for chunk, mask in zip(chunks, masks, strict=True)]
        tokens = tokens.filter(pa.array(~replaced))
    return ItemEmbeddings(tokens, tuple(chunks), str(folder), header.fingerprint, header.metadata)


def _list_files(folder: Path) -> tuple[list[Path], Form]:
    """Return the Arrow files of a folder, or its Parquet files if it has no Arrow file."""
    forms: tuple[Form, ...] = ("arrow", "parquet")
    for form in forms:
        if paths := list_shards(folder, form):
            return paths, form
    raise LLMInitError(f"{folder} holds no .arrow or .parquet file: expected an embedding store")


def _require_same_kind(shards: Sequence[Shard]) -> None:
    """Raise `LLMInitError` unless all shards have one width and one encoder."""
    first = shards[0]
    for shard in shards:
        if shard.width != first.width:
            raise LLMInitError(
                f"{shard.path} holds vectors of {shard.width} dimensions, {first.path.name} of "
                f"{first.width}: expected one width in a store, remove the shard that does not belong to it"
            )
        if shard.fingerprint != first.fingerprint:
            raise LLMInitError(
                f"{shard.path} was made by another encoder than {first.path.name} (fingerprints "
                f"{shard.fingerprint}, {first.fingerprint}): expected vectors of one encoder, remove the shard that "
                f"does not belong to it"
            )


def read_while_merged(read: Callable[[Path], Result], folder: Path) -> Result:
    """Read a folder; repeat it if another process merged shards between the listing and the reading.

    Parameters
    ----------
    read : callable
        Reads the folder. It raises `FileNotFoundError` if a file that it has listed is gone.
    folder : Path
        The store.

    Raises
    ------
    LLMInitError
        If files vanish each time, or whatever ``read`` raises.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return read(folder)
    raise LLMInitError(f"the files of {folder} vanish while they are read: is it being deleted?")


def read_rows(folder: Path) -> pd.DataFrame:
    """Return the rows of a store without their vectors.

    Returns
    -------
    DataFrame
        The columns ``item_id``, ``text_hash`` and ``shard``, the number of the shard in the order of reading. If an
        item occurs in two shards, because a run was killed, its last row is the valid one.

    Raises
    ------
    LLMInitError
        If a shard is damaged, of another form, or written by a newer version of this package.
    """
    return read_while_merged(lambda folder: _read_rows(list_shards(folder)), folder)


def _read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    names = ["item_id", "text_hash"]
    frames = []
    for number, path in enumerate(paths):
        with reading(path, "arrow"):
            columns = ColumnarFile.open(path, "arrow").read(names)
            texts = {name: to_tokens(column, path, name) for name, column in zip(names, columns, strict=True)}
            frames.append(pa.table(texts).to_pandas().assign(shard=number))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*names, "shard"])


def compact(folder: Path, unwanted: Collection[str] = ()) -> int:
    """Drop replaced rows and the rows of unwanted items, and merge small shards.

    Every step leaves a store that reads the same: merged shards are written first, under higher numbers, and the old
    ones are deleted after that. Only one process may do this at a time.

    Parameters
    ----------
    folder : Path
        The store.
    unwanted : collection of str
        Tokens of the items to drop.

    Returns
    -------
    int
        How many rows were dropped.

    Raises
    ------
    LLMInitError
        If a shard is damaged, of another encoder, or written by a newer version of this package. No shard is deleted
        in this case.
    """
    try:
        return _compact(folder, unwanted)
    except FileNotFoundError as error:
        raise LLMInitError(f"files of {folder} vanished while they were merged: is it being deleted?") from error


def _compact(folder: Path, unwanted: Collection[str]) -> int:
    paths = list_shards(folder)
    rows = _read_rows(paths)
    dropped = (rows["item_id"].duplicated(keep="last") | rows["item_id"].isin(list(unwanted))).to_numpy()
    rewritten = set(rows["shard"][dropped])
    small = [number for number, path in enumerate(paths) if path.stat().st_size < SHARD_BYTES // 2]
    if len(small) > 1:
        rewritten.update(small)
    rows_of_shard = rows.groupby("shard").indices
    group: list[Shard] = []
    for number in sorted(rewritten):
        shard = read_shard(paths[number], "arrow", with_hashes=True)
        if shard is not None:
            group.append(shard.take(~dropped[rows_of_shard[number]]))
        if sum(shard.bytes for shard in group) >= SHARD_BYTES:
            _append_merged(folder, group)
            group = []
    _append_merged(folder, group)
    with writable_folder(folder):
        for number in rewritten:
            paths[number].unlink()
    return int(dropped.sum())


def _append_merged(folder: Path, group: Sequence[Shard]) -> None:
    """Write the rows of some shards as one shard, if there are any."""
    if not any(len(shard.tokens) for shard in group):
        return
    _require_same_kind(group)
    header = group[0].header
    if header is None:
        raise foreign_shard(group[0].path)
    tokens = pa.concat_arrays([shard.tokens for shard in group]).to_pylist()
    hashes = np.concatenate([shard.text_hashes for shard in group])
    vectors = np.concatenate([part for shard in group for part in shard.parts])
    append_shard(folder, tokens, list(hashes), vectors, header.metadata)


def foreign_shard(path: Path) -> LLMInitError:
    """Make the error for a shard of another program where a store of this package is expected."""
    return LLMInitError(
        f"{path} has no encoder metadata, so that it is not part of a store that encode wrote: to use its vectors, set "
        f"llm_embedding to {path.parent}"
    )
