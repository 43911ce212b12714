import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_llminit.data_frames import read_delimited, read_header, read_parquet_frame, split_header
from tests.vectors.vector_files import write_lines


def test_cells_are_text_unless_a_type_is_given(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.csv", "id,title,x", "007,,1.5", "NA,null,2")
    table = read_delimited(path, ",", types={"x": np.float32})
    assert table["id"].tolist() == ["007", "NA"]
    assert table["title"].tolist() == ["", "null"]
    assert table["x"].dtype == np.float32


def test_quotes_may_be_part_of_a_cell(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.tsv", "id\ttitle", 'a\t"A" and B')
    assert read_delimited(path, "\t", quoting=csv.QUOTE_NONE)["title"].tolist() == ['"A" and B']


@pytest.mark.parametrize("rows", [["a,1,2"], ["a,1", "b,2,3"]])
def test_surplus_fields_are_refused(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(ValueError, match=r"more fields than its header|line 3"):
        read_delimited(write_lines(tmp_path / "t.csv", "id,x", *rows), ",")


def test_a_separator_of_several_characters(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.dat", "id::x", "a::1")
    assert read_delimited(path, "::").to_dict("list") == {"id": ["a"], "x": ["1"]}


def test_the_header_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\n \nid,x,x,"a,b"\n1,2,3,4\n', encoding="utf-8-sig")
    assert read_header(path, ",") == ["id", "x", "x", "a,b"]
    assert read_header(path, ",", quotes=False) == ["id", "x", "x", '"a', 'b"']
    path.write_text("")
    assert read_header(path, ",") == []


def test_the_header_of_an_atomic_file_is_split_into_types_by_name() -> None:
    header = ["item_id:token", "title:token_seq", "plain"]
    assert split_header(header) == {"item_id": "token", "title": "token_seq", "plain": ""}


def test_a_parquet_file_becomes_a_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "x": [1, 2]})
    frame.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_parquet_frame(tmp_path / "t.parquet"), frame)
