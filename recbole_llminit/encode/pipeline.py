"""From item texts to a store of their vectors: encode what is missing, in one process or under torchrun."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_llminit import __version__
from recbole_llminit.encode.endpoint_encoder import PREFIX, EndpointEncoder
from recbole_llminit.encode.item_text import ItemTexts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.encode.sentence_encoder import SentenceEncoder, TextEncoder, resolve_commit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.processes import Ranks
from recbole_llminit.text_table import draw_table
from recbole_llminit.vectors.embeddings import examples
from recbole_llminit.vectors.store import (
    SHARD_BYTES,
    StoreInfo,
    append_shard,
    check_finite,
    compact,
    fingerprint_metadata,
    hash_text,
    list_stores,
    read_rows,
    writing,
)

# A killed run loses at most a second's work, or a fiftieth of all; a day's work is some 400 shards.
_SECONDS_PER_SHARD = 1.0
_SHARE_PER_SHARD = 0.02
_SHOWN = 200
_NOISY = ("httpx", "httpx2", "openai", "sentence_transformers", "filelock", "huggingface_hub")


@dataclass(frozen=True)
class EncodePlan:
    """What is to be encoded, compared with what the store holds; prints as counts and five texts.

    Parameters
    ----------
    encoder : str
        What is to encode, and the prompt if one is set.
    texts : ItemTexts
        Every item's text.
    hashes : ndarray of str, shape [n]
        `hash_text` of each.
    folder : Path or None
        The store; None while the encoder's revision, which is part of its name, is not known.
    missing : ndarray of int
        Positions of the texts that the store has not, or has another text for.
    unwanted : tuple of str
        Items of the store that have no text any more.
    untidy : bool
        Whether a killed run left replaced rows.
    """

    encoder: str
    texts: ItemTexts
    hashes: npt.NDArray[Any]
    folder: Path | None
    missing: npt.NDArray[np.int64]
    unwanted: tuple[str, ...]
    untidy: bool

    @property
    def nothing_to_do(self) -> bool:
        """Whether the store holds exactly these texts' vectors."""
        return not (len(self.missing) or self.unwanted or self.untidy)

    def __str__(self) -> str:
        """Draw the counts and five texts, spread over all items."""
        texts = self.texts
        shown = np.unique(np.linspace(0, len(texts.ids) - 1, 5).astype(int))
        counts = {
            "encoder": self.encoder,
            "texts": texts,
            "store": self.folder or "none yet",
            "to encode": f"{len(self.missing):,} items, {len(texts.ids) - len(self.missing):,} are there",
        }
        lines = [f"{name}: {value}" for name, value in counts.items()]
        return "\n".join([*lines, *(f"  {texts.ids[row]}: {_shortened(texts.texts[row])}" for row in shown)])


@dataclass(frozen=True)
class EncodeReport:
    """What an encoding did; prints as a table.

    Parameters
    ----------
    dataset, encoder : str
        Whose vectors, made by what.
    folder : Path
        The store.
    items, without_text : int
        Items with and without a text.
    encoded, removed, truncated : int
        Vectors made, vectors dropped because their item has no text any more, and texts cut at the maximum length
        among those encoded.
    seconds : float
        Time from reading the texts to the last shard.
    """

    dataset: str
    encoder: str
    folder: Path
    items: int
    without_text: int
    encoded: int
    removed: int
    truncated: int
    seconds: float

    def __str__(self) -> str:
        """Draw the report as a table."""
        rows = {
            "encoder": self.encoder,
            "items": f"{self.items:,} with a text, {self.without_text:,} without (no vector)",
            "encoded": f"{self.encoded:,}; {self.items - self.encoded:,} were there",
            "truncated": f"{self.truncated:,} of those encoded now, at the maximum length",
            "seconds": f"{self.seconds:.1f}",
            "store": str(self.folder),
        }
        if self.removed:
            rows["removed"] = f"{self.removed:,} rows of items that were encoded anew or have no text any more"
        return draw_table(["encode", self.dataset], rows.items())


