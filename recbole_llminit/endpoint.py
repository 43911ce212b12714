"""Text encoders behind an OpenAI-compatible endpoint: OpenAI, vLLM, Text Embeddings Inference, Ollama.

The official client is imported when an encoder is made, not before. It retries refused connections, 408, 409, 429 and
5xx with growing pauses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from recbole_llminit.encoder import EncoderSettings
from recbole_llminit.errors import LLMInitError

PREFIX = "openai:"

_OPENAI = "https://api.openai.com/v1"
_BATCH_SIZE = 256
_RETRIES = 8
# OpenAI takes 300,000 tokens and 2,048 texts a request; a token is a byte at least.
_BYTES_PER_REQUEST = 250_000
_TEXTS_PER_REQUEST = 2048
_SHORTEST_CUT = 16
_LONGEST_REASON = 500
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
    except ValueError as error:
        raise LLMInitError(f"llm_base_url is {url!r} ({error}): expected e.g. http://localhost:8000/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LLMInitError(f"llm_base_url is {url!r}: expected an address such as http://localhost:8000/v1")
    return url


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
        self._client = openai.OpenAI(api_key=key or "none", base_url=self._base_url, max_retries=_RETRIES)
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
        try:
            # Some servers ignore base64, the client's default; all know floats.
            response = self._client.embeddings.create(
                model=self._model, input=[self._prompt + text for text in texts], encoding_format="float"
            )
            return self._read(response, len(texts))
        except self._errors.APIStatusError as refused:
            error = refused
        except (self._errors.OpenAIError, ValueError, TypeError, AttributeError) as failed:
            if isinstance(failed, LLMInitError):
                raise
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

    def _read(self, response: Any, count: int) -> npt.NDArray[np.float32]:
        rows = response.data if isinstance(getattr(response, "data", None), list) else []
        by_index = {row.index: row.embedding for row in rows}
        if len(rows) != count or set(by_index) != set(range(count)):
            raise LLMInitError(
                f"{self._base_url} answered {len(rows)} vectors for {count} texts: expected one for each; nothing of "
                f"this request is kept, check the server and run again to continue"
            )
        widths = {len(vector) for vector in by_index.values()}
        self._width = self._width or min(widths)
        if widths != {self._width}:
            raise LLMInitError(
                f"{self._base_url} answered vectors of {sorted(widths)} dimensions, after {self._width}: expected one "
                f"width, check the server and run again to continue"
            )
        return np.array([by_index[index] for index in range(count)], dtype=np.float32)

    def _explain(self, error: Exception) -> LLMInitError:
        """Make an error without the key, which a server may repeat."""
        code = getattr(error, "status_code", None)
        if code == 401:
            return LLMInitError(
                f"{self._base_url} refused the key (401): check the environment variable OPENAI_API_KEY"
            )
        response = getattr(error, "response", None)
        more = error.__cause__ if response is None else response.text[:_LONGEST_REASON]
        said = f"{error} {more or ''}"
        for secret in self._secrets:
            said = said.replace(secret, "***")
        reason = f"{type(error).__name__}: {' '.join(said.split())}"
        return LLMInitError(
            f"{self._base_url} gave no vectors of {self._model} ({reason}): what was encoded is kept, run again to "
            f"continue"
        )
