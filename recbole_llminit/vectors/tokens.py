"""Item tokens as Arrow texts: conversion, a few of them for a message, and the test for row numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recbole_llminit.errors import LLMInitError

_BLOCK_TOKENS = 1 << 16
_WHOLE_NUMBER = "^(0|[1-9][0-9]{0,17})$"


def examples(tokens: Sequence[Any], count: int = 3) -> str:
    """Return the first few of some tokens as one text, for a message: ``a, b, c, ...``."""
    return ", ".join(str(token) for token in tokens[:count]) + (", ..." if len(tokens) > count else "")


def as_texts(
    tokens: Sequence[Any] | npt.NDArray[Any] | pa.LargeStringArray, source: str = "a list of ids"
) -> pa.LargeStringArray:
    """Return tokens as an Arrow array of texts.

    An Arrow array needs a fraction of the memory of Python's strings or of NumPy's.

    Parameters
    ----------
    tokens : sequence, ndarray or LargeStringArray, shape [n]
        The tokens. Each one becomes its `str`; a LargeStringArray is returned as it is.
    source : str
        Where the tokens come from, for the message of an error.

    Raises
    ------
    LLMInitError
        If a token contains a lone surrogate (half of a character), which no valid text has.
    """
    if isinstance(tokens, pa.LargeStringArray):
        return tokens
    # Block by block, because each block exists as Python strings on its way.
    parts = [
        _block_as_texts([str(token) for token in tokens[start : start + _BLOCK_TOKENS]], source)
        for start in range(0, len(tokens), _BLOCK_TOKENS)
    ]
    return pa.chunked_array(parts, pa.large_string()).combine_chunks()


def _block_as_texts(tokens: list[str], source: str) -> pa.LargeStringArray:
    try:
        return pa.array(tokens, pa.large_string())
    except UnicodeEncodeError as error:
        # JSON can hold one: "\ud83d".
        broken = next(token for token in tokens if re.search("[\ud800-\udfff]", token))
        raise LLMInitError(
            f"{source} has the id {broken!a} with half of a character (a lone surrogate): expected valid Unicode, "
            f"write the id again"
        ) from error


def release_memory() -> None:
    """Return the memory that Arrow has freed but keeps to the system: hundreds of megabytes after millions of ids."""
    pa.default_memory_pool().release_unused()


def whole_numbers(texts: pa.LargeStringArray) -> npt.NDArray[np.int64] | None:
    """Return texts as numbers; None unless each is a whole number of at most 18 digits without leading zeros."""
    # The first text alone usually decides.
    for part in (texts[:1], texts):
        if not pc.all(pc.match_substring_regex(part, _WHOLE_NUMBER), min_count=0).as_py():
            return None
    numbers: npt.NDArray[np.int64] = texts.cast(pa.int64()).to_numpy()
    return numbers


def are_row_numbers(texts: pa.LargeStringArray, first: int = 0) -> bool:
    """Return whether distinct ids are the numbers ``first`` to ``first + n - 1``, in any order."""
    numbers = whole_numbers(texts)
    return numbers is not None and (numbers.min(), numbers.max()) == (first, first + len(numbers) - 1)
