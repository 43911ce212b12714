"""Vectors in the files that people have: the one reader of every form, and the export of a store."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_llminit.embeddings import ItemEmbeddings, examples
from recbole_llminit.errors import LLMInitError
from recbole_llminit.store import hash_files, read_store, to_matrices

_ITEM_ID = "item_id"
_EXPORTED_ROWS = 65536


def read_embeddings(path: str | Path, id_field: str = _ITEM_ID) -> ItemEmbeddings:
    """Open item vectors in any of the forms below; rows are found by item id, never by position.

    Parameters
    ----------
    path : path
        - a folder of ``*.arrow`` shards (a store) or of ``*.parquet`` files with ``item_id`` and ``embedding``;
        - ``.npy``, an array ``[n, llm_dim]``, with the ids in a file of the same name beside it: ``.txt`` (one a line),
          ``.json`` (a list) or ``.csv`` (a column of ids);
        - ``.safetensors`` or ``.pt``: a matrix with the ids beside it as above, or a vector per item named by its id; a
          ``.pt`` may also hold ``{"item_id": [...], "embedding": matrix}``. Read with ``weights_only=True``;
        - ``.csv``, ``.tsv`` or ``.parquet`` with a column of ids and either one column of lists or a column a number;
        - ``.itememb`` or ``.item``, RecBole's atomic files, with a column of ids and a ``float_seq`` column (of an
          ``.item`` file ``llm_embedding``, which may also hold list literals as in the official LLMInit release).
    id_field : str
        The column of the ids.

    Raises
    ------
    LLMInitError
        If there is nothing at the path, a file is broken or of another form, it has no ids, an id stands twice, or
        vectors differ in width.
    """
    path = Path(path)
    if path.is_dir():
        return read_store(path)
    if not path.exists():
        raise LLMInitError(f"there are no vectors at {path} (looked in {Path.cwd()}): check the path")
    readers: dict[str, Callable[[Path, str], tuple[Sequence[Any], npt.NDArray[Any]]]] = {
        ".npy": _read_npy,
        ".safetensors": _read_safetensors,
        ".pt": _read_pt,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
        ".itememb": _read_atomic,
        ".item": _read_atomic,
    }
    if path.suffix not in readers:
        raise LLMInitError(
            f"{path} is not a form of vectors that can be read: expected a folder of .arrow or .parquet files, or a "
            f"file {', '.join(readers)}"
        )
    try:
        ids, vectors = readers[path.suffix](path, id_field)
    except LLMInitError:
        raise
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, pa.ArrowException) as error:
        raise LLMInitError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise LLMInitError(f"{path} is {vectors.dtype} of shape {vectors.shape}: expected floating-point, [n, llm_dim]")
    tokens = [_as_id(token, path) for token in ids]
    return ItemEmbeddings(tokens, (vectors,), str(path), hash_files([path, *_ids_beside(path)]))


def read_delimited(
    path: Path,
    separator: str,
    *,
    quoting: int = csv.QUOTE_MINIMAL,
    encoding: str = "utf-8-sig",
    types: Mapping[str, type] | None = None,
    rows: int | None = None,
) -> pd.DataFrame:
    """Read a delimited file with a header: cells are text but for the types given, and an empty cell is empty.

    Raises
    ------
    ValueError
        If a row has more fields than the header.
    """
    with warnings.catch_warnings():
        # pandas takes surplus fields of the first row for an index, or cuts them off with a warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                path,
                sep=separator,
                index_col=False,
                # Given usecols, pandas would pass over surplus fields in silence.
                dtype=defaultdict(lambda: str, types or {}),
                nrows=rows,
                quoting=quoting,
                keep_default_na=False,
                encoding=encoding,
                engine="c" if len(separator) == 1 else "python",
            )
        except pd.errors.ParserWarning as warning:
            raise ValueError("its rows have more fields than its header") from warning


def split_header(columns: Iterable[str]) -> dict[str, str]:
    """Split the ``name:type`` columns of RecBole's atomic files into types by name."""
    return {name: kind for name, _, kind in (str(column).partition(":") for column in columns)}


def _as_id(token: Any, path: Path) -> str:
    if isinstance(token, str | int | np.integer) and not isinstance(token, bool):
        return str(token)
    raise LLMInitError(f"{path} has the item id {token!r}: expected a text or a whole number for every vector")


