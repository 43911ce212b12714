"""Encodings in processes of their own: killed, side by side, and under torchrun."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from recbole_llminit.encode.pipeline import encode_items
from recbole_llminit.vectors.cache import list_stores
from recbole_llminit.vectors.store import read_rows
from tests.encode.tiny_dataset import (
    COMMAND,
    ITEMS,
    arguments,
    assert_right,
    by_id,
    hashed,
    options,
    smallest_cosine,
    the_store,
)
from tests.encoders import MINILM, Endpoint, run_bounded, wait_until

NOTHING_TO_DO = """
import os, sys
from recbole_llminit.cli import main
os.environ["CUDA_VISIBLE_DEVICES"] = "7"
assert main(sys.argv[1:]) == 0
assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_nothing_to_do_imports_no_encoder_and_no_recbole() -> None:
    done = encode_items(options(llm_encoder=MINILM))
    before = {path: path.stat().st_mtime_ns for path in done.folder.iterdir()}
    command = [sys.executable, "-c", NOTHING_TO_DO, "encode", *arguments(llm_encoder=MINILM)]
    ran = run_bounded(command)
    assert "| encoded   | 0; 28 were there" in ran.stdout
    assert not {"sentence_transformers", "transformers", "torch", "recbole", "openai"} & set(ran.stdout.split())
    assert {path: path.stat().st_mtime_ns for path in done.folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_run_continues(hash_server: Endpoint, endpoint: dict[str, object], seed: int) -> None:
    """The vectors are those of an undisturbed run, and none that is stored is made again, whenever the run is killed."""
    settings = {**endpoint, "llm_batch_size": 2}
    hash_server.seconds = 0.15
    run = subprocess.Popen([*COMMAND, *arguments(**settings)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: hash_server.requests)
        time.sleep(random.Random(seed).uniform(1.2, 2.0))
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
    hash_server.settle()
    folder = the_store()
    kept = set(read_rows(folder)["item_id"])
    assert 0 < len(kept) < ITEMS
    hash_server.seconds = 0.0
    hash_server.served.clear()
    report = encode_items(options(**settings))
    assert report.folder == folder
    assert len(hash_server.served) == report.encoded == ITEMS - len(kept)
    assert_right(report)


@pytest.mark.slow
def test_two_processes_share_the_work(hash_server: Endpoint, endpoint: dict[str, object]) -> None:
    settings = {**endpoint, "llm_batch_size": 4}
    hash_server.seconds = 0.3
    runs = [
        subprocess.Popen([*COMMAND, *arguments(**settings)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        output = "".join(text for run in runs for text in run.communicate(timeout=120))
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0]
    assert "Another process encodes into" in output
    assert len(hash_server.served) == ITEMS
    assert_right(encode_items(options(**settings)))


def test_the_key_is_written_nowhere(
    hash_server: Endpoint, endpoint: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    ran = run_bounded([*COMMAND, *arguments(**endpoint)])
    assert hash_server.keys == {"Bearer sk-secret-0123456789"}
    written = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert b"sk-secret" not in written
    assert "sk-secret" not in ran.stdout + ran.stderr
    metadata = list_stores(Path("cache"))[0].metadata
    assert (metadata["model"], metadata["base_url"], metadata["revision"]) == ("openai:mini", hash_server.url, None)
    assert "HTTP Request" not in ran.stderr


# The ranks join once, and each command uses that group: starting them and importing torch takes most of the time.
RANKS = """
import contextlib, io, json, sys
from pathlib import Path
from recbole_llminit import processes
from recbole_llminit.cli import main

folder, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
with processes.join_ranks() as ranks:
    processes.join_ranks = lambda: contextlib.nullcontext(ranks)
    for name, arguments in commands.items():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["encode", *arguments])
        result = {"status": status, "stdout": out.getvalue(), "stderr": err.getvalue()}
        (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(result))
"""


@dataclass(frozen=True)
class RankedRun:
    """Commands that two ranks ran under torchrun, one after the other, each into a cache of its own.

    Parameters
    ----------
    folder : Path
        Where the caches and the results lie.
    split, deleted : Endpoint
        The servers of two of the commands. The cache of the second is deleted while it answers.
    """

    folder: Path
    split: Endpoint
    deleted: Endpoint

    def settings(self, name: str) -> dict[str, object]:
        """Return the settings of a command."""
        cache = {"llm_cache_dir": self.folder / name}
        if name == "minilm":
            return {**cache, "llm_encoder": MINILM, "llm_dtype": "float32"}
        url = (self.split if name == "split" else self.deleted).url
        return {**cache, "llm_encoder": "openai:mini", "llm_base_url": url, "llm_batch_size": 4}

    def results(self, name: str) -> list[dict[str, str | int]]:
        """Return the exit status and the output of a command on each rank."""
        return [json.loads((self.folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankedRun]:
    """Run all commands for two ranks."""
    run = RankedRun(tmp_path_factory.mktemp("ranks"), Endpoint(hashed), Endpoint(hashed))

    def encode_and_delete(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        if len(run.deleted.requests) == 6:
            shutil.rmtree(run.folder / "deleted")
        return hashed(texts)

    # Each rank writes what it has after a second.
    run.deleted.seconds = 0.6
    run.deleted.encode = encode_and_delete
    script = run.folder / "ranks.py"
    script.write_text(RANKS)
    commands = {name: arguments(**run.settings(name)) for name in ("split", "minilm", "deleted")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run_bounded([*torchrun, str(script), str(run.folder), json.dumps(commands)], seconds=300)
    run.deleted.seconds = 0.0
    run.deleted.encode = hashed
    yield run
    run.split.close()
    run.deleted.close()


@pytest.mark.slow
def test_ranks_split_the_items(ranked: RankedRun) -> None:
    first, second = ranked.results("split")
    assert (first["status"], second["status"]) == (0, 0)
    assert "| encoded   | 28; 0 were there" in str(first["stdout"])
    assert second["stdout"] == ""
    assert sorted(ranked.split.requests) == [2, 2, 4, 4, 4, 4, 4, 4]
    assert len(ranked.split.served) == ITEMS
    assert_right(encode_items(options(**ranked.settings("split"))))


@pytest.mark.slow
def test_ranks_make_the_vectors_of_one_process(ranked: RankedRun) -> None:
    assert [result["status"] for result in ranked.results("minilm")] == [0, 0]
    one = encode_items(options(**{**ranked.settings("minilm"), "llm_cache_dir": "cache"}))
    (store,) = list_stores(ranked.folder / "minilm")
    assert store.path.name == one.folder.name
    assert smallest_cosine(by_id(one.folder), by_id(store.path)) > 0.9999


@pytest.mark.slow
def test_all_ranks_report_a_cache_that_was_deleted(ranked: RankedRun) -> None:
    results = ranked.results("deleted")
    assert [result["status"] for result in results] == [2, 2]
    errors = {line for result in results for line in str(result["stderr"]).splitlines() if "28 items" in line}
    assert len(errors) == 1
    assert "run again to encode the other" in errors.pop()
    (store,) = list_stores(ranked.folder / "deleted")
    assert 0 < len(read_rows(store.path)) < ITEMS
    assert_right(encode_items(options(**ranked.settings("deleted"))))
