"""One text per item, from the ``.item`` file of a dataset or a table of the user's own."""

from __future__ import annotations

import ast
import contextlib
import csv
import gzip
import html
import json
import logging
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, require_file
from recbole_llminit.vectors.embeddings import examples
from recbole_llminit.vectors.readers import read_delimited, read_parquet, split_header

_FORMATS = ".item, .csv, .tsv, .jsonl, .json (a JSON object a line) or .parquet"
_MISSING = {"", "nan", "none", "null", "na", "n/a", "<na>"}
_SWITCHES = {"true", "false", "yes", "no"}
_SAMPLE = 1000
_TITLE = re.compile("title|^name$|(item|product|movie|book|song|track|game|business|place|recipe|app)_?name$", re.I)
_NOT_A_TEXT = re.compile("(^|_)(id|ids|asin|isbn|ean|upc|url|urls|link|image|images|img|timestamp|date|time)$", re.I)
_ADDRESS = re.compile(r"(https?://|www\.).")
# Some 250,000 tokens, more than any encoder reads.
_LONGEST_TEXT = 1_000_000
# Parsing a list takes a hundred times its memory.
_LONGEST_LIST = 100_000
_DEEPEST_CELL = 50
# Entities are encoded twice where a crawler did what the shop had done.
_DECODINGS = 10
_CLOSING = ")]}\u00bb\u201d\u2019\"'"
_SEPARATORS = " \t.,;:|/-\u2013\u2014\u00b7\u2022"


