import faulthandler
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors import store
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.store import (
    append_shard,
    compact,
    describe_stores,
    fingerprint_metadata,
    hash_text,
    list_stores,
    read_rows,
)

METADATA = {"model": "mini", "dtype": "float16", "versions": {"torch": "2"}}


def write(folder, ids, vectors, metadata=METADATA):
    vectors = np.asarray(vectors)
    return append_shard(folder, ids, [hash_text(item) for item in ids], vectors, metadata)


def by_token(found):
    return dict(zip(found.tokens.to_pylist(), np.concatenate(found.chunks).tolist(), strict=True))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read(tmp_path, dtype):
    vectors = np.arange(12, dtype=dtype).reshape(4, 3)
    first = write(tmp_path / "s", ["a", "b", "c"], vectors[:3])
    second = write(tmp_path / "s", ["d"], vectors[3:])
    assert [first.name, second.name] == ["part-00000.arrow", "part-00001.arrow"]
    found = read_embeddings(tmp_path / "s")
    assert by_token(found) == dict(zip("abcd", vectors.tolist(), strict=True))
    assert found.chunks[0].dtype == dtype
    assert (found.width, found.encoder, found.fingerprint) == (3, "mini", fingerprint_metadata(METADATA))
    assert found.metadata == METADATA


def test_the_vectors_are_mapped_not_copied(tmp_path):
    write(tmp_path, [str(number) for number in range(1000)], np.ones((1000, 500), np.float32))
    write(tmp_path, ["0"], np.ones((1, 500), np.float32))
    write(tmp_path, ["b"], np.ones((1, 500), np.float32))
    before = pa.total_allocated_bytes()
    found = read_embeddings(tmp_path)
    # Two megabytes of vectors; the ids are copied. Of the shards only the first lost a row to a later one.
    assert pa.total_allocated_bytes() - before < 100_000
    assert [chunk.flags.owndata for chunk in found.chunks] == [True, False, False]


def test_files_of_many_record_batches_stay_mapped_as_well(tmp_path):
    """As other engines write Arrow files."""
    rows = np.arange(4000, dtype=np.float32).reshape(8, 500)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 500)
    table = pa.table({"item_id": [f"i{number}" for number in range(8)], "embedding": embedding})
    ds.write_dataset(table, tmp_path, format="ipc", max_rows_per_group=3, min_rows_per_group=3)
    found = read_embeddings(tmp_path)
    assert [len(chunk) for chunk in found.chunks] == [3, 3, 2]
    assert not any(chunk.flags.owndata for chunk in found.chunks)
    assert by_token(found) == {f"i{number}": row.tolist() for number, row in enumerate(rows)}


def test_columns_are_as_documented(tmp_path):
    path = write(tmp_path, ["a"], np.ones((1, 3), np.float16))
    schema = pa.ipc.open_file(path).schema
    assert schema.names == ["item_id", "text_hash", "embedding"]
    assert schema.field("embedding").type.list_size == 3
    assert schema.field("embedding").type.value_type == pa.float16()
    assert json.loads(schema.metadata[b"recbole_llminit"])["facts"]["model"] == "mini"


def test_a_later_shard_replaces_an_item(tmp_path):
    write(tmp_path, ["a", "b"], np.float32([[1, 1], [2, 2]]))
    write(tmp_path, ["a"], np.float32([[9, 9]]))
    assert by_token(read_embeddings(tmp_path)) == {"a": [9, 9], "b": [2, 2]}


def test_temporary_files_are_not_read(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    (tmp_path / ".part-00001.arrow.writing").write_bytes(b"half")
    (tmp_path / ".part-00002.arrow").write_bytes(b"half")
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 1]}


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_full_disk_loses_nothing(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    # What is written to /dev/full fails as on a full disk.
    (tmp_path / ".part-00001.arrow.writing").symlink_to("/dev/full")
    with pytest.raises(LLMInitError, match=r"cannot be written \(No space left on device\): what is written is whole"):
        write(tmp_path, ["b"], np.float32([[1, 1]]))
    assert visible(tmp_path) == ["part-00000.arrow"]
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 1]}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LLMInitError, match=r"file/store cannot be written \(Not a directory\).*llm_cache_dir"):
        write(tmp_path / "file" / "store", ["a"], np.float32([[1, 1]]))