def plan_encoding(options: EncodeOptions) -> EncodePlan:
    """Compare the item texts with the store; neither loads the encoder nor writes.

    Raises
    ------
    LLMInitError
        If there are no texts.
    """
    texts = options.read_texts()
    hashes = np.array([hash_text(text) for text in texts.texts], dtype=object)
    store = _find_store(options, texts)
    return _compare(options, texts, hashes, None if store is None else store.path)


def encode_items(options: EncodeOptions, ranks: Ranks | None = None) -> EncodeReport:
    """Encode the texts that the store has not, and return where it is; does nothing where nothing is missing.

    Shards appear while the work goes on: a killed run continues where it stopped. Another process that encodes into
    the same store is waited for.

    Parameters
    ----------
    options : EncodeOptions
        The texts, the encoder and the place.
    ranks : Ranks, optional
        From `join_ranks`, where all processes that torchrun started call this: the items are split over them.

    Raises
    ------
    LLMInitError
        If there are no texts, the encoder cannot be used, the store cannot be written, or it lacks in the end what was
        encoded: somebody deleted it meanwhile.
    """
    started = time.monotonic()
    ranks = ranks or Ranks()
    plan = plan_encoding(options)
    # What the first rank finds holds for all: another process may write meanwhile.
    complete = ranks.share(plan.folder if plan.nothing_to_do else None)
    if complete is not None:
        return _report(options, plan, complete, started)
    with _quiet():
        metadata = ranks.share(_store_metadata(options, plan.texts) if ranks.rank == 0 else {})
        store = _find_store(options, plan.texts, metadata)
        folder = ranks.share(store.path if store else _new_folder(options, metadata))
        if ranks.share(store is not None and not len(plan.missing)):
            removed = _tidy(folder, plan, ranks)
            return _report(options, plan, folder, started, removed=removed)
        with _alone(folder, ranks):
            ranks.wait()
            # Another process may have encoded meanwhile.
            plan = _compare(options, plan.texts, plan.hashes, folder)
            ranks.wait()
            encoded, truncated = ranks.sum(*_encode_missing(plan, metadata, folder, options, ranks))
            removed = _compact(folder, plan) if ranks.rank == 0 else 0
            # Counted by one for all, before anybody says that it is done.
            after = _compare(options, plan.texts, plan.hashes, folder) if ranks.rank == 0 else plan
            lost = ranks.share(len(after.missing))
        if lost:
            raise LLMInitError(
                f"{encoded:,} items were encoded, and {folder} holds {len(plan.texts.ids) - lost:,} of "
                f"{len(plan.texts.ids):,}: files of it were deleted meanwhile; run again to encode the other {lost:,}"
            )
        return _report(options, plan, folder, started, encoded, removed, truncated)


def _compact(folder: Path, plan: EncodePlan) -> int:
    # What vanished meanwhile is an error of the disk.
    with writing(folder):
        return compact(folder, plan.unwanted)


def _tidy(folder: Path, plan: EncodePlan, ranks: Ranks) -> int:
    """Drop rows that no item wants; of a store that cannot be written only those that no reader sees may stay."""
    if ranks.rank > 0:
        return 0
    try:
        with _alone(folder, ranks):
            return _compact(folder, plan)
    except LLMInitError as error:
        if plan.unwanted:
            raise
        logging.getLogger().warning(f"replaced rows stay: {error}")
        return 0


def _report(
    options: EncodeOptions,
    plan: EncodePlan,
    folder: Path,
    started: float,
    encoded: int = 0,
    removed: int = 0,
    truncated: int = 0,
) -> EncodeReport:
    return EncodeReport(
        dataset=options.dataset,
        encoder=options.metadata["model"],
        folder=folder,
        items=len(plan.texts.ids),
        without_text=len(plan.texts.without_text),
        encoded=encoded,
        removed=removed,
        truncated=truncated,
        seconds=time.monotonic() - started,
    )


def _requested_metadata(options: EncodeOptions, texts: ItemTexts) -> dict[str, Any]:
    return {**options.metadata, "template": texts.template, "fields": list(texts.fields)}


