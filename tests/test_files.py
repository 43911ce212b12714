import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import export_embeddings, read_embeddings
from recbole_llminit.store import append_shard

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
    refused(path, "cannot be read .*equal size")
    torch.save(torch.ones(2, 2), path)
    refused(path, "has no ids beside it")
    torch.save({"item_id": [1.5, 2.5], "embedding": torch.ones(2, 2)}, path)
    refused(path, "has the item id 1.5: expected a text or a whole number")
    torch.save({"item_id": ["a"], "embedding": torch.ones(2, 2)}, path)
    refused(path, "has 2 vectors for 1 ids")
    torch.save({"item_id": ["a"], "embedding": torch.ones(1, 2).int()}, path)
    refused(path, r"int32 of shape \(1, 2\): expected floating-point")
    (tmp_path / "v.safetensors").write_bytes(b"x" * 100)
    refused(tmp_path / "v.safetensors", "is no safetensors file")


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
    refused(tmp_path / "v.parquet", "empty cells in v")
    pq.write_table(pa.table({"item_id": ["a", None], "v": [[1.0], [2.0]]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "has the item id None")


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
    facts = {"model": "mini", "dtype": "float16"}
    append_shard(tmp_path / "store", ["a", "b"], ["0", "1"], np.float16([[1, 1], [2, 2]]), facts)
    append_shard(tmp_path / "store", ["a", "c\n1"], ["2", "3"], np.float16([[9, 9], [3, 3]]), facts)
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
    (tmp_path / "out" / ".v.json.writing").symlink_to("/dev/full")
    with pytest.raises(LLMInitError, match="cannot be written"):
        exported(tmp_path, "v.npy")
    assert list((tmp_path / "out").iterdir()) == []
