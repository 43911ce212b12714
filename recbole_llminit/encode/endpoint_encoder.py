"""Text encoders behind an OpenAI-compatible endpoint: OpenAI, vLLM, Text Embeddings Inference, Ollama.

The official client is imported when an encoder is made, not before. It retries refused connections, 408, 409, 429 and
5xx with growing pauses. What it sends and receives goes through `_BoundedHttp`: no server can hold a run for ever, fill
its memory, or send the texts elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from recbole_llminit.encode.sentence_encoder import EncoderSettings
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.embeddings import examples

PREFIX = "openai:"
TIMEOUT = 120.0
"""Seconds that one try of a request may take, if ``llm_timeout`` says nothing."""

_OPENAI = "https://api.openai.com/v1"
_BATCH_SIZE = 256
_RETRIES = 8
# OpenAI takes 300,000 tokens and 2,048 texts a request; a token is a byte at least.
_BYTES_PER_REQUEST = 250_000
_TEXTS_PER_REQUEST = 2048
_SHORTEST_CUT = 16
_LONGEST_REASON = 500
# 65,536 dimensions of 32 characters; the largest models have 8,192.
_BYTES_PER_VECTOR = 2 << 20
_BYTES_PER_ANSWER = 256 << 20
_SECONDS_BETWEEN_LINES = 10.0
_MOST_REDIRECTS = 5
_SHOWN = 40
_TOO_LARGE = re.compile("token|length|batch|too (long|large|many)|exceed", re.IGNORECASE)


def resolve_base_url(base_url: str | None) -> str:
    """Return the endpoint's address: the one given, else ``OPENAI_BASE_URL``, else OpenAI's.

    Raises
    ------
    LLMInitError
        If it is no http address, or holds credentials: they would be stored with the vectors.
    """
    url = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).strip().rstrip("/")
    if "@" in url or "?" in url:
        raise LLMInitError(
            "llm_base_url holds a user name, a password or parameters, which would be stored with the vectors: leave "
            "them out, and put the key into the environment variable OPENAI_API_KEY"
        )
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError as error:
        raise LLMInitError(f"llm_base_url is {url!r} ({error}): expected e.g. http://localhost:8000/v1") from None
    if not known:
        raise LLMInitError(f"llm_base_url is {url!r}: expected an address such as http://localhost:8000/v1")
    return url


class _Refused(BaseException):
    """An answer that another try does not mend; no `Exception`, after each of which the client may try again."""


class _BoundedHttp:
    """Sends the client's requests: each try ends within a time, and its answer within a size.

    A try runs in a thread, so that the time holds for all of it: the search for the host, headers and body, in however
    small pieces they come. The thread of a try that was given up ends at the next piece.

    Parameters
    ----------
    url : str
        The endpoint, for messages.
    seconds : float
        What one try may take.
    timeout : type
        What the client takes for a timeout: the HTTP library's own.
    hide : callable
        Takes the key out of a text.
    """

    def __init__(self, url: str, seconds: float, timeout: type[Exception], hide: Callable[[str], str]) -> None:
        self._url = url
        self._seconds = seconds
        self._timeout = timeout
        self._hide = hide
        self._most_bytes = _BYTES_PER_ANSWER
        self._tries = 0
        self._failure = ""

    def expect(self, vectors: int) -> None:
        """Begin a request for so many vectors; its tries are counted from one."""
        self._most_bytes = min(_BYTES_PER_ANSWER, (vectors + 1) * _BYTES_PER_VECTOR)
        self._tries = 0

    def send(self, send: Callable[[Any], Any], request: Any) -> Any:
        """Return the whole answer of one try; ``send`` returns it with its body unread, and follows no redirect."""
        self._tries += 1
        if self._tries > 1:
            logging.getLogger().warning(f"{self._url}: try {self._tries} of {_RETRIES + 1}, after {self._failure}")
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        given_up = threading.Event()
        threading.Thread(target=self._try, args=(send, request, answers, given_up), daemon=True).start()
        try:
            answer = self._wait(answers)
        finally:
            given_up.set()
        if isinstance(answer, BaseException):
            self._failure = self._hide(f"{type(answer).__name__} ({answer})")
            raise answer
        self._failure = f"status {answer.status_code} {answer.reason_phrase}"
        if "retry-after" in answer.headers:
            logging.getLogger().info(f"{self._url}: {self._failure}, Retry-After: {answer.headers['retry-after'][:40]}")
        return answer

    def _wait(self, answers: queue.SimpleQueue[Any]) -> Any:
        """Return what the thread says, or that the time is over; say every few seconds that this waits."""
        began = time.monotonic()
        waited = 0.0
        while waited < self._seconds:
            if waited:
                logging.getLogger().info(
                    f"{self._url}: no answer for {waited:.0f} s, waiting for at most {self._seconds:g} s (llm_timeout)"
                )
            with contextlib.suppress(queue.Empty):
                return answers.get(timeout=min(self._seconds - waited, _SECONDS_BETWEEN_LINES))
            waited = time.monotonic() - began
        return self._timeout(f"no whole answer within {self._seconds:g} s: see the server, or set a longer llm_timeout")

    def _try(
        self,
        send: Callable[[Any], Any],
        request: Any,
        answers: queue.SimpleQueue[Any],
        given_up: threading.Event,
    ) -> None:
        try:
            response = self._follow(send, request)
            with contextlib.closing(response):
                body = b"".join(self._pieces(response, given_up))
            answers.put(
                type(response)(response.status_code, headers=response.headers, content=body, request=response.request)
            )
        except BaseException as error:
            # Raised in the thread that waits.
            answers.put(error)

    def _pieces(self, response: Any, given_up: threading.Event) -> Iterator[bytes]:
        coding = response.headers.get("content-encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            raise _Refused(
                f"it answers in the compressed form {coding[:40]!r}, and plain text was asked for: have the server "
                f"or the proxy before it send no compressed answers"
            )
        size = 0
        for piece in response.iter_raw():
            size += len(piece)
            if given_up.is_set():
                return
            if size > self._most_bytes:
                raise _Refused(
                    f"its answer is larger than {self._most_bytes >> 20:,} MiB, more than the vectors asked for can "
                    f"be: check the server, or set a smaller llm_batch_size"
                )
            yield piece

    def _follow(self, send: Callable[[Any], Any], request: Any) -> Any:
        """Send a request, and again where the same server says; another one would be sent the texts."""
        for _ in range(_MOST_REDIRECTS):
            response = send(request)
            target = response.next_request
            if target is None:
                return response
            response.close()
            if _origin(target.url) != _origin(request.url):
                raise _Refused(
                    f"{_origin(request.url)} redirects to {_origin(target.url)}, which would be sent the item texts: "
                    f"if that is where they are meant to go, set llm_base_url to its address"
                )
            request = target
        raise _Refused(f"it redirects more than {_MOST_REDIRECTS} times: check the server, and llm_base_url")


def _origin(url: Any) -> str:
    return f"{url.scheme}://{url.host}{'' if url.port is None else f':{url.port}'}"


def _bounded_client(openai: Any, http: _BoundedHttp) -> Any:
    """Make the client's own HTTP client, which keeps its pool and its proxies, with bounds."""

    class Client(openai.DefaultHttpxClient):
        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            send = super().send
            return http.send(lambda request: send(request, stream=True, **options), request)

    return Client(follow_redirects=False)


