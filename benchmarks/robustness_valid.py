"""Whole files of every kind, small: what the mutations damage, and what the bad inputs lie beside."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from recbole_llminit.cli import main
from recbole_llminit.vectors.shard import append_shard, hash_text

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
TOKENS = [line.split("\t")[0] for line in (DATA / "tiny" / "tiny.item").read_text().splitlines()[1:]]
"""The items of the tiny dataset."""

BASE = f"""dataset: tiny
data_path: {DATA}
load_col: {{inter: [user_id, item_id, timestamp]}}
embedding_size: 16
epochs: 1
train_batch_size: 64
show_progress: False
"""
"""The settings of one short epoch on the tiny dataset."""

METADATA = {"model": "an-encoder", "dtype": "float32", "template": "{title}", "fields": ["title"]}
_ITEMS = 12
_WIDTH = 8


def values(items: int, width: int) -> npt.NDArray[np.float32]:
    """Return the same normal numbers at each call."""
    return np.random.default_rng(0).normal(size=(items, width)).astype(np.float32)


def write_store(folder: Path, tokens: list[str], vectors: npt.NDArray[Any]) -> None:
    """Write a store in two shards, the second one first in the order of the items."""
    half = len(tokens) // 2
    for part in (slice(half, None), slice(None, half)):
        append_shard(folder, tokens[part], [hash_text(token) for token in tokens[part]], vectors[part], METADATA)


def run_settled(folder: Path, *arguments: str) -> None:
    """Run the command in a folder, which this process then stays in, and raise where it fails."""
    os.chdir(folder)
    status = main(list(arguments))
    if status != 0:
        raise RuntimeError(f"exit status {status}: {' '.join(arguments)}")


def train_into(folder: Path, name: str, *arguments: str) -> None:
    """Train for an epoch, and keep the checkpoint, with what stands beside it, under a name."""
    work = folder / f"{name}_work"
    work.mkdir()
    (work / "base.yaml").write_text(BASE)
    run_settled(work, "run", "--config_files=base.yaml", *arguments)
    for path in (work / "saved").iterdir():
        if not path.name.startswith("."):
            path.replace(folder / f"{name}{path.suffix}")


_TOKENS = TOKENS[:_ITEMS]
_VECTORS = values(_ITEMS, _WIDTH)
Writer = Callable[[Path], Path]


def vector_files() -> dict[str, Writer]:
    """Return, for each form of vectors, what writes it into a folder and says which path is read."""
    tensor = torch.from_numpy(_VECTORS.copy())
    by_item = {token: tensor[number].clone() for number, token in enumerate(_TOKENS)}
    both = {"item_id": _TOKENS, "embedding": tensor}
    columns = {f"dim_{number}": _VECTORS[:, number] for number in range(_WIDTH)}
    return {
        "npy, ids txt": _npy(_VECTORS, ".txt"),
        "npy, ids json": _npy(_VECTORS.astype(np.float16), ".json"),
        "npy, ids csv": _npy(np.asfortranarray(_VECTORS.astype(np.float64)), ".csv"),
        "safetensors, matrix": _tensors("v.safetensors", lambda path: save_file({"embedding": tensor}, path), ids=True),
        "safetensors, by item": _tensors("v.safetensors", lambda path: save_file(by_item, path)),
        "pt, matrix": _tensors("v.pt", lambda path: torch.save(tensor, path), ids=True),
        "pt, dictionary": _tensors("v.pt", lambda path: torch.save(both, path)),
        "pt, by item": _tensors("v.pt", lambda path: torch.save(by_item, path)),
        "pt, legacy": _tensors("v.pt", lambda path: torch.save(both, path, _use_new_zipfile_serialization=False)),
        "csv, columns": _text("v.csv", _numbered(",")),
        "csv, lists": _text("v.csv", _lists("item_id,embedding", '"[', ", ", ']"')),
        "tsv, columns": _text("v.tsv", _numbered("\t")),
        "parquet, lists": _parquet({"item_id": _TOKENS, "embedding": _VECTORS.tolist()}),
        "parquet, columns": _parquet({"item_id": _TOKENS, **columns}),
        "itememb": _text("v.itememb", _lists("item_id:token\tvector:float_seq", "", " ", "")),
        "item": _text("v.item", _lists("item_id:token\tllm_embedding:float_seq", '"[', ", ", ']"')),
        "store": _store,
        "parquet folder": _parquet_folder,
    }


def _npy(matrix: npt.NDArray[Any], suffix: str) -> Writer:
    rows = "".join(f"{token},{number}\n" for number, token in enumerate(_TOKENS))
    ids = {".txt": "\n".join(_TOKENS) + "\n", ".json": json.dumps(_TOKENS), ".csv": f"item_id,n\n{rows}"}

    def write(folder: Path) -> Path:
        np.save(folder / "v.npy", matrix)
        (folder / f"v{suffix}").write_text(ids[suffix])
        return folder / "v.npy"

    return write


def _tensors(name: str, save: Callable[[Path], None], *, ids: bool = False) -> Writer:
    def write(folder: Path) -> Path:
        save(folder / name)
        if ids:
            (folder / "v.txt").write_text("\n".join(_TOKENS))
        return folder / name

    return write


def _text(name: str, content: str) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def _numbered(separator: str) -> str:
    """Return a table with a column for each number."""
    lines = [["item_id", *(f"dim_{number}" for number in range(_WIDTH))]]
    lines += [[token, *map(str, row)] for token, row in zip(_TOKENS, _VECTORS, strict=True)]
    return "".join(separator.join(line) + "\n" for line in lines)


def _lists(header: str, opening: str, between: str, closing: str) -> str:
    """Return a table with a column of lists."""
    separator = "\t" if "\t" in header else ","
    cells = [f"{opening}{between.join(map(str, row))}{closing}" for row in _VECTORS]
    return (
        "\n".join([header, *(f"{token}{separator}{cell}" for token, cell in zip(_TOKENS, cells, strict=True))]) + "\n"
    )


def _parquet(columns: dict[str, Any]) -> Writer:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "v.parquet")
        return folder / "v.parquet"

    return write


def _store(folder: Path) -> Path:
    write_store(folder / "store", _TOKENS, _VECTORS)
    return folder / "store"


def _parquet_folder(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for part in (slice(0, 7), slice(7, None)):
        columns = {"item_id": _TOKENS[part], "embedding": _VECTORS[part].tolist()}
        pq.write_table(pa.table(columns), folder / "parts" / f"part-{part.start}.parquet")
    return folder / "parts"


def text_files() -> dict[str, Writer]:
    """Return the same for each form of item texts."""
    titles = [f"Green tea &amp; cup number {number}" for number in range(_ITEMS)]
    frame = pd.DataFrame({"item_id": _TOKENS, "title": titles, "brand": ["Acme", "Tea House"] * (_ITEMS // 2)})
    item = frame.rename(columns={"item_id": "item_id:token", "title": "title:token_seq", "brand": "brand:token"})

    def parquet(folder: Path) -> Path:
        frame.to_parquet(folder / "t.parquet", index=False)
        return folder / "t.parquet"

    return {
        "texts item": _text("t.item", item.to_csv(sep="\t", index=False)),
        "texts csv": _text("t.csv", frame.to_csv(index=False)),
        "texts tsv": _text("t.tsv", frame.to_csv(sep="\t", index=False)),
        "texts jsonl": _text("t.jsonl", frame.to_json(orient="records", lines=True)),
        "texts item.gz": _gzipped("t.item.gz", item.to_csv(sep="\t", index=False)),
        "texts csv.gz": _gzipped("t.csv.gz", frame.to_csv(index=False)),
        "texts parquet": parquet,
    }


def _gzipped(name: str, content: str) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(gzip.compress(content.encode()))
        return folder / name

    return write


def write_cache(folder: Path) -> None:
    """Write a cache folder with two stores of the tiny dataset."""
    for name in ("one", "two"):
        write_store(folder / "tiny" / name, TOKENS[:_ITEMS], values(_ITEMS, _WIDTH))


def write_comparison(folder: Path) -> None:
    """Run a small comparison of BPR, with its report, into ``folder / "comparison"``."""
    (folder / "base.yaml").write_text(BASE)
    write_store(folder / "store", TOKENS, values(len(TOKENS), 80))
    arguments = ("--models=BPR", "--strategies=none,var", "--controls=noise", "--baselines=none", "--seeds=1")
    with contextlib.redirect_stdout(io.StringIO()):
        run_settled(
            folder, "compare", "--config_files=base.yaml", *arguments, f"--llm_embedding={folder / 'store'}", "--jobs=2"
        )


def write_checkpoints(folder: Path) -> None:
    """Train BPR, LightGCN from vectors and a wide BPR, an epoch each: ``bpr.pth``, ``lightgcn.pth``, ``wide.pth``."""
    write_store(folder / "store", TOKENS, values(len(TOKENS), 80))
    vectors = ("--init_strategy=var", f"--llm_embedding={folder / 'store'}")
    train_into(folder, "bpr", "--model=BPR")
    train_into(folder, "lightgcn", "--model=LightGCN", *vectors)
    train_into(folder, "wide", "--model=BPR", "--embedding_size=256")
