import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors import columnar_file
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.store import compact, read_rows
from tests.vectors.vector_files import by_token, write_arrow, write_shard


def test_the_vectors_are_mapped_not_copied(tmp_path: Path) -> None:
    write_shard(tmp_path, [str(number) for number in range(1000)], np.ones((1000, 500), np.float32))
    write_shard(tmp_path, ["0"], np.ones((1, 500), np.float32))
    write_shard(tmp_path, ["b"], np.ones((1, 500), np.float32))
    before = pa.total_allocated_bytes()
    found = read_embeddings(tmp_path)
    # Two megabytes of vectors; the ids are copied. Of the shards only the first lost a row to a later one.
    assert pa.total_allocated_bytes() - before < 100_000
    assert [chunk.flags.owndata for chunk in found.chunks] == [True, False, False]


def test_files_of_many_record_batches_stay_mapped_as_well(tmp_path: Path) -> None:
    """Other engines write such Arrow files."""
    rows = np.arange(4000, dtype=np.float32).reshape(8, 500)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 500)
    table = pa.table({"item_id": [f"i{number}" for number in range(8)], "embedding": embedding})
    ds.write_dataset(table, tmp_path, format="ipc", max_rows_per_group=3, min_rows_per_group=3)
    found = read_embeddings(tmp_path)
    assert [len(chunk) for chunk in found.chunks] == [3, 3, 2]
    assert not any(chunk.flags.owndata for chunk in found.chunks)
    assert by_token(found) == {f"i{number}": row.tolist() for number, row in enumerate(rows)}


def test_opening_a_store_reads_no_vector(tmp_path: Path) -> None:
    """Opening 100 MB of vectors needs hardly more memory than opening few: their numbers are not read."""
    write_shard(tmp_path / "narrow", [str(number) for number in range(50_000)], np.zeros((50_000, 1), np.float16))
    write_shard(tmp_path / "wide", [str(number) for number in range(50_000)], np.zeros((50_000, 1024), np.float16))
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
    # Lengths, counts and offsets, which crash, have eight bytes: every third one hits each of them.
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


def test_no_flipped_byte_crashes_the_process(tmp_path: Path) -> None:
    """Every third byte of a shard of this package, and of one with a null bitmap and offsets, is flipped."""
    ours = write_shard(tmp_path / "ours", ["a", "b"], np.ones((2, 3), np.float32))
    rows = pa.array([[1, None, 2], None, [1, 2, 3]], pa.list_(pa.float32()))
    theirs = write_arrow(tmp_path / "theirs", item_id=["a", "b", "c"], text_hash=["0", "1", "2"], embedding=rows)
    child = subprocess.run(
        [sys.executable, "-c", READER, str(ours), str(theirs)], capture_output=True, text=True, timeout=240
    )
    assert (child.returncode, child.stdout) == (0, "LLMInitError result\n"), child.stderr[-2000:]


@pytest.mark.parametrize("keep", [0, 7, 300])
def test_truncated_shard(tmp_path: Path, keep: int) -> None:
    path = write_shard(tmp_path, ["a", "b"], np.ones((2, 64), np.float32))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        LLMInitError,
        match="part-00000.arrow cannot be read .*whole Arrow file.*delete it",
    ):
        read_embeddings(tmp_path)


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
def test_an_embedding_of_another_type(tmp_path: Path, embedding: pa.Array) -> None:
    write_arrow(tmp_path, item_id=["a", "b"], embedding=embedding)
    with pytest.raises(LLMInitError, match="part-00000.arrow"):
        read_embeddings(tmp_path)


def test_a_column_that_occurs_twice(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array([[1.0]])], ["item_id", "item_id", "embedding"])
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(LLMInitError, match=r"a.arrow has 2 columns item_id \(it has item_id, item_id, embedding\)"):
        read_embeddings(tmp_path)


def test_a_column_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    path.write_bytes(path.read_bytes().replace(b"text_hash", b"text_h\xff\xff\xff"))
    for read in (read_embeddings, read_rows, compact):
        with pytest.raises(LLMInitError, match="part-00000.arrow cannot be read"):
            read(tmp_path)


def test_ids_of_a_dictionary(tmp_path: Path) -> None:
    """A few long texts, each repeated many times, could fill the memory."""
    whole = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["x", "y"])
    write_arrow(tmp_path / "s", item_id=whole, embedding=[[1.0], [2.0]])
    assert by_token(read_embeddings(tmp_path / "s")) == {"y": [1], "x": [2]}
    hole = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["x", None])
    write_arrow(tmp_path / "s", item_id=hole, embedding=[[1.0], [2.0]])
    with pytest.raises(LLMInitError, match="has empty cells in item_id"):
        read_embeddings(tmp_path / "s")
    bomb = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 20, np.int8)), ["x" * (1 << 20)])
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 20, np.float16)), 1)
    path = write_arrow(tmp_path / "s", item_id=bomb, embedding=zeros)
    with pytest.raises(LLMInitError, match=f"{path} has cells of item_id more than once"):
        read_embeddings(tmp_path / "s")


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    def refused_columns(message: str, **columns: Any) -> None:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(LLMInitError, match=message):
            read_embeddings(tmp_path)

    refused_columns("no column .*item_id", id=["a"], embedding=[[1.0]])
    refused_columns(r"vectors of 1, 2 dimensions", item_id=["a", "b"], embedding=[[1.0], [1.0, 2.0]])
    refused_columns("item_id .*double.*texts or whole numbers", item_id=[1.5], embedding=[[1.0]])
    refused_columns("empty cells", item_id=["a", None], embedding=[[1.0], [1.0]])
    refused_columns("empty cells", item_id=["a", "b"], embedding=[[1.0], None])
    refused_columns("expected lists of numbers", item_id=["a"], embedding=["[1, 2]"])
    refused_columns("expected floating-point numbers", item_id=["a"], embedding=[["1"]])
    refused_columns("item_id column of .* is bool", item_id=[True], embedding=[[1.0]])
    refused_columns("has no column embedding .it has item_id, vector.", item_id=["a"], vector=[[1.0]])
    refused_columns("empty vectors", item_id=["a"], embedding=pa.array([[]], pa.list_(pa.float32())))
    refused_columns("1 ids more than once", item_id=["a", "a"], embedding=[[1.0], [2.0]])


def test_parquet_of_two_widths_and_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, pa.schema({"item_id": pa.string(), "embedding": pa.list_(pa.float32())})) as writer:
        writer.write_table(pa.table({"item_id": ["a"], "embedding": pa.array([[1, 2]], pa.list_(pa.float32()))}))
        writer.write_table(pa.table({"item_id": ["b"], "embedding": pa.array([[1, 2, 3]], pa.list_(pa.float32()))}))
    with pytest.raises(LLMInitError, match=r"vectors of 2, 3 dimensions"):
        read_embeddings(tmp_path)
    path.write_bytes(b"PAR1" + b"x" * 64 + b"PAR1")
    with pytest.raises(LLMInitError, match="a.parquet cannot be read .*whole Parquet file"):
        read_embeddings(tmp_path)


def test_parquet_that_unpacks_to_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"item_id": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "a.parquet")
    monkeypatch.setattr(columnar_file, "_memory_bytes", lambda: 11.0)
    with pytest.raises(LLMInitError, match="a.parquet holds 6 numbers.*0.0 GB.*npy"):
        read_embeddings(tmp_path)
    monkeypatch.setattr(columnar_file, "_memory_bytes", lambda: 12.0)
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 2], "b": [3, 4]}