WRITER = """
import sys
import numpy as np
from recbole_llminit.vectors.store import append_shard
for number in range(20):
    append_shard(sys.argv[1], [f"{sys.argv[2]}{number}"], ["0"], np.float32([[number, 1]]), {"model": "mini"})
"""


def test_two_processes_write_into_one_store(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert by_token(read_embeddings(tmp_path)) == {
        f"{name}{number}": [number, 1] for name in "ab" for number in range(20)
    }


def test_shards_beyond_five_digits_stand_last(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]])).rename(tmp_path / "part-99999.arrow")
    assert write(tmp_path, ["a"], np.float32([[2, 2]])).name == "part-100000.arrow"
    assert by_token(read_embeddings(tmp_path)) == {"a": [2, 2]}


def test_compacting_merges_shards_and_drops_rows(tmp_path):
    write(tmp_path, ["a", "b"], np.float32([[1, 1], [2, 2]]))
    write(tmp_path, ["a"], np.float32([[9, 9]]))
    write(tmp_path, ["c", "d"], np.float32([[3, 3], [4, 4]]))
    before = read_embeddings(tmp_path)
    assert compact(tmp_path, {"d"}) == 2
    assert visible(tmp_path) == ["part-00003.arrow"]
    after = read_embeddings(tmp_path)
    assert by_token(after) == {"b": [2, 2], "a": [9, 9], "c": [3, 3]}
    assert (after.metadata, after.fingerprint) == (before.metadata, before.fingerprint)
    rows = read_rows(tmp_path)
    assert dict(zip(rows["item_id"], rows["text_hash"], strict=True)) == {item: hash_text(item) for item in "abc"}
    # Opened before, and still there to read: a training run that goes on.
    assert by_token(before) == {"b": [2, 2], "a": [9, 9], "c": [3, 3], "d": [4, 4]}


def test_compacting_leaves_large_and_single_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_llminit.vectors.store.SHARD_BYTES", 8 * 4 * 100)
    large = write(tmp_path, [f"l{number}" for number in range(100)], np.ones((100, 8), np.float32))
    write(tmp_path, ["a"], np.ones((1, 8), np.float32))
    assert compact(tmp_path) == 0
    assert visible(tmp_path) == [large.name, "part-00001.arrow"]
    write(tmp_path, ["b"], np.ones((1, 8), np.float32))
    compact(tmp_path)
    assert visible(tmp_path) == [large.name, "part-00003.arrow"]


def test_compacting_never_mixes_encoders(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    write(tmp_path, ["b"], np.float32([[1, 1]]), {**METADATA, "model": "other"})
    with pytest.raises(LLMInitError, match="part-00001.arrow was made by another encoder"):
        compact(tmp_path)
    assert visible(tmp_path) == ["part-00000.arrow", "part-00001.arrow"]


def test_compacting_away_the_last_row(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    assert compact(tmp_path, ["a"]) == 1
    assert visible(tmp_path) == []
    assert len(read_rows(tmp_path)) == 0


def test_a_store_that_is_merged_while_it_is_read(tmp_path, monkeypatch):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    write(tmp_path, ["b"], np.float32([[2, 2]]))
    listed = store._shards

    def merged_after_the_listing(folder, suffix="arrow"):
        found = listed(folder, suffix)
        monkeypatch.setattr(store, "_shards", listed)
        compact(folder)
        return found

    monkeypatch.setattr(store, "_shards", merged_after_the_listing)
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 1], "b": [2, 2]}


def test_stores_are_listed_by_dataset(tmp_path):
    write(tmp_path / "toy" / "mini-1", ["a", "b"], np.float32([[1, 1], [2, 2]]))
    write(tmp_path / "toy" / "mini-1", ["b"], np.float32([[3, 3]]))
    write(tmp_path / "other" / "mini-2", ["a"], np.float32([[1, 1, 1]]))
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


