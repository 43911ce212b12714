import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import append_shard, hash_text
from tests.vectors.vector_files import METADATA, by_token, visible, write_shard


def test_columns_are_as_documented(tmp_path: Path) -> None:
    path = write_shard(tmp_path, ["a"], np.ones((1, 3), np.float16))
    schema = pa.ipc.open_file(path).schema
    assert schema.names == ["item_id", "text_hash", "embedding"]
    assert schema.field("embedding").type.list_size == 3
    assert schema.field("embedding").type.value_type == pa.float16()
    assert json.loads(schema.metadata[b"recbole_llminit"])["facts"]["model"] == "mini"


def test_temporary_files_are_not_read(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    (tmp_path / ".part-00001.arrow.writing").write_bytes(b"half")
    (tmp_path / ".part-00002.arrow").write_bytes(b"half")
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 1]}


def test_a_full_disk_leaves_the_store_whole(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    # What is written to /dev/full fails as on a full disk.
    (tmp_path / ".part-00001.arrow.writing").symlink_to("/dev/full")
    with pytest.raises(LLMInitError, match=r"cannot be written \(No space left on device\).*free space"):
        write_shard(tmp_path, ["b"], np.array([[1, 1]], np.float32))
    assert visible(tmp_path) == ["part-00000.arrow"]
    assert by_token(read_embeddings(tmp_path)) == {"a": [1, 1]}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LLMInitError, match=r"file/store cannot be written \(Not a directory\).*llm_cache_dir"):
        write_shard(tmp_path / "file" / "store", ["a"], np.array([[1, 1]], np.float32))


WRITER = """
import sys
import numpy as np
from recbole_llminit.vectors.shard import append_shard
for number in range(20):
    append_shard(sys.argv[1], [f"{sys.argv[2]}{number}"], ["0"], np.array([[number, 1]], np.float32), {"model": "mini"})
"""


def test_two_processes_write_into_one_store(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert by_token(read_embeddings(tmp_path)) == {
        f"{name}{number}": [number, 1] for name in "ab" for number in range(20)
    }


def test_shard_numbers_beyond_five_digits_come_last(tmp_path: Path) -> None:
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32)).rename(tmp_path / "part-99999.arrow")
    assert write_shard(tmp_path, ["a"], np.array([[2, 2]], np.float32)).name == "part-100000.arrow"
    assert by_token(read_embeddings(tmp_path)) == {"a": [2, 2]}


def test_foreign_files_beside_the_shards_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "part-abc.txt").touch()
    write_shard(tmp_path, ["a"], np.array([[1, 1]], np.float32))
    (tmp_path / "README.md").touch()
    assert write_shard(tmp_path, ["b"], np.array([[1, 1]], np.float32)).name == "part-00001.arrow"
    assert set(by_token(read_embeddings(tmp_path))) == {"a", "b"}


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
def test_the_writer_refuses(tmp_path: Path, ids: list[str], vectors: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        write_shard(tmp_path, ids, vectors)
    assert not visible(tmp_path)


def test_ids_and_texts_with_a_lone_surrogate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LLMInitError, match=r"the id 'a\\ud83d'.*surrogate"):
        append_shard(tmp_path, ["a\ud83d"], ["0"], np.ones((1, 3), np.float32), METADATA)
    with pytest.raises(LLMInitError, match=r"the text '\\ud83d b'.*surrogate"):
        hash_text("a \ud83d b")
