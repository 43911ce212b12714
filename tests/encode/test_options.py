"""The ``llm_*`` keys: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_llminit.encode.options import EncodeOptions, check_dataset_name
from recbole_llminit.errors import LLMInitError
from tests.encode.tiny_dataset import options


def test_settings_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "model: LightGCN\ndataset: toy\ndata_path: d\nITEM_ID_FIELD: asin\nllm_text_fields: [title, brand]\n"
        "learning_rate: 1e-3\nllm_prompt: 'item: '\nllm_batch_size: 16\ninit_strategy: var\n"
    )
    found = EncodeOptions.from_files(
        [tmp_path / "a.yaml"], ["--llm_max_length=64", "--llm_batch_size=8", "--llm_dtype=None"]
    )
    assert found.text_file == Path("d/toy/toy.item")
    assert (found.id_field, found.text_fields) == ("asin", ("title", "brand"))
    encoder = found.encoder
    assert (encoder.prompt, encoder.batch_size, encoder.max_length, encoder.dtype) == ("item: ", 8, 64, None)
    assert encoder.model == "sentence-transformers/all-MiniLM-L6-v2"
    assert (found.show_progress, found.are_default) == (True, False)


@pytest.mark.parametrize("given", ["[title, kind]", "title, kind"])
def test_fields_on_the_command_line(given: str) -> None:
    assert options(llm_text_fields=given).text_fields == ("title", "kind")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm_encodr": "x"}, "--llm_encodr.*'llm_encoder'"),
        ({"learning_rate": "1"}, "--learning_rate"),
        ({"llm_pooling": "max"}, r"llm_pooling 'max'.*\(mean, cls, lasttoken\)"),
        ({"llm_dtype": "fp16"}, "llm_dtype 'fp16'.*'float16'"),
        ({"llm_max_length": "long"}, "llm_max_length is 'long': expected a whole number above 0"),
        ({"llm_batch_size": "0"}, "llm_batch_size is '0': expected a whole number above 0"),
        ({"llm_text_fields": "[1, 2]"}, r"llm_text_fields is \[1, 2\].*\[title, brand\]"),
        ({"llm_text_fields": "[&a [x], *a, [" }, r"llm_text_fields.*\[title, brand\]"),
        ({"llm_encoder": "/nowhere/model"}, "llm_encoder is /nowhere/model.*no folder"),
        ({"llm_encoder": "/" + "x" * 300}, "llm_encoder.*no folder"),
        ({"llm_encoder": "~no-such-user/x"}, "llm_encoder is ~no-such-user/x.*no folder"),
        ({"llm_base_url": "http://x/v1"}, "llm_base_url.*no endpoint.*openai:<model>"),
        ({"llm_timeout": "5"}, "llm_timeout.*no endpoint.*openai:<model>"),
        ({"llm_encoder": "openai:"}, "llm_encoder is 'openai:'.*openai:<model>"),
        ({"llm_encoder": "openai:m", "llm_timeout": "0"}, "llm_timeout is '0'.*seconds above 0"),
        ({"llm_encoder": "openai:m", "llm_timeout": "-1"}, "llm_timeout is '-1'"),
        ({"llm_encoder": "openai:m", "llm_timeout": "nan"}, "llm_timeout is 'nan'"),
        ({"llm_encoder": "openai:m", "llm_timeout": "inf"}, "llm_timeout is 'inf'.*86,400"),
        ({"llm_encoder": "openai:m", "llm_timeout": "soon"}, "llm_timeout is 'soon'"),
        ({"llm_encoder": "openai:m", "llm_pooling": "cls"}, "llm_pooling.*openai:m.*remove llm_pooling"),
        ({"llm_encoder": "openai:m", "llm_max_length": "9"}, "llm_max_length.*openai:m.*remove llm_max_length"),
        ({"llm_encoder": "openai:m", "llm_dtype": "bfloat16"}, "llm_dtype is bfloat16.*float32 or float16"),
        ({"llm_encoder": "openai:m", "llm_base_url": "http://a:b@x/v1"}, "llm_base_url.*user name"),
        ({"llm_text_file": "~no-such-user/x.csv"}, "llm_text_file is '~no-such-user/x.csv'"),
        ({"llm_text_file": "a\0.csv"}, r"llm_text_file is 'a\\x00.csv'.*path"),
        ({"llm_cache_dir": "a\0"}, "llm_cache_dir is .*path"),
        ({"data_path": "a\0"}, "data_path is .*path"),
        ({"llm_prompt": "half \ud83d"}, "llm_prompt is .*UTF-8"),
        ({"dataset": "None"}, "no dataset.*--dataset=NAME"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        options(**settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "a.yaml.*list.*key: value"),
        ("a: [", "a.yaml.*YAML"),
        ("dataset: [a]", r"dataset is \['a'\], a list.*name of a folder in data_path"),
        ("dataset: 5", "dataset is 5, a int.*quotes"),
        ("dataset: {a: b}", "dataset is .*a dict"),
        ("dataset: toy\nITEM_ID_FIELD: [a]", r"ITEM_ID_FIELD is \['a'\], a list.*text"),
        ("dataset: toy\nencoding: 5", "encoding is 5, a int.*text"),
        ("dataset: toy\ndata_path: [a]", r"data_path is \['a'\], a list.*text"),
        ("dataset: toy\nllm_encoder: openai:m\nllm_timeout: true", "llm_timeout is True.*seconds"),
        ("dataset: toy\nllm_encoder: openai:m\nllm_timeout: [5]", r"llm_timeout is \[5\].*seconds"),
        ("dataset: toy\nllm_encodr: x", "'llm_encodr'.*'llm_encoder'"),
        ("dataset: toy\nllm_prompt: 7", "llm_prompt is 7, a int.*quotes"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(LLMInitError, match=message):
        EncodeOptions.from_files([tmp_path / "a.yaml"], [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x", "dataset is '../x'.*name of a folder in data_path"),
        ("a/b", "dataset is 'a/b'"),
        ("a\\b", "dataset is"),
        ("/etc", "dataset is '/etc'"),
        ("..", "dataset is '..'"),
        (".", "dataset is '.'"),
        ("", "dataset is ''"),
        ("  ", "dataset is '  '"),
        ("a\0b", r"dataset is 'a\\x00b'"),
        ("half \ud83d", "dataset is .*UTF-8"),
        ("x" * 256, "256 bytes.*255 bytes"),
        ("é" * 128, "256 bytes"),
        (5, "dataset is 5, a int"),
        (True, "dataset is True, a bool"),
        (None, "dataset is None"),
        (["a"], r"dataset is \['a'\], a list"),
    ],
)
def test_a_dataset_is_the_name_of_one_folder(tmp_path: Path, name: Any, message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        check_dataset_name(name)
    with pytest.raises(LLMInitError, match=message):
        EncodeOptions.from_settings({"dataset": name}, tmp_path)


@pytest.mark.parametrize("name", ["ml-100k", "x" * 255, "é" * 127, "Amazon_Office (5-core)", "..a", "a.b", "名"])
def test_names_that_a_dataset_may_have(name: str) -> None:
    check_dataset_name(name)
