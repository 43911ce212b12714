"""One text per item, from the ``.item`` file of a dataset or a table of the user's own."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llminit.data_frames import read_delimited, read_parquet_frame, split_header
from recbole_llminit.encode.cell_text import LONGEST_TEXT, as_text, clean, is_utf8
from recbole_llminit.encode.text_template import TemplatePart, compose_text, join_fields, parse_template
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, require_file
from recbole_llminit.vectors.tokens import examples

_FORMATS = ".item, .csv, .tsv, .jsonl, .json (a JSON object a line) or .parquet"
_SWITCHES = {"true", "false", "yes", "no"}
_SAMPLE = 1000
_TITLE = re.compile("title|^name$|(item|product|movie|book|song|track|game|business|place|recipe|app)_?name$", re.I)
_NOT_A_TEXT = re.compile("(^|_)(id|ids|asin|isbn|ean|upc|url|urls|link|image|images|img|timestamp|date|time)$", re.I)
_ADDRESS = re.compile(r"(https?://|www\.).")
_SHOWN_COLUMNS = 8

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemTexts:
    """The texts of items, each with the token of its item.

    Parameters
    ----------
    ids : tuple of str, shape [n]
        The tokens of the items that have a text.
    texts : tuple of str, shape [n]
        Their texts, never empty: HTML entities are decoded, white space is normalized, and of each field the first
        million characters are used.
    without_text : tuple of str
        The tokens of the items that have no text.
    fields : tuple of str
        The fields that the texts are made of.
    filled : tuple of int
        The number of items that have each of the fields.
    template : str
        How the fields are put together.
    source : str
        The file.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    without_text: tuple[str, ...]
    fields: tuple[str, ...]
    filled: tuple[int, ...]
    template: str
    source: str

    def __str__(self) -> str:
        """Return the counts and the template as a log line."""
        counts = ", ".join(f"{field} {count:,}" for field, count in zip(self.fields, self.filled, strict=True))
        return (
            f"{len(self.ids) + len(self.without_text):,} items in {self.source}, {len(self.without_text):,} without "
            f"text; template {self.template!r} (items with {counts})"
        )


def read_item_texts(
    path: str | Path,
    *,
    id_field: str = "item_id",
    fields: Sequence[str] | None = None,
    template: str | None = None,
    field_separator: str = "\t",
    seq_separator: str = " ",
    encoding: str = "utf-8",
) -> ItemTexts:
    """Return the text of every item in a file.

    Parameters
    ----------
    path : path
        RecBole's ``.item`` file, or a table with a column of item ids: CSV, TSV, JSON lines or Parquet.
    id_field : str
        The column of the item ids (RecBole's ``ITEM_ID_FIELD``).
    fields : sequence of str, optional
        The fields of the text, in order. If neither fields nor a template are given, `find_text_fields` chooses them.
    template : str, optional
        How fields are put together, e.g. ``"{title}. Brand: {brand}"``. Where an item lacks a field, the words before
        that field are left out too. An item without any of the fields has no text.
    field_separator, seq_separator, encoding : str
        The form of the ``.item`` file, as in RecBole's configuration.

    Raises
    ------
    LLMInitError
        If the file, the id column or a field does not exist, the file cannot be read, the template is malformed, no
        field is a text, or an item has two rows with different texts.
    """
    path = Path(path)
    require_file(path, f"texts ({_FORMATS})")
    # What follows raises over the cells too: a foreign reader may put values of any type into them.
    with foreign_reader(path, _FORMATS):
        table, separators = _read_table(path, field_separator, seq_separator, encoding)
        ids = _read_ids(table, path, id_field)
        parts, template = _choose_template(table, path, id_field, fields, template)
        columns = _read_fields(table, path, parts, separators)
        texts = [compose_text(parts, values) for values in zip(*columns, strict=True)]
        by_id = _one_text_per_item(ids, texts, template, path)
    return ItemTexts(
        ids=tuple(item for item, text in by_id.items() if text),
        texts=tuple(text for text in by_id.values() if text),
        without_text=tuple(item for item, text in by_id.items() if not text),
        fields=tuple(part.field for part in parts),
        filled=tuple(sum(map(bool, column)) for column in columns),
        template=template,
        source=str(path),
    )


def _read_ids(table: pd.DataFrame, path: Path, id_field: str) -> list[str]:
    if id_field not in table.columns:
        raise LLMInitError(
            f"{path} has no column {id_field} (it has {_columns_of(table)}): expected the item ids in it, rename the "
            f"column or set ITEM_ID_FIELD"
        )
    return [_as_id(value, path) for value in table[id_field].to_numpy()]


def _as_id(value: Any, path: Path) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    refused = not isinstance(value, str) and (
        isinstance(value, bool | np.bool_ | float | np.floating)
        or not pd.api.types.is_scalar(value)
        or bool(pd.isna(value))
    )
    if refused:
        raise LLMInitError(f"{path} has the item id {value!r}: expected a text or a whole number in every row")
    token = str(value)
    if not is_utf8(token):
        raise LLMInitError(f"{path} has the item id {token!r}, half a surrogate pair: expected UTF-8 text in every row")
    return token


def _columns_of(table: pd.DataFrame) -> str:
    return examples(list(table.columns), _SHOWN_COLUMNS)


