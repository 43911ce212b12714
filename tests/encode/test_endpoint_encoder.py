"""The encoder behind an endpoint: a real HTTP server on loopback serves the real MiniLM in OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from recbole_llminit.encode import endpoint_encoder as module
from recbole_llminit.encode.encoder import EncoderSettings
from recbole_llminit.encode.endpoint_encoder import EndpointEncoder, resolve_base_url
from recbole_llminit.errors import LLMInitError
from tests.encoders import API_KEY, Endpoint

pytestmark = pytest.mark.usefixtures("openai_environment")

TEXTS = ["Green tea leaves", "Guitar strap", "tea", "Steel string guitar", "Earl Grey", "drum", "kettle"]


def encoder(server: Endpoint, **settings: Any) -> EndpointEncoder:
    return EndpointEncoder(EncoderSettings("openai:mini", base_url=server.url, **settings))


def test_vectors_are_the_models(server: Endpoint, minilm: SentenceTransformer) -> None:
    found = encoder(server).encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7]
    assert server.keys == {f"Bearer {API_KEY}"}


def test_a_prompt_stands_before_each_text(server: Endpoint, minilm: SentenceTransformer) -> None:
    found = encoder(server, prompt="item: ")
    np.testing.assert_allclose(found.encode(["tea"]), minilm.encode(["item: tea"]), atol=1e-6)
    assert found.description == {"prompt": "item: "}


@pytest.mark.parametrize("fault", [429, 500, 503, "drop"])
def test_passing_faults_are_retried(server: Endpoint, minilm: SentenceTransformer, fault: Any) -> None:
    server.plan = [fault, fault]
    np.testing.assert_allclose(encoder(server).encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7, 7, 7]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (429, r"mini \(RateLimitError: .*run again"),
        (500, "InternalServerError"),
        ("drop", "APIConnectionError"),
        (400, "BadRequestError"),
        (401, r"401.*OPENAI_API_KEY"),
        (403, "PermissionDeniedError"),
    ],
)
def test_lasting_faults_are_clear_errors_without_the_key(
    server: Endpoint, monkeypatch: pytest.MonkeyPatch, fault: Any, message: str
) -> None:
    monkeypatch.setattr(module, "_RETRIES", 2)
    server.plan = [fault] * 3
    with pytest.raises(LLMInitError, match=message) as raised:
        encoder(server).encode(["tea"])
    assert server.requests == ([1, 1, 1] if fault in (429, 500, "drop") else [1])
    chain = [raised.value, raised.value.__cause__]
    assert raised.value.__suppress_context__
    assert not any(API_KEY in str(error) for error in chain)


def test_a_server_that_is_not_there(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRIES", 1)
    url = server.url
    server.close()
    with pytest.raises(LLMInitError, match=rf"{url}.*mini \(APIConnectionError: .*refused"):
        EndpointEncoder(EncoderSettings("openai:mini", base_url=url)).encode(["tea"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("short", "6 vectors for 7 texts.*run again"),
        ("garbage", "no vectors of mini"),
        ("wide", r"\[384, 385\] dimensions, after 384"),
    ],
)
def test_an_answer_of_the_wrong_length_is_refused(server: Endpoint, fault: Any, message: str) -> None:
    server.plan = [fault]
    with pytest.raises(LLMInitError, match=message):
        encoder(server).encode(TEXTS)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (None, "NoneType instead of a vector"),
        ("AACAPw==", "str instead of a vector"),
        ({"0": 1.0}, "dict instead of a vector"),
        (["0.1"] * 384, "a list with str instead of a vector"),
        ([True] * 384, "a list with bool instead of a vector"),
        ([None] * 384, "a list with NoneType instead of a vector"),
        ([[0.1]] * 384, "a list with list instead of a vector"),
        ([0.1] * 383 + ["0.1", True], "a list with bool, float, str instead of a vector"),
        ([], r"vectors of \[0, 384\] dimensions"),
        ([0.0] * 384, r"vectors of zeros alone for 1 of 7 texts \(kettle\)"),
        ([0] * 384, r"vectors of zeros alone for 1 of 7 texts \(kettle\)"),
        ([float("nan")] + [0.1] * 383, r"vectors of NaN or infinite for 1 of 7 texts \(kettle\)"),
        ([float("inf")] + [0.1] * 383, "vectors of NaN or infinite"),
        ([1e39] + [0.1] * 383, "vectors of NaN or infinite"),
        ([10**400] + [0.1] * 383, "no vectors of mini .*too large"),
        ([int("9" * 4000)] + [0.1] * 383, "no vectors of mini .*too large"),
    ],
)
def test_what_is_no_vector_is_refused(server: Endpoint, vector: Any, message: str) -> None:
    server.plan = [[vector]]
    # The server answers in the opposite order.
    server.encode = lambda texts: np.ones((len(texts), 384))
    with pytest.raises(LLMInitError, match=message):
        encoder(server).encode(TEXTS[::-1])
    assert server.requests == [7]


def test_empty_vectors_alone_are_refused(server: Endpoint) -> None:
    server.encode = lambda texts: np.ones((len(texts), 0))
    with pytest.raises(LLMInitError, match=r"vectors of \[0\] dimensions"):
        encoder(server).encode(TEXTS)


def answer_with(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Make an answer of any body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        handler.wfile.write(head.encode() + body)

    return answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b"{}",
        b'{"data": null}',
        b'{"data": "text"}',
        b'{"data": [1]}',
        b'{"data": [[0.1, 0.2]]}',
        b'{"data": [{"embedding": [0.1]}]}',
        b'{"data": [{"index": [0], "embedding": [0.1]}]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_an_answer_of_another_shape_is_refused(server: Endpoint, body: bytes) -> None:
    server.plan = [answer_with(body)]
    with pytest.raises(LLMInitError, match=server.url):
        encoder(server).encode(["tea"])
    assert server.requests == [1]


def test_a_key_that_the_end_of_a_long_reason_cuts_is_not_shown(server: Endpoint) -> None:
    for number in range(0, 64, 3):
        server.plan = [
            lambda handler, number=number: server.send(handler, 400, {"error": "y" * (440 + number) + API_KEY})
        ]
        with pytest.raises(LLMInitError, match="BadRequestError") as raised:
            encoder(server).encode(["tea"])
        assert "sk-" not in str(raised.value)


def test_a_batch_too_large_for_the_server_is_cut_and_remembered(server: Endpoint, minilm: SentenceTransformer) -> None:
    server.most_texts = 3
    found = encoder(server)
    assert found.batch_size == 256
    np.testing.assert_allclose(found.encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7, 4, 2, 2, 3]
    assert found.batch_size == 2
    assert found.truncated == 0


def test_a_text_too_long_for_the_server_is_shortened_and_counted(server: Endpoint, minilm: SentenceTransformer) -> None:
    server.most_characters = 40
    found = encoder(server)
    texts = ["tea", "x" * 30 + "y" * 30, "drum"]
    vectors = found.encode(texts)
    # 60 -> 45 -> 33 characters.
    np.testing.assert_allclose(vectors, minilm.encode(["tea", "x" * 30 + "yyy", "drum"]), atol=1e-6)
    assert found.truncated == 1
    assert set(server.served) == {"tea", "x" * 30 + "yyy", "drum"}


@pytest.mark.parametrize("error_key", ["message", "reason"])
def test_the_reason_is_found_wherever_it_stands(server: Endpoint, error_key: str) -> None:
    server.error_key = error_key
    server.most_characters = 40
    found = encoder(server, prompt="p" * 20)
    found.encode(["x" * 60])
    # 60 -> 45 -> 33 -> 24 -> 18 characters: the prompt stays.
    assert server.served == ["p" * 20 + "x" * 18]
    server.most_characters = 10
    with pytest.raises(LLMInitError, match="maximum context length exceeded"):
        found.encode(["x"])


@pytest.mark.parametrize("key", [f"{API_KEY}\n", f" {API_KEY} "])
def test_a_key_with_white_space_around_it(server: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    encoder(server).encode(["tea"])
    assert server.keys == {f"Bearer {API_KEY}"}


def test_a_key_that_no_header_can_hold_is_not_shown(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRIES", 0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n0123")
    with pytest.raises(LLMInitError) as raised:
        encoder(server).encode(["tea"])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_PROXY", "foo://x", "Unknown scheme.*HTTPS_PROXY"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:1/" + "x" * 70_000, "URL too long.*check llm_base_url"),
    ],
)
def test_an_environment_that_no_client_can_use(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(LLMInitError, match=f"client of openai:mini .*{message}"):
        EndpointEncoder(EncoderSettings("openai:mini"))


def test_a_prompt_too_long_for_the_server_ends(server: Endpoint) -> None:
    server.most_characters = 10
    with pytest.raises(LLMInitError, match="maximum context length exceeded"):
        encoder(server, prompt="p" * 50).encode(["some text that is long enough"])


def test_requests_stay_below_the_services_limits(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BYTES_PER_REQUEST", 30)
    server.encode = lambda texts: np.ones((len(texts), 4))
    encoder(server).encode(["é" * 10, "b" * 10, "c", "d" * 29, "e" * 40])
    assert server.requests == [2, 2, 1]
    assert encoder(server, batch_size=5000).batch_size == 2048


def test_an_unknown_model_is_not_retried(server: Endpoint) -> None:
    with pytest.raises(LLMInitError, match=r"other \(NotFoundError: .*no model other"):
        EndpointEncoder(EncoderSettings("openai:other", base_url=server.url)).encode(["tea"])
    assert server.requests == [1]


def test_a_key_is_needed_by_openai_alone(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(LLMInitError, match="text-embedding-3-small needs a key.*OPENAI_API_KEY"):
        EndpointEncoder(EncoderSettings("openai:text-embedding-3-small"))
    assert encoder(server).encode(["tea"]).shape == (1, 384)


def test_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_base_url(None) == "https://api.openai.com/v1"
    assert resolve_base_url("http://localhost:8000/v1/") == "http://localhost:8000/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    assert resolve_base_url(None) == "http://elsewhere/v1"
    for url in ("http://me:secret@host/v1", "me:secret@host/v1", "https://host/v1?api-key=secret"):
        with pytest.raises(LLMInitError, match="llm_base_url.*user name.*OPENAI_API_KEY") as raised:
            resolve_base_url(url)
        assert "secret" not in str(raised.value)
    with pytest.raises(LLMInitError, match="llm_base_url is .*Invalid IPv6"):
        resolve_base_url("http://[::1/v1")
    with pytest.raises(LLMInitError, match="llm_base_url is 'localhost:8000'.*http://localhost:8000/v1"):
        resolve_base_url("localhost:8000")
    with pytest.raises(LLMInitError, match="http://localhost:99999/v1.*[Pp]ort"):
        resolve_base_url("http://localhost:99999/v1")
    with pytest.raises(LLMInitError, match="llm_base_url"):
        resolve_base_url("http://local\x00host/v1")