@dataclass(frozen=True)
class ItemTexts:
    """The texts of items, each with its item token.

    Parameters
    ----------
    ids : tuple of str, shape [n]
        Tokens of the items that have a text.
    texts : tuple of str, shape [n]
        Their texts: HTML entities decoded, white space normalised, never empty; of a field the first million
        characters.
    without_text : tuple of str
        Tokens of the items that have none.
    fields : tuple of str
        The fields the texts are made of.
    filled : tuple of int
        How many items have each of the fields.
    template : str
        How they were put together.
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
        """Return the counts and the template, as a log line."""
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
    """Return the text of every item of a file.

    Parameters
    ----------
    path : path
        RecBole's ``.item`` file, or a table with a column of item ids: CSV, TSV, JSON lines or Parquet.
    id_field : str
        The column of the item ids (RecBole's ``ITEM_ID_FIELD``).
    fields : sequence of str, optional
        The fields of the text, in order. If neither fields nor template are given they are found: title-like fields
        first, then other text; never ids or numbers alone.
    template : str, optional
        How fields are put together, e.g. ``"{title}. Brand: {brand}"``. A missing field goes with the words before it;
        an item without any of the fields has no text.
    field_separator, seq_separator, encoding : str
        Of the ``.item`` file, as in RecBole's configuration.

    Raises
    ------
    LLMInitError
        If the file, the id column or a field is not there, the file cannot be read, the template is malformed, no field
        is a text, or an item stands twice with different texts.
    """
    path = Path(path)
    require_file(path, f"texts ({_FORMATS})")
    # Cells hold what a foreign reader put there, and may be of any kind.
    with foreign_reader(path, _FORMATS):
        table, separators = _read_table(path, field_separator, seq_separator, encoding)
        return _compose_texts(path, table, separators, id_field, fields, template)


def _compose_texts(
    path: Path,
    table: pd.DataFrame,
    separators: Mapping[str, str],
    id_field: str,
    fields: Sequence[str] | None,
    template: str | None,
) -> ItemTexts:
    if id_field not in table.columns:
        raise LLMInitError(
            f"{path} has no column {id_field} (it has {examples(list(table.columns), 8)}): expected the item ids in "
            f"it, rename the column or set ITEM_ID_FIELD"
        )
    ids = [_as_id(value, path) for value in table[id_field].to_numpy()]
    if fields is not None and template is not None:
        raise LLMInitError("llm_text_fields and llm_text_template are both set: the template names the fields, set one")
    if template is None:
        chosen = list(fields) if fields is not None else find_text_fields(table, id_field)
        if not chosen:
            raise LLMInitError(
                f"no field of {path} is a text (it has {examples(list(table.columns), 8)}): name fields in "
                f"llm_text_fields, or give a file with texts in llm_text_file"
            )
        # Not parsed: a column may be named og:title.
        parts = [(". " if number else "", field, "") for number, field in enumerate(chosen)]
        template = ". ".join(f"{{{field}}}" for field in chosen)
    else:
        parts = parse_template(template)
    lacking = [field for _, field, _ in parts if field not in table.columns]
    if lacking:
        raise LLMInitError(
            f"{path} has no field {', '.join(lacking)} (it has {examples(list(table.columns), 8)}): expected the "
            f"fields of the template {template!r}"
        )
    cells = [[_as_text(value, separators.get(field)) for value in table[field].to_numpy()] for _, field, _ in parts]
    cut = sum(len(text) > _LONGEST_TEXT for column in cells for text in column)
    if cut:
        logging.getLogger().warning(
            f"{cut:,} texts of {path} are longer than {_LONGEST_TEXT:,} characters, more than any encoder reads: they "
            f"are cut there"
        )
    columns = [[_clean(text) for text in column] for column in cells]
    texts = [_compose(parts, values) for values in zip(*columns, strict=True)]
    filled = tuple(sum(map(bool, column)) for column in columns)
    return _by_item(ids, texts, tuple(field for _, field, _ in parts), filled, template, path)


def find_text_fields(table: pd.DataFrame, id_field: str) -> list[str]:
    """Return the fields of a table that are texts: title-like ones first, then the others in the table's order."""
    found = [field for field in table.columns if field != id_field and _is_text(str(field), table[field])]
    return sorted(found, key=lambda field: not _TITLE.search(str(field)))


def parse_template(template: str) -> list[tuple[str, str, str]]:
    """Split a template into fields, each with the words before it and the brackets or quotes that close after it.

    Raises
    ------
    LLMInitError
        If braces do not match, a field has a format of its own, or there is no field.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise LLMInitError(f"llm_text_template {template!r} is malformed ({error}): expected '{{title}} ...'") from None
    parts: list[tuple[str, str, str]] = []
    before = ""
    for literal, field, form, conversion in pieces:
        # An escaped brace ends a piece that has no field.
        before += literal
        if field is None:
            continue
        if field == "" or form or conversion:
            raise LLMInitError(f"llm_text_template {template!r} is malformed: expected the names of fields in braces")
        if parts:
            closing = before[: len(before) - len(before.lstrip(_CLOSING))]
            before = before.removeprefix(closing)
            parts[-1] = (*parts[-1][:2], closing)
        parts.append((before, field, ""))
        before = ""
    if parts:
        parts[-1] = (*parts[-1][:2], before)
    if not parts:
        raise LLMInitError(f"llm_text_template {template!r} names no field: expected e.g. '{{title}}. {{brand}}'")
    return parts


def is_utf8(text: str) -> bool:
    """Whether a text can be written; half a surrogate pair, as broken JSON and YAML have, cannot."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode() is not None
    return False


def _compose(parts: Sequence[tuple[str, str, str]], values: Sequence[str]) -> str:
    text = ""
    for number, ((before, _, after), value) in enumerate(zip(parts, values, strict=True)):
        if not value:
            continue
        if not text and number:
            # What stood between two fields begins the text now.
            before = before.lstrip(_SEPARATORS)
        elif text.endswith((".", "!", "?")) and before.startswith("."):
            before = before[1:]
        text += before + value + after
    return " ".join(text.split())


def _clean(text: str) -> str:
    """Decode HTML entities, also those encoded twice, normalise white space, and empty what means missing."""
    text = text[:_LONGEST_TEXT]
    for _ in range(_DECODINGS):
        decoded = _decode(text)
        if decoded == text:
            break
        text = decoded
    if not text.isascii():
        # A lone surrogate, as broken JSON has, is no UTF-8.
        text = text.encode("utf-8", "ignore").decode()
    text = " ".join(text.split())
    return "" if text.lower() in _MISSING else text


def _decode(text: str) -> str:
    if "&" in text:
        # Of a number with thousands of digits Python makes no character.
        with contextlib.suppress(ValueError):
            return html.unescape(text)
    return text


def _as_text(value: Any, separator: str | None = None, depth: int = 0) -> str:
    """Return a cell as text; the members of lists and mappings are joined by commas."""
    if depth > _DEEPEST_CELL:
        raise ValueError(f"a cell holds lists in lists, more than {_DEEPEST_CELL} deep")
    if isinstance(value, bytes):
        # A Parquet column without its text annotation, as Hive writes it.
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        if value.startswith("[") and value.endswith("]") and len(value) <= _LONGEST_LIST:
            # A list that was written into a cell of text.
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return _as_text(ast.literal_eval(value), depth=depth + 1)
        if separator is None or not separator.strip():
            return value
        return ", ".join(filter(None, (part.strip() for part in value.split(separator))))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_as_text(member, depth=depth + 1)}" for key, member in value.items())
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(filter(None, (_as_text(member, depth=depth + 1) for member in value)))
    if value is None or pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


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