def _store_metadata(options: EncodeOptions, texts: ItemTexts) -> dict[str, Any]:
    """Return the metadata that name the store, with the revision: that of an earlier run, or asked of the hub."""
    metadata = _requested_metadata(options, texts)
    if metadata["revision"] is None and "ref" in metadata:
        store = _find_store(options, texts)
        metadata["revision"] = (
            store.metadata["revision"] if store else resolve_commit(metadata["model"], metadata["ref"])
        )
    return metadata


def _find_store(
    options: EncodeOptions, texts: ItemTexts, metadata: Mapping[str, Any] | None = None
) -> StoreInfo | None:
    """Return the store made with these options, if there is one.

    Where the revision of a model on the hub is not known, that of an earlier run goes on: the hub is not asked.
    """
    metadata = metadata or _requested_metadata(options, texts)
    wanted = fingerprint_metadata(metadata)
    stores = list_stores(options.cache_dir, options.dataset)
    if metadata["revision"] is not None or "ref" not in metadata:
        return next((store for store in stores if store.fingerprint == wanted), None)
    of_the_branch = (store for store in stores if store.metadata.get("ref") == metadata["ref"])
    masked = (store for store in of_the_branch if fingerprint_metadata({**store.metadata, "revision": None}) == wanted)
    return next(masked, None)


def _new_folder(options: EncodeOptions, metadata: Mapping[str, Any]) -> Path:
    slug = re.sub(r"[^\w.]+", "-", str(metadata["model"]).removeprefix(PREFIX)).strip("-.") or "encoder"
    return options.cache_dir / options.dataset / f"{slug}-{fingerprint_metadata(metadata)}"


def _compare(options: EncodeOptions, texts: ItemTexts, hashes: npt.NDArray[Any], folder: Path | None) -> EncodePlan:
    prompt = options.encoder.prompt
    encoder = f"{options.metadata['model']}{'' if prompt is None else f', prompt {prompt!r}'}"
    if folder is None:
        return EncodePlan(encoder, texts, hashes, None, np.arange(len(texts.ids)), (), untidy=False)
    rows = read_rows(folder)
    replaced = rows["item_id"].duplicated(keep="last")
    ids, recorded = (rows[column][~replaced].to_numpy(object) for column in ("item_id", "text_hash"))
    found = pd.Series(recorded, index=ids).reindex(list(texts.ids)).to_numpy(object)
    unwanted = tuple(pd.Index(ids).intersection(list(texts.without_text)))
    missing = np.flatnonzero(found != hashes)
    return EncodePlan(encoder, texts, hashes, folder, missing, unwanted, untidy=bool(replaced.any()))


def _load_encoder(options: EncodeOptions, metadata: Mapping[str, Any]) -> TextEncoder:
    if options.encoder.model.startswith(PREFIX):
        return EndpointEncoder(options.encoder)
    return SentenceEncoder(options.encoder, metadata["revision"] if "ref" in metadata else None)


