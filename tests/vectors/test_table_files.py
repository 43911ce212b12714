from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llminit.vectors.readers import read_embeddings
from tests.vectors.vector_files import EXPECTED, VECTORS, by_token, refused, write_lines


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_one_column_per_dimension(tmp_path: Path, suffix: str, separator: str) -> None:
    frame = pd.DataFrame({"item_id": ["x1", "07"], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    frame.to_csv(tmp_path / f"v.{suffix}", sep=separator, index=False)
    found = read_embeddings(tmp_path / f"v.{suffix}")
    assert by_token(found) == EXPECTED
    assert found.chunks[0].dtype == np.float32
    frame.to_parquet(tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet")) == EXPECTED


@pytest.mark.parametrize("cells", [["[1, 2.5]", "[3, -4.0]"], ["1 2.5", "3 -4"], ["1e0,2.5", "3, -4"]])
def test_a_column_of_lists_in_a_csv(tmp_path: Path, cells: list[str]) -> None:
    pd.DataFrame({"item_id": ["x1", "07"], "embedding": cells}).to_csv(tmp_path / "v.csv", index=False)
    assert by_token(read_embeddings(tmp_path / "v.csv")) == EXPECTED


def test_rows_that_end_early(tmp_path: Path) -> None:
    refused(
        write_lines(tmp_path / "v.csv", "item_id,embedding", "x1,1 2", "07"),
        "has 0 numbers for 07, and 2 for the items",
    )
    # An editor may cut the tab of an item without a vector.
    path = write_lines(tmp_path / "v.item", "item_id:token\tllm_embedding:float_seq", "none", "x1\t1 2.5", "07\t3 -4")
    assert by_token(read_embeddings(path)) == EXPECTED


def test_a_table_without_ids_is_refused(tmp_path: Path) -> None:
    refused(write_lines(tmp_path / "v.csv", "0,1", "1.0,2.5"), r"row numbers are never taken for ids")
    refused(write_lines(tmp_path / "u.csv", "item_id,a", "x,1,2"), "its rows have more fields than its header")
    refused(write_lines(tmp_path / "w.csv", "item_id,a0,a1", "x,1,oops"), r"w.csv cannot be read \(ValueError: .*oops")


def test_a_single_parquet_file(tmp_path: Path) -> None:
    table = pa.table({"title": ["A", "B"], "asin": ["x1", "07"], "vector": pa.array(VECTORS.tolist())})
    pq.write_table(table, tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet", "asin")) == EXPECTED
    refused(tmp_path / "v.parquet", r"no column item_id \(it has title, asin, vector\).*name the column")
    pq.write_table(pa.table({"item_id": ["a"], "text": ["b"]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "expected item_id and one column of lists.*dim_0, dim_1")
    pq.write_table(pa.table({"item_id": ["a", "b"], "v": [[1.0], None]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "empty cells among its vectors")
    pq.write_table(pa.table({"item_id": ["a", None], "v": [[1.0], [2.0]]}), tmp_path / "v.parquet")
    refused(tmp_path / "v.parquet", "has empty cells in item_id")


def test_the_pandas_metadata_of_a_parquet_file_is_not_used(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item_id": ["x1", "07"], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    frame.set_index("d0", drop=False).rename_axis("row").to_parquet(tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet")) == EXPECTED
    table = pq.read_table(tmp_path / "v.parquet").replace_schema_metadata({"pandas": "{oops"})
    pq.write_table(table, tmp_path / "w.parquet")
    assert by_token(read_embeddings(tmp_path / "w.parquet")) == EXPECTED


def test_an_itememb_file_of_recbole(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.itememb", "iid:token\titem_emb:float_seq", "x1\t1 2.5", "07\t3 -4")
    assert by_token(read_embeddings(path)) == EXPECTED


@pytest.mark.parametrize("cells", [("[1, 2.5]", "[3, -4]"), ("1 2.5", "3 -4"), ('"[1, 2.5]"', '"[3, -4]"')])
def test_the_column_of_the_official_release(tmp_path: Path, cells: tuple[str, str]) -> None:
    header = "item_id:token\ttitle:token_seq\tllm_embedding:float_seq"
    rows = ['x1\tA "title"\t' + cells[0], "none\tNo vector\t", "07\tB\t" + cells[1]]
    assert by_token(read_embeddings(write_lines(tmp_path / "d.item", header, *rows))) == EXPECTED


def test_atomic_files_that_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.item", "item_id:token\tprices:float_seq", "a\t1 2")
    refused(path, "fields item_id, prices.*llm_embedding$")
    path = write_lines(tmp_path / "d.item", "asin:token\tllm_embedding:float_seq", "a\t1 2")
    refused(path, r"no column item_id \(it has asin, llm_embedding\)")
    assert by_token(read_embeddings(path, "asin")) == {"a": [1, 2]}
    path = write_lines(tmp_path / "d.itememb", "iid:token\tv:float_seq", "a\t1 2", "b\t1 x")
    refused(path, "'1 x' as the vector of b.*expected numbers")
    path = write_lines(tmp_path / "d.itememb", "iid:token\tv:float_seq", "a\t1 2", "b\t1 2 3")
    refused(path, "3 numbers for b, and 2 for")