def test_a_broken_store_does_not_hide_the_others(tmp_path, caplog):
    write(tmp_path / "toy" / "a", ["a"], np.float32([[1, 1]])).write_bytes(b"half")
    write(tmp_path / "toy" / "b", ["a"], np.float32([[1, 1]]))
    assert [info.path.name for info in list_stores(tmp_path)] == ["b"]
    assert "passed over: " in caplog.text
    assert "toy/a/part-00000.arrow cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "a"], np.ones((2, 3), np.float32), "more than once in one shard"),
        (["a"], np.ones((2, 3), np.float32), "1 ids and 1 text hashes for 2 vectors"),
        ([], np.ones((0, 3), np.float32), "at least one"),
        (["a"], np.full((1, 3), np.nan, np.float32), "NaN or infinite"),
        (["a"], np.ones((1, 3)), "expected float16 or float32"),
        (["a"], np.ones(3, np.float32), r"expected float16 or float32, \[n, d\]"),
        (["a"], np.ones((1, 0), np.float32), r"of shape \(1, 0\): expected .* at least one number"),
    ],
)
def test_the_writer_refuses(tmp_path, ids, vectors, message):
    with pytest.raises(LLMInitError, match=message):
        write(tmp_path, ids, vectors)
    assert not visible(tmp_path)


def test_texts_that_are_no_unicode(tmp_path):
    with pytest.raises(LLMInitError, match=r"the id 'a\\ud83d' with half of a character"):
        append_shard(tmp_path, ["a\ud83d"], ["0"], np.ones((1, 3), np.float32), METADATA)
    with pytest.raises(LLMInitError, match=r"the text '\\ud83d b' begins with half of a character"):
        hash_text("a \ud83d b")


def test_wrong_width_in_one_shard(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    write(tmp_path, ["b"], np.float32([[1, 1, 1]]))
    with pytest.raises(LLMInitError, match=r"part-00001.arrow holds vectors of 3 dimensions, part-00000.arrow of 2"):
        read_embeddings(tmp_path)


def test_shards_of_two_encoders(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    write(tmp_path, ["b"], np.float32([[1, 1]]), {**METADATA, "model": "other"})
    with pytest.raises(LLMInitError, match="part-00001.arrow was made by another encoder"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 300])
def test_truncated_shard(tmp_path, keep):
    path = write(tmp_path, ["a", "b"], np.ones((2, 64), np.float32))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        LLMInitError,
        match=r"part-00000.arrow cannot be read .*: expected a whole Arrow file; .*delete it and make its vectors again",
    ):
        read_embeddings(tmp_path)


def test_missing_store(tmp_path):
    with pytest.raises(LLMInitError, match=r"there are no vectors at .*nowhere .*: check the path"):
        read_embeddings(tmp_path / "nowhere")
    with pytest.raises(LLMInitError, match="holds no .arrow or .parquet file"):
        read_embeddings(tmp_path)


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
def test_a_folder_of_parquet(tmp_path, embedding, ids):
    pq.write_table(pa.table({"item_id": ids, "embedding": embedding}), tmp_path / "part-0.snappy.parquet")
    (tmp_path / "_SUCCESS").touch()
    found = read_embeddings(tmp_path)
    assert by_token(found) == {"7": [1, 2], "9": [3, 4]}
    assert len(found.fingerprint) == 16


def test_parquet_that_is_refused(tmp_path):
    def refused(message, **columns):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(LLMInitError, match=message):
            read_embeddings(tmp_path)

    refused("no column .*item_id", id=["a"], embedding=[[1.0]])
    refused(r"vectors of 1, 2 dimensions", item_id=["a", "b"], embedding=[[1.0], [1.0, 2.0]])
    refused("item_id column of .* is double: expected texts or whole numbers", item_id=[1.5], embedding=[[1.0]])
    refused("empty cells", item_id=["a", None], embedding=[[1.0], [1.0]])
    refused("empty cells", item_id=["a", "b"], embedding=[[1.0], None])
    refused("expected lists of numbers", item_id=["a"], embedding=["[1, 2]"])
    refused("expected floating-point numbers", item_id=["a"], embedding=[["1"]])
    refused("item_id column of .* is bool", item_id=[True], embedding=[[1.0]])
    refused("has no column embedding .it has item_id, vector.", item_id=["a"], vector=[[1.0]])
    refused("empty vectors", item_id=["a"], embedding=pa.array([[]], pa.list_(pa.float32())))
    refused("1 ids more than once", item_id=["a", "a"], embedding=[[1.0], [2.0]])


