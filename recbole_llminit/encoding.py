"""From item texts to a store of their vectors: encode what is missing, in one process or under torchrun."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from filelock import FileLock, Timeout
from texttable import Texttable
from tqdm import tqdm

from recbole_llminit import __version__
from recbole_llminit.encoder import (
    COMMIT,
    POOLINGS,
    PRECISIONS,
    EncoderSettings,
    SentenceEncoder,
    TextEncoder,
    hash_folder,
    resolve_commit,
)
from recbole_llminit.endpoint import PREFIX, EndpointEncoder, resolve_base_url
from recbole_llminit.errors import LLMInitError
from recbole_llminit.item_text import ItemTexts, read_item_texts
from recbole_llminit.settings import is_none, read_settings, unknown_key
from recbole_llminit.store import (
    DEFAULT_CACHE,
    SHARD_BYTES,
    StoreInfo,
    append_shard,
    check_finite,
    compact,
    fingerprint_facts,
    hash_text,
    list_stores,
    read_rows,
    writing,
)
from recbole_llminit.strategy import suggest

LLM_KEYS = (
    "llm_encoder",
    "llm_revision",
    "llm_pooling",
    "llm_prompt",
    "llm_max_length",
    "llm_dtype",
    "llm_device",
    "llm_batch_size",
    "llm_base_url",
    "llm_text_file",
    "llm_text_fields",
    "llm_text_template",
    "llm_cache_dir",
)
"""The configuration keys of the encoder's side, but for ``llm_embedding``, which names vectors that are there."""

_RECBOLE_KEYS = (
    "dataset",
    "data_path",
    "ITEM_ID_FIELD",
    "field_separator",
    "seq_separator",
    "encoding",
    "show_progress",
)
_DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_NOT_OF_THE_VECTORS = ("llm_device", "llm_batch_size", "llm_cache_dir")
_DECIDED_BY_THE_SERVICE = ("llm_revision", "llm_pooling", "llm_max_length", "llm_device")
# A killed run loses at most a second's work, or a fiftieth of all; a day's work is some 400 shards.
_SECONDS_PER_SHARD = 1.0
_SHARE_PER_SHARD = 0.02
Value = TypeVar("Value")
_NOISY = ("httpx", "httpx2", "openai", "sentence_transformers", "filelock", "huggingface_hub")