def _is_text(name: str, column: pd.Series) -> bool:
    """Whether most of a column's first values are words: not numbers, ids, dates, addresses or vectors."""
    if _NOT_A_TEXT.search(name) or pd.api.types.is_numeric_dtype(column):
        return False
    values: list[str] = []
    for value in column.to_numpy():
        text = _clean(_as_text(value))
        if text:
            values.append(text)
        if len(values) == _SAMPLE:
            break
    if {text.lower() for text in values} <= _SWITCHES:
        return False
    words = sum(bool(re.search(r"[^\W\d_]{2}", text)) and not _is_code(text) for text in values)
    return words > len(values) / 2


def _is_code(text: str) -> bool:
    """Whether a text is one word with a digit in it (B001FB5IIC, 2016-11-01, 4.5, $12.99), or an address."""
    return " " not in text and bool(re.search(r"\d", text) or _ADDRESS.match(text))


def _by_item(
    ids: list[str],
    texts: list[str],
    fields: tuple[str, ...],
    filled: tuple[int, ...],
    template: str,
    path: Path,
) -> ItemTexts:
    by_id: dict[str, str] = {}
    conflicting = [item for item, text in zip(ids, texts, strict=True) if by_id.setdefault(item, text) != text]
    if conflicting:
        raise LLMInitError(
            f"{path} has {len(conflicting):,} rows of an item that stands there with another text "
            f"({examples(conflicting)}): expected one text for each item, remove the others"
        )
    if not any(by_id.values()):
        raise LLMInitError(
            f"none of the {len(by_id):,} items of {path} has a text by the template {template!r}: check the fields, or "
            f"give a file with texts in llm_text_file"
        )
    return ItemTexts(
        tuple(item for item, text in by_id.items() if text),
        tuple(text for text in by_id.values() if text),
        tuple(item for item, text in by_id.items() if not text),
        fields,
        filled,
        template,
        str(path),
    )


def _read_table(
    path: Path, field_separator: str, seq_separator: str, encoding: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table of text cells, and the separator of those columns whose cells are sequences."""
    form = Path(path.name.removesuffix(".gz")).suffix.lower()
    if form == ".item":
        # Quotes are part of a title here: RecBole's files are not written with quoting.
        table = read_delimited(path, field_separator, quoting=csv.QUOTE_NONE, encoding=encoding)
        kinds = split_header(table.columns)
        table.columns = list(kinds)
        table = table[[field for field, kind in kinds.items() if not kind.startswith("float")]]
        return table, {field: seq_separator for field, kind in kinds.items() if kind == "token_seq"}
    if form in (".csv", ".tsv"):
        return read_delimited(path, "," if form == ".csv" else "\t"), {}
    if form in (".jsonl", ".json", ".ndjson"):
        return _read_json_lines(path), {}
    if form == ".parquet":
        return read_parquet(path), {}
    raise LLMInitError(f"{path} is not a form of texts that can be read: expected {_FORMATS}")


def _read_json_lines(path: Path) -> pd.DataFrame:
    """Read a JSON object a line; pandas would drop half a surrogate pair from an id in silence."""
    rows = []
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise LLMInitError(f"{path} holds a {kind} in line {number}: expected a JSON object a line")
            if row:
                rows.append(row)
    unwritable = [field for field in {field for row in rows for field in row} if not is_utf8(field)]
    if unwritable:
        raise LLMInitError(f"{path} has a field {unwritable[0]!r}, half a surrogate pair: expected names in UTF-8")
    return pd.DataFrame(rows, dtype=object)