def test_parquet_of_two_widths_or_broken(tmp_path):
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, pa.schema({"item_id": pa.string(), "embedding": pa.list_(pa.float32())})) as writer:
        writer.write_table(pa.table({"item_id": ["a"], "embedding": pa.array([[1, 2]], pa.list_(pa.float32()))}))
        writer.write_table(pa.table({"item_id": ["b"], "embedding": pa.array([[1, 2, 3]], pa.list_(pa.float32()))}))
    with pytest.raises(LLMInitError, match=r"vectors of 2, 3 dimensions"):
        read_embeddings(tmp_path)
    path.write_bytes(b"PAR1" + b"x" * 64 + b"PAR1")
    with pytest.raises(LLMInitError, match="a.parquet cannot be read .*: expected a whole Parquet file"):
        read_embeddings(tmp_path)


def test_empty_partitions_are_passed_over(tmp_path):
    empty = pa.table({"item_id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))})
    pq.write_table(empty, tmp_path / "part-0.parquet")
    with pytest.raises(LLMInitError, match="holds no vectors"):
        read_embeddings(tmp_path)
    pq.write_table(pa.table({"item_id": ["a"], "embedding": [[1.0, 2.0]]}), tmp_path / "part-1.parquet")
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 2]}


def test_foreign_files_beside_the_shards_do_no_harm(tmp_path):
    (tmp_path / "part-abc.txt").touch()
    write(tmp_path, ["a"], np.float32([[1, 1]]))
    (tmp_path / "README.md").touch()
    assert write(tmp_path, ["b"], np.float32([[1, 1]])).name == "part-00001.arrow"
    assert set(by_token(read_embeddings(tmp_path))) == {"a", "b"}


def test_a_missing_number_is_reported_with_its_item(tmp_path):
    pq.write_table(pa.table({"item_id": ["a", "b"], "embedding": [[1.0, 2.0], [1.0, None]]}), tmp_path / "a.parquet")
    with pytest.raises(LLMInitError, match=r"NaN or infinite numbers in the vectors of 1 or more items \(b\)"):
        list(read_embeddings(tmp_path).align(["[PAD]", "a", "b"], "toy").blocks())


def test_fingerprint_holds_what_changes_a_vector():
    assert fingerprint_metadata({**METADATA, "versions": {"torch": "3"}}) == fingerprint_metadata(METADATA)
    assert fingerprint_metadata({**METADATA, "encoder": {"pooling": "mean"}, "ref": "main"}) == fingerprint_metadata(
        METADATA
    )
    assert fingerprint_metadata({**METADATA, "prompt": "query: "}) != fingerprint_metadata(METADATA)


def test_a_local_model_is_its_content_not_its_name():
    metadata = {**METADATA, "revision": "sha256:0"}
    assert fingerprint_metadata({**metadata, "model": "other"}) == fingerprint_metadata(metadata)
    assert fingerprint_metadata({**metadata, "revision": "sha256:1"}) != fingerprint_metadata(metadata)
    assert fingerprint_metadata({**metadata, "model": "other", "revision": "a1"}) != fingerprint_metadata(
        {**metadata, "revision": "a1"}
    )


def arrow(folder, metadata=None, **columns):
    """Write a shard as another program might."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata(metadata)
    with pa.ipc.new_file(folder / "part-00000.arrow", table.schema) as writer:
        writer.write_table(table)
    return folder / "part-00000.arrow"


READER = """
import sys
from pathlib import Path
import numpy as np
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.store import read_rows
outcomes = set()
for path in map(Path, sys.argv[1:]):
    whole = path.read_bytes()
    # What crashes are runs of eight bytes: lengths, counts and offsets.
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        for read in (lambda: np.concatenate(read_embeddings(path.parent).chunks).sum(), lambda: read_rows(path.parent)):
            try:
                read()
                outcomes.add("result")
            except LLMInitError:
                outcomes.add("LLMInitError")
print(*sorted(outcomes))
"""


def test_no_flipped_byte_crashes_the_process(tmp_path):
    """Each byte of a store's shard, and of one with a null bitmap and offsets."""
    ours = write(tmp_path / "ours", ["a", "b"], np.ones((2, 3), np.float32))
    rows = pa.array([[1, None, 2], None, [1, 2, 3]], pa.list_(pa.float32()))
    theirs = arrow(tmp_path / "theirs", item_id=["a", "b", "c"], text_hash=["0", "1", "2"], embedding=rows)
    child = subprocess.run(
        [sys.executable, "-c", READER, str(ours), str(theirs)], capture_output=True, text=True, timeout=240
    )
    assert (child.returncode, child.stdout) == (0, "LLMInitError result\n"), child.stderr[-2000:]