@dataclass(frozen=True)
class EncodeOptions:
    """The ``llm_*`` keys of the encoder's side, checked.

    Parameters
    ----------
    dataset : str
        The dataset's name.
    text_file : Path
        ``llm_text_file``, else the dataset's ``.item`` file.
    own_texts : bool
        Whether ``llm_text_file`` is set.
    text_fields, text_template
        From the keys of the same names.
    id_field, field_separator, seq_separator, encoding : str
        RecBole's ``ITEM_ID_FIELD`` and the form of its files.
    encoder : EncoderSettings
        From ``llm_encoder`` and the keys of how it is used.
    cache_dir : Path
        ``llm_cache_dir``.
    show_progress : bool
        RecBole's key.
    are_default : bool
        Whether no key that changes a vector is set.
    """

    dataset: str
    text_file: Path
    own_texts: bool
    text_fields: tuple[str, ...] | None
    text_template: str | None
    id_field: str
    field_separator: str
    seq_separator: str
    encoding: str
    encoder: EncoderSettings
    cache_dir: Path
    show_progress: bool
    are_default: bool

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], folder: Path) -> EncodeOptions:
        """Read the keys of a configuration.

        Parameters
        ----------
        settings : mapping
            The keys and values; ``dataset`` is required.
        folder : path
            The dataset's folder.

        Raises
        ------
        LLMInitError
            If a key or value is unknown, or two do not go together.
        """
        for key in settings:
            if str(key).startswith("llm_") and key not in (*LLM_KEYS, "llm_embedding"):
                raise unknown_key(str(key), (*LLM_KEYS, "llm_embedding"))
        values = {key: None if is_none(settings.get(key)) else settings[key] for key in LLM_KEYS}
        dataset = str(settings["dataset"])
        text_file = _text(values, "llm_text_file")
        cache_dir = _text(values, "llm_cache_dir") or DEFAULT_CACHE
        return cls(
            dataset=dataset,
            text_file=Path(text_file).expanduser() if text_file else folder / f"{dataset}.item",
            own_texts=text_file is not None,
            text_fields=_fields(values["llm_text_fields"]),
            text_template=_text(values, "llm_text_template"),
            id_field=settings.get("ITEM_ID_FIELD") or "item_id",
            field_separator=settings.get("field_separator") or "\t",
            seq_separator=settings.get("seq_separator") or " ",
            encoding=settings.get("encoding") or "utf-8",
            encoder=_encoder_settings(values),
            cache_dir=Path(cache_dir).expanduser(),
            show_progress=str(settings.get("show_progress", True)).lower() not in ("false", "0"),
            are_default=not any(values[key] is not None for key in LLM_KEYS if key not in _NOT_OF_THE_VECTORS),
        )

    @classmethod
    def from_files(cls, paths: Sequence[str | Path], arguments: Sequence[str]) -> EncodeOptions:
        """Read the keys of YAML files and ``--key=value`` arguments, without RecBole.

        Raises
        ------
        LLMInitError
            If no dataset is given, or a key or value is unknown; other keys of a file are RecBole's and let be.
        """
        settings = read_settings(paths, arguments)
        known = (*LLM_KEYS, *_RECBOLE_KEYS)
        for argument in arguments:
            key = argument.removeprefix("--").partition("=")[0]
            if key not in known:
                raise LLMInitError(f"encode knows no --{key}{suggest(key, known)} ({', '.join(known)})")
        if is_none(settings.get("dataset")):
            raise LLMInitError("no dataset is given: pass --dataset=NAME, or set it in a YAML file")
        return cls.from_settings(settings, _dataset_folder(settings))

    def read_texts(self) -> ItemTexts:
        """Read the text of every item, before any filter of RecBole's.

        Raises
        ------
        LLMInitError
            If there are none.
        """
        if not self.text_file.exists():
            raise LLMInitError(
                f"there is no {self.text_file} with the texts of {self.dataset}'s items (looked in {Path.cwd()}): give "
                f"a table with {self.id_field} and texts (CSV, JSON lines, Parquet) in llm_text_file, or vectors you "
                f"have in llm_embedding"
            )
        return read_item_texts(
            self.text_file,
            id_field=self.id_field,
            fields=self.text_fields,
            template=self.text_template,
            field_separator=self.field_separator,
            seq_separator=self.seq_separator,
            encoding=self.encoding,
        )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The facts about the encoder that are known before it is loaded; a local folder's content is hashed here."""
        encoder = self.encoder
        facts: dict[str, Any] = {
            "model": encoder.model,
            "revision": None,
            "pooling": encoder.pooling,
            "prompt": encoder.prompt,
            "max_length": encoder.max_length,
            "dtype": encoder.dtype,
        }
        if self.own_texts:
            # Another table has other items: its name keeps them apart.
            facts["text_file"] = self.text_file.name
        folder = Path(encoder.model).expanduser()
        if encoder.model.startswith(PREFIX):
            facts["base_url"] = encoder.base_url
        elif folder.is_dir():
            facts["model"] = "/".join(folder.resolve().parts[-2:])
            facts["revision"] = hash_folder(folder)
        else:
            facts["ref"] = encoder.revision or "main"
            if COMMIT.fullmatch(facts["ref"]):
                facts["revision"] = facts["ref"]
        return facts


