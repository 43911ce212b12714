"""From item texts to a store of their vectors: encode what is missing, in one process or under torchrun."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_llminit.encode.encoder import TextEncoder
from recbole_llminit.encode.endpoint_encoder import PREFIX, EndpointEncoder
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.encode.plan import EncodePlan, find_store, new_store_folder, plan_encoding, resolve_revision
from recbole_llminit.encode.sentence_encoder import SentenceEncoder
from recbole_llminit.encode.shard_writer import ShardWriter, as_stored
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists
from recbole_llminit.processes import Ranks
from recbole_llminit.text_table import draw_table
from recbole_llminit.vectors.shard import writable_folder
from recbole_llminit.vectors.store import compact
from recbole_llminit.version import __version__

_PACKAGED = {"ml-100k": Path(__file__).parents[1] / "data" / "ml-100k"}
_LOGGING_EVERY_REQUEST = ("httpx", "httpx2", "openai", "sentence_transformers", "filelock", "huggingface_hub")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeReport:
    """What an encoding did; prints as a table.

    Parameters
    ----------
    dataset, encoder : str
        The dataset, and the model that encoded its items.
    folder : Path
        The store.
    items, without_text : int
        The numbers of items with and without a text.
    encoded : int
        The number of vectors that were made.
    removed : int
        The number of rows that were dropped because their item was encoded again or no longer has a text.
    truncated : int
        The number of texts, among those encoded, that were cut at the maximum length.
    seconds : float
        The time from reading the texts to the last shard.
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
            rows["removed"] = f"{self.removed:,} rows of items that were encoded again or no longer have a text"
        return draw_table(["encode", self.dataset], rows.items())


def find_vectors(embedding: Path | None, options: EncodeOptions | None) -> Path | None:
    """Return the path of the vectors that exist without encoding anything; None where there are none.

    The vectors that the user gives come first, then those packaged for ml-100k where no ``llm_*`` key asks for others.

    Parameters
    ----------
    embedding : Path or None
        ``llm_embedding``: the vectors that the user gives.
    options : EncodeOptions or None
        The keys that say how item texts are encoded; None for a stock run.

    Raises
    ------
    LLMInitError
        If there is nothing at the path given.
    """
    if embedding is not None:
        if not exists(embedding):
            raise LLMInitError(
                f"llm_embedding is {embedding}, and nothing is there (looked in {Path.cwd()}): check the path, or "
                f"leave it out to make the vectors from the item texts"
            )
        return embedding
    if options is None or not options.are_default:
        return None
    return _PACKAGED.get(options.dataset)


def provide_vectors(embedding: Path | None, options: EncodeOptions | None, ranks: Ranks | None = None) -> Path:
    """Return the path of the vectors: those of `find_vectors`, else the store into which the item texts are encoded.

    The store lies in ``llm_cache_dir``. Only the items whose vectors it lacks are encoded.

    Parameters
    ----------
    embedding, options
        As in `find_vectors`.
    ranks : Ranks, optional
        The processes of the run. All of them call this function, and share the encoding.

    Raises
    ------
    LLMInitError
        If there is nothing at the path given, the run is a stock run, or the vectors cannot be made.
    """
    found = find_vectors(embedding, options)
    if found is not None:
        return found
    if options is None:
        raise LLMInitError("init_strategy is none: a stock run has no vectors")
    report = encode_items(options, ranks)
    _logger.info(f"\n{report}" if report.encoded else f"Item vectors: {report.folder}, nothing to encode")
    return report.folder


def has_missing_vectors(embedding: Path | None, options: EncodeOptions | None) -> bool:
    """Return whether `provide_vectors` would encode at least one text; load no encoder and write nothing.

    Parameters
    ----------
    embedding, options
        As in `find_vectors`.

    Raises
    ------
    LLMInitError
        If there is nothing at the path given, or there are no texts.
    """
    if find_vectors(embedding, options) is not None or options is None:
        return False
    return len(plan_encoding(options).missing) > 0


def encode_items(options: EncodeOptions, ranks: Ranks | None = None) -> EncodeReport:
    """Encode the texts whose vectors the store lacks; do nothing where none is missing.

    Shards are written while the work goes on, so that a run continues where a killed run stopped. Another process that
    encodes into the same store is waited for.

    Parameters
    ----------
    options : EncodeOptions
        The texts, the encoder and the place of the store.
    ranks : Ranks, optional
        The processes of the run, from `join_ranks`. All of them call this function; the items are split over them.

    Raises
    ------
    LLMInitError
        If there are no texts, the encoder cannot be used, the store cannot be written, or the store lacks vectors that
        were encoded, because somebody deleted files of it meanwhile.
    """
    started = time.monotonic()
    ranks = ranks or Ranks()
    plan = plan_encoding(options)
    # All ranks follow what the first one finds: another process may write meanwhile.
    complete = ranks.share(plan.folder if plan.nothing_to_do else None)
    if complete is not None:
        return _make_report(options, plan, complete, started)
    with _quiet_libraries():
        metadata = ranks.share(resolve_revision(options, plan.metadata) if ranks.rank == 0 else {})
        store = find_store(options, metadata)
        folder = ranks.share(store.path if store else new_store_folder(options, metadata))
        if ranks.share(store is not None and not len(plan.missing)):
            removed = _drop_unwanted_rows(folder, plan, ranks)
            return _make_report(options, plan, folder, started, removed=removed)
        encoded, removed, truncated = _encode_into(folder, metadata, options, plan, ranks)
    return _make_report(options, plan, folder, started, encoded, removed, truncated)