@pytest.mark.parametrize(
    "embedding",
    [
        pa.array([[], []], pa.list_(pa.float32(), 0)),
        pa.array([[], []], pa.list_(pa.float32())),
        pa.array([[1], [2]], pa.list_(pa.int64())),
        pa.array([[[1.0]], [[2.0]]]),
        pa.array([{"x": 1.0}, {"x": 2.0}]),
        pa.array([1.0, 2.0]),
        pa.array([[1.0], [1.0, 2.0]]),
        pa.nulls(2),
    ],
    ids=["fixed 0", "list 0", "int", "nested", "struct", "float", "ragged", "null"],
)
def test_an_embedding_of_another_type(tmp_path, embedding):
    arrow(tmp_path, item_id=["a", "b"], embedding=embedding)
    with pytest.raises(LLMInitError, match="part-00000.arrow"):
        read_embeddings(tmp_path)


def test_a_column_that_stands_twice(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array([[1.0]])], ["item_id", "item_id", "embedding"])
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(LLMInitError, match=r"a.arrow has 2 columns item_id \(it has item_id, item_id, embedding\)"):
        read_embeddings(tmp_path)


def test_a_name_that_is_no_text(tmp_path):
    path = write(tmp_path, ["a"], np.float32([[1, 1]]))
    path.write_bytes(path.read_bytes().replace(b"text_hash", b"text_h\xff\xff\xff"))
    for read in (read_embeddings, read_rows, compact):
        with pytest.raises(LLMInitError, match="part-00000.arrow cannot be read"):
            read(tmp_path)


def test_ids_of_a_dictionary(tmp_path):
    """A few long texts many times over could fill the memory."""
    whole = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["x", "y"])
    arrow(tmp_path / "s", item_id=whole, embedding=[[1.0], [2.0]])
    assert by_token(read_embeddings(tmp_path / "s")) == {"y": [1], "x": [2]}
    hole = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["x", None])
    arrow(tmp_path / "s", item_id=hole, embedding=[[1.0], [2.0]])
    with pytest.raises(LLMInitError, match="has empty cells in item_id"):
        read_embeddings(tmp_path / "s")
    bomb = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 20, np.int8)), ["x" * (1 << 20)])
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 20, np.float16)), 1)
    path = arrow(tmp_path / "s", item_id=bomb, embedding=zeros)
    with pytest.raises(LLMInitError, match=f"{path} has cells of item_id more than once"):
        read_embeddings(tmp_path / "s")


def test_parquet_that_unpacks_to_more_than_the_memory(tmp_path, monkeypatch):
    pq.write_table(pa.table({"item_id": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "a.parquet")
    monkeypatch.setattr(store, "_memory", lambda: 11.0)
    with pytest.raises(LLMInitError, match="a.parquet holds 6 numbers, more than fit into the 0.0 GB"):
        read_embeddings(tmp_path)
    monkeypatch.setattr(store, "_memory", lambda: 12.0)
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 2], "b": [3, 4]}


def relabel(path, old, new):
    """Change a shard's metadata as another version would have written them."""
    file = pa.ipc.open_file(path)
    metadata = file.schema.metadata[b"recbole_llminit"]
    assert old in metadata
    table = file.read_all().replace_schema_metadata({"recbole_llminit": metadata.replace(old, new)})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return path


NEWER = r"part-0000\d.arrow has the format 2, .*newer version of this package.* knows 1: upgrade recbole-llminit"


def test_a_store_of_a_newer_format(tmp_path, caplog):
    folder = tmp_path / "toy" / "mini"
    relabel(write(folder, ["a"], np.float32([[1, 1]])), b'"format": 1', b'"format": 2')
    before = (folder / "part-00000.arrow").read_bytes()
    for use in (
        read_embeddings,
        read_rows,
        compact,
        lambda folder: compact(folder, ["a"]),
        lambda folder: write(folder, ["b"], np.float32([[1, 1]])),
    ):
        with pytest.raises(LLMInitError, match=NEWER):
            use(folder)
    assert visible(folder) == ["part-00000.arrow"]
    assert (folder / "part-00000.arrow").read_bytes() == before
    assert list_stores(tmp_path, "toy") == []
    assert "passed over: " in caplog.text
    assert "toy/mini/part-00000.arrow has the format 2" in caplog.text
    caplog.clear()
    assert describe_stores(tmp_path) == f"there is no store in {tmp_path}"
    assert "toy/mini/part-00000.arrow has the format 2" in caplog.text


