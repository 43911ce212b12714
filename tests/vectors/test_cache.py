import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.cache import describe_stores, list_stores
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.store import compact, read_rows
from tests.vectors.vector_files import METADATA, by_token, write_arrow, write_shard


def test_stores_are_listed_by_dataset(tmp_path: Path) -> None:
    write_shard(tmp_path / "toy" / "mini-1", ["a", "b"], np.array([[1, 1], [2, 2]], np.float32))
    write_shard(tmp_path / "toy" / "mini-1", ["b"], np.array([[3, 3]], np.float32))
    write_shard(tmp_path / "other" / "mini-2", ["a"], np.array([[1, 1, 1]], np.float32))
    (tmp_path / "toy" / "empty").mkdir()
    (tmp_path / "toy" / "file").touch()
    found = list_stores(tmp_path)
    assert [(info.path.name, info.dataset, info.count_items(), info.width) for info in found] == [
        ("mini-2", "other", 1, 3),
        ("mini-1", "toy", 2, 2),
    ]
    assert list_stores(tmp_path, "toy") == found[1:]
    assert found[1].metadata == METADATA
    assert found[1].bytes == sum(path.stat().st_size for path in (tmp_path / "toy" / "mini-1").glob("*.arrow"))
    assert list_stores(tmp_path / "nowhere") == []


def test_a_damaged_store_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shard(tmp_path / "toy" / "a", ["a"], np.array([[1, 1]], np.float32)).write_bytes(b"half")
    write_shard(tmp_path / "toy" / "b", ["a"], np.array([[1, 1]], np.float32))
    assert [info.path.name for info in list_stores(tmp_path)] == ["b"]
    assert "skipped: " in caplog.text
    assert "toy/a/part-00000.arrow cannot be read" in caplog.text


def test_a_store_with_a_damaged_second_shard_is_left_out_of_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "toy" / "bad", ["a"], np.array([[1, 1]], np.float32))
    write_shard(tmp_path / "toy" / "bad", ["b"], np.array([[1, 1]], np.float32)).write_bytes(b"half")
    write_shard(tmp_path / "toy" / "good", ["a"], np.array([[1, 1]], np.float32))
    drawn = describe_stores(tmp_path)
    assert ("toy/good" in drawn, "toy/bad" in drawn) == (True, False)
    assert "toy/bad/part-00001.arrow cannot be read" in caplog.text


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 0), pa.list_(pa.int8(), 0), pa.float32(), None], ids=str
)
def test_a_store_whose_embedding_column_is_damaged_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    columns = {"embedding": pa.array([1 if pa.types.is_floating(kind) else []], kind)} if kind else {}
    header = {b"recbole_llminit": json.dumps({"format": 1, "fingerprint": "0123", "facts": {"model": "mini"}}).encode()}
    write_arrow(tmp_path / "toy" / "bad", header, item_id=["a"], text_hash=["0"], **columns)
    write_shard(tmp_path / "toy" / "good", ["a"], np.array([[1, 1]], np.float32))
    assert [info.path.name for info in list_stores(tmp_path)] == ["good"]
    assert "toy/bad/part-00000.arrow" in caplog.text


def test_shards_of_other_programs_in_the_cache_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedding = pa.array([[1, 2]], pa.list_(pa.float32(), 2))
    write_arrow(tmp_path / "toy" / "theirs", item_id=["a"], embedding=embedding)
    assert list_stores(tmp_path) == []
    assert "toy/theirs/part-00000.arrow has no encoder metadata" in caplog.text
    assert by_token(read_embeddings(tmp_path / "toy" / "theirs")) == {"a": [1, 2]}
    with pytest.raises(LLMInitError, match="part-00000.arrow has no column text_hash"):
        compact(tmp_path / "toy" / "theirs")
    write_arrow(tmp_path / "toy" / "theirs", item_id=["a", "b"], text_hash=["0", "1"], embedding=[[1.0], [2.0]])
    with pytest.raises(LLMInitError, match="has no encoder metadata"):
        compact(tmp_path / "toy" / "theirs", ["a"])
    assert by_token(read_embeddings(tmp_path / "toy" / "theirs")) == {"a": [1], "b": [2]}


def make_socket(path: Path) -> None:
    # Its own name may be at most 107 bytes long.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (os.mkfifo, "is a pipe or a device"),
        (make_socket, "is a pipe or a device"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device"),
        (lambda path: path.symlink_to("nowhere"), "vanish"),
        (lambda path: path.touch(), "cannot be read"),
    ],
    ids=["pipe", "socket", "folder", "device", "dangling", "empty"],
)
@pytest.mark.usefixtures("bounded")
def test_a_shard_that_is_no_regular_file_is_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Any], Any], named: str
) -> None:
    folder = tmp_path / "toy" / "bad"
    folder.mkdir(parents=True)
    make(folder / "part-00000.arrow")
    write_shard(tmp_path / "toy" / "good", ["a"], np.array([[1, 1]], np.float32))
    assert [info.path.name for info in list_stores(tmp_path)] == ["good"]
    assert "skipped: " in caplog.text
    assert "toy/bad" in caplog.text
    assert "toy/good" in describe_stores(tmp_path)
    for use in (read_embeddings, read_rows, compact):
        with pytest.raises(LLMInitError, match=f"toy/bad.*{named}"):
            use(folder)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_folders_that_the_system_refuses(tmp_path: Path, name: str) -> None:
    assert list_stores(tmp_path / name) == []
    assert list_stores(tmp_path, name) == []
    with pytest.raises(LLMInitError, match="there are no vectors at"):
        read_embeddings(tmp_path / name)
    with pytest.raises(LLMInitError, match="cannot be written"):
        write_shard(tmp_path / name, ["a"], np.array([[1, 1]], np.float32))
