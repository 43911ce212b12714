from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llminit.vectors.readers import read_embeddings
from tests.vectors.vector_files import EXPECTED, VECTORS, by_token, refused, write_lines


def test_only_the_numbered_columns_are_the_vector(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item_id": ["x1", "07"], "year": [1995, 2001], "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]})
    # With the index that pandas writes by default.
    frame.to_csv(tmp_path / "v.csv")
    assert by_token(read_embeddings(tmp_path / "v.csv")) == EXPECTED
    frame.assign(price=[0.5, 1.5]).to_parquet(tmp_path / "v.parquet")
    assert by_token(read_embeddings(tmp_path / "v.parquet")) == EXPECTED
    pd.DataFrame({"item_id": ["x1", "07"], "embedding": ["1 2.5", "3 -4"]}).to_csv(tmp_path / "w.csv")
    assert by_token(read_embeddings(tmp_path / "w.csv")) == EXPECTED
    frame[["item_id", "year", "d0"]].to_csv(tmp_path / "u.csv")
    refused(tmp_path / "u.csv", "expected item_id and one column of lists.*dim_0, dim_1")


def numbered(tmp_path: Path, *columns: str) -> list[Path]:
    """Write a CSV and a Parquet file whose columns hold 0, 1, ... from the left."""
    rows = [[item, *map(str, range(len(columns)))] for item in ("x1", "07")]
    write_lines(tmp_path / "v.csv", ",".join(["item_id", *columns]), *(",".join(row) for row in rows))
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
def test_which_columns_are_the_vector(tmp_path: Path, columns: list[str], vector: list[int]) -> None:
    for path in numbered(tmp_path, *columns):
        assert by_token(read_embeddings(path)) == {"x1": vector, "07": vector}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["dim_0", "dim_2", "dim_3"], r"no column dim_1 beside dim_0 \(1 missing\).*expected dim_0, dim_1"),
        (["dim_2", "dim_3"], r"has no column dim_1 beside dim_2 \(1 missing\)"),
        (["dim_0", "dim_999999999999"], r"no column dim_1 beside dim_0 \(999,999,999,998 missing\)"),
        (["dim_1", "dim_0"], "dim_1 before dim_0.*rising order"),
        (["dim_0", "dim_2", "dim_1"], "has dim_2 before dim_1"),
        (["dim_0", "dim_1", "dim_1"], "has more than one column dim_1"),
        (["dim_0", "dim_0", "dim_0"], "has more than one column dim_0"),
        (["dim_0", "dim_00", "dim_1"], "has more than one column dim_0"),
        (["dim_0", "cat0", "cat1"], r"has no column dim_1 beside dim_0"),
        (["cat0", "cat1", "dim_0", "dim_2"], "has no column dim_1"),
        (["cat0", "cat1", "d0", "d1"], r"several families .*\(cat0, ..., d0, ...\).*keep one.*dim_0"),
        (["0", "1", "dim_0", "dim_1"], r"has several families .*\(0, ..., dim_0, ...\)"),
        (["d0", "d2", "d3", "cat0", "cat1"], "has no column d1 beside d0"),
        (["votes2001", "votes2005"], "columns item_id, votes2001, votes2005.*expected item_id"),
    ],
)
def test_numbered_columns_that_are_refused(tmp_path: Path, columns: list[str], message: str) -> None:
    for path in numbered(tmp_path, *columns):
        refused(path, f"{path} .*{message}")


def test_columns_that_occur_twice(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "v.csv", "item_id,item_id,d0,d1", "x1,a,1,2")
    refused(path, r"v.csv has columns more than once \(item_id\)")
    path = write_lines(tmp_path / "v.csv", "item_id,title,title,d0,d1", "x1,A,B,1,2")
    assert by_token(read_embeddings(path)) == {"x1": [1, 2]}
    path = write_lines(tmp_path / "v.itememb", "iid:token\tv:float_seq\tv:float_seq", "x1\t1 2\t3 4")
    refused(path, r"v.itememb has columns more than once \(v\)")
    np.save(tmp_path / "w.npy", VECTORS)
    write_lines(tmp_path / "w.csv", "item_id,item_id", "x1,a", "07,b")
    refused(tmp_path / "w.npy", r"w.csv has columns more than once \(item_id\)")
