"""Encoders, an endpoint and a dataset for the tests of the encoding."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from tests.encode.tiny_dataset import hashed
from tests.encoders import API_KEY, MINILM, Endpoint, tiny_transformer
from tests.stock import DATA


@pytest.fixture(scope="session")
def minilm() -> SentenceTransformer:
    """The real MiniLM, loaded by sentence-transformers."""
    return SentenceTransformer(str(MINILM), device="cpu")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT; a test that changes it copies it first."""
    return tiny_transformer(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def openai_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key in the environment, and a client whose pauses between retries are short."""
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    # The client's own pauses begin at half a second.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def server(minilm: SentenceTransformer) -> Iterator[Endpoint]:
    """An endpoint whose model ``mini`` is the real MiniLM."""
    served = Endpoint(lambda texts: minilm.encode(texts))
    yield served
    served.close()


@pytest.fixture
def hash_server() -> Iterator[Endpoint]:
    """An endpoint whose model ``mini`` hashes texts."""
    served = Endpoint(hashed)
    yield served
    served.close()


@pytest.fixture
def endpoint(hash_server: Endpoint) -> dict[str, object]:
    """The settings that encode with `hash_server`."""
    return {"llm_encoder": "openai:mini", "llm_base_url": hash_server.url}


@pytest.fixture
def item_file(tmp_path: Path) -> Path:
    """The ``.item`` file in a copy of the tiny dataset, whose texts a test may change."""
    shutil.copytree(DATA / "tiny", tmp_path / "data" / "tiny")
    return tmp_path / "data" / "tiny" / "tiny.item"


@pytest.fixture
def own_data(endpoint: dict[str, object], item_file: Path) -> dict[str, object]:
    """The settings that encode that copy with `hash_server`."""
    return {**endpoint, "data_path": item_file.parents[1]}