def _encoder_settings(values: Mapping[str, Any]) -> EncoderSettings:
    model = _text(values, "llm_encoder") or _DEFAULT_ENCODER
    endpoint = model.startswith(PREFIX)
    if endpoint:
        for key in _DECIDED_BY_THE_SERVICE:
            if values[key] is not None:
                raise LLMInitError(f"{key} is set, and {model} decides it itself: remove {key}")
    elif values["llm_base_url"] is not None:
        raise LLMInitError(f"llm_base_url is set, and {model} is no endpoint: write llm_encoder: openai:<model>")
    elif model.startswith(("/", "~", ".")) and not Path(model).expanduser().is_dir():
        raise LLMInitError(f"llm_encoder is {model}, and no folder is there (looked in {Path.cwd()}): check the path")
    dtype = _one_of(values, "llm_dtype", PRECISIONS)
    if endpoint and dtype == "bfloat16":
        raise LLMInitError(
            f"llm_dtype is bfloat16, and vectors of {model} are stored as float32 or float16: choose one"
        )
    return EncoderSettings(
        model=model,
        revision=_text(values, "llm_revision"),
        pooling=_one_of(values, "llm_pooling", POOLINGS),
        prompt=_text(values, "llm_prompt"),
        max_length=_count(values, "llm_max_length"),
        dtype=dtype,
        device=_text(values, "llm_device"),
        batch_size=_count(values, "llm_batch_size"),
        base_url=resolve_base_url(_text(values, "llm_base_url")) if endpoint else None,
    )


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values[key]
    if value is not None and not isinstance(value, str | Path):
        raise LLMInitError(f"{key} is {value!r}, a {type(value).__name__}: expected a text, put it in quotes")
    return None if value is None else str(value)


def _one_of(values: Mapping[str, Any], key: str, choices: Sequence[str]) -> Any:
    value = values[key]
    if value is not None and value not in choices:
        raise LLMInitError(f"{key} {value!r} is unknown{suggest(value, choices)} ({', '.join(choices)})")
    return value


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = values[key]
    if value is None:
        return None
    if isinstance(value, bool) or not re.fullmatch("[0-9]+", str(value)) or int(value) < 1:
        raise LLMInitError(f"{key} is {value!r}: expected a whole number above 0")
    return int(value)


