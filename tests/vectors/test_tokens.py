from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.tokens import are_row_numbers, as_texts, examples, whole_numbers


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        (["[PAD]", "a", "é"], ["[PAD]", "a", "é"]),
        (np.array(["[PAD]", "a", "b", "cc"]), ["[PAD]", "a", "b", "cc"]),
        (np.array(["a", 2, "3", "b", "c"], dtype=object), ["a", "2", "3", "b", "c"]),
        (np.array([10, 2, 3]), ["10", "2", "3"]),
        ([], []),
    ],
)
def test_tokens_become_texts_block_by_block(tokens: Any, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llminit.vectors.tokens._BLOCK_TOKENS", 2)
    found = as_texts(tokens)
    assert isinstance(found, pa.LargeStringArray)
    assert found.to_pylist() == texts
    assert as_texts(found) is found


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(LLMInitError, match=r"vectors.npy has the id 'b\\udc00'.*surrogate"):
        as_texts(["a", "b\udc00"], "vectors.npy")
    with pytest.raises(LLMInitError, match=r"list of ids has the id '\\ud83d'"):
        as_texts(["a", "\ud83d"])


def test_the_first_tokens_are_shown() -> None:
    assert examples(["a", "b"]) == "a, b"
    assert examples(["a", "b", "c", "d"]) == "a, b, c, ..."
    assert examples([1, 2], 1) == "1, ..."


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["0", "7", "123456789012345678"], [0, 7, 123456789012345678]),
        (["1", "x"], None),
        (["x", "1"], None),
        (["01"], None),
        (["-1"], None),
        (["1234567890123456789"], None),
    ],
)
def test_whole_numbers(texts: list[str], numbers: list[int] | None) -> None:
    found = whole_numbers(as_texts(texts))
    assert (None if found is None else found.tolist()) == numbers


def test_row_numbers_may_be_in_any_order() -> None:
    assert are_row_numbers(as_texts(["2", "0", "1"]))
    assert are_row_numbers(as_texts(["2", "1"]), first=1)
    assert not are_row_numbers(as_texts(["2", "1"]))
    assert not are_row_numbers(as_texts(["0", "2"]))
    assert not are_row_numbers(as_texts(["a", "b"]))