def _read_npy(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    return _read_ids_beside(path, id_field), vectors


def _read_safetensors(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _from_tensors(load_file(path), path, id_field)
    except SafetensorError as error:
        raise LLMInitError(f"{path} is no safetensors file ({error})") from error


def _read_pt(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LLMInitError(
            f"{path} holds more than tensors, lists and dictionaries, and loading it could run code: save the vectors "
            f"alone, torch.save({{'item_id': ids, 'embedding': tensor}}, path)"
        ) from error
    return _from_tensors(content, path, id_field)


def _from_tensors(content: Any, path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Take ids and vectors from a tensor, ``{"item_id": ids, name: matrix}``, ``{name: matrix}`` or one per item."""
    import torch

    if isinstance(content, torch.Tensor):
        content = {"embedding": content}
    if not isinstance(content, Mapping):
        raise LLMInitError(f"{path} holds a {type(content).__name__}: expected a tensor or a dictionary of tensors")
    ids = next((name for name in (id_field, _ITEM_ID) if name in content), None)
    inside = None if ids is None else content[ids]
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor) and name != ids}
    matrices = [value for value in tensors.values() if value.ndim == 2]
    if not matrices and tensors and all(value.ndim == 1 for value in tensors.values()):
        return list(tensors), _to_numpy(torch.stack(list(tensors.values())))
    if len(matrices) != 1:
        raise LLMInitError(
            f"{path} holds {len(matrices)} matrices ({examples(list(map(str, tensors)))}): expected one, [n, llm_dim], "
            f"or one vector per item, named by its id"
        )
    if inside is None:
        return _read_ids_beside(path, id_field), _to_numpy(matrices[0])
    return inside.tolist() if isinstance(inside, torch.Tensor) else list(inside), _to_numpy(matrices[0])


def _to_numpy(tensor: Any) -> npt.NDArray[Any]:
    # NumPy has no bfloat16.
    return np.asarray(tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy())


def _read_csv(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    separator = "," if path.suffix == ".csv" else "\t"
    names = [str(name) for name in read_delimited(path, separator, rows=0).columns]
    ids = _find_ids(names, id_field, path)
    numbers = _numbered(names)
    if numbers:
        table = read_delimited(path, separator, types=dict.fromkeys(numbers, np.float32))
        return table[ids].tolist(), table[numbers].to_numpy()
    # The index that pandas writes has no name.
    others = [name for name in names if name != ids and not name.startswith("Unnamed: ")]
    if len(others) != 1:
        raise _no_vectors(names, ids, path)
    table = read_delimited(path, separator)
    return table[ids].tolist(), _parse_vectors(table[others[0]], table[ids], path)


def _read_parquet(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    table = pq.read_table(path)
    ids = _find_ids(table.column_names, id_field, path)
    lists = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if len(lists) == 1:
        if table[lists[0]].null_count:
            raise LLMInitError(f"{path} has empty cells in {lists[0]}: expected a vector in each row")
        return table[ids].to_pylist(), np.concatenate(to_matrices(table[lists[0]], path))
    numbers = _numbered([field.name for field in table.schema if pa.types.is_floating(field.type)])
    if lists or not numbers:
        raise _no_vectors(table.column_names, ids, path)
    return table[ids].to_pylist(), table.select(numbers).to_pandas().to_numpy()


def _read_atomic(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read RecBole's tab-separated file with ``name:type`` in its header."""
    kinds = split_header(read_delimited(path, "\t", quoting=csv.QUOTE_NONE, rows=0).columns)
    # RecBole's documentation calls the ids of an .itememb file iid, an alias of the items.
    tokens = [name for name, kind in kinds.items() if kind == "token"]
    alias = path.suffix == ".itememb" and len(tokens) == 1 and id_field not in kinds
    ids = tokens[0] if alias else _find_ids(list(kinds), id_field, path)
    vectors = "llm_embedding" if "llm_embedding" in kinds else None
    sequences = [name for name, kind in kinds.items() if kind == "float_seq"]
    if vectors is None and path.suffix == ".itememb" and len(sequences) == 1:
        vectors = sequences[0]
    if vectors is None:
        raise LLMInitError(
            f"{path} has the fields {examples(list(kinds), 8)}: expected the vectors in a field "
            f"llm_embedding{', or one of the type float_seq' if path.suffix == '.itememb' else ''}"
        )
    columns = [f"{name}:{kinds[name]}" for name in (ids, vectors)]
    table = read_delimited(path, "\t", quoting=csv.QUOTE_NONE)[columns]
    table.columns = ["id", "vector"]
    # An item without a vector has an empty cell.
    table = table[table["vector"].str.strip(' "') != ""]
    return table["id"].tolist(), _parse_vectors(table["vector"], table["id"], path)


def _parse_vectors(cells: pd.Series, ids: pd.Series, path: Path) -> npt.NDArray[np.float32]:
    """Parse cells of numbers, ``0.1 0.2`` or ``[0.1, 0.2]``, into a matrix."""
    rows: list[npt.NDArray[np.float32]] = []
    for item, cell in zip(ids, cells, strict=True):
        try:
            row = np.array(cell.strip(' "[]').replace(",", " ").split(), dtype=np.float32)
        except ValueError:
            raise LLMInitError(
                f"{path} has {cell[:40]!r} as the vector of {item}: expected numbers, '0.1 0.2' or '[0.1, 0.2]'"
            ) from None
        if rows and len(row) != len(rows[0]):
            raise LLMInitError(
                f"{path} has {len(row)} numbers for {item}, and {len(rows[0])} for the items before it: expected one "
                f"width"
            )
        rows.append(row)
    return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the columns that number a vector's dimensions, such as ``0, 1, ...`` or ``dim_0, dim_1, ...``."""
    families: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(r"(?!Unnamed: )(.*?)\d+", name)
        if match:
            families.setdefault(match[1], []).append(name)
    largest = max(families.values(), key=len, default=[])
    return largest if len(largest) > 1 else []


def _no_vectors(names: Sequence[str], ids: str, path: Path) -> LLMInitError:
    return LLMInitError(
        f"{path} has the columns {examples(names, 8)}: expected {ids} and one column of lists, or a column for each "
        f"number, named 0, 1, ... or dim_0, dim_1, ..."
    )


def _find_ids(names: Sequence[str], id_field: str, path: Path) -> str:
    """Return the column of the ids: the dataset's own, else ``item_id``, as stores and exports have it."""
    found = [name for name in (id_field, _ITEM_ID) if name in names]
    if not found:
        raise LLMInitError(
            f"{path} has no column {id_field} (it has {examples(names, 8)}): name the column of the item ids "
            f"{id_field}; row numbers are never taken for ids"
        )
    return found[0]


def _ids_beside(path: Path) -> list[Path]:
    """Return the files of ids beside a matrix."""
    if path.suffix not in (".npy", ".safetensors", ".pt"):
        return []
    return [beside for suffix in (".txt", ".json", ".csv") if (beside := path.with_suffix(suffix)).is_file()]


def _read_ids_beside(path: Path, id_field: str) -> Sequence[Any]:
    beside = _ids_beside(path)
    if len(beside) != 1:
        raise LLMInitError(
            f"{path} has {'no ids' if not beside else f'{len(beside)} files of ids'} beside it: "
            f"expected {path.stem}.txt (one item id a line), {path.stem}.json (a list) or {path.stem}.csv (a column "
            f"{id_field}), in the order of the rows; row numbers are never taken for ids"
        )
    ids = beside[0]
    try:
        if ids.suffix == ".csv":
            table = read_delimited(ids, ",")
            alone = len(table.columns) == 1
            return list(table[table.columns[0] if alone else _find_ids(list(table.columns), id_field, ids)])
        # A byte order mark would be part of the first id.
        text = ids.read_text(encoding="utf-8-sig")
        content = json.loads(text) if ids.suffix == ".json" else text.splitlines()
    except LLMInitError:
        raise
    except ValueError as error:
        raise LLMInitError(f"the ids in {ids} cannot be read ({error}): expected UTF-8 text") from error
    if not isinstance(content, list):
        raise LLMInitError(f"{ids} holds a {type(content).__name__}: expected a list of item ids")
    return content


def export_embeddings(embeddings: ItemEmbeddings, path: str | Path) -> list[Path]:
    """Write vectors to ``.parquet``, or to ``.npy`` with the ids in a ``.json`` beside it; return the files.

    Both are forms that `read_embeddings` reads. A file appears whole or not at all; vectors are copied by blocks.

    Raises
    ------
    LLMInitError
        If the path has another suffix, or something is there already, or cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".npy"):
        raise LLMInitError(f"{path} has the suffix {path.suffix!r}: expected .parquet, or .npy")
    paths = [path] if path.suffix == ".parquet" else [path, path.with_suffix(".json")]
    there = [str(target) for target in paths if target.exists()]
    if there:
        raise LLMInitError(f"{' and '.join(there)} is there already: choose another path, or delete it")
    temporary = [target.with_name(f".{target.name}.writing") for target in paths]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            _write_parquet(embeddings, temporary[0])
        else:
            _write_npy(embeddings, temporary[0])
            temporary[1].write_text(json.dumps(embeddings.tokens.to_pylist()), encoding="utf-8")
        for source, target in zip(temporary, paths, strict=True):
            source.replace(target)
    except OSError as error:
        raise LLMInitError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        for source in temporary:
            source.unlink(missing_ok=True)
    return paths


def _write_parquet(embeddings: ItemEmbeddings, path: Path) -> None:
    values = pa.list_(pa.from_numpy_dtype(_dtype(embeddings)), embeddings.width)
    schema = pa.schema(
        [pa.field("item_id", pa.string()), pa.field("embedding", values)],
        metadata={"encoder": json.dumps({**embeddings.facts, "fingerprint": embeddings.fingerprint})},
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start, vectors in _blocks(embeddings):
            ids = embeddings.tokens.slice(start, len(vectors)).cast(pa.string())
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            columns = [ids, pa.FixedSizeListArray.from_arrays(flat, type=values)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_npy(embeddings: ItemEmbeddings, path: Path) -> None:
    shape = (len(embeddings.tokens), embeddings.width)
    with path.open("wb") as file:
        header = {"descr": _dtype(embeddings).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, vectors in _blocks(embeddings):
            file.write(np.ascontiguousarray(vectors).tobytes())


def _dtype(embeddings: ItemEmbeddings) -> np.dtype[Any]:
    """Return the type that holds the numbers of all shards; those of a Parquet folder may differ."""
    return np.result_type(*embeddings.chunks)


def _blocks(embeddings: ItemEmbeddings) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    start = 0
    for chunk in embeddings.chunks:
        for first in range(0, len(chunk), _EXPORTED_ROWS):
            block = chunk[first : first + _EXPORTED_ROWS].astype(_dtype(embeddings), copy=False)
            yield start, block
            start += len(block)
