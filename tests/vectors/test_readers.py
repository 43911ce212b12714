import faulthandler
import json
import os
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.readers import export_embeddings, read_embeddings
from recbole_llminit.vectors.store import append_shard

VECTORS = np.float32([[1, 2.5], [3, -4]])
EXPECTED = {"x1": [1, 2.5], "07": [3, -4]}


def by_token(found):
    return dict(zip(found.tokens.to_pylist(), np.concatenate(found.chunks).tolist(), strict=True))


def refused(path, message, **arguments):
    with pytest.raises(LLMInitError, match=message):
        read_embeddings(path, **arguments)


def lines(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


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
def test_a_matrix_with_its_ids_beside_it(tmp_path, name, content, form):
    (tmp_path / name).write_text(content)
    path = tmp_path / f"v.{'pt' if form == 'bfloat16' else form}"
    if form == "npy":
        np.save(path, VECTORS)
    elif form == "safetensors":
        save_file({"weights": torch.from_numpy(VECTORS)}, path)
    else:
        torch.save(torch.from_numpy(VECTORS).to(torch.bfloat16 if form == "bfloat16" else torch.float32), path)
    assert by_token(read_embeddings(path)) == EXPECTED


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "v.txt").write_text("x1\n07\n")
    assert isinstance(read_embeddings(tmp_path / "v.npy").chunks[0], np.memmap)


def test_tensors_named_by_their_item(tmp_path):
    tensors = {item: torch.tensor(row) for item, row in EXPECTED.items()}
    save_file(tensors, tmp_path / "v.safetensors")
    assert by_token(read_embeddings(tmp_path / "v.safetensors")) == EXPECTED
    torch.save(tensors, tmp_path / "v.pt")
    assert by_token(read_embeddings(tmp_path / "v.pt")) == EXPECTED
    # RecBole's raw ids may be numbers.
    torch.save({5: torch.ones(2)}, tmp_path / "n.pt")
    assert by_token(read_embeddings(tmp_path / "n.pt")) == {"5": [1, 1]}


@pytest.mark.parametrize("ids", [["x1", "07"], ("x1", "07")])
def test_ids_inside_a_pt(tmp_path, ids):
    torch.save({"item_id": ids, "embedding": torch.from_numpy(VECTORS)}, tmp_path / "v.pt")
    assert by_token(read_embeddings(tmp_path / "v.pt")) == EXPECTED


def test_numeric_ids_inside_a_pt(tmp_path):
    torch.save({"asin": torch.tensor([3, 1]), "embedding": torch.from_numpy(VECTORS)}, tmp_path / "v.pt")
    assert by_token(read_embeddings(tmp_path / "v.pt", "asin")) == {"3": [1, 2.5], "1": [3, -4]}


def test_a_pickle_is_not_run(tmp_path):
    torch.save({"item_id": [1], "embedding": print}, tmp_path / "v.pt")
    refused(tmp_path / "v.pt", "loading it could run code: save the vectors alone")


