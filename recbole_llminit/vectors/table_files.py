"""Vectors in tables, .csv, .tsv, .parquet and RecBole's atomic files: a column of item ids and columns of vectors.

Each reader takes the file and the column of the ids, and returns the ids, length n, and the vectors ``[n, llm_dim]``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from recbole_llminit.data_frames import read_delimited, read_header, split_header
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.column_names import find_id_column, find_numbered_columns, no_vector_columns, require_once
from recbole_llminit.vectors.columnar_file import ColumnarFile, to_matrices, to_tokens
from recbole_llminit.vectors.tokens import examples


def read_csv(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read a table separated by commas or tabs, with one column of lists or one column per dimension."""
    separator = "," if path.suffix == ".csv" else "\t"
    names = read_header(path, separator)
    ids = find_id_column(names, id_field, path)
    require_once([ids], names, path)
    dimensions = find_numbered_columns([name for name in names if name != ids], path)
    if dimensions:
        table = read_delimited(path, separator, types=dict.fromkeys(dimensions, np.float32))
        return table[ids].tolist(), table[dimensions].to_numpy()
    # The index that pandas writes has no name.
    others = [name for name in names if name not in (ids, "") and not name.startswith("Unnamed: ")]
    if len(others) != 1:
        raise no_vector_columns(names, ids, path)
    table = read_delimited(path, separator)
    return table[ids].tolist(), _parse_vectors(table[others[0]], table[ids], path)


def read_parquet(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read a Parquet file with one column of lists or one column per dimension; other columns may be there."""
    file = ColumnarFile.open(path, "parquet")
    ids = find_id_column(file.names, id_field, path)
    others = [field for field in file.schema if field.name != ids]
    lists = [field.name for field in others if _is_nested(field.type)]
    if len(lists) == 1:
        tokens, vectors = file.read([ids, *lists])
        matrices = to_matrices(vectors, path)
        matrix = np.concatenate(matrices) if matrices else np.empty((0, 0), dtype=np.float32)
        return to_tokens(tokens, path, ids), matrix
    dimensions = find_numbered_columns([field.name for field in others if pa.types.is_floating(field.type)], path)
    if lists or not dimensions:
        raise no_vector_columns(file.names, ids, path)
    tokens, *columns = file.read([ids, *dimensions])
    kind = np.result_type(*(column.type.to_pandas_dtype() for column in columns))
    matrix = np.empty((len(tokens), len(columns)), dtype=kind)
    for number, column in enumerate(columns):
        matrix[:, number] = column.to_numpy()
    return to_tokens(tokens, path, ids), matrix


def _is_nested(kind: pa.DataType) -> bool:
    # pyarrow 15 does not count a list of a fixed size as nested.
    return bool(pa.types.is_nested(kind) or pa.types.is_fixed_size_list(kind))


def read_atomic(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read one of RecBole's atomic files: separated by tabs, with ``name:type`` in its header."""
    header = read_header(path, "\t", quotes=False)
    kinds = split_header(header)
    ids, vectors = _choose_fields(kinds, id_field, path)
    names = [column.partition(":")[0] for column in header]
    require_once([ids, vectors], names, path)
    columns = [header[names.index(name)] for name in (ids, vectors)]
    table = read_delimited(path, "\t", quoting=csv.QUOTE_NONE)[columns]
    table.columns = ["id", "vector"]
    # An item without a vector has an empty cell, or no cell if an editor cut the end of the line.
    table = table[table["vector"].fillna("").str.strip(' "') != ""]
    return table["id"].tolist(), _parse_vectors(table["vector"], table["id"], path)


def _choose_fields(kinds: dict[str, str], id_field: str, path: Path) -> tuple[str, str]:
    """Return the fields of the ids and of the vectors in one of RecBole's atomic files, from the types by name."""
    is_itememb = path.suffix == ".itememb"
    tokens = [name for name, kind in kinds.items() if kind == "token"]
    # RecBole's documentation names the ids of an .itememb file iid, an alias of the items.
    by_alias = is_itememb and len(tokens) == 1 and id_field not in kinds
    ids = tokens[0] if by_alias else find_id_column(list(kinds), id_field, path)
    if "llm_embedding" in kinds:
        return ids, "llm_embedding"
    sequences = [name for name, kind in kinds.items() if kind == "float_seq"]
    if is_itememb and len(sequences) == 1:
        return ids, sequences[0]
    raise LLMInitError(
        f"{path} has the fields {examples(list(kinds), 8)}: expected the vectors in a field "
        f"llm_embedding{', or one of the type float_seq' if is_itememb else ''}"
    )


def _parse_vectors(cells: pd.Series, ids: pd.Series, path: Path) -> npt.NDArray[np.float32]:
    """Parse cells of numbers, ``0.1 0.2`` or ``[0.1, 0.2]``, into a matrix ``[n, llm_dim]``."""
    rows: list[npt.NDArray[np.float32]] = []
    for item, cell in zip(ids, cells, strict=True):
        try:
            # A row that ends early has no cell.
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
