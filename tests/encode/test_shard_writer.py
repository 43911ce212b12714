"""The writer of an encoding: when shards are written, and which vectors it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llminit.encode import shard_writer
from recbole_llminit.encode.pipeline import encode_items
from recbole_llminit.encode.shard_writer import ShardWriter, as_stored
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.shard import append_shard
from recbole_llminit.vectors.store import read_rows
from tests.encode.tiny_dataset import assert_right, hashed, options, the_store
from tests.encoders import Endpoint

METADATA = {"model": "mini"}


def add(writer: ShardWriter, item: str, width: int = 4, value: float = 1.0) -> None:
    writer.add([item], np.array(["0"], dtype=object), np.full((1, width), value, dtype=np.float16))


@pytest.fixture
def a_shard_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a shard after every batch, as if each of them had taken long."""
    monkeypatch.setattr(shard_writer, "_SECONDS_PER_SHARD", 0.0)
    monkeypatch.setattr(shard_writer, "_SHARE_PER_SHARD", 0.0)


def test_the_rest_is_written_at_the_end() -> None:
    with ShardWriter(Path("store"), METADATA, None) as writer:
        add(writer, "a")
        add(writer, "b")
        assert not Path("store").exists()
    assert list(read_rows(Path("store"))["item_id"]) == ["a", "b"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, LLMInitError])
def test_the_rest_is_written_after_an_error(error: type[BaseException]) -> None:
    with pytest.raises(error), ShardWriter(Path("store"), METADATA, None) as writer:
        add(writer, "a")
        raise error
    assert list(read_rows(Path("store"))["item_id"]) == ["a"]


@pytest.mark.usefixtures("a_shard_per_batch")
def test_a_shard_is_written_when_its_vectors_have_waited() -> None:
    with ShardWriter(Path("store"), METADATA, None) as writer:
        add(writer, "a")
        assert list(read_rows(Path("store"))["item_id"]) == ["a"]


def test_nothing_is_written_without_vectors() -> None:
    with ShardWriter(Path("store"), METADATA, None):
        pass
    assert not Path("store").exists()


def test_vectors_of_another_width_are_refused() -> None:
    with (
        pytest.raises(LLMInitError, match="mini gives vectors of 3 dimensions.*store holds 4.*llm_cache_dir"),
        ShardWriter(Path("store"), METADATA, 4) as writer,
    ):
        add(writer, "a", width=3)


def test_vectors_that_are_not_finite_are_refused() -> None:
    with (
        pytest.raises(LLMInitError, match=r"1 items .*\(a\).*llm_dtype: float32"),
        ShardWriter(Path("store"), METADATA, None) as writer,
    ):
        add(writer, "a", value=np.inf)


def test_numbers_too_large_for_float16_become_infinite() -> None:
    stored = as_stored(["a"], np.array([[1e6, 1.0]], dtype=np.float32), np.float16)
    assert stored.tolist() == [[np.inf, 1.0]]


def test_vectors_too_small_for_float16_are_refused() -> None:
    vectors = np.array([[1e-9, 1e-9], [1.0, 1e-9], [0.0, 0.0]], dtype=np.float32)
    with pytest.raises(LLMInitError, match=r"1 items \(a\).*float16.*llm_dtype: float32"):
        as_stored(["a", "b", "c"], vectors, np.float16)
    assert (as_stored(["a", "b", "c"], vectors, np.float32) == vectors).all()


@pytest.mark.usefixtures("a_shard_per_batch")
def test_the_longest_texts_go_first_and_shards_are_merged(
    hash_server: Endpoint, endpoint: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = []

    def count(folder: Path, *rest: Any) -> Path:
        shards.append(append_shard(folder, *rest))
        return shards[-1]

    monkeypatch.setattr(shard_writer, "append_shard", count)
    report = encode_items(options(**endpoint, llm_batch_size=4))
    lengths = [len(text) for text in hash_server.served]
    assert lengths == sorted(lengths, reverse=True)
    assert len(shards) == 7
    assert len(list(report.folder.glob("*.arrow"))) == 1
    assert_right(report)


@pytest.mark.usefixtures("a_shard_per_batch")
def test_a_full_disk_keeps_what_is_written(hash_server: Endpoint, endpoint: dict[str, object]) -> None:
    def fill_after_two_shards(texts: list[str]) -> Any:
        if len(hash_server.requests) == 3:
            (the_store().resolve() / ".part-00002.arrow.writing").symlink_to("/dev/full")
        return hashed(texts)

    hash_server.encode = fill_after_two_shards
    settings = {**endpoint, "llm_batch_size": 4}
    with pytest.raises(LLMInitError, match="No space left on device"):
        encode_items(options(**settings))
    assert len(read_rows(the_store())) == 8
    hash_server.encode = hashed
    assert_right(encode_items(options(**settings)))


@pytest.mark.usefixtures("a_shard_per_batch")
def test_a_cache_that_is_deleted_meanwhile(hash_server: Endpoint, endpoint: dict[str, object]) -> None:
    settings = {**endpoint, "llm_batch_size": 4}

    def delete_at_the_fourth_request(texts: list[str]) -> Any:
        if len(hash_server.requests) == 4:
            shutil.rmtree("cache")
        return hashed(texts)

    hash_server.encode = delete_at_the_fourth_request
    with pytest.raises(LLMInitError, match=r"28 items were encoded.*cache/tiny/.* 16 of 28.*run again.*12"):
        encode_items(options(**settings))
    hash_server.encode = hashed
    report = encode_items(options(**settings))
    assert (report.encoded, report.items) == (12, 28)
    assert_right(report)
