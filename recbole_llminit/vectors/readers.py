"""`read_embeddings`, the one reader of item vectors in every form, and the table of its readers by suffix.

To support a new form of file: write a function ``(path, id_field) -> (ids, vectors)`` in `array_files`, in
`table_files` or in a module beside them, and add one line to `READERS`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, hash_files, is_file, is_folder, require_file
from recbole_llminit.vectors.array_files import list_ids_beside, read_npy, read_pt, read_safetensors
from recbole_llminit.vectors.column_names import ITEM_ID
from recbole_llminit.vectors.embeddings import ItemEmbeddings
from recbole_llminit.vectors.store import read_store
from recbole_llminit.vectors.table_files import read_atomic, read_csv, read_parquet


@dataclass(frozen=True)
class Reader:
    """The reader of one form of file.

    Parameters
    ----------
    read : callable
        Takes the file and the column of the ids; returns the ids, length n, and the vectors, shape [n, llm_dim]. It
        may raise anything over a damaged file.
    expected : str
        What a file of this form holds, for messages.
    ids_beside : bool
        Whether the ids may be in a file of the same name beside it, which then counts for the fingerprint.
    """

    read: Callable[[Path, str], tuple[Sequence[Any], npt.NDArray[Any]]]
    expected: str
    ids_beside: bool = False


_ATOMIC = "one of RecBole's atomic files in UTF-8, separated by tabs, with a header"

READERS: Mapping[str, Reader] = {
    ".npy": Reader(
        read_npy, "an array [n, llm_dim] of floating-point numbers, as numpy.save writes it", ids_beside=True
    ),
    ".safetensors": Reader(read_safetensors, "tensors, as safetensors.torch.save_file writes them", ids_beside=True),
    ".pt": Reader(read_pt, "tensors, as torch.save writes them", ids_beside=True),
    ".csv": Reader(read_csv, "a table in UTF-8, separated by commas, with a header"),
    ".tsv": Reader(read_csv, "a table in UTF-8, separated by tabs, with a header"),
    ".parquet": Reader(read_parquet, "a Parquet file"),
    ".itememb": Reader(read_atomic, _ATOMIC),
    ".item": Reader(read_atomic, _ATOMIC),
}
"""The readers of files by suffix. A folder is read by `read_store`."""


def read_embeddings(path: str | Path, id_field: str = ITEM_ID) -> ItemEmbeddings:
    """Open item vectors in any of the forms below. Rows are found by item id, never by position.

    Parameters
    ----------
    path : path
        - a folder of ``*.arrow`` shards (a store) or of ``*.parquet`` files with ``item_id`` and ``embedding``;
        - ``.npy``, an array ``[n, llm_dim]``, with the ids in a file of the same name beside it: ``.txt`` (one per
          line), ``.json`` (a list) or ``.csv`` (a column of ids);
        - ``.safetensors`` or ``.pt``: a matrix with the ids beside it as above, or one vector per item, named by its
          id; a ``.pt`` may also hold ``{"item_id": [...], "embedding": matrix}``. Read with ``weights_only=True``;
        - ``.csv``, ``.tsv`` or ``.parquet`` with a column of ids and either one column of lists or one column per
          dimension;
        - ``.itememb`` or ``.item``, RecBole's atomic files, with a column of ids and a ``float_seq`` column (in an
          ``.item`` file ``llm_embedding``, which may also hold list literals as in the official LLMInit release).
    id_field : str
        The column of the ids.

    Raises
    ------
    LLMInitError
        If there is nothing at the path, a file is damaged or of another form, it has no ids, an id occurs twice, or
        the vectors differ in width.
    """
    path = Path(path)
    if is_folder(path):
        return read_store(path)
    if not exists(path):
        raise LLMInitError(f"there are no vectors at {path} (looked in {Path.cwd()}): check the path")
    require_file(path, "vectors")
    if path.suffix not in READERS:
        raise LLMInitError(
            f"{path} is not a form of vectors that can be read: expected a folder of .arrow or .parquet files, or a "
            f"file {', '.join(READERS)}"
        )
    reader = READERS[path.suffix]
    with foreign_reader(path, reader.expected):
        ids, vectors = reader.read(path, id_field)
        _check_matrix(vectors, path)
        tokens = ids if isinstance(ids, pa.LargeStringArray) else [_as_id(token, path) for token in ids]
        beside = list_ids_beside(path) if reader.ids_beside else []
        fingerprint = hash_files([path, *(file for file in beside if is_file(file))])
        return ItemEmbeddings(tokens, (vectors,), str(path), fingerprint)


def _check_matrix(vectors: npt.NDArray[Any], path: Path) -> None:
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise LLMInitError(f"{path} is {vectors.dtype} of shape {vectors.shape}: expected floating-point, [n, llm_dim]")
    if len(vectors) and not vectors.shape[1]:
        raise LLMInitError(f"{path} holds {len(vectors):,} empty vectors: expected at least one number in each")


def _as_id(token: Any, path: Path) -> str:
    if isinstance(token, str | int | np.integer) and not isinstance(token, bool):
        return str(token)
    raise LLMInitError(
        f"{path} has the item id {reprlib.repr(token)}: expected a text or a whole number for every vector"
    )
