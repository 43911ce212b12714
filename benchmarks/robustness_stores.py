"""Bad stores, and services that misbehave while item texts are encoded."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from robustness_cases import CANARY, Case, Expected, command, run
from robustness_making import Vectors, flipped, gzip_bomb, numbers
from robustness_valid import METADATA, TOKENS
from robustness_values import FROM_VECTORS
from robustness_vectors import changed

from recbole_llminit.cli import main
from recbole_llminit.vectors.shard import append_shard, hash_text
from recbole_llminit.vectors.store import read_rows


def cases() -> Iterator[Case]:
    """Yield the table."""
    yield from _stores()
    yield from _endpoints()


# What stands in the place of a store's metadata.
_METADATA: Mapping[str, bytes | None] = {
    "{oops": b"{oops",
    "[]": b"[]",
    "null": b"null",
    "5": b"5",
    "not UTF-8": b"\xff\xfe",
    "no facts": b'{"format": 1, "fingerprint": "0"}',
    "no fingerprint": b'{"format": 1, "facts": {}}',
    "facts a list": b'{"format": 1, "fingerprint": "0", "facts": []}',
    "facts null": b'{"format": 1, "fingerprint": "0", "facts": null}',
    "facts of other types": b'{"format": 1, "fingerprint": 5, "facts": {"model": [], "template": {}, "dtype": 7}}',
    "format a text": b'{"format": "x", "fingerprint": "0", "facts": {}}',
    "deeply nested": b"[" * 100_000,
    "a newer format": json.dumps({"format": 2, "fingerprint": "0" * 16, "facts": METADATA}).encode(),
    "none": None,
}
_ENDPOINT = (
    "encode",
    "--config_files=base.yaml",
    "--llm_encoder=openai:x",
    "--llm_cache_dir=own",
    "--show_progress=False",
)


def _stores() -> Iterator[Case]:
    group = "store"
    dry = ("encode", "--config_files=base.yaml", "--llm_cache_dir=cache", "--dry-run")
    for what, content in _METADATA.items():
        # It is named and passed over, and the other is listed.
        for arguments in (("stores", "--llm_cache_dir=cache"), dry):
            prepare = _metadata("cache/tiny/one", content)
            made = command(group, *arguments, expected="right", prepare=prepare)
            yield replace(made, what=f"{arguments[0]}, metadata {what}")
        # A folder without metadata is somebody else's, in the same form.
        expected: Expected = "right" if what == "none" else "error" if what == "a newer format" else "either"
        read = run(group, *FROM_VECTORS, expected=expected, names="store")
        exported = command(group, "stores", "--export", "store", "x.npy", expected=expected)
        for name, made in (("run", read), ("export", exported)):
            yield replace(made, what=f"{name}, metadata {what}", prepare=_metadata("store", content))
    for what, number in (("NaN", np.nan), ("infinities", np.inf)):
        for suffix in ("npy", "parquet"):
            made = command(group, "stores", "--export", "store", f"x.{suffix}", names="NaN|inf", spoiled=_left)
            yield replace(
                made, what=f"export to {suffix}, a shard of {what}", prepare=_raw_shard(changed((3, 5), number))
            )
    for name in ("a_file", "/dev/null", "x" * 300, "/proc"):
        yield command(group, "stores", f"--llm_cache_dir={name}", expected="either")
    for number in range(12):
        prepare = flipped("cache/tiny/one/part-00000.arrow", number + 100)
        made = command(group, "stores", "--llm_cache_dir=cache", expected="right", prepare=prepare)
        yield replace(made, what=f"stores, a byte of a shard flipped, {number}")


def _left(place: Path) -> str:
    return "left a file" if list(place.glob("x.*")) else ""


def _endpoints() -> Iterator[Case]:
    """Yield services that misbehave; what they answer is kept to this machine."""
    group = "endpoint"
    for what in (
        "right", "never answers", "trickles", "endless body", "endless header", "gzip bomb", "empty vectors", "zeros",
        "strings", "booleans", "nulls", "NaN", "1e39", "ragged", "nested", "fewer", "not JSON", "deep JSON", "a list",
        "redirect elsewhere", "redirect to itself", "401", "404",
    ):  # fmt: skip
        expected: Expected = "right" if what == "right" else "error"
        yield Case(group, f"encode, {what}", functools.partial(_encode_from, what), expected, names="127.0.0.1")
    deleted = functools.partial(_encode_from, "deletes the cache")
    yield Case(group, "a cache deleted while encode runs", deleted, "either")
    yield Case(group, "encode into a store of a newer format", _encode_newer, "either", spoiled=_newer_is_kept)


def _encode_from(kind: str) -> int:
    """Encode the tiny dataset with a service on this machine that behaves in some way."""
    with _service(kind) as url:
        limit = [] if kind in ("right", "deletes the cache") else ["--llm_timeout=1"]
        status = main([*_ENDPOINT, f"--llm_base_url={url}", "--llm_batch_size=4", *limit])
    stores = list(Path("own/tiny").glob("*/")) if status == 0 else []
    if status == 0 and sum(len(read_rows(store)) for store in stores) != len(TOKENS):
        sys.stderr.write("it says that all is well, and the store does not hold all items\n")
        return 1
    return status


def _encode_newer() -> int:
    with _service("right") as url:
        arguments = [*_ENDPOINT, f"--llm_base_url={url}"]
        if main(arguments) != 0:
            raise RuntimeError("the first run failed")
        (store,) = Path("own/tiny").iterdir()
        shard = next(store.glob("*.arrow"))
        with pa.memory_map(str(shard)) as source:
            found = json.loads(pa.ipc.open_file(source).schema.metadata[b"recbole_llminit"])
        _metadata(str(store), json.dumps({**found, "format": 2}).encode())()
        Path("newer").write_bytes(shard.read_bytes())
        Path("name").write_text(str(shard))
        return main(arguments)


def _newer_is_kept(place: Path) -> str:
    if not (place / "name").exists():
        return "there was no first store"
    shard = place / (place / "name").read_text()
    kept = shard.exists() and shard.read_bytes() == (place / "newer").read_bytes()
    return "" if kept else "the newer store was rewritten"


@contextlib.contextmanager
def _service(kind: str) -> Iterator[str]:
    """Serve on this machine, and on a second address of it, to which nothing may be sent."""
    os.environ.pop("OPENAI_API_KEY", None)
    elsewhere = ThreadingHTTPServer(("127.0.0.2", 0), _handler("right", "", leak=True))
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), _handler(kind, f"http://127.0.0.2:{elsewhere.server_port}/v1/embeddings")
    )
    for each in (elsewhere, server):
        each.daemon_threads = True
        threading.Thread(target=each.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"


def _handler(kind: str, elsewhere: str, leak: bool = False) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
            if leak:
                Path(CANARY).write_text("the texts were sent to another host")
            if kind == "deletes the cache":
                shutil.rmtree("own/tiny", ignore_errors=True)
            with contextlib.suppress(OSError):
                _answer(self, kind, elsewhere, len(texts))

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


_ROWS: Mapping[str, list[Any]] = {
    "empty vectors": [],
    "zeros": [0.0] * 16,
    "strings": ["0.1"] * 16,
    "booleans": [True] * 16,
    "nulls": [None] * 16,
    "NaN": [float("nan")] * 16,
    "1e39": [1e39] * 16,
    "nested": [[0.1]] * 16,
}
_BODIES: Mapping[str, bytes] = {"not JSON": b"{oops", "deep JSON": b"[" * 1_000_000, "a list": b"[1, 2]"}


def _body(kind: str, count: int) -> bytes:
    """Return the answer to a request for some vectors."""
    if kind in _BODIES:
        return _BODIES[kind]
    rows = [_ROWS.get(kind, np.random.default_rng(n).normal(size=16).tolist()) for n in range(count)]
    if kind == "ragged":
        rows[0] = rows[0][:5]
    data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    content = {"object": "list", "data": data[1:] if kind == "fewer" else data, "model": "x", "usage": usage}
    return json.dumps(content).encode()


def _answer(handler: BaseHTTPRequestHandler, kind: str, elsewhere: str, count: int) -> None:
    if kind == "never answers":
        time.sleep(300)
    if kind.startswith("redirect"):
        handler.send_response(307)
        handler.send_header("Location", elsewhere if kind == "redirect elsewhere" else handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(int(kind) if kind.isdigit() else 200)
    handler.send_header("Content-Type", "application/json")
    while kind == "endless header":
        handler.send_header("X", "x" * 1000)
        handler.flush_headers()
    body = gzip_bomb() if kind == "gzip bomb" else _body(kind, count)
    if kind == "gzip bomb":
        handler.send_header("Content-Encoding", "gzip")
    if kind != "endless body":
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    while kind == "endless body":
        handler.wfile.write(b'[[["' * 10_000)
    while kind == "trickles" and body:
        handler.wfile.write(body[:1])
        body = body[1:]
        time.sleep(0.5)
    handler.wfile.write(body)


def _metadata(folder: str, content: bytes | None) -> Callable[[], None]:
    """Return what puts other bytes into the place of the metadata of all shards of a store."""

    def write() -> None:
        for path in Path(folder).glob("*.arrow"):
            table = pa.ipc.open_file(io.BytesIO(path.read_bytes())).read_all()
            table = table.replace_schema_metadata(None if content is None else {b"recbole_llminit": content})
            path.unlink()
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)

    return write


def _raw_shard(vectors: Vectors) -> Callable[[], None]:
    """Return what makes a store of one shard, with vectors that this package's writer refuses."""

    def write() -> None:
        shutil.rmtree("store")
        path = append_shard("store", TOKENS, [hash_text(token) for token in TOKENS], numbers(), METADATA)
        schema = pa.ipc.open_file(io.BytesIO(path.read_bytes())).schema
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        embedding = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
        path.unlink()
        with pa.ipc.new_file(str(path), schema) as writer:
            writer.write_batch(pa.record_batch([pa.array(TOKENS), pa.array(TOKENS), embedding], schema=schema))

    return write
