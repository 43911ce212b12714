"""Against a real HTTP server on loopback that serves the real MiniLM in OpenAI's protocol."""

import gzip
import itertools
import logging
import time

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from recbole_llminit.encode import endpoint_encoder as module
from recbole_llminit.encode.endpoint_encoder import EndpointEncoder, resolve_base_url
from recbole_llminit.encode.sentence_encoder import EncoderSettings
from recbole_llminit.errors import LLMInitError
from tests.encoders import MINILM, Endpoint, wait_until

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
        ("garbage", "gave no vectors of mini"),
        ("wide", r"answered vectors of \[384, 385\] dimensions, after 384: expected one width"),
    ],
)
def test_an_answer_of_the_wrong_length_is_refused(server, fault, message):
    server.plan = [fault]
    with pytest.raises(LLMInitError, match=message):
        encoder(server).encode(TEXTS)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def silent(handler):
    stop(handler).wait(60)


def trickled_headers(handler):
    handler.wfile.write(ANSWER)
    trickle(handler, b"X-More: 1\r\n")


def trickled_body(handler):
    handler.wfile.write(ANSWER + b"Content-Length: 100000\r\n\r\n")
    trickle(handler, b" ")


def trickle(handler, piece):
    handler.close_connection = True
    for byte in itertools.islice(itertools.cycle(piece), 3000):
        handler.wfile.write(bytes([byte]))
        if stop(handler).wait(0.02):
            break


def stop(handler):
    return handler.server.stop


@pytest.mark.parametrize("hang", [silent, trickled_headers, trickled_body])
def test_a_server_that_hangs_is_given_up_and_tried_again(server, minilm, monkeypatch, caplog, hang):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.2)
    caplog.set_level(logging.INFO)
    server.server.stop = server.closed
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


def test_a_server_that_hangs_for_ever_is_an_error_in_time(server, monkeypatch):
    monkeypatch.setattr(module, "_RETRIES", 1)
    server.server.stop = server.closed
    server.plan = [silent, trickled_body]
    began = time.monotonic()
    with pytest.raises(LLMInitError, match=r"APITimeoutError.*within 0.3 s.*llm_timeout") as raised:
        encoder(server, timeout=0.3).encode(["tea"])
    assert time.monotonic() - began < 30
    assert server.url in str(raised.value)
    wait_until(lambda: server.requests == [1, 1])


def test_each_new_try_says_why(server, caplog):
    server.plan = [429, "drop", 503]
    encoder(server).encode(["tea"])
    encoder(server).encode(["tea"])
    tries = [line for line in caplog.messages if line.startswith(server.url)]
    assert [line.partition("try ")[2].partition(",")[0] for line in tries] == ["2 of 9", "3 of 9", "4 of 9"]
    assert "429 Too Many Requests" in tries[0]
    assert "RemoteProtocolError" in tries[1]
    assert "503" in tries[2]
    assert KEY not in caplog.text


def endless(handler):
    handler.wfile.write(ANSWER + b"Connection: close\r\n\r\n")
    handler.close_connection = True
    for _ in range(1000):
        handler.wfile.write(b" " * (1 << 20))


def test_an_endless_answer_is_cut_off_and_not_asked_for_again(server):
    server.plan = [endless]
    with pytest.raises(LLMInitError, match="gave no vectors of mini .*larger than 4 MiB.*llm_batch_size"):
        encoder(server).encode(["tea"])
    assert server.requests == [1]
    # The bound is wide enough for the most that can be asked for.
    bounds = module._BoundedHttp("url", 1, TimeoutError, str)
    bounds.expect(2048)
    assert bounds._most_bytes > 2048 * 4096 * 24


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "503 Service Unavailable"])
def test_a_compressed_answer_is_refused(server, status):
    server.plan = [compressed(status)]
    with pytest.raises(LLMInitError, match="gave no vectors of mini .*'gzip'.*plain text was asked for"):
        encoder(server).encode(["tea"])
    assert server.requests == [1]
    assert server.codings == {"identity"}


def compressed(status):
    def answer(handler):
        body = gzip.compress(b" " * (1 << 20))
        head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        handler.wfile.write(head.encode() + body)

    return answer


def redirect(target):
    def answer(handler):
        handler.send_response(307)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_a_redirect_to_another_server_is_not_followed(server, minilm):
    other = Endpoint(minilm.encode)
    port = server.server.server_port
    elsewhere = [f"{other.url}/embeddings", f"http://localhost:{port}/v1/embeddings", f"https://127.0.0.1:{port}/v1"]
    for target in elsewhere:
        server.plan = [redirect(target)]
        with pytest.raises(LLMInitError, match="redirects to .*which would be sent the item texts") as raised:
            encoder(server).encode(["tea"])
        assert f"http://127.0.0.1:{port} " in str(raised.value)
        assert target.rpartition("/v1")[0] in str(raised.value)
    assert other.requests == []
    assert server.requests == [1, 1, 1]
    other.close()