def test_tensors_that_are_refused(tmp_path):
    path = tmp_path / "v.pt"
    torch.save([torch.ones(2)], path)
    refused(path, "holds a list: expected a tensor or a dictionary")
    torch.save({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, path)
    refused(path, r"holds 2 matrices \(a, b\): expected one")
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, path)
    refused(path, "v.pt cannot be read .*same shape")
    torch.save(torch.ones(2, 2), path)
    refused(path, "has no ids beside it")
    torch.save({"item_id": [1.5, 2.5], "embedding": torch.ones(2, 2)}, path)
    refused(path, "has the item id 1.5: expected a text or a whole number")
    torch.save({"item_id": ["a"], "embedding": torch.ones(2, 2)}, path)
    refused(path, "has 2 vectors for 1 ids")
    torch.save({"item_id": ["a"], "embedding": torch.ones(1, 2).int()}, path)
    refused(path, r"int32 of shape \(1, 2\): expected floating-point")
    (tmp_path / "v.safetensors").write_bytes(b"x" * 100)
    refused(tmp_path / "v.safetensors", "v.safetensors cannot be read .*SafetensorError")


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_a_column_a_number(tmp_path, suffix, separator):
    frame = pd.DataFrame({"item_id": ["x1", "07"], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    frame.to_csv(tmp_path / f"v.{suffix}", sep=separator, index=False)
    found = read_embeddings(tmp_path / f"v.{suffix}")
    assert by_token(found) == EXPECTED
    assert found.chunks[0].dtype == np.float32
    frame.to_parquet(tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet")) == EXPECTED


@pytest.mark.parametrize("cells", [["[1, 2.5]", "[3, -4.0]"], ["1 2.5", "3 -4"], ["1e0,2.5", "3, -4"]])
def test_a_column_of_lists_in_a_csv(tmp_path, cells):
    pd.DataFrame({"item_id": ["x1", "07"], "embedding": cells}).to_csv(tmp_path / "v.csv", index=False)
    assert by_token(read_embeddings(tmp_path / "v.csv")) == EXPECTED


def test_a_single_parquet_file(tmp_path):
    table = pa.table({"title": ["A", "B"], "asin": ["x1", "07"], "vector": pa.array(VECTORS.tolist())})
    pq.write_table(table, tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet", "asin")) == EXPECTED
    refused(
        tmp_path / "v.parquet", r"no column item_id \(it has title, asin, vector\): name the column of the item ids"
    )
    pq.write_table(pa.table({"item_id": ["a"], "text": ["b"]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "expected item_id and one column of lists, or a column for each number")
    pq.write_table(pa.table({"item_id": ["a", "b"], "v": [[1.0], None]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "empty cells among its vectors")
    pq.write_table(pa.table({"item_id": ["a", None], "v": [[1.0], [2.0]]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "has empty cells in item_id")


def test_recboles_itememb(tmp_path):
    path = lines(tmp_path / "d.itememb", "iid:token\titem_emb:float_seq", "x1\t1 2.5", "07\t3 -4")
    assert by_token(read_embeddings(path)) == EXPECTED


@pytest.mark.parametrize("cells", [("[1, 2.5]", "[3, -4]"), ("1 2.5", "3 -4"), ('"[1, 2.5]"', '"[3, -4]"')])
def test_the_column_of_the_official_release(tmp_path, cells):
    header = "item_id:token\ttitle:token_seq\tllm_embedding:float_seq"
    rows = ['x1\tA "title"\t' + cells[0], "none\tNo vector\t", "07\tB\t" + cells[1]]
    assert by_token(read_embeddings(lines(tmp_path / "d.item", header, *rows))) == EXPECTED


def test_atomic_files_that_are_refused(tmp_path):
    path = lines(tmp_path / "d.item", "item_id:token\tprices:float_seq", "a\t1 2")
    refused(path, r"has the fields item_id, prices: expected the vectors in a field llm_embedding$")
    path = lines(tmp_path / "d.item", "asin:token\tllm_embedding:float_seq", "a\t1 2")
    refused(path, r"no column item_id \(it has asin, llm_embedding\)")
    assert by_token(read_embeddings(path, "asin")) == {"a": [1, 2]}
    path = lines(tmp_path / "d.itememb", "iid:token\tv:float_seq", "a\t1 2", "b\t1 x")
    refused(path, "has '1 x' as the vector of b: expected numbers")
    path = lines(tmp_path / "d.itememb", "iid:token\tv:float_seq", "a\t1 2", "b\t1 2 3")
    refused(path, "has 3 numbers for b, and 2 for the items before it")


def test_the_vector_is_the_numbered_columns_alone(tmp_path):
    frame = pd.DataFrame({"item_id": ["x1", "07"], "year": [1995, 2001], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    # With the index that pandas writes by default.
    frame.to_csv(tmp_path / "v.csv")
    assert by_token(read_embeddings(tmp_path / "v.csv")) == EXPECTED
    frame.assign(price=[0.5, 1.5]).to_parquet(tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet")) == EXPECTED
    pd.DataFrame({"item_id": ["x1", "07"], "embedding": ["1 2.5", "3 -4"]}).to_csv(tmp_path / "w.csv")
    assert by_token(read_embeddings(tmp_path / "w.csv")) == EXPECTED
    frame[["item_id", "year", "d0"]].to_csv(tmp_path / "u.csv")
    refused(tmp_path / "u.csv", "expected item_id and one column of lists, or a column for each number, named 0, 1")


@pytest.mark.parametrize("name", ["v.csv", "v.parquet", "v.pt", "v.npy"])
def test_item_id_will_do_where_the_dataset_calls_it_otherwise(tmp_path, name):
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
        lines(tmp_path / "v.csv", "row,item_id", "0,x1", "1,07")
    assert by_token(read_embeddings(path, "asin")) == EXPECTED


def test_a_table_without_ids_is_refused(tmp_path):
    refused(lines(tmp_path / "v.csv", "0,1", "1.0,2.5"), r"row numbers are never taken for ids")
    refused(lines(tmp_path / "u.csv", "item_id,a", "x,1,2"), "its rows have more fields than its header")
    refused(lines(tmp_path / "w.csv", "item_id,a0,a1", "x,1,oops"), r"w.csv cannot be read \(ValueError: .*oops")


def test_ids_beside_that_are_refused_or_cleaned(tmp_path):
    path, ids, listed = tmp_path / "v.npy", tmp_path / "v.txt", tmp_path / "v.json"
    np.save(path, VECTORS)
    refused(path, "has no ids beside it: expected v.txt .*row numbers are never taken for ids")
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
    lines(tmp_path / "v.csv", "x1", "07")
    refused(path, "2 vectors for 1 ids")
    lines(tmp_path / "v.csv", "row,asin", "0,x1", "1,07")
    refused(path, "no column item_id")


def test_npy_that_is_refused(tmp_path):
    path = tmp_path / "v.npy"
    (tmp_path / "v.txt").write_text("a\nb\n")
    np.save(path, np.ones(4))
    refused(path, r"shape \(4,\): expected floating-point, \[n, llm_dim\]")
    np.save(path, np.array([{"pickled": 1}], dtype=object), allow_pickle=True)
    refused(path, "cannot be read .*Python objects")
    path.write_bytes(b"")
    refused(path, "cannot be read")


def test_the_fingerprint_of_a_file_follows_its_content(tmp_path):
    def fingerprint(vectors, ids):
        np.save(tmp_path / "v.npy", vectors)
        (tmp_path / "v.txt").write_text("\n".join(ids))
        return read_embeddings(tmp_path / "v.npy").fingerprint

    assert fingerprint(VECTORS, "ab") == fingerprint(VECTORS, "ab")
    assert len({fingerprint(VECTORS, "ab"), fingerprint(VECTORS, "ba"), fingerprint(2 * VECTORS, "ab")}) == 3


def test_other_files_are_refused(tmp_path):
    (tmp_path / "v.pkl").write_bytes(b"anything")
    refused(
        tmp_path / "v.pkl", "not a form of vectors that can be read: expected a folder .*or a file .npy, .safetensors"
    )


def exported(tmp_path, name):
    metadata = {"model": "mini", "dtype": "float16"}
    append_shard(tmp_path / "store", ["a", "b"], ["0", "1"], np.float16([[1, 1], [2, 2]]), metadata)
    append_shard(tmp_path / "store", ["a", "c\n1"], ["2", "3"], np.float16([[9, 9], [3, 3]]), metadata)
    return export_embeddings(read_embeddings(tmp_path / "store"), tmp_path / "out" / name)


@pytest.mark.parametrize("name", ["v.parquet", "v.npy"])
def test_a_store_is_exported(tmp_path, name):
    paths = exported(tmp_path, name)
    assert [path.name for path in paths] == (["v.parquet"] if name == "v.parquet" else ["v.npy", "v.json"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    found = read_embeddings(paths[0])
    assert by_token(found) == {"b": [2, 2], "a": [9, 9], "c\n1": [3, 3]}
    assert found.chunks[0].dtype == np.float16


def test_an_export_is_read_by_others(tmp_path):
    table = pq.read_table(exported(tmp_path, "v.parquet")[0])
    assert table["item_id"].to_pylist() == ["b", "a", "c\n1"]
    assert json.loads(table.schema.metadata[b"encoder"])["model"] == "mini"
    vectors = np.load(exported(tmp_path / "2", "v.npy")[0])
    assert vectors.tolist() == [[2, 2], [9, 9], [3, 3]]


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_shards_of_two_precisions_are_exported_in_one(tmp_path, name):
    for number, kind in enumerate([pa.float32(), pa.float64()]):
        vectors = pa.array([[number + 0.5, 2.0]], pa.list_(kind))
        pq.write_table(pa.table({"item_id": [f"i{number}"], "embedding": vectors}), tmp_path / f"{number}.parquet")
    paths = export_embeddings(read_embeddings(tmp_path), tmp_path / "out" / name)
    assert by_token(read_embeddings(paths[0])) == {"i0": [0.5, 2], "i1": [1.5, 2]}


def test_an_export_overwrites_nothing(tmp_path):
    exported(tmp_path, "v.npy")
    with pytest.raises(LLMInitError, match="v.npy and .*v.json is there already"):
        exported(tmp_path, "v.npy")
    with pytest.raises(LLMInitError, match="has the suffix '.csv': expected .parquet, or .npy"):
        exported(tmp_path, "v.csv")


def test_an_export_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    # What is written to /dev/full fails as on a full disk.
    (tmp_path / "out" / f".v.json.{os.getpid()}.writing").symlink_to("/dev/full")
    with pytest.raises(LLMInitError, match="cannot be written"):
        exported(tmp_path, "v.npy")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def bounded():
    """End the process where it waits for a pipe."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def taken(path):
    """Return what a run computes with, by token."""
    found = read_embeddings(path)
    vectors = found.take(np.arange(len(found.tokens)))
    assert vectors.dtype in (np.float32, np.float64)
    torch.from_numpy(vectors)
    return dict(zip(found.tokens.to_pylist(), vectors.tolist(), strict=True))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "longdouble", ">f16"])
def test_npy_of_every_byte_order(tmp_path, kind, order):
    if kind == ">f16" and np.dtype("longdouble").itemsize != 16:
        pytest.skip("no such type on this machine")
    np.save(tmp_path / "v.npy", np.asarray(VECTORS.astype(kind), order=order))
    lines(tmp_path / "v.txt", "x1", "07")
    assert taken(tmp_path / "v.npy") == EXPECTED
    for name in ("e.npy", "e.parquet"):
        assert taken(export_embeddings(read_embeddings(tmp_path / "v.npy"), tmp_path / name)[0]) == EXPECTED


def test_numbers_beyond_float32(tmp_path):
    lines(tmp_path / "v.txt", "x1", "07")
    for kind, number, message in (
        ("float64", 1e300, "numbers beyond float32 .3.4e38. in the vectors of 1 or more items .07."),
        ("longdouble", np.longdouble("1e4000"), "NaN or infinite numbers in the vectors of 1 or more items .07."),
    ):
        np.save(tmp_path / "v.npy", np.array([[1, 2], [3, number]], dtype=kind))
        found = read_embeddings(tmp_path / "v.npy").align(["[PAD]", "x1", "07"], "toy")
        with warnings.catch_warnings(), pytest.raises(LLMInitError, match=message):
            warnings.simplefilter("error")
            list(found.blocks())


def test_tensors_of_eight_bits_and_with_a_gradient(tmp_path):
    numbers = {torch.float8_e4m3fn: [1.5, -448.0], torch.float8_e5m2: [1.5, -57344.0]}
    for kind, row in numbers.items():
        tensor = torch.tensor([row, [0.25, 2.0]]).to(kind)
        torch.save({"item_id": ["x1", "07"], "embedding": tensor}, tmp_path / "v.pt")
        save_file({"x1": tensor[0].clone(), "07": tensor[1].clone()}, tmp_path / "v.safetensors")
        for name in ("v.pt", "v.safetensors"):
            assert taken(tmp_path / name) == {"x1": row, "07": [0.25, 2.0]}
    torch.save({"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS).requires_grad_()}, tmp_path / "v.pt")
    assert taken(tmp_path / "v.pt") == EXPECTED


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: torch.eye(2).to_sparse(), "holds a sparse tensor"),
        (lambda: torch.eye(2).to_sparse_csr(), "holds a sparse tensor"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 1.0, 0, torch.qint8), "holds a quantized tensor"),
        (lambda: torch.ones(2, 2, device="meta"), "holds a meta tensor"),
        (lambda: torch.ones(2, 2, dtype=torch.complex64), "holds a complex tensor"),
        (lambda: torch.ones(2, 0), "holds 2 empty vectors"),
        (lambda: torch.ones(2, 2).bool(), r"is bool of shape \(2, 2\): expected floating-point"),
        (lambda: torch.tensor(1.0), "holds 0 matrices"),
        (lambda: torch.ones(2, 2, 2), "holds 0 matrices"),
    ],
    ids=["coo", "csr", "quantized", "meta", "complex", "empty", "bool", "0-d", "3-d"],
)
# Of torch, about what it is to make such a tensor.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_tensors_are_refused(tmp_path, make, named):
    tensor = make()
    for path, content in (
        (tmp_path / "v.pt", {"item_id": ["a", "b"], "embedding": tensor}),
        (tmp_path / "w.pt", tensor),
    ):
        torch.save(content, path)
        lines(tmp_path / "w.txt", "a", "b")
        refused(path, f"{path} {named}")
    if tensor.dtype == torch.complex64:
        save_file({"embedding": tensor}, tmp_path / "w.safetensors")
        refused(tmp_path / "w.safetensors", f"w.safetensors {named}")


@pytest.mark.parametrize("ids", ["ab", 5, torch.tensor(3), torch.ones(2, device="meta"), [["a"], ["b"]], [True, False]])
def test_ids_inside_a_pt_that_are_refused(tmp_path, ids):
    torch.save({"item_id": ids, "embedding": torch.ones(2, 2)}, tmp_path / "v.pt")
    refused(tmp_path / "v.pt", "v.pt ")


def test_the_older_form_of_pt(tmp_path):
    path = tmp_path / "v.pt"
    content = {"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert by_token(read_embeddings(path)) == EXPECTED
    whole = path.read_bytes()
    for count in range(0, len(whole), 7):
        path.write_bytes(whole[:count])
        refused(path, "v.pt ")


def npy(descr, shape="(2, 2)", body=b"\0" * 64):
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
def test_npy_that_is_broken(tmp_path, content):
    (tmp_path / "v.npy").write_bytes(content)
    lines(tmp_path / "v.txt", "a", "b")
    refused(tmp_path / "v.npy", "v.npy ")


def test_empty_vectors_are_refused_in_every_form(tmp_path):
    def written(name, write):
        write(tmp_path / name)
        refused(tmp_path / name, f"{name} holds .*empty vectors|{name} has the columns")

    lines(tmp_path / "v.txt", "a", "b")
    written("v.npy", lambda path: np.save(path, np.empty((2, 0), np.float32)))
    written("v.csv", lambda path: lines(path, "item_id,embedding", "a,[]", "b,[]"))
    written("w.csv", lambda path: lines(path, "item_id", "a", "b"))
    written("v.itememb", lambda path: lines(path, "iid:token\tv:float_seq", "a\t[]", "b\t[]"))
    columns = {"item_id": ["a", "b"], "embedding": pa.array([[], []], pa.list_(pa.float32()))}
    written("v.parquet", lambda path: pq.write_table(pa.table(columns), path))


def test_other_files_under_a_known_name(tmp_path):
    """An archive, a pickle, an image: each suffix with the content of each other one."""
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
            lines(tmp_path / "v.txt", "a", "b")
            refused(path, f"v.{suffix} ")


def test_a_panic_is_an_error_too(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(path):
        raise PanicException("index out of bounds")

    save_file({"a": torch.ones(2)}, tmp_path / "v.safetensors")
    monkeypatch.setattr("safetensors.torch.load_file", panic)
    refused(tmp_path / "v.safetensors", r"v.safetensors cannot be read \(PanicException: index out of bounds\)")

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.load_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_embeddings(tmp_path / "v.safetensors")


def numbered(tmp_path, *columns):
    """Write a CSV and a Parquet file whose columns hold 0, 1, ... from the left."""
    rows = [[item, *map(str, range(len(columns)))] for item in ("x1", "07")]
    lines(tmp_path / "v.csv", ",".join(["item_id", *columns]), *(",".join(row) for row in rows))
    arrays = [pa.array(["x1", "07"]), *(pa.array([float(number)] * 2) for number in range(len(columns)))]
    pq.write_table(pa.table(arrays, ["item_id", *columns]), tmp_path / "v.parquet")
    return [tmp_path / "v.csv", tmp_path / "v.parquet"]


@pytest.mark.parametrize(
    ("columns", "vector"),
    [
        (["0", "1", "2"], [0, 1, 2]),
        (["1", "2"], [0, 1]),
        (["dim_0", "dim_1", "cat0", "cat1", "cat2"], [0, 1]),
        (["cat0", "cat1", "cat2", "dim_0", "dim_1"], [3, 4]),
        (["0", "1", "cat0", "cat1", "cat2"], [0, 1]),
        (["cat0", "cat1"], [0, 1]),
        (["v1", "year", "v2"], [0, 2]),
        (["d00", "d01", "d02"], [0, 1, 2]),
        (["d0", "d1", "votes2001", "votes2005"], [0, 1]),
        (["d0", "d1", "title1"], [0, 1]),
        ([f"d{number}" for number in range(12)], list(range(12))),
    ],
)
def test_which_columns_are_the_vector(tmp_path, columns, vector):
    for path in numbered(tmp_path, *columns):
        assert by_token(read_embeddings(path)) == {"x1": vector, "07": vector}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["dim_0", "dim_2", "dim_3"], r"has no column dim_1 beside dim_0 \(1 missing\): expected dim_0, dim_1"),
        (["dim_2", "dim_3"], r"has no column dim_1 beside dim_2 \(1 missing\)"),
        (["dim_0", "dim_999999999999"], r"has no column dim_1 beside dim_0 \(999,999,999,998 missing\)"),
        (["dim_1", "dim_0"], "has dim_1 before dim_0: expected .* in rising order"),
        (["dim_0", "dim_2", "dim_1"], "has dim_2 before dim_1"),
        (["dim_0", "dim_1", "dim_1"], "has more than one column dim_1"),
        (["dim_0", "dim_0", "dim_0"], "has more than one column dim_0"),
        (["dim_0", "dim_00", "dim_1"], "has more than one column dim_0"),
        (["dim_0", "cat0", "cat1"], r"has no column dim_1 beside dim_0"),
        (["cat0", "cat1", "dim_0", "dim_2"], "has no column dim_1"),
        (["cat0", "cat1", "d0", "d1"], r"has several families .*\(cat0, ..., d0, ...\): .* keep one, or name .* dim_0"),
        (["0", "1", "dim_0", "dim_1"], r"has several families .*\(0, ..., dim_0, ...\)"),
        (["d0", "d2", "d3", "cat0", "cat1"], "has no column d1 beside d0"),
        (["votes2001", "votes2005"], "has the columns item_id, votes2001, votes2005: expected item_id and one column"),
    ],
)
def test_columns_that_are_no_vector(tmp_path, columns, message):
    for path in numbered(tmp_path, *columns):
        refused(path, f"{path} {message}")


def test_other_columns_that_stand_twice(tmp_path):
    path = lines(tmp_path / "v.csv", "item_id,item_id,d0,d1", "x1,a,1,2")
    refused(path, r"v.csv has columns more than once \(item_id\)")
    path = lines(tmp_path / "v.csv", "item_id,title,title,d0,d1", "x1,A,B,1,2")
    assert by_token(read_embeddings(path)) == {"x1": [1, 2]}
    path = lines(tmp_path / "v.itememb", "iid:token\tv:float_seq\tv:float_seq", "x1\t1 2\t3 4")
    refused(path, r"v.itememb has columns more than once \(v\)")
    np.save(tmp_path / "w.npy", VECTORS)
    lines(tmp_path / "w.csv", "item_id,item_id", "x1,a", "07,b")
    refused(tmp_path / "w.npy", r"w.csv has columns more than once \(item_id\)")


def test_rows_that_end_early(tmp_path):
    refused(lines(tmp_path / "v.csv", "item_id,embedding", "x1,1 2", "07"), "has 0 numbers for 07, and 2 for the items")
    # An editor may cut the tab of an item without a vector.
    path = lines(tmp_path / "v.item", "item_id:token\tllm_embedding:float_seq", "none", "x1\t1 2.5", "07\t3 -4")
    assert by_token(read_embeddings(path)) == EXPECTED


def test_the_index_that_pandas_wrote_into_parquet_is_no_guide(tmp_path):
    frame = pd.DataFrame({"item_id": ["x1", "07"], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    frame.set_index("d0", drop=False).rename_axis("row").to_parquet(tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet")) == EXPECTED
    table = pq.read_table(tmp_path / "v.parquet").replace_schema_metadata({"pandas": "{oops"})
    pq.write_table(table, tmp_path / "w.parquet")
    assert by_token(read_embeddings(tmp_path / "w.parquet")) == EXPECTED


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
def test_json_ids_that_are_refused(tmp_path, content, message):
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "v.json").write_text(content)
    refused(tmp_path / "v.npy", message)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    for suffix in ("npy", "safetensors", "pt", "csv", "tsv", "parquet", "itememb", "item"):
        make(tmp_path / f"v.{suffix}")
        refused(tmp_path / f"v.{suffix}", f"v.{suffix} is a pipe or a device: expected vectors, a regular file")
    np.save(tmp_path / "w.npy", VECTORS)
    for suffix in ("txt", "json", "csv"):
        make(tmp_path / f"w.{suffix}")
        refused(tmp_path / "w.npy", f"w.{suffix} is a pipe or a device: expected item ids, a regular file")
        # It is not read either where the ids are inside.
        torch.save({"item_id": ["x1", "07"], "embedding": torch.from_numpy(VECTORS)}, tmp_path / "w.pt")
        assert by_token(read_embeddings(tmp_path / "w.pt")) == EXPECTED
        (tmp_path / f"w.{suffix}").unlink()
    (tmp_path / "w.txt").mkdir()
    refused(tmp_path / "w.npy", "w.txt is a folder: expected item ids, a regular file")


@pytest.mark.parametrize("name", ["x" * 300 + ".npy", "a\0b.npy", "/".join(["x" * 200] * 30) + ".csv"])
def test_names_that_the_system_refuses(tmp_path, name):
    refused(tmp_path / name, "there are no vectors at")
    lines(tmp_path / "v.csv", "item_id,d0,d1", "a,1,2")
    with pytest.raises(LLMInitError, match="cannot be written|has the suffix"):
        export_embeddings(read_embeddings(tmp_path / "v.csv"), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["v.csv"]


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_an_export_never_holds_nan(tmp_path, name, monkeypatch):
    monkeypatch.setattr("recbole_llminit.vectors.readers._EXPORTED_ROWS", 2)
    np.save(tmp_path / "w.npy", np.float32([[1, 2], [3, 4], [5, 6], [np.inf, 8], [9, np.nan]]))
    lines(tmp_path / "w.txt", *"abcde")
    with pytest.raises(
        LLMInitError, match=r"w.npy has NaN or infinite numbers in the vectors of 1 or more items \(d\)"
    ):
        export_embeddings(read_embeddings(tmp_path / "w.npy"), tmp_path / "out" / name)
    assert list((tmp_path / "out").iterdir()) == []


EXPORTER = """
import resource, sys
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.readers import export_embeddings, read_embeddings
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
def test_an_export_that_is_cut_at_any_byte_leaves_nothing(tmp_path, suffix, files):
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
def test_an_export_of_two_files_is_interrupted(tmp_path, monkeypatch, number):
    """Before, between and behind the writing of both, and between the names they get."""
    from pathlib import Path

    calls = []

    def interrupted(method):
        def call(self, *arguments, **options):
            calls.append(self)
            if len(calls) == number + 1:
                raise KeyboardInterrupt
            return method(self, *arguments, **options)

        return call

    lines(tmp_path / "v.csv", "item_id,d0,d1", "a,1,2")
    found = read_embeddings(tmp_path / "v.csv")
    monkeypatch.setattr(Path, "replace", interrupted(Path.replace))
    monkeypatch.setattr(Path, "write_text", interrupted(Path.write_text))
    monkeypatch.setattr(
        "recbole_llminit.vectors.readers._blocks", interrupted(lambda found: iter([(0, found.chunks[0])]))
    )
    with pytest.raises(KeyboardInterrupt):
        export_embeddings(found, tmp_path / "out" / "v.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_to_a_device_or_into_a_file(tmp_path):
    lines(tmp_path / "v.csv", "item_id,d0,d1", "a,1,2")
    found = read_embeddings(tmp_path / "v.csv")
    for target in ("/dev/full/v.npy", tmp_path / "v.csv" / "v.parquet", "/proc/nowhere/v.npy"):
        with pytest.raises(LLMInitError, match=f"{target} cannot be written"):
            export_embeddings(found, target)
    (tmp_path / "v.npy").symlink_to("/dev/null")
    with pytest.raises(LLMInitError, match="v.npy is there already"):
        export_embeddings(found, tmp_path / "v.npy")
