import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.export import export_embeddings
from recbole_llminit.vectors.readers import read_embeddings
from tests.vectors.vector_files import EXPECTED, VECTORS, by_token, refused, write_lines


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.txt", "x1\n07\n"),
        ("v.json", '["x1", "07"]'),
        ("v.csv", "item_id\nx1\n07\n"),
        ("v.csv", "row,item_id\n0,x1\n1,07\n"),
        ("v.csv", "asin\nx1\n07\n"),
    ],
)
@pytest.mark.parametrize("form", ["npy", "safetensors", "pt", "bfloat16"])
def test_a_matrix_with_its_ids_beside_it(tmp_path: Path, name: str, content: str, form: str) -> None:
    (tmp_path / name).write_text(content)
    path = tmp_path / f"v.{'pt' if form == 'bfloat16' else form}"
    if form == "npy":
        np.save(path, VECTORS)
    elif form == "safetensors":
        save_file({"weights": torch.from_numpy(VECTORS)}, path)
    else:
        torch.save(torch.from_numpy(VECTORS).to(torch.bfloat16 if form == "bfloat16" else torch.float32), path)
    assert by_token(read_embeddings(path)) == EXPECTED


def test_npy_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "v.txt").write_text("x1\n07\n")
    assert isinstance(read_embeddings(tmp_path / "v.npy").chunks[0], np.memmap)


def taken(path: Path) -> dict[str, list[float]]:
    """Return the vectors that a run computes with, by token."""
    found = read_embeddings(path)
    vectors = found.take(np.arange(len(found.tokens)))
    assert vectors.dtype in (np.float32, np.float64)
    torch.from_numpy(vectors)
    return dict(zip(found.tokens.to_pylist(), vectors.tolist(), strict=True))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "longdouble", ">f16"])
def test_npy_of_every_byte_order(tmp_path: Path, kind: str, order: Literal["C", "F"]) -> None:
    if kind == ">f16" and np.dtype("longdouble").itemsize != 16:
        pytest.skip("no such type on this machine")
    np.save(tmp_path / "v.npy", np.asarray(VECTORS.astype(kind), order=order))
    write_lines(tmp_path / "v.txt", "x1", "07")
    assert taken(tmp_path / "v.npy") == EXPECTED
    for name in ("e.npy", "e.parquet"):
        assert taken(export_embeddings(read_embeddings(tmp_path / "v.npy"), tmp_path / name)[0]) == EXPECTED


def test_numbers_beyond_float32(tmp_path: Path) -> None:
    write_lines(tmp_path / "v.txt", "x1", "07")
    for kind, number, message in (
        ("float64", 1e300, "beyond float32 .3.4e38.*1 or more items .07."),
        ("longdouble", np.longdouble("1e4000"), "NaN or infinite.*1 or more items .07."),
    ):
        np.save(tmp_path / "v.npy", np.array([[1, 2], [3, number]], dtype=kind))
        found = read_embeddings(tmp_path / "v.npy").align(["[PAD]", "x1", "07"], "toy")
        with warnings.catch_warnings(), pytest.raises(LLMInitError, match=message):
            warnings.simplefilter("error")
            list(found.blocks())


def test_npy_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    (tmp_path / "v.txt").write_text("a\nb\n")
    np.save(path, np.ones(4))
    refused(path, r"shape \(4,\).*floating-point.*\[n, llm_dim\]")
    np.save(path, np.array([{"pickled": 1}], dtype=object), allow_pickle=True)
    refused(path, "cannot be read .*Python objects")
    path.write_bytes(b"")
    refused(path, "cannot be read")


def npy(descr: str, shape: str = "(2, 2)", body: bytes = b"\0" * 64) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00",
        b"x" * 100,
        npy("'<f4"),
        npy("'<f4'", "(2, 2")[:40],
        npy("'<f4'", "((" * 400),
        npy("'<f4'", "(-2, -2)"),
        npy("'<f4'", "(1000000000000, 4)"),
        npy("'<f4'", "(1099511627776, 1099511627776)"),
        npy("'<f4'", "(2, 2.0)"),
        npy("'|O'"),
        npy("[('a', '<f4'), ('b', '|O')]", "(2,)"),
        npy("'nonsense'"),
        npy("'<c8'"),
        npy("'<i4'"),
        npy("'<U4'"),
        npy("'<f4'", "()"),
        npy("'<f4'", "(4,)"),
        npy("'<f4'", "(2, 2, 2)"),
        npy("'<f4'", "(2, 0)"),
        npy("'<f4'", "(0, 2)"),
    ],
)
def test_a_damaged_npy_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.npy").write_bytes(content)
    write_lines(tmp_path / "v.txt", "a", "b")
    refused(tmp_path / "v.npy", "v.npy ")


