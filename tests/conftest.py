import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import torch

import recbole_llminit.integration.config  # noqa: F401  registers the strategies in their order
from recbole_llminit.integration import compat
from recbole_llminit.vectors.embeddings import ItemEmbeddings
from recbole_llminit.vectors.store import append_shard, hash_text
from tests.encoders import tiny_transformer
from tests.stock import DATA

compat.apply()
METADATA = {"model": "test-encoder", "dtype": "float32"}


@pytest.fixture(autouse=True)
def _no_store_of_the_users(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("recbole_llminit.encode.options.DEFAULT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _one_thread_in_its_own_folder(tmp_path, monkeypatch):
    # Exact equality needs one thread; RecBole writes log/ and log_tensorboard/ where it runs.
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_items():
    lines = (DATA / "tiny" / "tiny.item").read_text().splitlines()[1:]
    return [line.split("\t")[0] for line in lines]


@pytest.fixture(scope="session")
def tiny_vectors(tiny_items):
    """One vector of 80 dimensions per item, by token."""
    generator = np.random.default_rng(0)
    return {item: generator.normal(size=80).astype(np.float32) for item in tiny_items}


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory, tiny_vectors):
    """A store of the tiny dataset, in another order than the dataset's, in two shards."""
    folder = tmp_path_factory.mktemp("store") / "tiny"
    items = sorted(tiny_vectors, reverse=True)
    for part in (items[:10], items[10:]):
        append_shard(
            folder, part, [hash_text(item) for item in part], np.stack([tiny_vectors[i] for i in part]), METADATA
        )
    return folder


@pytest.fixture
def tiny(tmp_path):
    """Settings of a short run on the tiny dataset."""
    return {
        "dataset": "tiny",
        "data_path": str(DATA),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "checkpoint_dir": str(tmp_path / "saved"),
        "embedding_size": 16,
        "hidden_size": 16,
        "epochs": 3,
        "train_batch_size": 64,
        "show_progress": False,
    }


@pytest.fixture
def llm(tiny, tiny_store):
    """The same, started from the LLM embeddings."""
    return {**tiny, "init_strategy": "var", "llm_embedding": str(tiny_store)}


@pytest.fixture
def presplit(tmp_path):
    """Settings of a dataset whose sequences come split in files of their own."""
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
def embed():
    """Align vectors given as rows with item ids 1, 2, ...; None stands for an item without a vector."""

    def align(*rows, tokens=None):
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
def hub(tmp_path, monkeypatch):
    """The cache of the Hugging Face hub with one model, org/tiny; returns the commit of main, the other way round v2's."""
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