def test_a_redirect_on_the_same_server_is_followed_for_a_while(server, minilm):
    server.plan = [redirect("/v1/embeddings"), redirect(f"{server.url}/embeddings")]
    np.testing.assert_allclose(encoder(server).encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
    assert server.requests == [7, 7, 7]
    server.plan = [redirect("/v1/embeddings")] * 20
    with pytest.raises(LLMInitError, match="redirects more than 5 times"):
        encoder(server).encode(TEXTS)


@pytest.mark.parametrize("target", ["http://[::1", "http:///", "\x01", "//", "http://127.0.0.1:99999999/"])
def test_a_redirect_to_no_address(server, monkeypatch, target):
    monkeypatch.setattr(module, "_RETRIES", 1)
    server.plan = [redirect(target)] * 20
    with pytest.raises(LLMInitError, match="gave no vectors of mini"):
        encoder(server).encode(TEXTS)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (None, "answered NoneType instead of a vector"),
        ("AACAPw==", "answered str instead of a vector"),
        ({"0": 1.0}, "answered dict instead of a vector"),
        (["0.1"] * 384, "answered a list with str instead of a vector"),
        ([True] * 384, "answered a list with bool instead of a vector"),
        ([None] * 384, "answered a list with NoneType instead of a vector"),
        ([[0.1]] * 384, "answered a list with list instead of a vector"),
        ([0.1] * 383 + ["0.1", True], "answered a list with bool, float, str instead of a vector"),
        ([], r"answered vectors of \[0, 384\] dimensions"),
        ([0.0] * 384, r"answered vectors of zeros alone for 1 of 7 texts \(kettle\)"),
        ([0] * 384, r"answered vectors of zeros alone for 1 of 7 texts \(kettle\)"),
        ([float("nan")] + [0.1] * 383, r"answered vectors of NaN or infinite for 1 of 7 texts \(kettle\)"),
        ([float("inf")] + [0.1] * 383, "answered vectors of NaN or infinite"),
        ([1e39] + [0.1] * 383, "answered vectors of NaN or infinite"),
        ([10**400] + [0.1] * 383, "gave no vectors of mini .*too large"),
        ([int("9" * 4000)] + [0.1] * 383, "gave no vectors of mini .*too large"),
    ],
)
def test_what_is_no_vector_is_refused(server, vector, message):
    server.plan = [[vector]]
    # The server answers in the opposite order.
    server.encode = lambda texts: np.ones((len(texts), 384))
    with pytest.raises(LLMInitError, match=message):
        encoder(server).encode(TEXTS[::-1])
    assert server.requests == [7]


def test_empty_vectors_alone_are_refused(server):
    server.encode = lambda texts: np.ones((len(texts), 0))
    with pytest.raises(LLMInitError, match=r"vectors of \[0\] dimensions"):
        encoder(server).encode(TEXTS)


def said(body):
    def answer(handler):
        handler.wfile.write(ANSWER + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

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
def test_an_answer_of_another_shape_is_refused(server, body):
    server.plan = [said(body)]
    with pytest.raises(LLMInitError, match=server.url):
        encoder(server).encode(["tea"])
    assert server.requests == [1]


def test_a_key_that_the_end_of_a_long_reason_cuts_is_not_shown(server):
    for number in range(0, 64, 3):
        server.plan = [lambda handler, number=number: server.send(handler, 400, {"error": "y" * (440 + number) + KEY})]
        with pytest.raises(LLMInitError, match="BadRequestError") as raised:
            encoder(server).encode(["tea"])
        assert "sk-" not in str(raised.value)


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_PROXY", "foo://x", "Unknown scheme.*HTTPS_PROXY"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:1/" + "x" * 70_000, "URL too long.*check llm_base_url"),
    ],
)
def test_an_environment_that_no_client_can_use(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(LLMInitError, match=f"the client of openai:mini cannot be made .*{message}"):
        EndpointEncoder(EncoderSettings("openai:mini"))


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
    with pytest.raises(LLMInitError, match="http://localhost:99999/v1.*[Pp]ort"):
        resolve_base_url("http://localhost:99999/v1")
    with pytest.raises(LLMInitError, match="llm_base_url"):
        resolve_base_url("http://local\x00host/v1")
