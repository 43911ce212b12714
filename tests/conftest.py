"""Fixtures that all tests share: the tiny dataset, its store of vectors, and the settings of short runs on it."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import recbole_llminit.integration.config  # noqa: F401  registers the strategies in their order
from recbole_llminit.integration.patches import compat
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings
from recbole_llminit.vectors.shard import append_shard, hash_text
from tests.encoders import tiny_transformer
from tests.stock import DATA

compat.apply()
METADATA = {"model": "test-encoder", "dtype": "float32"}


@pytest.fixture(autouse=True, scope="session")
def _scratch_folder_and_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the fixtures of a module or of the session run in a folder of their own, without the user's store.

    RecBole writes ``log/`` and ``log_tensorboard/`` into the folder in which it runs.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("scratch"))
        cache = tmp_path_factory.getbasetemp() / "cache"
        patched.setattr("recbole_llminit.encode.options.DEFAULT_CACHE", str(cache))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_second_of_measuring() -> Iterator[None]:
    """Let RecBole's ``get_environment`` return at once: at the end of each run it measures the CPU for a second."""
    measure = psutil.cpu_percent

    def at_once(interval: float | None = None, percpu: bool = False) -> Any:
        return measure(interval=None, percpu=percpu)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(psutil, "cpu_percent", at_once)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Set PyTorch to one thread before a fixture of a module trains: exact equality needs it."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with one thread, whatever the test before has set, and in a folder of its own."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_items() -> list[str]:
    """The item ids of the tiny dataset, in the order of its file."""
    lines = (DATA / "tiny" / "tiny.item").read_text().splitlines()[1:]
    return [line.split("\t")[0] for line in lines]


@pytest.fixture(scope="session")
def tiny_vectors(tiny_items: list[str]) -> dict[str, np.ndarray]:
    """One vector of 80 dimensions for each item, by item id."""
    generator = np.random.default_rng(0)
    return {item: generator.normal(size=80).astype(np.float32) for item in tiny_items}


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory, tiny_vectors: dict[str, np.ndarray]) -> Path:
    """A store of these vectors in two shards, whose order is not the dataset's."""
    folder = tmp_path_factory.mktemp("store") / "tiny"
    items = sorted(tiny_vectors, reverse=True)
    for part in (items[:10], items[10:]):
        append_shard(
            folder, part, [hash_text(item) for item in part], np.stack([tiny_vectors[i] for i in part]), METADATA
        )
    return folder


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, Any]:
    """Settings of a short run on the tiny dataset, without a folder for its checkpoints; not to be changed."""
    return {
        "dataset": "tiny",
        "data_path": str(DATA),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "embedding_size": 16,
        "hidden_size": 16,
        "epochs": 3,
        "train_batch_size": 64,
        "show_progress": False,
    }


@pytest.fixture(scope="session")
def llm_settings(tiny_settings: dict[str, Any], tiny_store: Path) -> dict[str, Any]:
    """The same with an initialization from the LLM embeddings; not to be changed."""
    return {**tiny_settings, "init_strategy": "var", "llm_embedding": str(tiny_store)}


@pytest.fixture
def tiny(tiny_settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """`tiny_settings`, with a folder for the test's checkpoints."""
    return {**tiny_settings, "checkpoint_dir": str(tmp_path / "saved")}


@pytest.fixture
def llm(llm_settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """`llm_settings`, with a folder for the test's checkpoints."""
    return {**llm_settings, "checkpoint_dir": str(tmp_path / "saved")}


@pytest.fixture
def presplit(tmp_path: Path) -> dict[str, Any]:
    """Settings of a dataset whose sequences come already split, one file for each part."""
    folder = tmp_path / "split"
    folder.mkdir()
    parts = {"train": ["u1\ta b\tc", "u2\ta\tb"], "valid": ["u1\ta b c\td"], "test": ["u2\tb\ta"]}
    for part, rows in parts.items():
        text = "\n".join(["user_id:token\titem_id_list:token_seq\titem_id:token", *rows])
        (folder / f"split.{part}.inter").write_text(text + "\n")
    return {
        "dataset": "split",
        "data_path": str(tmp_path),
        "benchmark_filename": list(parts),
        "alias_of_item_id": ["item_id_list"],
        "load_col": None,
        "train_neg_sample_args": None,
    }


@pytest.fixture
def embed() -> Callable[..., AlignedEmbeddings]:
    """A function that aligns vectors, given as rows, with the item ids 1, 2, ...; None is an item without a vector."""

    def align(*rows: Sequence[float] | None, tokens: Sequence[str] | None = None) -> AlignedEmbeddings:
        tokens = tokens or [f"i{number}" for number in range(1, len(rows) + 1)]
        kept = {token: row for token, row in zip(tokens, rows, strict=True) if row is not None}
        found = ItemEmbeddings(
            np.array(list(kept), dtype=object),
            (np.array(list(kept.values()), dtype=np.float32),),
            "vectors",
            "0",
        )
        return found.align(["[PAD]", *tokens], "toy")

    return align


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache of the Hugging Face hub with one model, org/tiny: the commit of main, which read backwards is v2's."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    tiny_transformer(repository / "snapshots" / commit, "bert")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    tiny_transformer(repository / "snapshots" / commit[::-1], "llama")
    (repository / "refs" / "v2").write_text(commit[::-1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    return commit
