"""Against a real HTTP server on loopback that serves the real MiniLM in OpenAI's protocol."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from recbole_llminit import endpoint as module
from recbole_llminit.encoder import EncoderSettings
from recbole_llminit.endpoint import EndpointEncoder, resolve_base_url
from recbole_llminit.errors import LLMInitError
from tests.encoders import MINILM, Endpoint

TEXTS = ["Green tea leaves", "Guitar strap", "tea", "Steel string guitar", "Earl Grey", "drum", "kettle"]
KEY = "sk-secret-0123456789"


@pytest.fixture(scope="module")
def minilm():
    return SentenceTransformer(str(MINILM), device="cpu")


@pytest.fixture
def server(minilm):
    served = Endpoint(minilm.encode)
    yield served
    served.close()


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    # The client's pauses begin at half a second.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def encoder(server, **settings):
    return EndpointEncoder(EncoderSettings("openai:mini", base_url=server.url, **settings))


def test_vectors_are_the_models(server, minilm):
    found = encoder(server).encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7]
    assert server.keys == {f"Bearer {KEY}"}


def test_a_prompt_stands_before_each_text(server, minilm):
    found = encoder(server, prompt="item: ")
    np.testing.assert_allclose(found.encode(["tea"]), minilm.encode(["item: tea"]), atol=1e-6)
    assert found.description == {"prompt": "item: "}


@pytest.mark.parametrize("fault", [429, 500, 503, "drop"])
def test_passing_faults_are_retried(server, minilm, fault):
    server.plan = [fault, fault]
    np.testing.assert_allclose(encoder(server).encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7, 7, 7]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (429, r"gave no vectors of mini \(RateLimitError: .*what was encoded is kept, run again to continue"),
        (500, "InternalServerError"),
        ("drop", "APIConnectionError"),
        (400, "BadRequestError"),
        (401, r"refused the key \(401\): check the environment variable OPENAI_API_KEY"),
        (403, "PermissionDeniedError"),
    ],
)
def test_lasting_faults_are_clear_errors_without_the_key(server, monkeypatch, fault, message):
    monkeypatch.setattr(module, "_RETRIES", 2)
    server.plan = [fault] * 3
    with pytest.raises(LLMInitError, match=message) as raised:
        encoder(server).encode(["tea"])
    assert server.requests == ([1, 1, 1] if fault in (429, 500, "drop") else [1])
    chain = [raised.value, raised.value.__cause__]
    assert raised.value.__suppress_context__
    assert not any(KEY in str(error) for error in chain)


def test_a_server_that_is_not_there(server, monkeypatch):
    monkeypatch.setattr(module, "_RETRIES", 1)
    url = server.url
    server.close()
    with pytest.raises(LLMInitError, match=rf"{url} gave no vectors of mini \(APIConnectionError: .*refused"):
        EndpointEncoder(EncoderSettings("openai:mini", base_url=url)).encode(["tea"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("short", "answered 6 vectors for 7 texts: expected one for each; nothing of this request is kept"),
        ("null", "gave no vectors of mini"),
        ("garbage", "gave no vectors of mini"),
        ("wide", r"answered vectors of \[384, 385\] dimensions, after 384: expected one width"),
    ],
)
def test_an_answer_of_the_wrong_length_is_refused(server, fault, message):
    server.plan = [fault]
    with pytest.raises(LLMInitError, match=message):
        encoder(server).encode(TEXTS)


def test_a_batch_too_large_for_the_server_is_cut_and_remembered(server, minilm):
    server.most_texts = 3
    found = encoder(server)
    assert found.batch_size == 256
    np.testing.assert_allclose(found.encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7, 4, 2, 2, 3]
    assert found.batch_size == 2
    assert found.truncated == 0


def test_a_text_too_long_for_the_server_is_shortened_and_counted(server, minilm):
    server.most_characters = 40
    found = encoder(server)
    texts = ["tea", "x" * 30 + "y" * 30, "drum"]
    vectors = found.encode(texts)
    # 60 -> 45 -> 33 characters.
    np.testing.assert_allclose(vectors, minilm.encode(["tea", "x" * 30 + "yyy", "drum"]), atol=1e-6)
    assert found.truncated == 1
    assert set(server.served) == {"tea", "x" * 30 + "yyy", "drum"}


@pytest.mark.parametrize("error_key", ["message", "reason"])
def test_the_reason_is_found_wherever_it_stands(server, error_key):
    server.error_key = error_key
    server.most_characters = 40
    found = encoder(server, prompt="p" * 20)
    found.encode(["x" * 60])
    # 60 -> 45 -> 33 -> 24 -> 18 characters: the prompt stays.
    assert server.served == ["p" * 20 + "x" * 18]
    server.most_characters = 10
    with pytest.raises(LLMInitError, match="maximum context length exceeded"):
        found.encode(["x"])


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY} "])
def test_a_key_with_white_space_around_it(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    encoder(server).encode(["tea"])
    assert server.keys == {f"Bearer {KEY}"}


def test_a_key_that_no_header_can_hold_is_not_shown(server, monkeypatch):
    monkeypatch.setattr(module, "_RETRIES", 0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n0123")
    with pytest.raises(LLMInitError) as raised:
        encoder(server).encode(["tea"])
    assert "secret" not in str(raised.value)


def test_a_prompt_too_long_for_the_server_ends(server):
    server.most_characters = 10
    with pytest.raises(LLMInitError, match="maximum context length exceeded"):
        encoder(server, prompt="p" * 50).encode(["some text that is long enough"])


def test_requests_stay_below_the_services_limits(server, monkeypatch):
    monkeypatch.setattr(module, "_BYTES_PER_REQUEST", 30)
    server.encode = lambda texts: np.ones((len(texts), 4))
    encoder(server).encode(["é" * 10, "b" * 10, "c", "d" * 29, "e" * 40])
    assert server.requests == [2, 2, 1]
    assert encoder(server, batch_size=5000).batch_size == 2048


def test_an_unknown_model_is_told_at_once(server):
    with pytest.raises(LLMInitError, match=r"gave no vectors of other \(NotFoundError: .*no model other"):
        EndpointEncoder(EncoderSettings("openai:other", base_url=server.url)).encode(["tea"])
    assert server.requests == [1]


def test_a_key_is_needed_by_openai_alone(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(LLMInitError, match="needs a key: set the environment variable OPENAI_API_KEY"):
        EndpointEncoder(EncoderSettings("openai:text-embedding-3-small"))
    assert encoder(server).encode(["tea"]).shape == (1, 384)


def test_the_address(monkeypatch):
    assert resolve_base_url(None) == "https://api.openai.com/v1"
    assert resolve_base_url("http://localhost:8000/v1/") == "http://localhost:8000/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    assert resolve_base_url(None) == "http://elsewhere/v1"
    for url in ("http://me:secret@host/v1", "me:secret@host/v1", "https://host/v1?api-key=secret"):
        with pytest.raises(LLMInitError, match="llm_base_url holds a user name") as raised:
            resolve_base_url(url)
        assert "secret" not in str(raised.value)
    with pytest.raises(LLMInitError, match="Invalid IPv6"):
        resolve_base_url("http://[::1/v1")
    with pytest.raises(LLMInitError, match="expected an address such as"):
        resolve_base_url("localhost:8000")
