import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors import store
from recbole_llminit.vectors.columnar_file import Form
from recbole_llminit.vectors.header import fingerprint_metadata
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import Shard, hash_text
from recbole_llminit.vectors.store import compact, read_rows
from tests.vectors.vector_files import METADATA, by_token, visible, write_shard


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    vectors = np.arange(12, dtype=dtype).reshape(4, 3)
    first = write_shard(tmp_path / "s", ["a", "b", "c"], vectors[:3])
    second = write_shard(tmp_path / "s", ["d"], vectors[3:])
    assert [first.name, second.name] == ["part-00000.arrow", "part-00001.arrow"]
    found = read_embeddings(tmp_path / "s")
    assert by_token(found) == dict(zip("abcd", vectors.tolist(), strict=True))
    assert found.chunks[0].dtype == dtype
    assert (found.width, found.encoder, found.fingerprint) == (3, "mini", fingerprint_metadata(METADATA))
    assert found.metadata == METADATA


def test_a_later_shard_replaces_an_item(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a", "b"], np.array([[1, 1], [2, 2]], np.float32))
    write_shard(tmp_path, ["a"], np.array([[9, 9]], np.float32))
    assert by_token(read_embeddings(tmp_path)) == {"a": [9, 9], "b": [2, 2]}


@pytest.mark.parametrize(
    "embedding",
    [
        pa.array([[1, 2], [3, 4]], pa.list_(pa.float32())),
        pa.array([[1, 2], [3, 4]], pa.list_(pa.float64(), 2)),
        pa.array([[1, 2], [3, 4]], pa.large_list(pa.float32())),
    ],
    ids=["list", "fixed_size_list", "large_list"],
)
@pytest.mark.parametrize("ids", [pa.array(["7", "9"]), pa.array([7, 9])], ids=["text", "numbers"])
def test_a_folder_of_parquet(tmp_path: Path, embedding: pa.Array, ids: pa.Array) -> None:
    pq.write_table(pa.table({"item_id": ids, "embedding": embedding}), tmp_path / "part-0.snappy.parquet")
    (tmp_path / "_SUCCESS").touch()
    found = read_embeddings(tmp_path)
    assert by_token(found) == {"7": [1, 2], "9": [3, 4]}
    assert len(found.fingerprint) == 16


def test_empty_partitions_are_skipped(tmp_path: Path) -> None:
    empty = pa.table({"item_id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))})
    pq.write_table(empty, tmp_path / "part-0.parquet")
    with pytest.raises(LLMInitError, match="holds no vectors"):
        read_embeddings(tmp_path)
    pq.write_table(pa.table({"item_id": ["a"], "embedding": [[1.0, 2.0]]}), tmp_path / "part-1.parquet")
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 2]}


def test_a_missing_number_is_reported_with_its_item(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a", "b"], "embedding": [[1.0, 2.0], [1.0, None]]}), tmp_path / "a.parquet")
    with pytest.raises(LLMInitError, match=r"NaN or infinite.*1 or more items \(b\)"):
        list(read_embeddings(tmp_path).align(["[PAD]", "a", "b"], "toy").blocks())


def test_wrong_width_in_one_shard(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    write_shard(tmp_path, ["b"], np.array([[1, 1, 1]], np.float32))
    with pytest.raises(LLMInitError, match="part-00001.arrow .*3 dimensions.*part-00000.arrow of 2.*remove the shard"):
        read_embeddings(tmp_path)


def test_shards_of_two_encoders(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    write_shard(tmp_path, ["b"], np.array([[1, 1]], np.float32), {**METADATA, "model": "other"})
    with pytest.raises(LLMInitError, match="part-00001.arrow was made by another encoder"):
        read_embeddings(tmp_path)


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(LLMInitError, match="no vectors at .*nowhere .*check the path"):
        read_embeddings(tmp_path / "nowhere")
    with pytest.raises(LLMInitError, match="holds no .arrow or .parquet file"):
        read_embeddings(tmp_path)


def test_compacting_merges_shards_and_drops_rows(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a", "b"], np.array([[1, 1], [2, 2]], np.float32))
    write_shard(tmp_path, ["a"], np.array([[9, 9]], np.float32))
    write_shard(tmp_path, ["c", "d"], np.array([[3, 3], [4, 4]], np.float32))
    before = read_embeddings(tmp_path)
    assert compact(tmp_path, {"d"}) == 2
    assert visible(tmp_path) == ["part-00003.arrow"]
    after = read_embeddings(tmp_path)
    assert by_token(after) == {"b": [2, 2], "a": [9, 9], "c": [3, 3]}
    assert (after.metadata, after.fingerprint) == (before.metadata, before.fingerprint)
    rows = read_rows(tmp_path)
    assert dict(zip(rows["item_id"], rows["text_hash"], strict=True)) == {item: hash_text(item) for item in "abc"}
    # A training run that has opened the store before goes on reading it.
    assert by_token(before) == {"b": [2, 2], "a": [9, 9], "c": [3, 3], "d": [4, 4]}


def test_compacting_leaves_large_and_single_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llminit.vectors.store.SHARD_BYTES", 8 * 4 * 100)
    large = write_shard(tmp_path, [f"l{number}" for number in range(100)], np.ones((100, 8), np.float32))
    write_shard(tmp_path, ["a"], np.ones((1, 8), np.float32))
    assert compact(tmp_path) == 0
    assert visible(tmp_path) == [large.name, "part-00001.arrow"]
    write_shard(tmp_path, ["b"], np.ones((1, 8), np.float32))
    compact(tmp_path)
    assert visible(tmp_path) == [large.name, "part-00003.arrow"]


def test_compacting_never_mixes_encoders(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    write_shard(tmp_path, ["b"], np.array([[1, 1]], np.float32), {**METADATA, "model": "other"})
    with pytest.raises(LLMInitError, match="part-00001.arrow was made by another encoder"):
        compact(tmp_path)
    assert visible(tmp_path) == ["part-00000.arrow", "part-00001.arrow"]


def test_compacting_away_the_last_row(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    assert compact(tmp_path, ["a"]) == 1
    assert visible(tmp_path) == []
    assert len(read_rows(tmp_path)) == 0


def test_a_store_that_is_merged_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    write_shard(tmp_path, ["b"], np.array([[2, 2]], np.float32))
    listed = store.list_shards

    def merged_after_the_listing(folder: Path, form: Form = "arrow") -> list[Path]:
        found = listed(folder, form)
        monkeypatch.setattr(store, "list_shards", listed)
        compact(folder)
        return found

    monkeypatch.setattr(store, "list_shards", merged_after_the_listing)
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 1], "b": [2, 2]}


def test_a_store_that_vanishes_while_it_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "s", ["a"], np.array([[1, 1]], np.float32))
    write_shard(tmp_path / "s", ["b"], np.array([[1, 1]], np.float32))
    read = store.read_shard

    def deleted_before(path: Path, *arguments: Any, **options: Any) -> Shard | None:
        shutil.rmtree(path.parent)
        return read(path, *arguments, **options)

    monkeypatch.setattr(store, "read_shard", deleted_before)
    with pytest.raises(LLMInitError, match="is it being deleted"):
        compact(tmp_path / "s")
