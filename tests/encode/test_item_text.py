"""One text per item: which fields are chosen, and which files are refused."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_llminit.encode.item_text import ItemTexts, find_text_fields, read_item_texts
from recbole_llminit.errors import LLMInitError
from tests.encoders import run_bounded
from tests.stock import DATA

ITEM = (
    "item_id:token\ttitle:token_seq\tbrand:token\tprice:float\tgenres:token_seq\n"
    'a\tSalt &amp;  Pepper "Set"\tAcme\t3.5\tHome Kitchen\n'
    "b\tKnife\t\t2\tKitchen\n"
    "c\t\tBolt\t1\t\n"
    "d\t\t\t1\tnan\n"
)


def write(folder: Path, text: str = ITEM, name: str = "toy.item") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def texts(found: ItemTexts) -> dict[str, str]:
    """Return the texts by item."""
    return dict(zip(found.ids, found.texts, strict=True))


def test_the_fields_of_a_dataset_are_found(tmp_path: Path) -> None:
    found = read_item_texts(write(tmp_path))
    assert found.template == "{title}. {brand}. {genres}"
    assert found.fields == ("title", "brand", "genres")
    assert texts(found) == {
        "a": 'Salt & Pepper "Set". Acme. Home Kitchen',
        "b": "Knife. Kitchen",
        "c": "Bolt",
    }
    assert found.without_text == ("d",)
    assert str(found) == (
        f"4 items in {tmp_path}/toy.item, 1 without text; template '{{title}}. {{brand}}. {{genres}}' "
        f"(items with title 2, brand 2, genres 2)"
    )


def test_the_tiny_dataset() -> None:
    found = read_item_texts(DATA / "tiny" / "tiny.item", fields=["title"])
    assert len(found.ids) == 28
    assert found.without_text == ("B005",)
    assert texts(found)["B021"] == "Guitar Strap"


def test_title_like_fields_come_first_and_codes_never() -> None:
    frame = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "category": ["Home, Kitchen", "Books"],
            "parent_asin": ["B001", "B002"],
            "code": ["B001E4KFG0", "B00KD73PBQ"],
            "year": ["1995", "1996"],
            "released": ["01-Jan-1995", "02-Feb-1996"],
            "image": ["https://x.y/z.jpg", "https://x.y/w.jpg"],
            "cover": ["https://x.y/z.jpg", "https://x.y/w.jpg"],
            "price": ["$3.50", "$4"],
            "stars": [4.5, 3.0],
            "in_stock": ["True", "False"],
            "product_name": ["Salt 500 g", "R2-D2"],
            "brand_name": ["Acme", ""],
        }
    )
    # The second product name is a code: half of the names are words, and not most.
    assert find_text_fields(frame, "item_id") == ["category", "brand_name"]
    frame["product_name"] = ["Salt 500 g", "R2-D2 figure"]
    assert find_text_fields(frame, "item_id") == ["product_name", "category", "brand_name"]


def test_an_item_whose_field_means_missing_has_no_text(tmp_path: Path) -> None:
    row = [{"item_id": "a", "title": "&nbsp;"}, {"item_id": "b", "title": "Nancy"}]
    path = write(tmp_path, "\n".join(map(json.dumps, row)), "x.jsonl")
    found = read_item_texts(path, fields=["title"])
    assert (found.ids, found.texts, found.without_text) == (("b",), ("Nancy",), ("a",))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz", "x.jsonl", "x.json", "x.parquet"])
def test_texts_from_the_users_own_table(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"title": ['Salt, "fine"', "Two\nlines"], "item_id": ["007", "b"]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    elif "json" in name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    assert texts(read_item_texts(path)) == {"007": 'Salt, "fine"', "b": "Two lines"}


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_numbers_as_ids(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"movie": [1, 20], "title": ["Heat", "Jaws"]})
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_json(path, orient="records", lines=True)
    assert texts(read_item_texts(path, id_field="movie")) == {"1": "Heat", "20": "Jaws"}


def test_recboles_separators_and_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    path.write_bytes("item_id:token::title:token_seq::genres:token_seq\n1::Café::Action|Drama\n".encode("latin-1"))
    found = read_item_texts(path, field_separator="::", seq_separator="|", encoding="latin-1")
    assert texts(found) == {"1": "Café. Action, Drama"}


def test_a_column_of_bytes_is_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pd.DataFrame({"item_id": [b"a"], "title": ["Grün".encode()]}).to_parquet(path)
    assert texts(read_item_texts(path)) == {"a": "Grün"}


def test_a_column_may_have_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id,og:title,a {b}\nx,Green tea,Black tea\n", "x.csv")
    found = read_item_texts(path)
    assert (found.fields, found.texts) == (("og:title", "a {b}"), ("Green tea. Black tea",))


def test_what_cannot_be_decoded(tmp_path: Path) -> None:
    with pytest.raises(LLMInitError, match="x.item cannot be read .*unknown encoding"):
        read_item_texts(write(tmp_path, name="x.item"), encoding="utf-99")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"item_id,title\na,Green tea\n" * 99)[:40])
    with pytest.raises(LLMInitError, match="x.csv.gz cannot be read"):
        read_item_texts(tmp_path / "x.csv.gz")


def test_an_item_that_stands_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id:token\ttitle:token\na\tSalt\na\tSalt\n")
    assert texts(read_item_texts(path)) == {"a": "Salt"}
    path = write(tmp_path, "item_id:token\ttitle:token\na\tSalt\na\tPepper\n")
    with pytest.raises(LLMInitError, match=r"toy.item has 1 rows.*\(a\).*one text for each item"):
        read_item_texts(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id_field": "asin"}, r"toy.item.*asin.*item_id, title, brand, genres.*ITEM_ID_FIELD"),
        ({"fields": ["name"]}, "toy.item has no field name.*title, brand, genres"),
        ({"template": "{title} {nam}"}, r"has no field nam .*\{title\} \{nam\}"),
        ({"fields": ["title"], "template": "{title}"}, "llm_text_fields and llm_text_template.*set one"),
        ({"template": "{title"}, "llm_text_template.*malformed"),
        # An attribute is no more than the name of a field that does not exist.
        ({"template": "{title.__class__}"}, "has no field title.__class__"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        read_item_texts(write(tmp_path), **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "a", "x.txt.*expected .item, .csv"),
        ("x.parquet", "no parquet", "x.parquet cannot be read"),
        ("x.jsonl", "{", "x.jsonl cannot be read"),
        (
            "x.item",
            "item_id:token\ttitle:token\na\tb\tc\td\n",
            "x.item cannot be read .*more fields than its header",
        ),
        (
            "x.item",
            "item_id:token\tyear:token\na\t1995\n",
            "no field of .*x.item.*llm_text_fields.*llm_text_file",
        ),
        ("x.csv", "item_id,title\na,b\nc,d,e\n", "x.csv cannot be read .*line 3"),
        ("x.jsonl", '{"item_id": null, "title": "A b"}', "has the item id (None|nan)"),
        ("x.jsonl", '{"item_id": "a\\ud83d", "title": "A b"}', r"x.jsonl has the item id 'a\\ud83d'.*surrogate.*UTF-8"),
        ("x.jsonl", '{"item_id": ["a"], "title": "A b"}', r"has the item id \['a'\]"),
        ("x.jsonl", '{"item_id": {"a": 1}, "title": "A b"}', "has the item id {'a': 1}"),
        ("x.jsonl", '{"item_id": true, "title": "A b"}', "has the item id True"),
        ("x.jsonl", '{"item_id": "a", "t\\ud83d": "A b"}', r"x.jsonl has a field 't\\ud83d'.*surrogate.*UTF-8"),
        (
            "x.jsonl",
            '{"item_id": "a", "title": ' + "[" * 60 + '"A b"' + "]" * 60 + "}",
            "x.jsonl cannot be read .*more than 50 deep",
        ),
        (
            "x.jsonl",
            '{"item_id": "a", "title": ' + '{"a":' * 60 + '"A b"' + "}" * 60 + "}",
            "x.jsonl cannot be read .*more than 50 deep",
        ),
        ("x.jsonl", '{"item_id": "a", "title": ' + "[" * 100_000 + "]" * 100_000 + "}", "x.jsonl cannot be read"),
        (
            "x.jsonl",
            '{"item_id": "a", "title": "A b"}\n[1, 2]',
            "x.jsonl holds a list in line 2.*JSON object",
        ),
        ("x.json", '[{"item_id": "a", "title": "A b"}]', "x.json holds a list in line 1"),
        ("x.jsonl", "5", "x.jsonl holds a int in line 1"),
        ("x.jsonl", "", "x.jsonl has no column item_id"),
        ("x.csv", "", "x.csv cannot be read"),
        ("x.item", "\0\n\0", "x.item has no column item_id|x.item cannot be read"),
        ("x.csv", "item_id,title\na,\nb,nan\n", "no field of .* is a text"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        read_item_texts(write(tmp_path, content, name))


def test_no_item_has_a_text(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id,title\na,\nb,nan\n", "x.csv")
    with pytest.raises(LLMInitError, match=r"none of the 2 items of .*x.csv.*\{title\}.*llm_text_file"):
        read_item_texts(path, fields=["title"])


def test_a_missing_file() -> None:
    with pytest.raises(LLMInitError, match="no nowhere.item.*texts"):
        read_item_texts("nowhere.item")


def test_parquet_of_any_bytes_is_texts_or_an_error(tmp_path: Path) -> None:
    """The reader runs in a process of its own, which it could crash."""
    frame = pd.DataFrame({"item_id": ["a", "b"], "title": ["Green tea", "Earl Grey"], "tags": [["x", "y"], []]})
    frame.to_parquet(tmp_path / "right.parquet")
    run_bounded([sys.executable, "-c", MUTATE, str(tmp_path)], seconds=240)


MUTATE = """
import pathlib, random, sys
from recbole_llminit.errors import LLMInitError
from recbole_llminit.encode.item_text import read_item_texts
folder = pathlib.Path(sys.argv[1])
right = (folder / "right.parquet").read_bytes()
draw = random.Random(0)
for number in range(400):
    content = bytearray(right)
    for _ in range(draw.randint(1, 4)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    if number % 4 == 0:
        del content[draw.randrange(len(content)):]
    (folder / "x.parquet").write_bytes(content)
    try:
        read_item_texts(folder / "x.parquet")
    except LLMInitError as error:
        assert "x.parquet" in str(error)
"""
