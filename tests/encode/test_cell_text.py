"""The text of one cell, of any type and length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit.encode.cell_text import as_text, clean
from recbole_llminit.encode.item_text import read_item_texts
from tests.encoders import ended_in
from tests.messages import own_lines


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  two\t words\n", "two words"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ("AT&T &eacute; &#9733;", "AT&T é ★"),
        ("non\u00a0breaking", "non breaking"),
        ("half \ud83d pair", "half pair"),
        (["Home", "", "Kitchen"], "Home, Kitchen"),
        ([["Home", "Kitchen"], ["Garden"]], "Home, Kitchen, Garden"),
        ({"Color": "red"}, "Color: red"),
        (1995, "1995"),
        (True, "True"),
        ("['Home', 'Kitchen']", "Home, Kitchen"),
        ('[["Home"], ["Garden"]]', "Home, Garden"),
        ("[Deluxe]", "[Deluxe]"),
        ("[__import__('os')]", "[__import__('os')]"),
    ],
)
def test_cells_become_clean_texts(given: Any, expected: str) -> None:
    assert clean(as_text(given)) == expected


@pytest.mark.parametrize("missing", ["", "  ", "nan", "None", "N/A", "&nbsp;", None, [], float("nan")])
def test_values_that_mean_missing(missing: Any) -> None:
    assert clean(as_text(missing)) == ""


def test_a_name_that_begins_like_a_missing_value() -> None:
    assert clean(as_text("Nancy")) == "Nancy"


def test_the_members_of_a_sequence_written_as_text() -> None:
    assert as_text("Action| Drama||", "|") == "Action, Drama"


LONG = 10_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("green tea " * (LONG // 10), "green tea " * 100_000),
        ("x" * LONG, "x" * 1_000_000),
        ("1" * LONG + " tea leaves", "1" * 1_000_000),
        ("&" + "amp;" * (LONG // 4), None),
        ("&#38;" + "#38;" * (LONG // 4), None),
        ("&#" + "9" * LONG, "&#" + "9" * 999_998),
        ("[" + "1, " * (LONG // 3) + "1]", None),
        ("[" * (LONG // 2) + "]" * (LONG // 2), "[" * 1_000_000),
        ("[1" + "+1" * (LONG // 2) + "]", None),
        ("[" + "-" * 50_000 + "1]", "[" + "-" * 50_000 + "1]"),
        ("[1" + "+1" * 40_000 + "]", "[1" + "+1" * 40_000 + "]"),
        ("[0x" + "f" * 50_000 + "]", "[0x" + "f" * 50_000 + "]"),
    ],
)
def test_a_text_of_ten_megabytes_ends_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, expected: str | None
) -> None:
    rows = [{"item_id": "a", "title": text}, {"item_id": "b", "title": "Earl Grey"}, {"item_id": "c", "title": "Mint"}]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with ended_in(40):
        read = read_item_texts(path)
    found = dict(zip(read.ids, read.texts, strict=True))
    assert (found["b"], found["c"]) == ("Earl Grey", "Mint")
    assert len(found["a"]) <= 1_000_000
    if expected is not None:
        assert found["a"] == expected.strip()
    warned = [line for line in caplog.messages if "1 texts of" in line and "1,000,000 characters" in line]
    assert len(warned) == (len(text) > 1_000_000)


def test_a_text_of_a_million_characters_stays_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"item_id": "a", "title": "tea " * 249_999 + "tea."}))
    assert read_item_texts(path).texts == ("tea " * 249_999 + "tea.",)
    assert not own_lines(caplog)


def test_entities_encoded_many_times() -> None:
    assert clean("Salt &" + "amp;" * 9 + " Pepper") == "Salt & Pepper"
