import pytest

from recbole_llminit.text_table import draw_table


def test_a_table_has_a_frame_unless_it_is_left_out() -> None:
    framed = draw_table(["name", "n"], [["a", "1"]]).splitlines()
    assert framed == ["+------+---+", "| name | n |", "+======+===+", "| a    | 1 |", "+------+---+"]
    assert draw_table(["name", "n"], [["a", "1"]], frame=False).splitlines() == ["name | n", "=====+==", "a    | 1"]


def test_cells_are_shown_as_they_are() -> None:
    drawn = draw_table(["x"], [[0.123456789], ["007"], [None], ["1e3"]])
    assert all(f"| {text} " in drawn for text in ("0.123456789", "007", "None", "1e3"))


def test_a_cell_may_have_several_lines() -> None:
    assert draw_table(["x", "y"], [["a\nb", "c"]], frame=False).splitlines()[2:] == ["a | c", "b |  "]


def test_a_table_may_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["word " * 40, "b"]]
    for columns, width in (("100", 100), ("20", 60)):
        monkeypatch.setenv("COLUMNS", columns)
        assert max(map(len, draw_table(["x", "y"], rows, fit=True).splitlines())) == width
    assert max(map(len, draw_table(["x", "y"], rows).splitlines())) > 200