def test_a_store_that_a_newer_version_went_on_with(tmp_path, caplog):
    folder = tmp_path / "toy" / "mini"
    write(folder, ["a"], np.float32([[1, 1]]))
    relabel(write(folder, ["b"], np.float32([[1, 1]])), b'"format": 1', b'"format": 2')
    write(tmp_path / "toy" / "other", ["a"], np.float32([[1, 1]]))
    for use in (read_embeddings, read_rows, compact, lambda folder: write(folder, ["c"], np.float32([[1, 1]]))):
        with pytest.raises(LLMInitError, match=NEWER):
            use(folder)
    assert visible(folder) == ["part-00000.arrow", "part-00001.arrow"]
    drawn = describe_stores(tmp_path)
    assert "toy/other" in drawn
    assert "toy/mini" not in drawn
    assert "toy/mini/part-00001.arrow has the format 2" in caplog.text


GOOD_HEADER = {"format": 1, "fingerprint": "0123", "facts": {"model": "mini"}}


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        (b"{oops", "JSONDecodeError"),
        (b"[]", "the metadata are a list"),
        (b"null", "the metadata are a NoneType"),
        (b"[" * 100_000, "RecursionError"),
        (b"\xff\xfe\xfd", "UnicodeDecodeError"),
        (b"{}", "the format is None"),
        (b'{"format": true}', "the format is True"),
        (b'{"format": "1"}', "the format is '1'"),
        (b'{"format": 0}', "the format is 0"),
        (b'{"format": 1}', "the fingerprint is None"),
        (b'{"format": 1, "fingerprint": "0"}', "the encoder metadata are a NoneType"),
        (b'{"format": 1, "fingerprint": 0, "facts": {}}', "the fingerprint is 0"),
        (b'{"format": 1, "fingerprint": "0", "facts": ["model"]}', "the encoder metadata are a list"),
        (b'{"format": 1, "fingerprint": "0", "facts": {"model": 5}}', "the metadata model is a int"),
        (b'{"format": 1, "fingerprint": "0", "facts": {"encoder": []}}', "the metadata encoder is a list"),
        (b'{"format": 1, "fingerprint": "0", "facts": {"ref": "main"}}', "there is no revision of main"),
    ],
)
def test_metadata_that_are_broken_are_named_and_passed_over(tmp_path, caplog, metadata, named):
    path = arrow(
        tmp_path / "toy" / "bad",
        {b"recbole_llminit": metadata},
        item_id=["a"],
        text_hash=["0"],
        embedding=pa.array([[1, 2]], pa.list_(pa.float32(), 2)),
    )
    write(tmp_path / "toy" / "good", ["a"], np.float32([[1, 1]]))
    assert [info.path.name for info in list_stores(tmp_path, "toy")] == ["good"]
    assert "passed over: " in caplog.text
    assert str(path) in caplog.text
    assert "toy/good" in describe_stores(tmp_path)
    for use in (read_embeddings, read_rows, compact, lambda folder: write(folder, ["b"], np.float32([[1, 1]]))):
        with pytest.raises(LLMInitError, match=f"{path} cannot be read .*{named}.*encode again"):
            use(path.parent)
    assert visible(path.parent) == ["part-00000.arrow"]