def _versions(encoder: TextEncoder) -> dict[str, str]:
    packages = (
        ["openai"] if isinstance(encoder, EndpointEncoder) else ["sentence-transformers", "transformers", "torch"]
    )
    return {"recbole-llminit": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def _check_kinship(options: EncodeOptions, texts: ItemTexts, metadata: Mapping[str, Any]) -> int | None:
    """Raise where other versions of the libraries would use the model in another way; return the store's width."""
    store = _find_store(options, texts, metadata)
    if store is None:
        return None
    before, now = store.metadata.get("encoder", {}), metadata["encoder"]
    differ = [f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in now if before.get(key) != now.get(key)]
    if differ:
        raise LLMInitError(
            f"{store.path} was begun with other values than {metadata['model']} has now ({', '.join(differ)}): set "
            f"them "
            f"by their llm_ keys, or choose another llm_cache_dir"
        )
    return store.width


def _encode_missing(
    plan: EncodePlan, metadata: Mapping[str, Any], folder: Path, options: EncodeOptions, ranks: Ranks
) -> tuple[int, int]:
    """Encode this rank's share of the missing texts, the longest first; return how many, and how many were cut."""
    if not len(plan.missing):
        return 0, 0
    texts = plan.texts
    encoder = _load_encoder(options, metadata)
    metadata = {**metadata, "encoder": dict(encoder.description), "versions": _versions(encoder)}
    shard = _OpenShard(folder, metadata, _check_kinship(options, texts, metadata))
    # No rank writes before every rank has looked.
    ranks.wait()
    if ranks.rank == 0:
        logging.getLogger().info(
            f"Encoding {len(plan.missing):,} item texts of {options.dataset} with {plan.encoder} into {folder}"
        )
    lengths = encoder.lengths([texts.texts[row] for row in plan.missing])
    mine = plan.missing[np.argsort(-lengths, kind="stable")][ranks.rank :: ranks.world]
    done = 0
    silent = not options.show_progress or ranks.rank > 0
    with tqdm(total=len(mine), desc="Encode", unit="item", disable=silent) as progress:
        try:
            while done < len(mine):
                rows = mine[done : done + encoder.batch_size]
                ids = [texts.ids[row] for row in rows]
                vectors = encoder.encode([texts.texts[row] for row in rows])
                shard.add(ids, plan.hashes[rows], _as_stored(ids, vectors, options.encoder.storage))
                done += len(rows)
                progress.update(len(rows))
        finally:
            # What is encoded is kept, also where the run is interrupted.
            shard.write()
    return done, encoder.truncated


def _as_stored(
    ids: list[str], vectors: npt.NDArray[np.float32], kind: type[np.floating[Any]]
) -> npt.NDArray[np.floating[Any]]:
    """Return the vectors in the type of the store; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(kind)
    vanished = [ids[row] for row in np.flatnonzero(vectors.any(axis=1) & ~stored.any(axis=1))]
    if vanished:
        raise LLMInitError(
            f"the vectors of {len(vanished):,} items ({examples(vanished)}) are so small that float16 makes zeros of "
            f"them: set llm_dtype: float32"
        )
    return stored


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... ({len(text):,} characters)"


class _OpenShard:
    """Vectors that wait to be written as one shard."""

    def __init__(self, folder: Path, metadata: Mapping[str, Any], width: int | None) -> None:
        self._folder = folder
        self._metadata = metadata
        self._width = width
        self._parts: list[tuple[list[str], npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._started = self._written = time.monotonic()

    def add(self, ids: list[str], hashes: npt.NDArray[Any], vectors: npt.NDArray[Any]) -> None:
        """Add vectors, and write the shard if it is time."""
        check_finite(ids, vectors)
        self._width = self._width or vectors.shape[1]
        if vectors.shape[1] != self._width:
            raise LLMInitError(
                f"{self._metadata['model']} gives vectors of {vectors.shape[1]} dimensions, and {self._folder} holds "
                f"{self._width}: it is another model now, choose another llm_cache_dir"
            )
        self._parts.append((ids, hashes, vectors))
        now = time.monotonic()
        waited = now - self._written
        size = sum(part.nbytes for _, _, part in self._parts)
        if size >= SHARD_BYTES or waited > max(_SECONDS_PER_SHARD, _SHARE_PER_SHARD * (now - self._started)):
            self.write()

    def write(self) -> None:
        """Write what waits, if anything does."""
        parts, self._parts = self._parts, []
        if parts:
            ids, hashes, vectors = zip(*parts, strict=True)
            append_shard(
                self._folder,
                [item for part in ids for item in part],
                list(np.concatenate(hashes)),
                np.concatenate(vectors),
                self._metadata,
            )
        self._written = time.monotonic()


@contextlib.contextmanager
def _alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Wait until no other run encodes into this store; the system frees a killed run's lock."""
    if ranks.rank > 0:
        yield
        return
    lock = FileLock(folder / ".encoding.lock")
    with writing(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logging.getLogger().info(f"Another process encodes into {folder}: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries from logging every request and file."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
