"""The items of the tiny dataset, and what the tests do with the stores of their vectors."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_llminit.encode.item_text import read_item_texts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.encode.pipeline import EncodeReport
from recbole_llminit.vectors.readers import read_embeddings
from tests.stock import DATA

ITEMS = 28
"""The number of items that have a title; one has none."""

ITEM_FILE = DATA / "tiny" / "tiny.item"
COMMAND = [sys.executable, "-m", "recbole_llminit", "encode"]


def hashed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return a vector per text that no other text has."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), 32) / 255.0


def arguments(**settings: object) -> list[str]:
    """Return the arguments of the command that encodes the titles into the folder ``cache``."""
    defaults = {"dataset": "tiny", "data_path": DATA, "llm_cache_dir": "cache", "llm_text_fields": "title",
                "show_progress": False}  # fmt: skip
    return [f"--{key}={value}" for key, value in {**defaults, **settings}.items()]


def options(**settings: object) -> EncodeOptions:
    """Return the options of the same arguments."""
    return EncodeOptions.from_files([], arguments(**settings))


def the_store() -> Path:
    """Return the only store in the cache."""
    (folder,) = Path("cache/tiny").iterdir()
    return folder


def by_id(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the vectors of a store by item."""
    found = read_embeddings(folder)
    return dict(zip(found.tokens.to_pylist(), np.concatenate(found.chunks), strict=True))


def assert_right(report: EncodeReport, path: Path = ITEM_FILE) -> None:
    """Assert that every item with a text has the vector of that text, and no other item has one."""
    texts = read_item_texts(path, fields=["title"])
    found = by_id(report.folder)
    assert sorted(found) == sorted(texts.ids)
    expected = hashed(texts.texts).astype(np.float16)
    assert all((found[item] == row).all() for item, row in zip(texts.ids, expected, strict=True))


def smallest_cosine(one: Mapping[str, npt.NDArray[Any]], other: Mapping[str, npt.NDArray[Any]]) -> float:
    """Return the smallest cosine between two vectors of an item."""
    pairs = [(one[item].astype(np.float64), other[item].astype(np.float64)) for item in other]
    return min(float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs)