def _fields(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        # On the command line: title,brand or [title, brand].
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.safe_load(value if value.startswith("[") else f"[{value}]")
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(isinstance(field, str) for field in value):
        raise LLMInitError(f"llm_text_fields is {value!r}: expected a list of fields such as [title, brand]")
    return tuple(value)


def _dataset_folder(settings: Mapping[str, Any]) -> Path:
    """Return the folder in which RecBole looks for a dataset; ml-100k comes with RecBole."""
    dataset = str(settings["dataset"])
    recbole = importlib.util.find_spec("recbole")
    if dataset == "ml-100k" and recbole is not None and recbole.submodule_search_locations:
        return Path(recbole.submodule_search_locations[0]) / "dataset_example" / dataset
    return Path(str(settings.get("data_path") or "dataset/")).expanduser() / dataset


@dataclass(frozen=True)
class EncodePlan:
    """What is to be encoded, compared with what the store holds; prints as counts and five texts.

    Parameters
    ----------
    texts : ItemTexts
        Every item's text.
    hashes : ndarray of str, shape [n]
        `hash_text <recbole_llminit.store.hash_text>` of each.
    folder : Path or None
        The store; None while the encoder's revision, which is part of its name, is not known.
    missing : ndarray of int
        Positions of the texts that the store has not, or has another text for.
    unwanted : tuple of str
        Items of the store that have no text any more.
    untidy : bool
        Whether a killed run left replaced rows.
    """

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
            "texts": texts,
            "store": self.folder or "none yet",
            "to encode": f"{len(self.missing):,} items, {len(texts.ids) - len(self.missing):,} are there",
        }
        lines = [f"{name}: {value}" for name, value in counts.items()]
        return "\n".join([*lines, *(f"  {texts.ids[row]}: {texts.texts[row]}" for row in shown)])


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
            "truncated": f"{self.truncated:,} at the maximum length",
            "seconds": f"{self.seconds:.1f}",
            "store": str(self.folder),
        }
        if self.removed:
            rows["removed"] = f"{self.removed:,} rows of items that were encoded anew or have no text any more"
        table = Texttable(max_width=0)
        table.set_deco(Texttable.BORDER | Texttable.HEADER | Texttable.VLINES)
        table.set_cols_dtype(["t", "t"])
        table.add_rows([["encode", self.dataset], *([name, value] for name, value in rows.items())])
        return str(table.draw())


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
    return _compare(texts, hashes, None if store is None else store.path)


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
        If there are no texts, the encoder cannot be used, or the store cannot be written.
    """
    started = time.monotonic()
    ranks = ranks or Ranks()
    plan = plan_encoding(options)
    # What the first rank finds holds for all: another process may write meanwhile.
    complete = ranks.share(plan.folder if plan.nothing_to_do else None)
    if complete is not None:
        return _report(options, plan, complete, started)
    with _quiet():
        facts = ranks.share(_name_facts(options, plan.texts) if ranks.rank == 0 else {})
        store = _find_store(options, plan.texts, facts)
        folder = ranks.share(store.path if store else _new_folder(options, facts))
        if ranks.share(store is not None and not len(plan.missing)):
            removed = _tidy(folder, plan, ranks)
            return _report(options, plan, folder, started, removed=removed)
        encoder = _load_encoder(options, facts)
        facts |= {"encoder": dict(encoder.description), "versions": _versions(encoder)}
        with _alone(folder, ranks):
            ranks.wait()
            plan = _compare(plan.texts, plan.hashes, folder)
            width = _check_kinship(options, plan.texts, facts)
            ranks.wait()
            if ranks.rank == 0:
                logging.getLogger().info(
                    f"Encoding {len(plan.missing):,} item texts of {options.dataset} with {facts['model']} into "
                    f"{folder}"
                )
            shard = _OpenShard(folder, facts, width)
            encoded, truncated = ranks.sum(*_encode_missing(plan, encoder, shard, options, ranks))
            removed = compact(folder, plan.unwanted) if ranks.rank == 0 else 0
            ranks.wait()
        return _report(options, plan, folder, started, encoded, removed, truncated)


def _tidy(folder: Path, plan: EncodePlan, ranks: Ranks) -> int:
    """Drop rows that no item wants; of a store that cannot be written only those that no reader sees may stay."""
    if ranks.rank > 0:
        return 0
    try:
        with _alone(folder, ranks):
            return compact(folder, plan.unwanted)
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
        encoder=options.facts["model"],
        folder=folder,
        items=len(plan.texts.ids),
        without_text=len(plan.texts.without_text),
        encoded=encoded,
        removed=removed,
        truncated=truncated,
        seconds=time.monotonic() - started,
    )


def _name_facts(options: EncodeOptions, texts: ItemTexts) -> dict[str, Any]:
    """Return the facts that name the store, with the revision: that of an earlier run, or asked of the hub."""
    facts = {**options.facts, "template": texts.template, "fields": list(texts.fields)}
    if facts["revision"] is None and "ref" in facts:
        store = _find_store(options, texts)
        facts["revision"] = store.facts["revision"] if store else resolve_commit(facts["model"], facts["ref"])
    return facts


def _find_store(options: EncodeOptions, texts: ItemTexts, facts: Mapping[str, Any] | None = None) -> StoreInfo | None:
    """Return the store made with these options, if there is one.

    Where the revision of a model on the hub is not known, that of an earlier run goes on: the hub is not asked.
    """
    facts = facts or {**options.facts, "template": texts.template, "fields": list(texts.fields)}
    known = facts["revision"] is not None or "ref" not in facts
    for store in list_stores(options.cache_dir, options.dataset):
        if known and store.fingerprint == fingerprint_facts(facts):
            return store
        masked = fingerprint_facts({**store.facts, "revision": None})
        if not known and store.facts.get("ref") == facts["ref"] and masked == fingerprint_facts(facts):
            return store
    return None


def _new_folder(options: EncodeOptions, facts: Mapping[str, Any]) -> Path:
    slug = re.sub(r"[^\w.]+", "-", str(facts["model"]).removeprefix(PREFIX)).strip("-.") or "encoder"
    return options.cache_dir / options.dataset / f"{slug}-{fingerprint_facts(facts)}"


def _compare(texts: ItemTexts, hashes: npt.NDArray[Any], folder: Path | None) -> EncodePlan:
    if folder is None:
        return EncodePlan(texts, hashes, None, np.arange(len(texts.ids)), (), untidy=False)
    rows = read_rows(folder)
    replaced = rows["item_id"].duplicated(keep="last")
    ids, recorded = (rows[column][~replaced].to_numpy(object) for column in ("item_id", "text_hash"))
    found = pd.Series(recorded, index=ids).reindex(list(texts.ids)).to_numpy(object)
    unwanted = tuple(pd.Index(ids).intersection(list(texts.without_text)))
    return EncodePlan(texts, hashes, folder, np.flatnonzero(found != hashes), unwanted, untidy=bool(replaced.any()))


def _load_encoder(options: EncodeOptions, facts: Mapping[str, Any]) -> TextEncoder:
    if options.encoder.model.startswith(PREFIX):
        return EndpointEncoder(options.encoder)
    return SentenceEncoder(options.encoder, facts["revision"] if "ref" in facts else None)


def _versions(encoder: TextEncoder) -> dict[str, str]:
    packages = (
        ["openai"] if isinstance(encoder, EndpointEncoder) else ["sentence-transformers", "transformers", "torch"]
    )
    return {"recbole-llminit": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def _check_kinship(options: EncodeOptions, texts: ItemTexts, facts: Mapping[str, Any]) -> int | None:
    """Raise where other versions of the libraries would use the model in another way; return the store's width."""
    store = _find_store(options, texts, facts)
    if store is None:
        return None
    before, now = store.facts.get("encoder", {}), facts["encoder"]
    differ = [f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in now if before.get(key) != now.get(key)]
    if differ:
        raise LLMInitError(
            f"{store.path} was begun with other values than {facts['model']} has now ({', '.join(differ)}): set them "
            f"by their llm_ keys, or choose another llm_cache_dir"
        )
    return store.width


