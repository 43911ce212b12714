"""The text of one cell of a table: lists joined, HTML entities decoded, white space normalized."""

from __future__ import annotations

import ast
import contextlib
import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

LONGEST_TEXT = 1_000_000
"""The characters of a cell that are used: some 250,000 tokens, more than any encoder reads."""

_MISSING = {"", "nan", "none", "null", "na", "n/a", "<na>"}
# Parsing a list takes a hundred times the memory of its text.
_LONGEST_LIST = 100_000
_DEEPEST_CELL = 50
# Entities are encoded several times where a crawler encodes what the shop had encoded.
_MAX_DECODINGS = 10


def as_text(value: Any, separator: str | None = None, depth: int = 0) -> str:
    """Return the value of a cell as text; the members of lists and mappings are joined by commas.

    Parameters
    ----------
    value : object
        The value, of any type that a reader puts into a table.
    separator : str, optional
        What separates the members of a sequence that is written as text.
    depth : int
        How many lists the value lies in.

    Raises
    ------
    ValueError
        If lists are nested more than 50 deep.
    """
    if depth > _DEEPEST_CELL:
        raise ValueError(f"a cell holds lists in lists, more than {_DEEPEST_CELL} deep")
    if isinstance(value, bytes):
        # A Parquet column without its text annotation, as Hive writes it.
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _text_of_str(value, separator, depth)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {as_text(member, depth=depth + 1)}" for key, member in value.items())
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(filter(None, (as_text(member, depth=depth + 1) for member in value)))
    if value is None or pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _text_of_str(value: str, separator: str | None, depth: int) -> str:
    if value.startswith("[") and value.endswith("]") and len(value) <= _LONGEST_LIST:
        # A list that was written into a cell as text.
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return as_text(ast.literal_eval(value), depth=depth + 1)
    if separator is None or not separator.strip():
        return value
    return ", ".join(filter(None, (part.strip() for part in value.split(separator))))


def clean(text: str) -> str:
    """Return at most a million characters of a text, cleaned; empty where the text means a missing value.

    HTML entities are decoded, also those encoded several times, white space is normalized, and lone surrogates are
    removed.
    """
    text = text[:LONGEST_TEXT]
    for _ in range(_MAX_DECODINGS):
        decoded = _decode_entities(text)
        if decoded == text:
            break
        text = decoded
    if not text.isascii():
        # A lone surrogate, as in broken JSON, cannot be encoded in UTF-8.
        text = text.encode("utf-8", "ignore").decode()
    text = " ".join(text.split())
    return "" if text.lower() in _MISSING else text


def _decode_entities(text: str) -> str:
    if "&" in text:
        # Python raises for the number of a character that has thousands of digits.
        with contextlib.suppress(ValueError):
            return html.unescape(text)
    return text


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded in UTF-8; half a surrogate pair, as in broken JSON and YAML, cannot."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode() is not None
    return False
