"""What is read: the whole files of every form, and the readers of the package that damaged ones are given to."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from robustness_valid import (
    BASE,
    DATA,
    TOKENS,
    text_files,
    vector_files,
    write_cache,
)

from recbole_llminit import load_data_and_model, read_embeddings
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.trial import read_trial
from recbole_llminit.encode.dataset_texts import read_texts
from recbole_llminit.encode.item_text import read_item_texts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.checkpoints.reader import read_checkpoint
from recbole_llminit.integration.config import Config
from recbole_llminit.settings import read_settings
from recbole_llminit.vectors.cache import describe_stores, list_stores
from recbole_llminit.vectors.export import export_embeddings
from recbole_llminit.vectors.store import compact, read_rows

_MORE = """eval_args: {split: {RS: [0.8, 0.1, 0.1]}, order: RO, mode: full}
metrics: [Recall, NDCG]
valid_metric: "Recall@10"
init_strategy: var
init_args:
  popular_ratio: 0.5
init_tables: {item: [item_embedding.weight]}
llm_embedding: ~/v.npy
"""


@dataclass(frozen=True)
class Subject:
    """Something that is read.

    Parameters
    ----------
    name : str
        The reader, and the form of its files.
    write : callable
        Writes whole files into a folder.
    read : callable
        Reads them.
    share : float
        How many of all files are for it, beside the others' shares.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    share: float


def subjects(made: Path) -> list[Subject]:
    """Return what is read; ``made`` has checkpoints and a comparison."""
    found = [
        Subject(f"vectors: {form}", write, lambda path: _read_vectors(path), 1300)
        for form, write in vector_files().items()
    ]
    found += [Subject(form, write, lambda path: read_item_texts(path), 1000) for form, write in text_files().items()]
    found += [
        Subject("texts and ids of the dataset", _write_dataset, _read_dataset_texts, 800),
        Subject("settings: YAML", _write_settings, lambda path: read_settings([path], ["--epochs=3"]), 4000),
        Subject("settings: Config", _write_settings, lambda path: Config("BPR", "tiny", [path]), 800),
        Subject("store: list", write_cache, _list, 1700),
        Subject("store: rows, compact", write_cache, _compact, 1700),
        Subject("store: export", write_cache, _export, 1700),
    ]
    for name in ("bpr", "lightgcn"):
        write = _copying(made / "write_checkpoints", f"{name}.*")
        found.append(
            Subject(f"checkpoint: {name}", write, lambda path: read_checkpoint(next(path.glob("*.pth"))), 2000)
        )
        found.append(Subject(f"checkpoint, data and model: {name}", write, _load_all, 200))
    comparison = made / "write_comparison" / "comparison"
    found.append(Subject("trial", _copying(comparison / "trials", "*var*"), _read_trial, 3000))
    found.append(Subject("report", _copying(comparison, "*"), Report.read, 600))
    return found


def _read_vectors(path: Path) -> None:
    found = read_embeddings(path)
    found.tokens.to_pylist()
    found.take(np.arange(len(found.tokens)))
    aligned = found.align(["[PAD]", *TOKENS[:12]], "tiny")
    for items, block in aligned.blocks():
        if block.shape != (len(items), found.width) or not np.isfinite(block).all():
            raise AssertionError(f"a block of shape {block.shape}, or with NaN")


def _read_dataset_texts(path: Path) -> None:
    arguments = [f"--data_path={path}", f"--llm_text_file={path / 't.csv'}"]
    read_texts(EncodeOptions.from_files([path / "base.yaml"], arguments))


def _list(path: Path) -> None:
    for store in list_stores(path):
        store.count_items()
    describe_stores(path)


def _compact(path: Path) -> None:
    _try_each(
        functools.partial(action, folder)
        for folder in sorted((path / "tiny").iterdir())
        for action in (read_rows, lambda folder: compact(folder, TOKENS[:2]), read_embeddings)
    )


def _export(path: Path) -> None:
    def export(folder: Path, suffix: str) -> None:
        target = folder.with_name(f"{folder.name}.{suffix}")
        export_embeddings(read_embeddings(folder), target)
        found = read_embeddings(target)
        if not np.isfinite(found.take(np.arange(len(found.tokens)))).all():
            raise AssertionError("NaN was exported")

    stores = sorted((path / "tiny").iterdir())
    _try_each(functools.partial(export, folder, suffix) for folder in stores for suffix in ("npy", "parquet"))


def _try_each(actions: Iterable[Callable[[], object]]) -> None:
    """Go on after an error, since the next reader has to withstand the same file; raise the first at the end."""
    errors: list[LLMInitError] = []
    for action in actions:
        try:
            action()
        except LLMInitError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _read_checkpoint(path: Path) -> None:
    read_checkpoint(next(path.glob("*.pth")))


def _load_all(path: Path) -> None:
    load_data_and_model(next(path.glob("*.pth")))


def _read_trial(path: Path) -> None:
    name = next(each.name for each in path.iterdir() if each.suffix in (".json", ".log", ".failed")).rpartition(".")[0]
    read_trial(path, name)


def _write_settings(folder: Path) -> Path:
    (folder / "s.yaml").write_text(BASE + _MORE)
    return folder / "s.yaml"


def _write_dataset(folder: Path) -> Path:
    (folder / "base.yaml").write_text("dataset: tiny\nllm_text_fields: [title]\n")
    (folder / "tiny").mkdir()
    for suffix in ("item", "inter"):
        lines = (DATA / "tiny" / f"tiny.{suffix}").read_text().splitlines(keepends=True)
        (folder / "tiny" / f"tiny.{suffix}").write_text("".join(lines[:30]))
    (folder / "t.csv").write_text("item_id,title\n" + "".join(f"{token},Green tea {token}\n" for token in TOKENS))
    return folder


def _copying(source: Path, pattern: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for path in source.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            elif path.suffix in (".pth", ".json", ".parquet"):
                shutil.copy(path, folder / path.name)
        return folder

    return write
