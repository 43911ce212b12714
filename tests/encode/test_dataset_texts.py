"""The texts of a dataset: where they are looked for, and whether their ids are those of the dataset."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbole_llminit.encode.dataset_texts import read_texts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from tests.encode.tiny_dataset import options
from tests.encoders import ended_in
from tests.messages import own_lines


def test_ml100k_is_found_in_recbole() -> None:
    texts = read_texts(EncodeOptions.from_files([], ["--dataset=ml-100k"]))
    assert texts.template == "{movie_title}. {class}"
    assert texts.texts[0] == "Toy Story. Animation Children's Comedy"


def test_a_dataset_without_texts_names_the_remedies() -> None:
    Path("data/toy").mkdir(parents=True)
    with pytest.raises(LLMInitError, match=r"no data/toy/toy.item.*toy's items.*llm_text_file.*llm_embedding"):
        read_texts(options(dataset="toy", data_path="data"))


def test_a_dataset_that_does_not_exist_names_the_most_similar() -> None:
    Path("data/toy").mkdir(parents=True)
    with pytest.raises(LLMInitError, match=r"no folder data/toyy.*'toy'.*dataset and data_path"):
        read_texts(options(dataset="toyy", data_path="data"))


def test_a_data_path_that_is_a_file() -> None:
    Path("file").touch()
    with pytest.raises(LLMInitError, match="no folder file/toy"):
        read_texts(options(dataset="toy", data_path="file"))


def test_ids_that_are_not_the_datasets() -> None:
    Path("rows.csv").write_text("\n".join(["item_id,title", *(f"{number},Item {number}" for number in range(30))]))
    with pytest.raises(LLMInitError, match=r"0 of 29 items of tiny.inter.*rows.csv.*item ids in item_id"):
        read_texts(options(llm_text_file="rows.csv"))


def test_few_ids_of_the_datasets(caplog: pytest.LogCaptureFixture) -> None:
    Path("few.csv").write_text("item_id,title\nB001,Green tea\nB002,Black tea\n")
    assert read_texts(options(llm_text_file="few.csv")).ids == ("B001", "B002")
    (message,) = own_lines(caplog)
    assert "only 2 of 29 items of tiny.inter" in message
    assert "few.csv" in message


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pipe.csv", "a pipe or a device"), ("zero.csv", "a pipe or a device"), ("folder.csv", "a folder")],
)
def test_a_text_file_that_is_a_pipe_a_device_or_a_folder(name: str, kind: str) -> None:
    os.mkfifo("pipe.csv")
    Path("zero.csv").symlink_to("/dev/zero")
    Path("folder.csv").mkdir()
    with ended_in(60), pytest.raises(LLMInitError, match=f"{name} is {kind}.*texts.*regular file"):
        read_texts(options(llm_text_file=name))


def test_an_item_file_that_is_a_pipe(item_file: Path) -> None:
    item_file.unlink()
    os.mkfifo(item_file)
    with ended_in(60), pytest.raises(LLMInitError, match="tiny.item is a pipe or a device"):
        read_texts(options(data_path=item_file.parents[1]))


def test_a_text_file_that_does_not_exist() -> None:
    with pytest.raises(LLMInitError, match="no x+.csv"):
        read_texts(options(llm_text_file="x" * 300 + ".csv"))


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"", {}, "EmptyDataError"),
        (b"item_id:token\n\xff\n", {}, "UnicodeDecodeError"),
        (b"item_id:token\nB001\n", {"encoding": "utf-99"}, "unknown encoding: utf-99"),
        (b"item_id:token\nB001\n", {"field_separator": "(("}, "unterminated subpattern"),
    ],
)
def test_interactions_that_cannot_be_read(
    item_file: Path, content: bytes, settings: dict[str, object], message: str
) -> None:
    (item_file.parent / "tiny.inter").write_bytes(content)
    Path("own.csv").write_text("item_id,title\nB001,Green tea\n")
    with pytest.raises(LLMInitError, match=f"tiny.inter cannot be read .*{message}"):
        read_texts(options(**settings, data_path=item_file.parents[1], llm_text_file="own.csv"))
