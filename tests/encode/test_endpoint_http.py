"""What the HTTP client of an endpoint bears: servers that hang, trickle, answer without end, compress, or redirect."""

from __future__ import annotations

import gzip
import itertools
import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from recbole_llminit.encode import endpoint_encoder, endpoint_http
from recbole_llminit.encode.encoder import EncoderSettings
from recbole_llminit.encode.endpoint_encoder import EndpointEncoder
from recbole_llminit.errors import LLMInitError
from tests.encoders import API_KEY, Endpoint, wait_until

pytestmark = pytest.mark.usefixtures("openai_environment")

TEXTS = ["Green tea leaves", "Guitar strap", "tea", "Steel string guitar", "Earl Grey", "drum", "kettle"]


def encoder(server: Endpoint, **settings: Any) -> EndpointEncoder:
    return EndpointEncoder(EncoderSettings("openai:mini", base_url=server.url, **settings))


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def stopped(handler: BaseHTTPRequestHandler) -> threading.Event:
    """Return the event that the test has ended."""
    event: threading.Event = handler.server.stopped  # type: ignore[attr-defined]
    return event


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Answer nothing."""
    stopped(handler).wait(60)


def trickled_headers(handler: BaseHTTPRequestHandler) -> None:
    """Answer with headers that do not end."""
    handler.wfile.write(ANSWER)
    trickle(handler, b"X-More: 1\r\n")


def trickled_body(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a body of which a byte comes at a time."""
    handler.wfile.write(ANSWER + b"Content-Length: 100000\r\n\r\n")
    trickle(handler, b" ")


def trickle(handler: BaseHTTPRequestHandler, piece: bytes) -> None:
    """Send the bytes of a piece again and again, one at a time."""
    handler.close_connection = True
    for byte in itertools.islice(itertools.cycle(piece), 3000):
        handler.wfile.write(bytes([byte]))
        if stopped(handler).wait(0.02):
            break


@pytest.mark.parametrize("hang", [silent, trickled_headers, trickled_body])
def test_a_server_that_hangs_is_given_up_and_asked_again(
    server: Endpoint,
    minilm: SentenceTransformer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hang: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    monkeypatch.setattr(endpoint_http, "_SECONDS_BETWEEN_LOG_LINES", 0.2)
    caplog.set_level(logging.INFO)
    server.server.stopped = server.closed  # type: ignore[attr-defined]
    server.plan = [hang]
    began = time.monotonic()
    found = encoder(server, timeout=0.7).encode(TEXTS)
    assert 0.7 < time.monotonic() - began < 30
    np.testing.assert_allclose(found, minilm.encode(TEXTS), atol=1e-6)
    waited = [line for line in caplog.messages if "no answer for" in line]
    assert waited
    assert all(server.url in line and "at most 0.7 s (llm_timeout)" in line for line in waited)
    tried = [line for line in caplog.messages if "try 2 of 9" in line]
    assert len(tried) == 1
    assert "ReadTimeout" in tried[0]
    assert "0.7 s" in tried[0]


def test_a_server_that_hangs_for_ever_is_an_error_in_time(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_encoder, "_RETRIES", 1)
    server.server.stopped = server.closed  # type: ignore[attr-defined]
    server.plan = [silent, trickled_body]
    began = time.monotonic()
    with pytest.raises(LLMInitError, match=r"APITimeoutError.*within 0.3 s.*llm_timeout") as raised:
        encoder(server, timeout=0.3).encode(["tea"])
    assert time.monotonic() - began < 30
    assert server.url in str(raised.value)
    wait_until(lambda: server.requests == [1, 1])


def test_each_new_try_logs_its_reason(server: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    server.plan = [429, "drop", 503]
    encoder(server).encode(["tea"])
    encoder(server).encode(["tea"])
    tries = [line for line in caplog.messages if line.startswith(server.url)]
    assert [line.partition("try ")[2].partition(",")[0] for line in tries] == ["2 of 9", "3 of 9", "4 of 9"]
    assert "429 Too Many Requests" in tries[0]
    assert "RemoteProtocolError" in tries[1]
    assert "503" in tries[2]
    assert API_KEY not in caplog.text


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a gigabyte of white space."""
    handler.wfile.write(ANSWER + b"Connection: close\r\n\r\n")
    handler.close_connection = True
    for _ in range(1000):
        handler.wfile.write(b" " * (1 << 20))


def test_an_endless_answer_is_cut_off_and_not_asked_for_again(server: Endpoint) -> None:
    server.plan = [endless]
    with pytest.raises(LLMInitError, match="no vectors of mini .*4 MiB.*llm_batch_size"):
        encoder(server).encode(["tea"])
    assert server.requests == [1]
    # The limit is wide enough for the largest request.
    bounds = endpoint_http.BoundedHttp("url", 1, 1, TimeoutError, str)
    bounds.expect(2048)
    assert bounds._byte_limit > 2048 * 4096 * 24


def compressed(status: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Make an answer that is compressed."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = gzip.compress(b" " * (1 << 20))
        head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        handler.wfile.write(head.encode() + body)

    return answer


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "503 Service Unavailable"])
def test_a_compressed_answer_is_refused(server: Endpoint, status: str) -> None:
    server.plan = [compressed(status)]
    with pytest.raises(LLMInitError, match="no vectors of mini .*'gzip'.*plain text"):
        encoder(server).encode(["tea"])
    assert server.requests == [1]
    assert server.codings == {"identity"}


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Make an answer that redirects."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_a_redirect_to_another_server_is_not_followed(server: Endpoint, minilm: SentenceTransformer) -> None:
    other = Endpoint(minilm.encode)
    port = server.server.server_port
    elsewhere = [f"{other.url}/embeddings", f"http://localhost:{port}/v1/embeddings", f"https://127.0.0.1:{port}/v1"]
    for target in elsewhere:
        server.plan = [redirect(target)]
        with pytest.raises(LLMInitError, match="redirects to .*item texts.*llm_base_url") as raised:
            encoder(server).encode(["tea"])
        assert f"http://127.0.0.1:{port} " in str(raised.value)
        assert target.rpartition("/v1")[0] in str(raised.value)
    assert other.requests == []
    assert server.requests == [1, 1, 1]
    other.close()


def test_a_redirect_on_the_same_server_is_followed_for_a_while(server: Endpoint, minilm: SentenceTransformer) -> None:
    server.plan = [redirect("/v1/embeddings"), redirect(f"{server.url}/embeddings")]
    np.testing.assert_allclose(encoder(server).encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7, 7, 7]
    server.plan = [redirect("/v1/embeddings")] * 20
    with pytest.raises(LLMInitError, match="redirects more than 5 times.*llm_base_url"):
        encoder(server).encode(TEXTS)


@pytest.mark.parametrize("target", ["http://[::1", "http:///", "\x01", "//", "http://127.0.0.1:99999999/"])
def test_a_redirect_to_no_address(server: Endpoint, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setattr(endpoint_encoder, "_RETRIES", 1)
    server.plan = [redirect(target)] * 20
    with pytest.raises(LLMInitError, match="no vectors of mini"):
        encoder(server).encode(TEXTS)
