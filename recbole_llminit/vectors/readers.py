"""Vectors in the files that people have: the one reader of every form, and the export of a store."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import reprlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import (
    exists,
    foreign_reader,
    hash_files,
    is_file,
    is_folder,
    reason,
    require_file,
    whole_file,
)
from recbole_llminit.vectors.embeddings import ItemEmbeddings, check_numbers, examples
from recbole_llminit.vectors.store import TableFile, read_store, to_matrices, to_tokens

_ITEM_ID = "item_id"
_DOCUMENTED = ("", "dim_")
_DIGITS = "0123456789"
_MOST_DIGITS = 18
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
    if is_folder(path):
        return read_store(path)
    if not exists(path):
        raise LLMInitError(f"there are no vectors at {path} (looked in {Path.cwd()}): check the path")
    require_file(path, "vectors")
    readers: dict[str, tuple[Callable[[Path, str], tuple[Sequence[Any], npt.NDArray[Any]]], str]] = {
        ".npy": (_read_npy, "an array [n, llm_dim] of floating-point numbers, as numpy.save writes it"),
        ".safetensors": (_read_safetensors, "tensors, as safetensors.torch.save_file writes them"),
        ".pt": (_read_pt, "tensors, as torch.save writes them"),
        ".csv": (_read_csv, "a table in UTF-8, separated by commas, with a header"),
        ".tsv": (_read_csv, "a table in UTF-8, separated by tabs, with a header"),
        ".parquet": (_read_parquet, "a Parquet file"),
        ".itememb": (_read_atomic, "one of RecBole's atomic files in UTF-8, separated by tabs, with a header"),
        ".item": (_read_atomic, "one of RecBole's atomic files in UTF-8, separated by tabs, with a header"),
    }
    if path.suffix not in readers:
        raise LLMInitError(
            f"{path} is not a form of vectors that can be read: expected a folder of .arrow or .parquet files, or a "
            f"file {', '.join(readers)}"
        )
    reader, expected = readers[path.suffix]
    with foreign_reader(path, expected):
        ids, vectors = reader(path, id_field)
        _check_matrix(vectors, path)
        tokens = ids if isinstance(ids, pa.LargeStringArray) else [_as_id(token, path) for token in ids]
        fingerprint = hash_files([path, *(beside for beside in _ids_beside(path) if is_file(beside))])
        return ItemEmbeddings(tokens, (vectors,), str(path), fingerprint)


def _check_matrix(vectors: npt.NDArray[Any], path: Path) -> None:
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise LLMInitError(f"{path} is {vectors.dtype} of shape {vectors.shape}: expected floating-point, [n, llm_dim]")
    if len(vectors) and not vectors.shape[1]:
        raise LLMInitError(f"{path} holds {len(vectors):,} empty vectors: expected at least one number in each")


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


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file in one thread: one of several that reads on after another's error can end the process."""
    frame: pd.DataFrame = pq.ParquetFile(path).read(use_threads=False).to_pandas(use_threads=False)
    return frame


def split_header(columns: Iterable[str]) -> dict[str, str]:
    """Split the ``name:type`` columns of RecBole's atomic files into types by name."""
    return {name: kind for name, _, kind in (str(column).partition(":") for column in columns)}


def _as_id(token: Any, path: Path) -> str:
    if isinstance(token, str | int | np.integer) and not isinstance(token, bool):
        return str(token)
    raise LLMInitError(
        f"{path} has the item id {reprlib.repr(token)}: expected a text or a whole number for every vector"
    )