def _make_report(
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
        encoder=plan.metadata["model"],
        folder=folder,
        items=len(plan.texts.ids),
        without_text=len(plan.texts.without_text),
        encoded=encoded,
        removed=removed,
        truncated=truncated,
        seconds=time.monotonic() - started,
    )


def _drop_unwanted_rows(folder: Path, plan: EncodePlan, ranks: Ranks) -> int:
    """Drop the rows of a store that are replaced or unwanted, and return their number.

    Where the store cannot be written, replaced rows may stay: no reader sees them.
    """
    if ranks.rank > 0:
        return 0
    try:
        with _locked(folder, ranks):
            return _compact(folder, plan)
    except LLMInitError as error:
        if plan.unwanted:
            raise
        _logger.warning(f"replaced rows stay: {error}")
        return 0


def _compact(folder: Path, plan: EncodePlan) -> int:
    # A file that vanishes meanwhile is reported as an error of the disk.
    with writable_folder(folder):
        return compact(folder, plan.unwanted)


def _encode_into(
    folder: Path, metadata: Mapping[str, Any], options: EncodeOptions, plan: EncodePlan, ranks: Ranks
) -> tuple[int, int, int]:
    """Encode what a store lacks, and return how many texts were encoded, rows removed, and texts truncated."""
    with _locked(folder, ranks):
        ranks.wait()
        # Another process may have encoded while this one waited for the lock.
        plan = plan.compare_again(folder)
        ranks.wait()
        encoded, truncated = ranks.sum(*_encode_share(plan, metadata, folder, options, ranks))
        removed = _compact(folder, plan) if ranks.rank == 0 else 0
        # One rank counts for all, before any of them reports success.
        lost = ranks.share(len(plan.compare_again(folder).missing) if ranks.rank == 0 else 0)
    if lost:
        raise LLMInitError(
            f"{encoded:,} items were encoded, and {folder} holds {len(plan.texts.ids) - lost:,} of "
            f"{len(plan.texts.ids):,}: files of it were deleted meanwhile; run again to encode the other {lost:,}"
        )
    return encoded, removed, truncated


def _encode_share(
    plan: EncodePlan, metadata: Mapping[str, Any], folder: Path, options: EncodeOptions, ranks: Ranks
) -> tuple[int, int]:
    """Encode this rank's share of the missing texts, the longest first.

    Returns
    -------
    tuple of int
        The numbers of texts that were encoded and that were truncated.
    """
    if not len(plan.missing):
        return 0, 0
    texts = plan.texts
    encoder = _load_encoder(options, metadata)
    metadata = {**metadata, "encoder": dict(encoder.description), "versions": _package_versions(encoder)}
    done = 0
    with ShardWriter(folder, metadata, _width_of_store(options, metadata)) as writer:
        # No rank writes before every rank has compared its encoder with the store's.
        ranks.wait()
        if ranks.rank == 0:
            _logger.info(
                f"Encoding {len(plan.missing):,} item texts of {options.dataset} with {plan.encoder} into {folder}"
            )
        lengths = encoder.lengths([texts.texts[row] for row in plan.missing])
        share = plan.missing[np.argsort(-lengths, kind="stable")][ranks.rank :: ranks.world_size]
        silent = not options.show_progress or ranks.rank > 0
        with tqdm(total=len(share), desc="Encode", unit="item", disable=silent) as progress:
            while done < len(share):
                rows = share[done : done + encoder.batch_size]
                ids = [texts.ids[row] for row in rows]
                vectors = encoder.encode([texts.texts[row] for row in rows])
                writer.add(ids, plan.hashes[rows], as_stored(ids, vectors, options.encoder.storage))
                done += len(rows)
                progress.update(len(rows))
    return done, encoder.truncated


def _load_encoder(options: EncodeOptions, metadata: Mapping[str, Any]) -> TextEncoder:
    if options.encoder.model.startswith(PREFIX):
        return EndpointEncoder(options.encoder)
    return SentenceEncoder(options.encoder, metadata["revision"] if "ref" in metadata else None)


def _package_versions(encoder: TextEncoder) -> dict[str, str]:
    of_endpoint = isinstance(encoder, EndpointEncoder)
    packages = ["openai"] if of_endpoint else ["sentence-transformers", "transformers", "torch"]
    return {"recbole-llminit": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def _width_of_store(options: EncodeOptions, metadata: Mapping[str, Any]) -> int | None:
    """Return the dimensions of the vectors that the store holds; None where there is no store yet.

    Raises
    ------
    LLMInitError
        If the encoder now uses the model in another way than the store's, as with other versions of the libraries.
    """
    store = find_store(options, metadata)
    if store is None:
        return None
    before, now = store.metadata.get("encoder", {}), metadata["encoder"]
    differ = [f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in now if before.get(key) != now.get(key)]
    if differ:
        raise LLMInitError(
            f"{store.path} was begun with other values than {metadata['model']} has now ({', '.join(differ)}): set "
            f"them by their llm_ keys, or choose another llm_cache_dir"
        )
    return store.width


@contextlib.contextmanager
def _locked(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the lock of a store while one run encodes into it; the system frees the lock of a killed run."""
    if ranks.rank > 0:
        yield
        return
    lock = FileLock(folder / ".encoding.lock")
    with writable_folder(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.info(f"Another process encodes into {folder}: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep libraries from logging every request and file."""
    loggers = [logging.getLogger(name) for name in _LOGGING_EVERY_REQUEST]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