@pytest.fixture
def bounded():
    """End the process where it waits for a pipe."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def make_socket(path):
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
def test_what_is_no_file_is_named_and_passed_over(tmp_path, caplog, make, named):
    folder = tmp_path / "toy" / "bad"
    folder.mkdir(parents=True)
    make(folder / "part-00000.arrow")
    write(tmp_path / "toy" / "good", ["a"], np.float32([[1, 1]]))
    assert [info.path.name for info in list_stores(tmp_path)] == ["good"]
    assert "passed over: " in caplog.text
    assert "toy/bad" in caplog.text
    assert "toy/good" in describe_stores(tmp_path)
    for use in (read_embeddings, read_rows, compact):
        with pytest.raises(LLMInitError, match=f"toy/bad.*{named}"):
            use(folder)


def test_shards_of_others_in_the_cache(tmp_path, caplog):
    embedding = pa.array([[1, 2]], pa.list_(pa.float32(), 2))
    arrow(tmp_path / "toy" / "theirs", item_id=["a"], embedding=embedding)
    assert list_stores(tmp_path) == []
    assert "toy/theirs/part-00000.arrow has no encoder metadata" in caplog.text
    assert by_token(read_embeddings(tmp_path / "toy" / "theirs")) == {"a": [1, 2]}
    with pytest.raises(LLMInitError, match="part-00000.arrow has no column text_hash"):
        compact(tmp_path / "toy" / "theirs")
    arrow(tmp_path / "toy" / "theirs", item_id=["a", "b"], text_hash=["0", "1"], embedding=[[1.0], [2.0]])
    with pytest.raises(LLMInitError, match="has no encoder metadata"):
        compact(tmp_path / "toy" / "theirs", ["a"])
    assert by_token(read_embeddings(tmp_path / "toy" / "theirs")) == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 0), pa.list_(pa.int8(), 0), pa.float32(), None], ids=str
)
def test_a_store_whose_embedding_changed_is_passed_over(tmp_path, caplog, kind):
    columns = {"embedding": pa.array([1 if pa.types.is_floating(kind) else []], kind)} if kind else {}
    header = {b"recbole_llminit": json.dumps(GOOD_HEADER).encode()}
    arrow(tmp_path / "toy" / "bad", header, item_id=["a"], text_hash=["0"], **columns)
    write(tmp_path / "toy" / "good", ["a"], np.float32([[1, 1]]))
    assert [info.path.name for info in list_stores(tmp_path)] == ["good"]
    assert "toy/bad/part-00000.arrow" in caplog.text


def test_a_second_shard_that_is_broken_does_not_stop_the_table(tmp_path, caplog):
    write(tmp_path / "toy" / "bad", ["a"], np.float32([[1, 1]]))
    write(tmp_path / "toy" / "bad", ["b"], np.float32([[1, 1]])).write_bytes(b"half")
    write(tmp_path / "toy" / "good", ["a"], np.float32([[1, 1]]))
    drawn = describe_stores(tmp_path)
    assert ("toy/good" in drawn, "toy/bad" in drawn) == (True, False)
    assert "toy/bad/part-00001.arrow cannot be read" in caplog.text


def test_a_store_that_vanishes_while_it_is_merged(tmp_path, monkeypatch):
    write(tmp_path / "s", ["a"], np.float32([[1, 1]]))
    write(tmp_path / "s", ["b"], np.float32([[1, 1]]))
    read = store._read_shard

    def deleted_before(path, *arguments, **options):
        shutil.rmtree(path.parent)
        return read(path, *arguments, **options)

    monkeypatch.setattr(store, "_read_shard", deleted_before)
    with pytest.raises(LLMInitError, match="is it being deleted"):
        compact(tmp_path / "s")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_folders_that_the_system_refuses(tmp_path, name):
    assert list_stores(tmp_path / name) == []
    assert list_stores(tmp_path, name) == []
    with pytest.raises(LLMInitError, match="there are no vectors at"):
        read_embeddings(tmp_path / name)
    with pytest.raises(LLMInitError, match="cannot be written"):
        write(tmp_path / name, ["a"], np.float32([[1, 1]]))


def test_opening_a_store_reads_no_vector(tmp_path):
    """What is validated does not grow with the vectors: 100 MB of them, in a few pages."""
    write(tmp_path / "narrow", [str(number) for number in range(50_000)], np.zeros((50_000, 1), np.float16))
    write(tmp_path / "wide", [str(number) for number in range(50_000)], np.zeros((50_000, 1024), np.float16))
    code = """if True:
        import resource, sys
        from recbole_llminit.vectors.readers import read_embeddings
        peaks = []
        for folder in sys.argv[1:]:
            found = read_embeddings(folder)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        print(found.width, len(found.tokens), peaks[1] - peaks[0])
    """
    command = [sys.executable, "-c", code, str(tmp_path / "narrow"), str(tmp_path / "wide")]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    width, count, kilobytes = map(int, child.stdout.split())
    assert (width, count) == (1024, 50_000)
    assert kilobytes < 40_000
