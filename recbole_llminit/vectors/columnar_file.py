"""One columnar file, Arrow IPC or Parquet: its schema, its header, and columns that are validated before use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, require_file
from recbole_llminit.vectors.header import ShardHeader
from recbole_llminit.vectors.tokens import examples

Form = Literal["arrow", "parquet"]
_EXPECTED: dict[Form, str] = {
    "arrow": "a whole Arrow file; if it is damaged, delete it and make its vectors again",
    "parquet": "a whole Parquet file; if it is damaged, delete it and make its vectors again",
}


@contextlib.contextmanager
def reading(path: Path, form: Form) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into an `LLMInitError`.

    A file that is not there raises `FileNotFoundError`, because another process may have merged it into a new shard.
    """
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
class ColumnarFile:
    """An open Arrow file, memory-mapped, or Parquet file. Its schema is read, its columns are not yet.

    Parameters
    ----------
    path : Path
        The file.
    form : {"arrow", "parquet"}
        The file's form.
    file : RecordBatchFileReader or ParquetFile
        The open file.
    schema : Schema
        The types of the columns.
    names : tuple of str
        The names of the columns.
    header : ShardHeader, optional
        The header that `append_shard` wrote. None in a file of another program.
    """

    path: Path
    form: Form
    file: Any
    schema: pa.Schema
    names: tuple[str, ...]
    header: ShardHeader | None

    @classmethod
    def open(cls, path: Path, form: Form) -> ColumnarFile:
        """Open a file and read its schema.

        Raises
        ------
        LLMInitError
            If the file is damaged, or a newer version of this package wrote it.
        FileNotFoundError
            If it is not there.
        """
        with reading(path, form):
            if form == "parquet":
                file = pq.ParquetFile(path, memory_map=True)
                schema = file.schema_arrow
            else:
                file = pa.ipc.open_file(pa.memory_map(str(path)))
                schema = file.schema
            return cls(path, form, file, schema, tuple(schema.names), ShardHeader.from_schema(schema, path))

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column; raise `LLMInitError` unless the file has the column exactly once."""
        count = self.names.count(name)
        if count != 1:
            raise LLMInitError(
                f"{self.path} has {f'{count} columns' if count else 'no column'} {name} (it has "
                f"{examples(self.names, 8)}): expected one"
            )
        return self.schema.field(name).type

    def read(self, names: Sequence[str]) -> list[pa.ChunkedArray]:
        """Read columns, memory-mapped if they are stored uncompressed, and validate them.

        Computing on a column that was not validated can crash the process: one flipped byte can make a buffer seem
        longer than it is. Validating lists of a fixed size without nulls does not read their numbers.

        Parameters
        ----------
        names : sequence of str
            The columns.

        Raises
        ------
        LLMInitError
            If a column is missing, occurs twice or is damaged.
        FileNotFoundError
            If the file is not there any more.
        """
        types = [self.type_of(name) for name in names]
        with reading(self.path, self.form):
            tables = self._read_tables(names)
            for table in tables:
                table.validate()
            columns = [[chunk for table in tables for chunk in _chunks(table.column(name))] for name in names]
            for chunk in (chunk for chunks in columns for chunk in chunks):
                chunk.validate(full=True)
            return [
                pa.chunked_array(chunks, chunks[0].type if chunks else type_)
                for chunks, type_ in zip(columns, types, strict=True)
            ]

    def _read_tables(self, names: Sequence[str]) -> list[pa.Table] | list[pa.RecordBatch]:
        if self.form == "parquet":
            self._refuse_more_than_memory(names)
            # One thread: with several, one that reads on after the error of another can end the process.
            return [self.file.read(columns=list(names), use_threads=False)]
        # Whole batches, not only the wanted columns: Arrow would copy these.
        return [self.file.get_batch(number) for number in range(self.file.num_record_batches)]

    def _refuse_more_than_memory(self, names: Sequence[str]) -> None:
        """Raise if the numbers of a Parquet file, which are compressed there, do not fit into the memory.

        The system would kill the process without a message.
        """
        metadata = self.file.metadata
        for number in range(metadata.num_row_groups):
            # Reading the first row of a damaged row group raises; looking at its metadata could end the process.
            rows = self.file.iter_batches(batch_size=1, row_groups=[number], columns=list(names), use_threads=False)
            next(rows, None)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        leaves = [number for number in range(metadata.num_columns) if _top_level_name(metadata, number) in names]
        numbers = sum(group.column(leaf).num_values for group in groups for leaf in leaves)
        # The smallest type that is read, half precision, takes two bytes.
        if 2 * numbers > (memory := _memory_bytes()):
            raise LLMInitError(
                f"{self.path} holds {numbers:,} numbers, more than fit into the {memory / 1e9:.1f} GB of this machine: "
                f"expected vectors that fit; write them as .npy, which is read from the disk"
            )


def _top_level_name(metadata: pq.FileMetaData, number: int) -> str:
    return str(metadata.schema.column(number).path).partition(".")[0]


def _memory_bytes() -> float:
    """Return the size of this machine's memory, or infinity if the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def to_tokens(column: pa.ChunkedArray, path: Path, name: str) -> pa.LargeStringArray:
    """Copy a validated column of ids as texts.

    Parameters
    ----------
    column : ChunkedArray, shape [n]
        The column, as `ColumnarFile.read` returns it.
    path, name : Path, str
        Its file and its name, for messages.

    Raises
    ------
    LLMInitError
        If the cells are neither texts nor whole numbers, or one is empty.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if str(kind) not in ("string", "large_string", "string_view") and not pa.types.is_integer(kind):
        raise LLMInitError(f"the {name} column of {path} is {kind}: expected texts or whole numbers")
    if column.type != kind and any(len(chunk.indices.unique()) < len(chunk) for chunk in column.chunks):
        # A few long texts, each repeated many times, could fill the memory.
        raise LLMInitError(f"{path} has cells of {name} more than once: expected each once, remove the duplicates")
    texts = column.cast(kind).cast(pa.large_string()).combine_chunks()
    # Tested after the cast, because an entry of the dictionary itself may be null.
    if texts.null_count:
        raise LLMInitError(f"{path} has empty cells in {name}: expected a text or a whole number in each row")
    return texts


def to_matrices(column: pa.ChunkedArray, path: Path) -> tuple[npt.NDArray[Any], ...]:
    """View a validated column of lists as matrices ``[n_chunk, llm_dim]``, without a copy where Arrow allows it.

    Parameters
    ----------
    column : ChunkedArray, shape [n]
        The column, as `ColumnarFile.read` returns it.
    path : Path
        Its file, for messages.

    Raises
    ------
    LLMInitError
        If the cells are not lists of floating-point numbers, one is empty, or they differ in length.
    """
    width = _common_length(column, path)
    return tuple(_chunk_to_matrix(chunk, width) for chunk in column.chunks if len(chunk))


def _common_length(column: pa.ChunkedArray, path: Path) -> int:
    """Return the one length that all lists of a column have; 0 for a column without rows."""
    kind = column.type
    require_lists_of_floats(kind, path)
    if column.null_count:
        raise LLMInitError(f"{path} has empty cells among its vectors: expected a vector in each row")
    fixed = pa.types.is_fixed_size_list(kind)
    lengths = [kind.list_size] if fixed else sorted(pc.list_value_length(column).unique().to_pylist())
    if len(lengths) > 1:
        raise LLMInitError(f"{path} holds vectors of {examples(lengths)} dimensions: expected one width")
    if lengths == [0]:
        raise LLMInitError(f"{path} holds empty vectors: expected at least one number in each")
    return int(lengths[0]) if lengths else 0


def require_lists_of_floats(kind: pa.DataType, path: Path) -> None:
    """Raise `LLMInitError` unless the type of an embedding column is a list of floating-point numbers."""
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise LLMInitError(f"the embedding column of {path} is {kind}: expected lists of numbers")
    if not pa.types.is_floating(kind.value_type):
        raise LLMInitError(f"the embedding column of {path} holds {kind.value_type}: expected floating-point numbers")


def _chunk_to_matrix(chunk: pa.Array, width: int) -> npt.NDArray[Any]:
    values = chunk.flatten()
    # A null becomes NaN, which is reported with the item's id when the vector is read.
    return np.asarray(values.to_numpy(zero_copy_only=values.null_count == 0)).reshape(-1, width)