class EndpointEncoder:
    """A model behind ``/v1/embeddings``; the key comes from the environment variable ``OPENAI_API_KEY`` alone.

    Parameters
    ----------
    settings : EncoderSettings
        ``model`` is ``openai:<model>``; ``batch_size`` is the number of texts a request.

    Raises
    ------
    LLMInitError
        If the client is not installed, or OpenAI itself is asked without a key.

    Notes
    -----
    A request that is refused as too large is cut in half, down to one text; a single text is shortened by a quarter
    until it is taken, and counted as truncated.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise LLMInitError(
                f"the encoder {settings.model} needs the openai package: pip install recbole-llminit[openai]"
            ) from error
        self._base_url = resolve_base_url(settings.base_url)
        # A newline at its end, as files of secrets have, is refused by the client with the key in its message.
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and self._base_url == _OPENAI:
            raise LLMInitError(f"the encoder {settings.model} needs a key: set the environment variable OPENAI_API_KEY")
        self._secrets = [secret for secret in (key, repr(key)[1:-1]) if secret]
        seconds = TIMEOUT if settings.timeout is None else settings.timeout
        # httpx2, or httpx for older clients.
        library = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
        self._http = _BoundedHttp(self._base_url, seconds, library.ReadTimeout, self._hide)
        try:
            self._client = openai.OpenAI(
                api_key=key or "none",
                base_url=self._base_url,
                max_retries=_RETRIES,
                # After ours, which says why: this one ends the thread of a try that was given up.
                timeout=2 * seconds,
                default_headers={"Accept-Encoding": "identity"},
                http_client=_bounded_client(openai, self._http),
            )
        except Exception as error:
            said = self._hide(str(error))[:_LONGEST_REASON]
            raise LLMInitError(
                f"the client of {settings.model} cannot be made ({type(error).__name__}: {said}): check llm_base_url, "
                f"and the environment's variables for proxies (HTTPS_PROXY, ...) and certificates (SSL_CERT_FILE, ...)"
            ) from None
        self._errors = openai
        self._model = settings.model.removeprefix(PREFIX)
        self._prompt = settings.prompt or ""
        self._width: int | None = None
        self.batch_size = min(settings.batch_size or _BATCH_SIZE, _TEXTS_PER_REQUEST)
        self.truncated = 0

    @property
    def description(self) -> Mapping[str, Any]:
        """The prompt; everything else is the service's."""
        return {"prompt": self._prompt or None}

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of bytes of each text."""
        return np.array([len(text.encode()) for text in texts], dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector per text, shape ``[n, llm_dim]``, in as many requests as the service's limits ask for.

        Raises
        ------
        LLMInitError
            If the service refuses, cannot be reached after all retries, or answers something else than one vector of
            one width per text.
        """
        return np.concatenate([self._request(part) for part in self._split_by_bytes(texts)])

    def _split_by_bytes(self, texts: Sequence[str]) -> Iterator[list[str]]:
        part: list[str] = []
        size = 0
        for text in texts:
            length = len((self._prompt + text).encode())
            if part and size + length > _BYTES_PER_REQUEST:
                yield part
                part, size = [], 0
            part.append(text)
            size += length
        yield part

    def _request(self, texts: list[str]) -> npt.NDArray[np.float32]:
        self._http.expect(len(texts))
        try:
            # Some servers ignore base64, the client's default; all know floats. Raw: the client makes 1.0 of true.
            answer = self._client.embeddings.with_raw_response.create(
                model=self._model, input=[self._prompt + text for text in texts], encoding_format="float"
            )
            return self._read(json.loads(answer.http_response.content), texts)
        except LLMInitError:
            raise
        except self._errors.APIStatusError as refused:
            error = refused
        except (_Refused, Exception) as failed:
            # Over a strange answer client and parser raise what their insides happen to raise.
            raise self._explain(failed) from None
        # Not every server puts its reason where the client looks for it.
        message = f"{error} {error.response.text}"
        large = error.status_code == 413 or (error.status_code in (400, 422) and bool(_TOO_LARGE.search(message)))
        if large and len(texts) > 1:
            half = (len(texts) + 1) // 2
            if "batch" in message.lower():
                self.batch_size = min(self.batch_size, half)
            return np.concatenate([self._request(texts[:half]), self._request(texts[half:])])
        if large and len(texts[0]) > _SHORTEST_CUT:
            before = self.truncated
            vectors = self._request([texts[0][: len(texts[0]) * 3 // 4]])
            # A text counts once, however often it was shortened.
            self.truncated = before + 1
            return vectors
        raise self._explain(error) from None

    def _read(self, content: Any, texts: list[str]) -> npt.NDArray[np.float32]:
        data = content.get("data") if isinstance(content, dict) else None
        rows = data if isinstance(data, list) and all(map(_has_index, data)) else []
        by_index = {row["index"]: row.get("embedding") for row in rows}
        count = len(texts)
        if len(rows) != count or set(by_index) != set(range(count)):
            raise self._unusable(f"{len(rows)} vectors for {count} texts", "one for each")
        answered = [by_index[index] for index in range(count)]
        strange = [_kind(vector) for vector in answered if not _is_numbers(vector)]
        if strange:
            raise self._unusable(f"{examples(sorted(set(strange)))} instead of a vector", "lists of numbers")
        widths = {len(vector) for vector in answered}
        self._width = self._width or min(widths)
        if widths != {self._width} or 0 in widths:
            raise self._unusable(f"vectors of {sorted(widths)} dimensions, after {self._width}", "one width above 0")
        with np.errstate(over="ignore"):
            vectors = np.array(answered, dtype=np.float64).astype(np.float32)
        for name, broken in (("zeros alone", ~vectors.any(axis=1)), ("NaN or infinite", ~np.isfinite(vectors).all(1))):
            rows = [texts[row][:_SHOWN] for row in np.flatnonzero(broken)]
            if rows:
                answer = f"vectors of {name} for {len(rows):,} of {count:,} texts ({examples(rows)})"
                raise self._unusable(answer, "finite numbers that are not all 0")
        return vectors

    def _unusable(self, answered: str, expected: str) -> LLMInitError:
        return LLMInitError(
            f"{self._base_url} answered {answered}: expected {expected}; nothing of this request is kept, check the "
            f"server and run again to continue"
        )

    def _hide(self, said: str) -> str:
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said

    def _explain(self, error: BaseException) -> LLMInitError:
        """Make an error without the key, which a server may repeat."""
        code = getattr(error, "status_code", None)
        if code == 401:
            return LLMInitError(
                f"{self._base_url} refused the key (401): check the environment variable OPENAI_API_KEY"
            )
        response = getattr(error, "response", None)
        parts = [error, error.__cause__ if response is None else response.text]
        # Hidden before it is cut, which may leave half a key.
        said = [" ".join(self._hide(str(part or "")).split())[:_LONGEST_REASON] for part in parts]
        kind = "" if isinstance(error, _Refused) else f"{type(error).__name__}: "
        return LLMInitError(
            f"{self._base_url} gave no vectors of {self._model} ({kind}{' '.join(said).strip()}): what was encoded is "
            f"kept, run again to continue"
        )


def _has_index(row: Any) -> bool:
    return isinstance(row, dict) and type(row.get("index")) is int


def _is_numbers(vector: Any) -> bool:
    return isinstance(vector, list) and set(map(type, vector)) <= {int, float}


def _kind(vector: Any) -> str:
    if not isinstance(vector, list):
        return type(vector).__name__
    return f"a list with {examples(sorted({type(number).__name__ for number in vector}))}"