def _read_npy(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    # numpy.load would take an archive or a pickle as well.
    vectors = np.lib.format.open_memmap(path, mode="r")
    return _read_ids_beside(path, id_field), vectors


def _read_safetensors(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    from safetensors.torch import load_file

    return _from_tensors(load_file(path), path, id_field)


def _read_pt(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LLMInitError(
            f"{path} is damaged, or holds more than tensors, lists and dictionaries, and loading it could run code: "
            f"save the vectors alone, torch.save({{'item_id': ids, 'embedding': tensor}}, path) ({reason(error)})"
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
        return list(tensors), np.stack([_to_numpy(value, path) for value in tensors.values()])
    if len(matrices) != 1:
        raise LLMInitError(
            f"{path} holds {len(matrices)} matrices ({examples(list(map(str, tensors)))}): expected one, [n, llm_dim], "
            f"or one vector per item, named by its id"
        )
    if inside is None:
        return _read_ids_beside(path, id_field), _to_numpy(matrices[0], path)
    if isinstance(inside, torch.Tensor):
        inside = _to_numpy(inside, path).tolist()
    if not isinstance(inside, list | tuple):
        raise LLMInitError(f"{path} has a {type(inside).__name__} for {ids}: expected a list of item ids, or a tensor")
    return inside, _to_numpy(matrices[0], path)


def _to_numpy(tensor: Any, path: Path) -> npt.NDArray[Any]:
    """Return a tensor as an array; bfloat16 and the kinds of 8 bits, which NumPy lacks, become float32."""
    import torch

    unfit = {
        "sparse": tensor.layout != torch.strided,
        "nested": tensor.is_nested,
        "quantized": tensor.is_quantized,
        "meta": tensor.is_meta,
        "complex": tensor.is_complex(),
    }
    found = [name for name, is_so in unfit.items() if is_so]
    if found:
        raise LLMInitError(
            f"{path} holds a {' and '.join(found)} tensor: expected plain tensors of floating-point numbers; save "
            f"tensor.to_dense(), .dequantize() or its real part"
        )
    known = (torch.float16, torch.float32, torch.float64)
    tensor = tensor.float() if tensor.is_floating_point() and tensor.dtype not in known else tensor
    # Also of one that requires a gradient.
    return np.asarray(tensor.numpy(force=True))


def _read_csv(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    separator = "," if path.suffix == ".csv" else "\t"
    names = _read_header(path, separator)
    ids = _find_ids(names, id_field, path)
    _check_once([ids], names, path)
    numbers = _numbered([name for name in names if name != ids], path)
    if numbers:
        table = read_delimited(path, separator, types=dict.fromkeys(numbers, np.float32))
        return table[ids].tolist(), table[numbers].to_numpy()
    # The index that pandas writes has no name.
    others = [name for name in names if name not in (ids, "") and not name.startswith("Unnamed: ")]
    if len(others) != 1:
        raise _no_vectors(names, ids, path)
    table = read_delimited(path, separator)
    return table[ids].tolist(), _parse_vectors(table[others[0]], table[ids], path)


def _read_header(path: Path, separator: str, *, quotes: bool = True) -> list[str]:
    """Return the names of a table's columns as they stand there; pandas renames those that stand twice."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        # pandas passes over empty lines.
        return next((row for row in rows if len(row) > 1 or "".join(row).strip()), [])


def _check_once(wanted: Sequence[str], names: Sequence[str], path: Path) -> None:
    """Raise where one of the columns to be read stands more than once among all."""
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise LLMInitError(
            f"{path} has columns more than once ({examples(twice)}): expected each once, remove those that are wrong"
        )


def _read_parquet(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    file = TableFile.open(path, "parquet")
    names = file.names
    ids = _find_ids(names, id_field, path)
    others = [field for field in file.schema if field.name != ids]
    # In pyarrow 15 a list of a fixed size is not nested.
    nested = (pa.types.is_nested, pa.types.is_fixed_size_list)
    vectors = [field.name for field in others if any(is_so(field.type) for is_so in nested)]
    if len(vectors) == 1:
        tokens, lists = file.read([ids, *vectors])
        matrices = to_matrices(lists, path)
        matrix = np.concatenate(matrices) if matrices else np.empty((0, 0), dtype=np.float32)
        return to_tokens(tokens, path, ids), matrix
    numbers = _numbered([field.name for field in others if pa.types.is_floating(field.type)], path)
    if vectors or not numbers:
        raise _no_vectors(names, ids, path)
    tokens, *columns = file.read([ids, *numbers])
    kind = np.result_type(*(column.type.to_pandas_dtype() for column in columns))
    matrix = np.empty((len(tokens), len(columns)), dtype=kind)
    for number, column in enumerate(columns):
        matrix[:, number] = column.to_numpy()
    return to_tokens(tokens, path, ids), matrix


def _read_atomic(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read RecBole's tab-separated file with ``name:type`` in its header."""
    header = _read_header(path, "\t", quotes=False)
    kinds = split_header(header)
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
    names = [column.partition(":")[0] for column in header]
    _check_once([ids, vectors], names, path)
    columns = [header[names.index(name)] for name in (ids, vectors)]
    table = read_delimited(path, "\t", quoting=csv.QUOTE_NONE)[columns]
    table.columns = ["id", "vector"]
    # An item without a vector has an empty cell, or none where an editor cut the line's end.
    table = table[table["vector"].fillna("").str.strip(' "') != ""]
    return table["id"].tolist(), _parse_vectors(table["vector"], table["id"], path)


def _parse_vectors(cells: pd.Series, ids: pd.Series, path: Path) -> npt.NDArray[np.float32]:
    """Parse cells of numbers, ``0.1 0.2`` or ``[0.1, 0.2]``, into a matrix."""
    rows: list[npt.NDArray[np.float32]] = []
    for item, cell in zip(ids, cells, strict=True):
        try:
            # A row that ends before has no cell.
            numbers = cell.strip(' "[]').replace(",", " ").split() if isinstance(cell, str) else []
            row = np.array(numbers, dtype=np.float32)
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


def _numbered(names: Sequence[str], path: Path) -> list[str]:
    """Return the columns that number a vector's dimensions: ``0, 1, ...``, ``dim_0, dim_1, ...`` or another prefix.

    A family is a prefix with the numbers from 0, or from 1, each once, in rising order, two or more of them. One of
    the two prefixes above goes before all others.

    Raises
    ------
    LLMInitError
        If numbers of the family are missing, repeated or in another order, or several families are there.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        prefix = name.rstrip(_DIGITS)
        if 0 < len(name) - len(prefix) <= _MOST_DIGITS and prefix != "Unnamed: ":
            groups.setdefault(prefix, []).append(name)
    if all(len(group) == 1 for group in groups.values()):
        return []
    faults = {prefix: _fault(prefix, group) for prefix, group in groups.items()}
    chosen = _choose_family(groups, {prefix for prefix, fault in faults.items() if fault})
    if len(chosen) > 1:
        raise LLMInitError(
            f"{path} has several families of numbered columns ({examples([f'{prefix}0, ...' for prefix in chosen])}): "
            f"expected one that holds the vectors, keep one, or name its columns dim_0, dim_1, ..."
        )
    if chosen and faults[chosen[0]]:
        raise LLMInitError(
            f"{path} {faults[chosen[0]]}: expected {chosen[0]}0, {chosen[0]}1, ..., each once, in rising order"
        )
    return groups[chosen[0]] if chosen else []


def _choose_family(groups: Mapping[str, Sequence[str]], faulty: Collection[str]) -> list[str]:
    """Return the prefixes of those columns that may number a vector's dimensions."""
    # Years, as in votes2001 and votes2005, number none.
    meant = [prefix for prefix, group in groups.items() if len(group) > 1 and min(_numbers(prefix, group)) <= 1]
    documented = [prefix for prefix in groups if prefix in _DOCUMENTED and (prefix in meant or prefix == "dim_")]
    if documented or not meant:
        return documented
    # A larger one with a fault is more likely meant than a smaller one without.
    largest = max(meant, key=lambda prefix: (len(groups[prefix]), prefix not in faulty))
    return [largest] if largest in faulty else [prefix for prefix in meant if prefix not in faulty]


def _numbers(prefix: str, names: Sequence[str]) -> list[int]:
    return [int(name[len(prefix) :]) for name in names]


def _fault(prefix: str, names: Sequence[str]) -> str | None:
    """Say what keeps columns of one prefix from being numbered from 0, or from 1, in rising order."""
    numbers = _numbers(prefix, names)
    repeated = [number for number, count in Counter(numbers).items() if count > 1]
    if repeated:
        return f"has more than one column {prefix}{repeated[0]}"
    first = min(*numbers, 1)
    lacking = max(max(numbers) - first + 1, 2) - len(numbers)
    if lacking:
        known = {*numbers}
        missing = next(number for number in itertools.count(first) if number not in known)
        return f"has no column {prefix}{missing} beside {names[0]} ({lacking:,} missing)"
    return next(
        (f"has {prefix}{one} before {prefix}{two}" for one, two in itertools.pairwise(numbers) if one > two), None
    )


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
    """Return what is there in the place of the ids beside a matrix."""
    if path.suffix not in (".npy", ".safetensors", ".pt"):
        return []
    return [beside for suffix in (".txt", ".json", ".csv") if exists(beside := path.with_suffix(suffix))]


def _read_ids_beside(path: Path, id_field: str) -> Sequence[Any]:
    beside = _ids_beside(path)
    if len(beside) != 1:
        raise LLMInitError(
            f"{path} has {'no ids' if not beside else f'{len(beside)} files of ids'} beside it: "
            f"expected {path.stem}.txt (one item id a line), {path.stem}.json (a list) or {path.stem}.csv (a column "
            f"{id_field}), in the order of the rows; row numbers are never taken for ids"
        )
    ids = beside[0]
    require_file(ids, "item ids")
    with foreign_reader(f"the ids in {ids}", "UTF-8 text"):
        if ids.suffix == ".csv":
            return _read_column_of_ids(ids, id_field)
        # A byte order mark would be part of the first id.
        text = ids.read_text(encoding="utf-8-sig")
        content = json.loads(text) if ids.suffix == ".json" else text.splitlines()
    if not isinstance(content, list):
        raise LLMInitError(f"{ids} holds a {type(content).__name__}: expected a list of item ids")
    return content


def _read_column_of_ids(path: Path, id_field: str) -> Sequence[Any]:
    table = read_delimited(path, ",")
    alone = len(table.columns) == 1
    column = table.columns[0] if alone else _find_ids(list(table.columns), id_field, path)
    _check_once([column], _read_header(path, ","), path)
    return list(table[column])


def export_embeddings(embeddings: ItemEmbeddings, path: str | Path) -> list[Path]:
    """Write vectors to ``.parquet``, or to ``.npy`` with the ids in a ``.json`` beside it; return the files.

    Both are forms that `read_embeddings` reads. The files appear whole or not at all; vectors are copied by blocks.

    Raises
    ------
    LLMInitError
        If the path has another suffix, or something is there already, or cannot be written, or a vector is empty or
        holds NaN or an infinity.
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
    values = pa.list_(pa.from_numpy_dtype(_dtype(embeddings)), embeddings.width)
    schema = pa.schema(
        [pa.field("item_id", pa.string()), pa.field("embedding", values)],
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
        # The ids appear first: where the vectors are, all is there.
        with whole_file(path) as temporary, whole_file(ids) as temporary_ids:
            with temporary.open("wb") as file:
                header = {"descr": _dtype(embeddings).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, vectors in _blocks(embeddings):
                    file.write(np.ascontiguousarray(vectors).tobytes())
            temporary_ids.write_text(json.dumps(embeddings.tokens.to_pylist()), encoding="utf-8")
    except BaseException:
        if not exists(path) and exists(ids):
            ids.unlink()
        raise


def _dtype(embeddings: ItemEmbeddings) -> np.dtype[Any]:
    """Return the type that holds the numbers of all shards, at most float64; those of a Parquet folder may differ."""
    found = np.result_type(*embeddings.chunks).newbyteorder("=")
    return found if found.itemsize <= 8 else np.dtype(np.float64)


def _filter(tokens: pa.LargeStringArray, mask: npt.NDArray[np.bool_]) -> pa.LargeStringArray:
    return tokens.filter(pa.array(mask))


def _blocks(embeddings: ItemEmbeddings) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    start = 0
    for chunk in embeddings.chunks:
        for first in range(0, len(chunk), _EXPORTED_ROWS):
            with np.errstate(over="ignore"):
                block = chunk[first : first + _EXPORTED_ROWS].astype(_dtype(embeddings), copy=False)
            tokens = embeddings.tokens.slice(start, len(block))
            check_numbers(block, functools.partial(_filter, tokens), embeddings.source)
            yield start, block
            start += len(block)