def _choose_template(
    table: pd.DataFrame, path: Path, id_field: str, fields: Sequence[str] | None, template: str | None
) -> tuple[list[TemplatePart], str]:
    """Return the parts of the template given, of the fields given, or of the fields found, and the template."""
    if fields is not None and template is not None:
        raise LLMInitError("llm_text_fields and llm_text_template are both set: the template names the fields, set one")
    if template is not None:
        parts = parse_template(template)
    else:
        chosen = list(fields) if fields is not None else find_text_fields(table, id_field)
        if not chosen:
            raise LLMInitError(
                f"no field of {path} is a text (it has {_columns_of(table)}): name fields in llm_text_fields, or give "
                f"a file with texts in llm_text_file"
            )
        # Not parsed from the template: a column may have a name such as og:title.
        parts = join_fields(chosen)
        template = ". ".join(f"{{{field}}}" for field in chosen)
    lacking = [part.field for part in parts if part.field not in table.columns]
    if lacking:
        raise LLMInitError(
            f"{path} has no field {', '.join(lacking)} (it has {_columns_of(table)}): expected the fields of the "
            f"template {template!r}"
        )
    return parts, template


def _read_fields(
    table: pd.DataFrame, path: Path, parts: Sequence[TemplatePart], separators: Mapping[str, str]
) -> list[list[str]]:
    """Return the cleaned texts of each field, one list per part of the template; warn of those that are cut."""
    cells = [[as_text(value, separators.get(part.field)) for value in table[part.field].to_numpy()] for part in parts]
    cut = sum(len(text) > LONGEST_TEXT for column in cells for text in column)
    if cut:
        _logger.warning(
            f"{cut:,} texts of {path} are longer than {LONGEST_TEXT:,} characters, more than any encoder reads: they "
            f"are cut there"
        )
    return [[clean(text) for text in column] for column in cells]


def find_text_fields(table: pd.DataFrame, id_field: str) -> list[str]:
    """Return the fields of a table that are texts: title-like fields first, then the others in the table's order.

    Fields that hold only ids, numbers, dates, addresses or switches are no texts.
    """
    found = [field for field in table.columns if field != id_field and _is_text(str(field), table[field])]
    return sorted(found, key=lambda field: not _TITLE.search(str(field)))


def _is_text(name: str, column: pd.Series) -> bool:
    """Return whether most of a column's first values are words: not numbers, ids, dates, addresses or vectors."""
    if _NOT_A_TEXT.search(name) or pd.api.types.is_numeric_dtype(column):
        return False
    values: list[str] = []
    for value in column.to_numpy():
        text = clean(as_text(value))
        if text:
            values.append(text)
        if len(values) == _SAMPLE:
            break
    if {text.lower() for text in values} <= _SWITCHES:
        return False
    words = sum(bool(re.search(r"[^\W\d_]{2}", text)) and not _is_code(text) for text in values)
    return words > len(values) / 2


def _is_code(text: str) -> bool:
    """Return whether a text is one word with a digit in it (B001FB5IIC, 2016-11-01, 4.5, $12.99), or an address."""
    return " " not in text and bool(re.search(r"\d", text) or _ADDRESS.match(text))


def _one_text_per_item(ids: Sequence[str], texts: Sequence[str], template: str, path: Path) -> dict[str, str]:
    by_id: dict[str, str] = {}
    conflicting = [item for item, text in zip(ids, texts, strict=True) if by_id.setdefault(item, text) != text]
    if conflicting:
        raise LLMInitError(
            f"{path} has {len(conflicting):,} rows of an item that an earlier row gives another text "
            f"({examples(conflicting)}): expected one text for each item, remove the others"
        )
    if not any(by_id.values()):
        raise LLMInitError(
            f"none of the {len(by_id):,} items of {path} has a text by the template {template!r}: check the fields, or "
            f"give a file with texts in llm_text_file"
        )
    return by_id


def _read_table(
    path: Path, field_separator: str, seq_separator: str, encoding: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table, and the separator of each column whose cells are sequences written as text."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix == ".item":
        # RecBole's files are written without quoting: quotes are part of a title.
        table = read_delimited(path, field_separator, quoting=csv.QUOTE_NONE, encoding=encoding)
        kinds = split_header(table.columns)
        table.columns = list(kinds)
        table = table[[field for field, kind in kinds.items() if not kind.startswith("float")]]
        return table, {field: seq_separator for field, kind in kinds.items() if kind == "token_seq"}
    if suffix in (".csv", ".tsv"):
        return read_delimited(path, "," if suffix == ".csv" else "\t"), {}
    if suffix in (".jsonl", ".json", ".ndjson"):
        return _read_json_lines(path), {}
    if suffix == ".parquet":
        return read_parquet_frame(path), {}
    raise LLMInitError(f"{path} has no format of texts that can be read: expected {_FORMATS}")


def _read_json_lines(path: Path) -> pd.DataFrame:
    """Read a JSON object per line; pandas would silently drop half a surrogate pair from an id."""
    rows = []
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise LLMInitError(f"{path} holds a {kind} in line {number}: expected a JSON object on each line")
            if row:
                rows.append(row)
    unwritable = [field for field in {field for row in rows for field in row} if not is_utf8(field)]
    if unwritable:
        raise LLMInitError(f"{path} has a field {unwritable[0]!r}, half a surrogate pair: expected names in UTF-8")
    return pd.DataFrame(rows, dtype=object)
