"""Files of vectors, as this package and as other programs write them, and what is read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.embeddings import ItemEmbeddings
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import append_shard, hash_text

METADATA: dict[str, Any] = {"model": "mini", "dtype": "float16", "versions": {"torch": "2"}}
VECTORS = np.array([[1, 2.5], [3, -4]], dtype=np.float32)
EXPECTED = {"x1": [1, 2.5], "07": [3, -4]}
"""What is read where VECTORS are the vectors of x1 and 07."""


def by_token(found: ItemEmbeddings) -> dict[str, list[float]]:
    return dict(zip(found.tokens.to_pylist(), np.concatenate(found.chunks).tolist(), strict=True))


def refused(path: Path, message: str, **arguments: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        read_embeddings(path, **arguments)


def write_shard(
    folder: Path, ids: Sequence[str], vectors: npt.NDArray[Any], metadata: Mapping[str, Any] = METADATA
) -> Path:
    return append_shard(folder, ids, [hash_text(item) for item in ids], vectors, metadata)


def write_arrow(folder: Path, metadata: Mapping[bytes, bytes] | None = None, **columns: Any) -> Path:
    """Write a shard as another program might."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata(metadata)
    with pa.ipc.new_file(folder / "part-00000.arrow", table.schema) as writer:
        writer.write_table(table)
    return folder / "part-00000.arrow"


def write_lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def visible(folder: Path) -> list[str]:
    """The names of the files in a store, without the lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