def test_one_tensor_per_item(tmp_path: Path) -> None:
    tensors = {item: torch.tensor(row) for item, row in EXPECTED.items()}
    save_file(tensors, tmp_path / "v.safetensors")
    assert by_token(read_embeddings(tmp_path / "v.safetensors")) == EXPECTED
    torch.save(tensors, tmp_path / "v.pt")
    assert by_token(read_embeddings(tmp_path / "v.pt")) == EXPECTED
    # An id in RecBole may be a number.
    torch.save({5: torch.ones(2)}, tmp_path / "n.pt")
    assert by_token(read_embeddings(tmp_path / "n.pt")) == {"5": [1, 1]}


@pytest.mark.parametrize("ids", [["x1", "07"], ("x1", "07")])
def test_ids_inside_a_pt(tmp_path: Path, ids: list[str] | tuple[str, ...]) -> None:
    torch.save({"item_id": ids, "embedding": torch.from_numpy(VECTORS)}, tmp_path / "v.pt")
    assert by_token(read_embeddings(tmp_path / "v.pt")) == EXPECTED


def test_numeric_ids_inside_a_pt(tmp_path: Path) -> None:
    torch.save({"asin": torch.tensor([3, 1]), "embedding": torch.from_numpy(VECTORS)}, tmp_path / "v.pt")
    assert by_token(read_embeddings(tmp_path / "v.pt", "asin")) == {"3": [1, 2.5], "1": [3, -4]}


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save({"item_id": [1], "embedding": print}, tmp_path / "v.pt")
    refused(tmp_path / "v.pt", "could run code.*torch.save")


def test_the_format_of_pt_before_zip(tmp_path: Path) -> None:
    path = tmp_path / "v.pt"
    content = {"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert by_token(read_embeddings(path)) == EXPECTED
    whole = path.read_bytes()
    for count in range(0, len(whole), 7):
        path.write_bytes(whole[:count])
        refused(path, "v.pt ")


def test_tensors_of_eight_bits_and_with_a_gradient(tmp_path: Path) -> None:
    numbers = {torch.float8_e4m3fn: [1.5, -448.0], torch.float8_e5m2: [1.5, -57344.0]}
    for kind, row in numbers.items():
        tensor = torch.tensor([row, [0.25, 2.0]]).to(kind)
        torch.save({"item_id": ["x1", "07"], "embedding": tensor}, tmp_path / "v.pt")
        save_file({"x1": tensor[0].clone(), "07": tensor[1].clone()}, tmp_path / "v.safetensors")
        for name in ("v.pt", "v.safetensors"):
            assert taken(tmp_path / name) == {"x1": row, "07": [0.25, 2.0]}
    torch.save({"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS).requires_grad_()}, tmp_path / "v.pt")
    assert taken(tmp_path / "v.pt") == EXPECTED


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.pt"
    torch.save([torch.ones(2)], path)
    refused(path, "holds a list.*expected a tensor or a dictionary")
    torch.save({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, path)
    refused(path, r"holds 2 matrices \(a, b\): expected one")
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, path)
    refused(path, "v.pt cannot be read .*same shape")
    torch.save(torch.ones(2, 2), path)
    refused(path, "has no ids beside it")
    torch.save({"item_id": [1.5, 2.5], "embedding": torch.ones(2, 2)}, path)
    refused(path, "item id 1.5.*expected a text or a whole number")
    torch.save({"item_id": ["a"], "embedding": torch.ones(2, 2)}, path)
    refused(path, "has 2 vectors for 1 ids")
    torch.save({"item_id": ["a"], "embedding": torch.ones(1, 2).int()}, path)
    refused(path, r"int32.*\(1, 2\).*floating-point")
    (tmp_path / "v.safetensors").write_bytes(b"x" * 100)
    refused(tmp_path / "v.safetensors", "v.safetensors cannot be read .*SafetensorError")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: torch.eye(2).to_sparse(), "holds a sparse tensor"),
        (lambda: torch.eye(2).to_sparse_csr(), "holds a sparse tensor"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 1.0, 0, torch.qint8), "holds a quantized tensor"),
        (lambda: torch.ones(2, 2, device="meta"), "holds a meta tensor"),
        (lambda: torch.ones(2, 2, dtype=torch.complex64), "holds a complex tensor"),
        (lambda: torch.ones(2, 0), "holds 2 empty vectors"),
        (lambda: torch.ones(2, 2).bool(), r"is bool.*\(2, 2\).*floating-point"),
        (lambda: torch.tensor(1.0), "holds 0 matrices"),
        (lambda: torch.ones(2, 2, 2), "holds 0 matrices"),
    ],
    ids=["coo", "csr", "quantized", "meta", "complex", "empty", "bool", "0-d", "3-d"],
)
# Of torch, about what it is to make such a tensor.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_tensors_are_refused(tmp_path: Path, make: Callable[[Any], Any], named: str) -> None:
    tensor = make()
    for path, content in (
        (tmp_path / "v.pt", {"item_id": ["a", "b"], "embedding": tensor}),
        (tmp_path / "w.pt", tensor),
    ):
        torch.save(content, path)
        write_lines(tmp_path / "w.txt", "a", "b")
        refused(path, f"{path} {named}")
    if tensor.dtype == torch.complex64:
        save_file({"embedding": tensor}, tmp_path / "w.safetensors")
        refused(tmp_path / "w.safetensors", f"w.safetensors {named}")


