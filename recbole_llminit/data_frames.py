"""Delimited and Parquet files as pandas data frames, and the headers of RecBole's atomic files."""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq


def read_delimited(
    path: Path,
    separator: str,
    *,
    quoting: int = csv.QUOTE_MINIMAL,
    encoding: str = "utf-8-sig",
    types: Mapping[str, type] | None = None,
) -> pd.DataFrame:
    """Read a delimited file with a header. An empty cell stays an empty text.

    Parameters
    ----------
    path : Path
        The file.
    separator : str
        What separates two cells.
    quoting : int
        A ``QUOTE_`` constant of the module `csv`.
    encoding : str
        The encoding of the text.
    types : mapping of str to type, optional
        The types of some columns by name. Default: text.

    Raises
    ------
    ValueError
        If a row has more fields than the header.
    """
    with warnings.catch_warnings():
        # pandas takes surplus fields of the first row for an index, or cuts them off with this warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                path,
                sep=separator,
                index_col=False,
                # No usecols: with it, pandas drops surplus fields without a warning.
                dtype=defaultdict(lambda: str, types or {}),
                quoting=quoting,
                keep_default_na=False,
                encoding=encoding,
                engine="c" if len(separator) == 1 else "python",
            )
        except pd.errors.ParserWarning as warning:
            raise ValueError("its rows have more fields than its header") from warning


def read_header(path: Path, separator: str, *, quotes: bool = True) -> list[str]:
    """Return the column names of a delimited file as they are written; pandas renames a name that occurs twice.

    Parameters
    ----------
    path : Path
        The file, in UTF-8.
    separator : str
        What separates two cells.
    quotes : bool
        Whether a cell may be quoted.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        # pandas skips empty lines, too.
        return next((row for row in rows if len(row) > 1 or "".join(row).strip()), [])


def split_header(columns: Iterable[str]) -> dict[str, str]:
    """Split the columns of one of RecBole's atomic files, ``name:type``, into types by name."""
    return {name: kind for name, _, kind in (str(column).partition(":") for column in columns)}


def read_parquet_frame(path: Path) -> pd.DataFrame:
    """Read a Parquet file."""
    # In one thread: with several, one that reads on after the error of another can end the process.
    frame: pd.DataFrame = pq.ParquetFile(path).read(use_threads=False).to_pandas(use_threads=False)
    return frame
