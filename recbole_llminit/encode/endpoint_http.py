"""The bounded HTTP client of an endpoint: a server cannot hold a run for ever, fill its memory, or redirect the texts.

`BoundedHttp` sends the requests of the official OpenAI client. Each attempt is limited in time, each answer in size,
and only redirects to the same server are followed.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# 65,536 dimensions of 32 characters; the largest models have 8,192.
_BYTES_PER_VECTOR = 2 << 20
_BYTES_PER_ANSWER = 256 << 20
_SECONDS_BETWEEN_LOG_LINES = 10.0
_MAX_REDIRECTS = 5

_logger = logging.getLogger(__name__)


class UnacceptableAnswer(BaseException):
    """An answer that another attempt would not improve.

    It is no `Exception`: the client may repeat a request after each of those.
    """


class BoundedHttp:
    """Send the client's requests, each attempt within a time limit and each answer within a size limit.

    An attempt runs in a thread, so that the time limit holds for all of it: the look-up of the host, the headers and
    the body, however small the pieces in which they come. The thread of an attempt that was given up ends at the next
    piece.

    Parameters
    ----------
    url : str
        The endpoint, for messages.
    seconds : float
        The time limit of one attempt.
    retries : int
        How often the client repeats a request, for messages.
    timeout_error : type
        The exception that the client treats as a timeout: the HTTP library's own.
    hide_key : callable
        Returns a text without the key.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        retries: int,
        timeout_error: type[Exception],
        hide_key: Callable[[str], str],
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._retries = retries
        self._timeout_error = timeout_error
        self._hide_key = hide_key
        self._byte_limit = _BYTES_PER_ANSWER
        self._attempts = 0
        self._failure = ""

    def expect(self, n_vectors: int) -> None:
        """Begin a request for a number of vectors: set the size limit, and count its attempts from one."""
        self._byte_limit = min(_BYTES_PER_ANSWER, (n_vectors + 1) * _BYTES_PER_VECTOR)
        self._attempts = 0

    def send(self, send: Callable[[Any], Any], request: Any) -> Any:
        """Make one attempt and return its whole answer.

        Parameters
        ----------
        send : callable
            Sends a request and returns the response with its body unread; it follows no redirect.
        request : httpx.Request
            The client's request.

        Raises
        ------
        UnacceptableAnswer
            If the answer is too large, compressed, or redirects to another server.
        Exception
            What the HTTP library raises; its timeout where the time limit is over.
        """
        self._attempts += 1
        if self._attempts > 1:
            _logger.warning(f"{self._url}: try {self._attempts} of {self._retries + 1}, after {self._failure}")
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        given_up = threading.Event()
        threading.Thread(target=self._attempt, args=(send, request, answers, given_up), daemon=True).start()
        try:
            answer = self._wait(answers)
        finally:
            given_up.set()
        if isinstance(answer, BaseException):
            self._failure = self._hide_key(f"{type(answer).__name__} ({answer})")
            raise answer
        self._failure = f"status {answer.status_code} {answer.reason_phrase}"
        if "retry-after" in answer.headers:
            _logger.info(f"{self._url}: {self._failure}, Retry-After: {answer.headers['retry-after'][:40]}")
        return answer

    def _wait(self, answers: queue.SimpleQueue[Any]) -> Any:
        """Return what the thread reports, else a timeout; log a line every few seconds while waiting."""
        began = time.monotonic()
        waited = 0.0
        while waited < self._seconds:
            if waited:
                _logger.info(
                    f"{self._url}: no answer for {waited:.0f} s, waiting for at most {self._seconds:g} s (llm_timeout)"
                )
            with contextlib.suppress(queue.Empty):
                return answers.get(timeout=min(self._seconds - waited, _SECONDS_BETWEEN_LOG_LINES))
            waited = time.monotonic() - began
        return self._timeout_error(
            f"no whole answer within {self._seconds:g} s: check the server, or set a longer llm_timeout"
        )

    def _attempt(
        self,
        send: Callable[[Any], Any],
        request: Any,
        answers: queue.SimpleQueue[Any],
        given_up: threading.Event,
    ) -> None:
        """Put the whole answer, or what was raised, into the queue."""
        try:
            response = self._follow_redirects(send, request)
            with contextlib.closing(response):
                body = b"".join(self._read_pieces(response, given_up))
            answers.put(
                type(response)(response.status_code, headers=response.headers, content=body, request=response.request)
            )
        except BaseException as error:
            # Raised again in the thread that waits.
            answers.put(error)

    def _read_pieces(self, response: Any, given_up: threading.Event) -> Iterator[bytes]:
        coding = response.headers.get("content-encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            raise UnacceptableAnswer(
                f"it answers in the compressed form {coding[:40]!r}, and plain text was asked for: have the server "
                f"or the proxy before it send no compressed answers"
            )
        size = 0
        for piece in response.iter_raw():
            size += len(piece)
            if given_up.is_set():
                return
            if size > self._byte_limit:
                raise UnacceptableAnswer(
                    f"its answer is larger than {self._byte_limit >> 20:,} MiB, more than the vectors asked for can "
                    f"be: check the server, or set a smaller llm_batch_size"
                )
            yield piece

    def _follow_redirects(self, send: Callable[[Any], Any], request: Any) -> Any:
        """Send a request, and send it again where the same server redirects; no other server is sent the texts."""
        for _ in range(_MAX_REDIRECTS):
            response = send(request)
            target = response.next_request
            if target is None:
                return response
            response.close()
            if _origin(target.url) != _origin(request.url):
                raise UnacceptableAnswer(
                    f"{_origin(request.url)} redirects to {_origin(target.url)}, which would be sent the item texts: "
                    f"if that is where they are meant to go, set llm_base_url to its address"
                )
            request = target
        raise UnacceptableAnswer(f"it redirects more than {_MAX_REDIRECTS} times: check the server and llm_base_url")


def make_bounded_client(openai: Any, http: BoundedHttp) -> Any:
    """Return the OpenAI client's own HTTP client, with its pool and its proxies, whose requests `BoundedHttp` sends."""

    class Client(openai.DefaultHttpxClient):
        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            send = super().send
            return http.send(lambda request: send(request, stream=True, **options), request)

    return Client(follow_redirects=False)


def _origin(url: Any) -> str:
    return f"{url.scheme}://{url.host}{'' if url.port is None else f':{url.port}'}"