@pytest.mark.parametrize("ids", ["ab", 5, torch.tensor(3), torch.ones(2, device="meta"), [["a"], ["b"]], [True, False]])
def test_ids_inside_a_pt_that_are_refused(tmp_path: Path, ids: Any) -> None:
    torch.save({"item_id": ids, "embedding": torch.ones(2, 2)}, tmp_path / "v.pt")
    refused(tmp_path / "v.pt", "v.pt ")


def test_files_of_ids_beside_a_matrix(tmp_path: Path) -> None:
    path, ids, listed = tmp_path / "v.npy", tmp_path / "v.txt", tmp_path / "v.json"
    np.save(path, VECTORS)
    refused(path, "no ids beside.*v.txt.*v.json.*v.csv.*row numbers")
    ids.write_text("x1\n07\n", encoding="utf-8-sig")
    assert by_token(read_embeddings(path)) == EXPECTED
    ids.write_bytes(b"\xff\xfe\n")
    refused(path, "the ids in .*v.txt cannot be read")
    listed.write_text("[]")
    refused(path, "2 files of ids beside it")
    ids.unlink()
    for content, message in (
        ('{"a": 0}', "holds a dict: expected a list"),
        ("[1,", "cannot be read"),
        ("[1.5, 2]", "id 1.5"),
    ):
        listed.write_text(content)
        refused(path, message)
    listed.unlink()
    write_lines(tmp_path / "v.csv", "x1", "07")
    refused(path, "2 vectors for 1 ids")
    write_lines(tmp_path / "v.csv", "row,asin", "0,x1", "1,07")
    refused(path, "no column item_id")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a\\ud83d", "b"]', r"v.npy has the id 'a\\ud83d' with half of a character"),
        ('["a", true]', "v.npy has the item id True"),
        ('["a", 1.0]', "v.npy has the item id 1.0"),
        ('["a", null]', "v.npy has the item id None"),
        ('["a", ["b"]]', r"v.npy has the item id \['b'\]"),
        ('["a", {"b": 1}]', r"v.npy has the item id \{'b': 1\}"),
        ('["a", ' + "[" * 900 + "]" * 900 + "]", "v.npy has the item id"),
        ("[" * 100_000, "the ids in .*v.json cannot be read .RecursionError"),
        ('["a", ' + "9" * 5000 + "]", "the ids in .*v.json cannot be read .ValueError"),
        ('["a", "a"]', r"v.npy has 1 ids more than once \(a\)"),
        ('["a"]', "v.npy has 2 vectors for 1 ids"),
        ('["a", "b", "c"]', "v.npy has 2 vectors for 3 ids"),
        ('{"a": 0, "b": 1}', "v.json holds a dict"),
        ("5", "v.json holds a int"),
        ("", "the ids in .*v.json cannot be read .JSONDecodeError"),
    ],
)
def test_json_ids_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "v.json").write_text(content)
    refused(tmp_path / "v.npy", message)