def _encode_missing(
    plan: EncodePlan, encoder: TextEncoder, shard: _OpenShard, options: EncodeOptions, ranks: Ranks
) -> tuple[int, int]:
    """Encode this rank's share of the missing texts, the longest first; return how many, and how many were cut."""
    texts = plan.texts
    lengths = encoder.lengths([texts.texts[row] for row in plan.missing])
    mine = plan.missing[np.argsort(-lengths, kind="stable")][ranks.rank :: ranks.world]
    done = 0
    silent = not options.show_progress or ranks.rank > 0
    with tqdm(total=len(mine), desc="Encode", unit="item", disable=silent) as progress:
        try:
            while done < len(mine):
                rows = mine[done : done + encoder.batch_size]
                ids = [texts.ids[row] for row in rows]
                with np.errstate(over="ignore"):
                    vectors = encoder.encode([texts.texts[row] for row in rows]).astype(options.encoder.storage)
                shard.add(ids, plan.hashes[rows], vectors)
                done += len(rows)
                progress.update(len(rows))
        finally:
            # What is encoded is kept, also where the run is interrupted.
            shard.write()
    return done, encoder.truncated


class _OpenShard:
    """Vectors that wait to be written as one shard."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], width: int | None) -> None:
        self._folder = folder
        self._facts = facts
        self._width = width
        self._parts: list[tuple[list[str], npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._started = self._written = time.monotonic()

    def add(self, ids: list[str], hashes: npt.NDArray[Any], vectors: npt.NDArray[Any]) -> None:
        """Add vectors, and write the shard if it is time."""
        check_finite(ids, vectors)
        self._width = self._width or vectors.shape[1]
        if vectors.shape[1] != self._width:
            raise LLMInitError(
                f"{self._facts['model']} gives vectors of {vectors.shape[1]} dimensions, and {self._folder} holds "
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
                self._facts,
            )
        self._written = time.monotonic()


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that torchrun started; alone if nothing is given."""

    rank: int = 0
    world: int = 1

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()

    def share(self, value: Value) -> Value:
        """Return the first rank's value."""
        if self.world == 1:
            return value
        import torch.distributed

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def sum(self, *numbers: int) -> list[int]:
        """Return the sums over all ranks."""
        if self.world == 1:
            return list(numbers)
        import torch
        import torch.distributed

        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor)
        return [int(number) for number in tensor]


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Meet the other processes where torchrun started several; all of them must call this."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed

    # A rank may have far more to do than another.
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=30))
    try:
        yield Ranks(torch.distributed.get_rank(), world)
    finally:
        torch.distributed.destroy_process_group()


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
