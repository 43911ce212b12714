from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.cache import describe_stores, list_stores
from recbole_llminit.vectors.header import fingerprint_metadata
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.store import compact, read_rows
from tests.vectors.vector_files import METADATA, visible, write_arrow, write_shard


def test_fingerprint_holds_what_changes_a_vector() -> None:
    assert fingerprint_metadata({**METADATA, "versions": {"torch": "3"}}) == fingerprint_metadata(METADATA)
    assert fingerprint_metadata({**METADATA, "encoder": {"pooling": "mean"}, "ref": "main"}) == fingerprint_metadata(
        METADATA
    )
    assert fingerprint_metadata({**METADATA, "prompt": "query: "}) != fingerprint_metadata(METADATA)


def test_a_local_model_is_its_content_not_its_name() -> None:
    metadata = {**METADATA, "revision": "sha256:0"}
    assert fingerprint_metadata({**metadata, "model": "other"}) == fingerprint_metadata(metadata)
    assert fingerprint_metadata({**metadata, "revision": "sha256:1"}) != fingerprint_metadata(metadata)
    assert fingerprint_metadata({**metadata, "model": "other", "revision": "a1"}) != fingerprint_metadata(
        {**metadata, "revision": "a1"}
    )


def relabel(path: Path, old: bytes, new: bytes) -> Path:
    """Change a shard's header to what another version would have written."""
    file = pa.ipc.open_file(path)
    metadata = file.schema.metadata[b"recbole_llminit"]
    assert old in metadata
    table = file.read_all().replace_schema_metadata({"recbole_llminit": metadata.replace(old, new)})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return path


NEWER = r"part-0000\d.arrow has the format 2.*newer version.* knows 1.*upgrade recbole-llminit"


def test_a_store_of_a_newer_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "toy" / "mini"
    relabel(write_shard(folder, ["a"], np.array([[1, 1]], np.float32)), b'"format": 1', b'"format": 2')
    before = (folder / "part-00000.arrow").read_bytes()
    for use in (
        read_embeddings,
        read_rows,
        compact,
        lambda folder: compact(folder, ["a"]),
        lambda folder: write_shard(folder, ["b"], np.array([[1, 1]], np.float32)),
    ):
        with pytest.raises(LLMInitError, match=NEWER):
            use(folder)
    assert visible(folder) == ["part-00000.arrow"]
    assert (folder / "part-00000.arrow").read_bytes() == before
    assert list_stores(tmp_path, "toy") == []
    assert "skipped: " in caplog.text
    assert "toy/mini/part-00000.arrow has the format 2" in caplog.text
    caplog.clear()
    assert describe_stores(tmp_path) == f"there is no store in {tmp_path}"
    assert "toy/mini/part-00000.arrow has the format 2" in caplog.text


def test_a_store_with_one_shard_of_a_newer_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "toy" / "mini"
    write_shard(folder, ["a"], np.array([[1, 1]], np.float32))
    relabel(write_shard(folder, ["b"], np.array([[1, 1]], np.float32)), b'"format": 1', b'"format": 2')
    write_shard(tmp_path / "toy" / "other", ["a"], np.array([[1, 1]], np.float32))
    for use in (
        read_embeddings,
        read_rows,
        compact,
        lambda folder: write_shard(folder, ["c"], np.array([[1, 1]], np.float32)),
    ):
        with pytest.raises(LLMInitError, match=NEWER):
            use(folder)
    assert visible(folder) == ["part-00000.arrow", "part-00001.arrow"]
    drawn = describe_stores(tmp_path)
    assert "toy/other" in drawn
    assert "toy/mini" not in drawn
    assert "toy/mini/part-00001.arrow has the format 2" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        (b"{oops", "JSONDecodeError"),
        (b"[]", "the header is a list"),
        (b"null", "the header is a NoneType"),
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
        (b'{"format": 1, "fingerprint": "0", "facts": {"model": 5}}', "model of the encoder metadata is a int"),
        (b'{"format": 1, "fingerprint": "0", "facts": {"encoder": []}}', "encoder of the encoder metadata is a list"),
        (b'{"format": 1, "fingerprint": "0", "facts": {"ref": "main"}}', "ref main without its revision"),
    ],
)
def test_a_damaged_header_is_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metadata: bytes, named: str
) -> None:
    path = write_arrow(
        tmp_path / "toy" / "bad",
        {b"recbole_llminit": metadata},
        item_id=["a"],
        text_hash=["0"],
        embedding=pa.array([[1, 2]], pa.list_(pa.float32(), 2)),
    )
    write_shard(tmp_path / "toy" / "good", ["a"], np.array([[1, 1]], np.float32))
    assert [info.path.name for info in list_stores(tmp_path, "toy")] == ["good"]
    assert "skipped: " in caplog.text
    assert str(path) in caplog.text
    assert "toy/good" in describe_stores(tmp_path)
    for use in (
        read_embeddings,
        read_rows,
        compact,
        lambda folder: write_shard(folder, ["b"], np.array([[1, 1]], np.float32)),
    ):
        with pytest.raises(LLMInitError, match=f"{path} cannot be read .*{named}.*encode again"):
            use(path.parent)
    assert visible(path.parent) == ["part-00000.arrow"]
