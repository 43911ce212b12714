import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from recbole_llminit.vectors import readers
from recbole_llminit.vectors.readers import read_embeddings
from tests.vectors.vector_files import EXPECTED, VECTORS, by_token, refused, write_lines


def test_the_fingerprint_of_a_file_follows_its_content(tmp_path: Path) -> None:
    def fingerprint(vectors: npt.NDArray[Any], ids: str) -> str:
        np.save(tmp_path / "v.npy", vectors)
        (tmp_path / "v.txt").write_text("\n".join(ids))
        return read_embeddings(tmp_path / "v.npy").fingerprint

    assert fingerprint(VECTORS, "ab") == fingerprint(VECTORS, "ab")
    assert len({fingerprint(VECTORS, "ab"), fingerprint(VECTORS, "ba"), fingerprint(2 * VECTORS, "ab")}) == 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.pkl").write_bytes(b"anything")
    refused(tmp_path / "v.pkl", "v.pkl is not a form.*folder.*file .npy, .safetensors")


@pytest.mark.parametrize("name", ["v.csv", "v.parquet", "v.pt", "v.npy"])
def test_the_column_item_id_is_read_under_any_id_field(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pd.DataFrame({"item_id": ["x1", "07"], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    if name == "v.csv":
        frame.to_csv(path, index=False)
    elif name == "v.parquet":
        frame.to_parquet(path)
    elif name == "v.pt":
        torch.save({"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS)}, path)
    else:
        np.save(path, VECTORS)
        write_lines(tmp_path / "v.csv", "row,item_id", "0,x1", "1,07")
    assert by_token(read_embeddings(path, "asin")) == EXPECTED


def test_empty_vectors_are_refused_in_every_form(tmp_path: Path) -> None:
    def written(name: str, write: Callable[[Path], object]) -> None:
        write(tmp_path / name)
        refused(tmp_path / name, f"{name} holds .*empty vectors|{name} has the columns")

    write_lines(tmp_path / "v.txt", "a", "b")
    written("v.npy", lambda path: np.save(path, np.empty((2, 0), np.float32)))
    written("v.csv", lambda path: write_lines(path, "item_id,embedding", "a,[]", "b,[]"))
    written("w.csv", lambda path: write_lines(path, "item_id", "a", "b"))
    written("v.itememb", lambda path: write_lines(path, "iid:token\tv:float_seq", "a\t[]", "b\t[]"))
    columns = {"item_id": ["a", "b"], "embedding": pa.array([[], []], pa.list_(pa.float32()))}
    written("v.parquet", lambda path: pq.write_table(pa.table(columns), path))


def test_other_files_under_a_known_name(tmp_path: Path) -> None:
    """Each suffix with other content: an archive, a pickle, an image, ..."""
    contents = {"png": b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "pickle": b"\x80\x04K\x05.", "text": b"item_id\n"}
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a.npy", b"x")
    contents["zip"] = (tmp_path / "zip").read_bytes()
    np.savez(tmp_path / "z.npz", a=VECTORS)
    contents["npz"] = (tmp_path / "z.npz").read_bytes()
    pq.write_table(pa.table({"item_id": pa.array([], pa.string())}), tmp_path / "empty")
    contents["parquet without vectors"] = (tmp_path / "empty").read_bytes()
    columns = {"item_id": pa.array([], pa.string()), "v": pa.array([], pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "empty")
    contents["empty parquet"] = (tmp_path / "empty").read_bytes()
    for suffix in ("npy", "safetensors", "pt", "csv", "tsv", "parquet", "itememb", "item"):
        for content in contents.values():
            path = tmp_path / f"v.{suffix}"
            path.write_bytes(content)
            write_lines(tmp_path / "v.txt", "a", "b")
            refused(path, f"v.{suffix} ")


def test_a_panic_of_rust_is_an_error_and_an_interrupt_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(path: Path) -> None:
        raise PanicException("index out of bounds")

    save_file({"a": torch.ones(2)}, tmp_path / "v.safetensors")
    monkeypatch.setattr("safetensors.torch.load_file", panic)
    refused(tmp_path / "v.safetensors", r"v.safetensors cannot be read .PanicException: index out of bounds")

    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.load_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_embeddings(tmp_path / "v.safetensors")


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    for suffix in ("npy", "safetensors", "pt", "csv", "tsv", "parquet", "itememb", "item"):
        make(tmp_path / f"v.{suffix}")
        refused(tmp_path / f"v.{suffix}", f"v.{suffix} is a pipe or a device.*vectors.*regular file")
    np.save(tmp_path / "w.npy", VECTORS)
    for suffix in ("txt", "json", "csv"):
        make(tmp_path / f"w.{suffix}")
        refused(tmp_path / "w.npy", f"w.{suffix} is a pipe or a device.*item ids.*regular file")
        # Nor is it read if the ids are inside the file.
        torch.save({"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS)}, tmp_path / "w.pt")
        assert by_token(read_embeddings(tmp_path / "w.pt")) == EXPECTED
        (tmp_path / f"w.{suffix}").unlink()
    (tmp_path / "w.txt").mkdir()
    refused(tmp_path / "w.npy", "w.txt is a folder.*item ids.*regular file")


def test_a_new_form_needs_one_function_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_dat(path: Path, id_field: str) -> tuple[list[str], npt.NDArray[np.float32]]:
        rows = [line.split() for line in path.read_text().splitlines()]
        return [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=np.float32)

    monkeypatch.setattr(readers, "READERS", {**readers.READERS, ".dat": readers.Reader(read_dat, "an id and numbers")})
    assert by_token(read_embeddings(write_lines(tmp_path / "v.dat", "x1 1 2.5", "07 3 -4"))) == EXPECTED
    refused(write_lines(tmp_path / "v.dat", "x1 one"), "v.dat cannot be read .*expected an id and numbers")
    refused(write_lines(tmp_path / "v.unknown"), r"v.unknown is not a form .*\.npy, .*\.dat")
