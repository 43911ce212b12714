"""The text encoder behind an OpenAI-compatible endpoint: OpenAI, vLLM, Text Embeddings Inference, Ollama.

The official client is imported when an encoder is made, not before. It repeats a request, with growing pauses, after a
refused connection and after the statuses 408, 409, 429 and 5xx. `BoundedHttp` sends what it sends.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from recbole_llminit.encode.encoder import EncoderSettings
from recbole_llminit.encode.endpoint_http import BoundedHttp, UnacceptableAnswer, make_bounded_client
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.tokens import examples

PREFIX = "openai:"
"""How ``llm_encoder`` begins for a model behind an endpoint."""

TIMEOUT = 120.0
"""The seconds that one attempt at a request may take where ``llm_timeout`` is not set."""

_OPENAI_URL = "https://api.openai.com/v1"
_BATCH_SIZE = 256
_RETRIES = 8
# OpenAI takes 300,000 tokens and 2,048 texts a request; a token is at least one byte.
_BYTES_PER_REQUEST = 250_000
_TEXTS_PER_REQUEST = 2048
_SHORTEST_CUT = 16
_LONGEST_REASON = 500
_SHOWN_CHARACTERS = 40
_TOO_LARGE = re.compile("token|length|batch|too (long|large|many)|exceed", re.IGNORECASE)


def resolve_base_url(base_url: str | None) -> str:
    """Return the address of the endpoint: the one given, else ``OPENAI_BASE_URL``, else OpenAI's.

    Raises
    ------
    LLMInitError
        If it is no http address, or holds credentials, which would be stored with the vectors.
    """
    url = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL).strip().rstrip("/")
    if "@" in url or "?" in url:
        raise LLMInitError(
            "llm_base_url holds a user name, a password or parameters, which would be stored with the vectors: leave "
            "them out, and put the key into the environment variable OPENAI_API_KEY"
        )
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError as error:
        raise LLMInitError(f"llm_base_url is {url!r} ({error}): expected e.g. http://localhost:8000/v1") from None
    if not valid:
        raise LLMInitError(f"llm_base_url is {url!r}: expected an address such as http://localhost:8000/v1")
    return url


class EndpointEncoder:
    """A model behind ``/v1/embeddings``; the key is read from the environment variable ``OPENAI_API_KEY`` alone.

    Parameters
    ----------
    settings : EncoderSettings
        ``model`` is ``openai:<model>``; ``batch_size`` is the number of texts per request.

    Raises
    ------
    LLMInitError
        If the client is not installed or cannot be made, or OpenAI itself is asked without a key.

    Notes
    -----
    A request that the service refuses as too large is cut in half, down to one text. A single text is shortened by a
    quarter until the service takes it, and is counted as truncated.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise LLMInitError(
                f"the encoder {settings.model} needs the openai package: pip install recbole-llminit[openai]"
            ) from error
        self._base_url = resolve_base_url(settings.base_url)
        # Files of secrets end with a newline, which the client would refuse with the key in its message.
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and self._base_url == _OPENAI_URL:
            raise LLMInitError(f"the encoder {settings.model} needs a key: set the environment variable OPENAI_API_KEY")
        self._secrets = [secret for secret in (key, repr(key)[1:-1]) if secret]
        self._openai = openai
        self._model = settings.model.removeprefix(PREFIX)
        self._prompt = settings.prompt or ""
        self._width: int | None = None
        self._http, self._client = self._connect(settings, key)
        self.batch_size = min(settings.batch_size or _BATCH_SIZE, _TEXTS_PER_REQUEST)
        self.truncated = 0

    def _connect(self, settings: EncoderSettings, key: str) -> tuple[BoundedHttp, Any]:
        """Make the client, and the bounded HTTP below it; nothing is sent yet."""
        openai = self._openai
        seconds = TIMEOUT if settings.timeout is None else settings.timeout
        # httpx2, or httpx for older clients.
        library = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
        http = BoundedHttp(self._base_url, seconds, _RETRIES, library.ReadTimeout, self._hide_key)
        try:
            client = openai.OpenAI(
                api_key=key or "none",
                base_url=self._base_url,
                max_retries=_RETRIES,
                # Longer than our time limit, which explains itself: this one ends the thread of an abandoned attempt.
                timeout=2 * seconds,
                default_headers={"Accept-Encoding": "identity"},
                http_client=make_bounded_client(openai, http),
            )
        except Exception as error:
            message = self._hide_key(str(error))[:_LONGEST_REASON]
            raise LLMInitError(
                f"the client of {settings.model} cannot be made ({type(error).__name__}: {message}): check "
                f"llm_base_url, and the environment's variables for proxies (HTTPS_PROXY, ...) and certificates "
                f"(SSL_CERT_FILE, ...)"
            ) from None
        return http, client

    @property
    def description(self) -> Mapping[str, Any]:
        """The prompt; the service decides everything else."""
        return {"prompt": self._prompt or None}

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of bytes of each text."""
        return np.array([len(text.encode()) for text in texts], dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector per text, shape ``[n, llm_dim]``, in as many requests as the service's limits require.

        Raises
        ------
        LLMInitError
            If the service refuses the texts, cannot be reached after all retries, or does not answer with one vector
            per text, all of one width.
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
            # Floats: some servers ignore base64, the client's default. The raw response: the client reads true as 1.0.
            answer = self._client.embeddings.with_raw_response.create(
                model=self._model, input=[self._prompt + text for text in texts], encoding_format="float"
            )
            return self._read_answer(json.loads(answer.http_response.content), texts)
        except LLMInitError:
            raise
        except self._openai.APIStatusError as refused:
            error = refused
        except (UnacceptableAnswer, Exception) as failed:
            # Over a malformed answer the client and the parser raise exceptions of any type.
            raise self._explain(failed) from None
        # Not every server puts its reason where the client looks for it.
        message = f"{error} {error.response.text}"
        too_large = error.status_code == 413 or (error.status_code in (400, 422) and _TOO_LARGE.search(message))
        if not too_large or (len(texts) == 1 and len(texts[0]) <= _SHORTEST_CUT):
            raise self._explain(error) from None
        return self._request_smaller(texts, of_the_batch="batch" in message.lower())

    def _request_smaller(self, texts: list[str], *, of_the_batch: bool) -> npt.NDArray[np.float32]:
        """Repeat a request that was too large in two halves, or a single text shortened by a quarter.

        Parameters
        ----------
        texts : list of str
            The texts of the request.
        of_the_batch : bool
            Whether the service's reason names the batch: later requests are then no larger than the halves.
        """
        if len(texts) > 1:
            half = (len(texts) + 1) // 2
            if of_the_batch:
                self.batch_size = min(self.batch_size, half)
            return np.concatenate([self._request(texts[:half]), self._request(texts[half:])])
        before = self.truncated
        vectors = self._request([texts[0][: len(texts[0]) * 3 // 4]])
        # A text counts once, however often it was shortened.
        self.truncated = before + 1
        return vectors

    def _read_answer(self, content: Any, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return the vectors of an answer in the order of the texts; raise where one is missing or unusable."""
        data = content.get("data") if isinstance(content, dict) else None
        rows = data if isinstance(data, list) and all(map(_has_index, data)) else []
        by_index = {row["index"]: row.get("embedding") for row in rows}
        count = len(texts)
        if len(rows) != count or set(by_index) != set(range(count)):
            raise self._unusable(f"{len(rows)} vectors for {count} texts", "one for each")
        vectors = [by_index[index] for index in range(count)]
        wrong_types = {_describe_type(vector) for vector in vectors if not _is_list_of_numbers(vector)}
        if wrong_types:
            raise self._unusable(f"{examples(sorted(wrong_types))} instead of a vector", "lists of numbers")
        widths = {len(vector) for vector in vectors}
        self._width = self._width or min(widths)
        if widths != {self._width} or 0 in widths:
            raise self._unusable(f"vectors of {sorted(widths)} dimensions, after {self._width}", "one width above 0")
        return self._as_array(vectors, texts)

    def _as_array(self, vectors: list[list[float]], texts: list[str]) -> npt.NDArray[np.float32]:
        """Return the vectors as an array; raise where one holds only zeros, or NaN or infinity."""
        with np.errstate(over="ignore"):
            array = np.array(vectors, dtype=np.float64).astype(np.float32)
        only_zeros, not_finite = ~array.any(axis=1), ~np.isfinite(array).all(axis=1)
        for kind, broken in (("zeros alone", only_zeros), ("NaN or infinite", not_finite)):
            of_texts = [texts[row][:_SHOWN_CHARACTERS] for row in np.flatnonzero(broken)]
            if of_texts:
                answer = f"vectors of {kind} for {len(of_texts):,} of {len(texts):,} texts ({examples(of_texts)})"
                raise self._unusable(answer, "finite numbers that are not all 0")
        return array

    def _unusable(self, answer: str, expected: str) -> LLMInitError:
        return LLMInitError(
            f"{self._base_url} answered {answer}: expected {expected}; nothing of this request is kept, check the "
            f"server and run again to continue"
        )

    def _hide_key(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _explain(self, error: BaseException) -> LLMInitError:
        """Return the error of a request that failed, without the key, which a server may repeat."""
        if getattr(error, "status_code", None) == 401:
            return LLMInitError(
                f"{self._base_url} refused the key (401): check the environment variable OPENAI_API_KEY"
            )
        response = getattr(error, "response", None)
        parts = [error, error.__cause__ if response is None else response.text]
        # The key is hidden before the text is shortened, which could leave half of it.
        reasons = [" ".join(self._hide_key(str(part or "")).split())[:_LONGEST_REASON] for part in parts]
        kind = "" if isinstance(error, UnacceptableAnswer) else f"{type(error).__name__}: "
        return LLMInitError(
            f"{self._base_url} gave no vectors of {self._model} ({kind}{' '.join(reasons).strip()}): what was encoded "
            f"is kept, run again to continue"
        )


def _has_index(row: Any) -> bool:
    return isinstance(row, dict) and type(row.get("index")) is int


def _is_list_of_numbers(vector: Any) -> bool:
    return isinstance(vector, list) and set(map(type, vector)) <= {int, float}


def _describe_type(vector: Any) -> str:
    if not isinstance(vector, list):
        return type(vector).__name__
    return f"a list with {examples(sorted({type(number).__name__ for number in vector}))}"
