import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.export import export_embeddings
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import append_shard
from tests.vectors.vector_files import by_token, refused, write_lines


def exported(tmp_path: Path, name: str) -> list[Path]:
    metadata = {"model": "mini", "dtype": "float16"}
    append_shard(tmp_path / "store", ["a", "b"], ["0", "1"], np.array([[1, 1], [2, 2]], np.float16), metadata)
    append_shard(tmp_path / "store", ["a", "c\n1"], ["2", "3"], np.array([[9, 9], [3, 3]], np.float16), metadata)
    return export_embeddings(read_embeddings(tmp_path / "store"), tmp_path / "out" / name)


@pytest.mark.parametrize("name", ["v.parquet", "v.npy"])
def test_a_store_is_exported(tmp_path: Path, name: str) -> None:
    paths = exported(tmp_path, name)
    assert [path.name for path in paths] == (["v.parquet"] if name == "v.parquet" else ["v.npy", "v.json"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    found = read_embeddings(paths[0])
    assert by_token(found) == {"b": [2, 2], "a": [9, 9], "c\n1": [3, 3]}
    assert found.chunks[0].dtype == np.float16


def test_an_export_is_read_by_others(tmp_path: Path) -> None:
    table = pq.read_table(exported(tmp_path, "v.parquet")[0])
    assert table["item_id"].to_pylist() == ["b", "a", "c\n1"]
    assert json.loads(table.schema.metadata[b"encoder"])["model"] == "mini"
    vectors = np.load(exported(tmp_path / "2", "v.npy")[0])
    assert vectors.tolist() == [[2, 2], [9, 9], [3, 3]]


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_shards_of_two_precisions_are_exported_in_one(tmp_path: Path, name: str) -> None:
    for number, kind in enumerate([pa.float32(), pa.float64()]):
        vectors = pa.array([[number + 0.5, 2.0]], pa.list_(kind))
        pq.write_table(pa.table({"item_id": [f"i{number}"], "embedding": vectors}), tmp_path / f"{number}.parquet")
    paths = export_embeddings(read_embeddings(tmp_path), tmp_path / "out" / name)
    assert by_token(read_embeddings(paths[0])) == {"i0": [0.5, 2], "i1": [1.5, 2]}


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    exported(tmp_path, "v.npy")
    with pytest.raises(LLMInitError, match="v.npy and .*v.json is there already"):
        exported(tmp_path, "v.npy")
    with pytest.raises(LLMInitError, match="suffix '.csv'.*expected .parquet, or .npy"):
        exported(tmp_path, "v.csv")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    # What is written to /dev/full fails as on a full disk.
    (tmp_path / "out" / f".v.json.{os.getpid()}.writing").symlink_to("/dev/full")
    with pytest.raises(LLMInitError, match="cannot be written"):
        exported(tmp_path, "v.npy")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_an_export_never_holds_nan(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llminit.vectors.export._BLOCK_ROWS", 2)
    np.save(tmp_path / "w.npy", np.array([[1, 2], [3, 4], [5, 6], [np.inf, 8], [9, np.nan]], np.float32))
    write_lines(tmp_path / "w.txt", *"abcde")
    with pytest.raises(LLMInitError, match=r"w.npy has NaN or infinite.*1 or more items \(d\)"):
        export_embeddings(read_embeddings(tmp_path / "w.npy"), tmp_path / "out" / name)
    assert list((tmp_path / "out").iterdir()) == []


EXPORTER = """
import resource, sys
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.export import export_embeddings
from recbole_llminit.vectors.readers import read_embeddings
found = read_embeddings(sys.argv[1])
for number in range(0, 6000, 97):
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))
    try:
        export_embeddings(found, f"{sys.argv[2]}/{number}.{sys.argv[3]}")
        print(number)
    except LLMInitError as error:
        assert "cannot be written" in str(error), error
"""


@pytest.mark.parametrize(("suffix", "files"), [("npy", 2), ("parquet", 1)])
def test_an_export_that_is_cut_at_any_byte_leaves_nothing(tmp_path: Path, suffix: str, files: int) -> None:
    append_shard(tmp_path / "s", list("abcdefgh"), ["0"] * 8, np.ones((8, 64), np.float16), {"model": "mini"})
    command = [sys.executable, "-c", EXPORTER, str(tmp_path / "s"), str(tmp_path / "out"), suffix]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    whole = child.stdout.split()
    assert 0 < len(whole) < 60
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(left) == files * len(whole)
    for number in whole:
        assert len(read_embeddings(tmp_path / "out" / f"{number}.{suffix}").tokens) == 8


@pytest.mark.parametrize("number", range(4))
def test_an_export_of_two_files_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Before, between and after the writing of the two files, and between their renamings."""
    calls = []

    def interrupted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: object, *arguments: Any, **options: Any) -> Any:
            calls.append(self)
            if len(calls) == number + 1:
                raise KeyboardInterrupt
            return method(self, *arguments, **options)

        return call

    write_lines(tmp_path / "v.csv", "item_id,d0,d1", "a,1,2")
    found = read_embeddings(tmp_path / "v.csv")
    monkeypatch.setattr(Path, "replace", interrupted(Path.replace))
    monkeypatch.setattr(Path, "write_text", interrupted(Path.write_text))
    monkeypatch.setattr(
        "recbole_llminit.vectors.export._blocks", interrupted(lambda found: iter([(0, found.chunks[0])]))
    )
    with pytest.raises(KeyboardInterrupt):
        export_embeddings(found, tmp_path / "out" / "v.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_to_a_device_or_into_a_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "v.csv", "item_id,d0,d1", "a,1,2")
    found = read_embeddings(tmp_path / "v.csv")
    for target in ("/dev/full/v.npy", tmp_path / "v.csv" / "v.parquet", "/proc/nowhere/v.npy"):
        with pytest.raises(LLMInitError, match=f"{target} cannot be written"):
            export_embeddings(found, target)
    (tmp_path / "v.npy").symlink_to("/dev/null")
    with pytest.raises(LLMInitError, match="v.npy is there already"):
        export_embeddings(found, tmp_path / "v.npy")


@pytest.mark.parametrize("name", ["x" * 300 + ".npy", "a\0b.npy", "/".join(["x" * 200] * 30) + ".csv"])
def test_names_that_the_system_refuses(tmp_path: Path, name: str) -> None:
    refused(tmp_path / name, "there are no vectors at")
    write_lines(tmp_path / "v.csv", "item_id,d0,d1", "a,1,2")
    with pytest.raises(LLMInitError, match="cannot be written|has the suffix"):
        export_embeddings(read_embeddings(tmp_path / "v.csv"), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["v.csv"]
