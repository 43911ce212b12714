"""The ``llm_*`` keys of the encoder's side, read and checked once, with or without RecBole."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_llminit.encode.endpoint_encoder import PREFIX, resolve_base_url
from recbole_llminit.encode.item_text import ItemTexts, is_utf8, read_item_texts
from recbole_llminit.encode.sentence_encoder import (
    COMMIT,
    POOLINGS,
    PRECISIONS,
    EncoderSettings,
    hash_folder,
    local_folder,
)
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, is_file, is_folder
from recbole_llminit.settings import is_none, read_settings, read_yaml, unknown_key
from recbole_llminit.suggest import suggest
from recbole_llminit.vectors.embeddings import examples
from recbole_llminit.vectors.store import DEFAULT_CACHE

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
    "llm_timeout",
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
_NOT_OF_THE_VECTORS = ("llm_device", "llm_batch_size", "llm_timeout", "llm_cache_dir")
_DECIDED_BY_THE_SERVICE = ("llm_revision", "llm_pooling", "llm_max_length", "llm_device")
_OF_AN_ENDPOINT = ("llm_base_url", "llm_timeout")
_LONGEST_NAME = 255
_LONGEST_TIMEOUT = 86_400


def check_dataset_name(name: Any) -> None:
    """Raise `LLMInitError` for a dataset's name that is not the name of one folder.

    The name becomes part of paths that are read and written: with a separator in it, it would lead out of the dataset's
    and the cache's folder.
    """
    expected = "expected the name of a folder in data_path, such as ml-100k"
    if not isinstance(name, str):
        raise LLMInitError(f"dataset is {name!r}, a {type(name).__name__}: {expected}, put it in quotes")
    if not is_utf8(name):
        raise LLMInitError(f"dataset is {name!r}, which is no UTF-8 text: {expected}")
    if name.strip() in ("", ".", "..") or set(name) & set("/\\\0"):
        raise LLMInitError(f"dataset is {name!r}: {expected}, and where it lies in data_path")
    if len(name.encode()) > _LONGEST_NAME:
        raise LLMInitError(
            f"dataset is {name[:40]!r}..., {len(name.encode()):,} bytes long: {expected}, at most {_LONGEST_NAME} bytes"
        )


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
    interactions : Path
        The dataset's ``.inter`` file, which may not be there.
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
    interactions: Path
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
            If a value is unknown, or two do not go together.
        """
        values = {key: None if is_none(settings.get(key)) else settings[key] for key in LLM_KEYS}
        dataset = settings["dataset"]
        check_dataset_name(dataset)
        text_file = _path(values, "llm_text_file")
        return cls(
            dataset=dataset,
            text_file=text_file or folder / f"{dataset}.item",
            own_texts=text_file is not None,
            interactions=folder / f"{dataset}.inter",
            text_fields=_fields(values["llm_text_fields"]),
            text_template=_text(values, "llm_text_template"),
            id_field=_text(settings, "ITEM_ID_FIELD") or "item_id",
            field_separator=_text(settings, "field_separator") or "\t",
            seq_separator=_text(settings, "seq_separator") or " ",
            encoding=_text(settings, "encoding") or "utf-8",
            encoder=_encoder_settings(values),
            cache_dir=_path(values, "llm_cache_dir") or Path(DEFAULT_CACHE).expanduser(),
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
        for key in settings:
            if str(key).startswith("llm_") and key not in (*LLM_KEYS, "llm_embedding"):
                raise unknown_key(str(key), (*LLM_KEYS, "llm_embedding"))
        if is_none(settings.get("dataset")):
            raise LLMInitError("no dataset is given: pass --dataset=NAME, or set it in a YAML file")
        check_dataset_name(settings["dataset"])
        return cls.from_settings(settings, _dataset_folder(settings))

    def read_texts(self) -> ItemTexts:
        """Read the text of every item, before any filter of RecBole's.

        Raises
        ------
        LLMInitError
            If there are none.
        """
        folder = self.text_file.parent
        if not self.own_texts and not is_folder(folder):
            with foreign_reader(folder.parent, "a folder of datasets"):
                paths = folder.parent.iterdir() if is_folder(folder.parent) else ()
                there = [path.name for path in paths if is_folder(path)]
            raise LLMInitError(
                f"there is no folder {folder} of the dataset {self.dataset} (looked in {Path.cwd()})"
                f"{suggest(self.dataset, there)}; check dataset and data_path"
            )
        if not exists(self.text_file):
            raise LLMInitError(
                f"there is no {self.text_file} with the texts of {self.dataset}'s items (looked in {Path.cwd()}): give "
                f"a table with {self.id_field} and texts (CSV, JSON lines, Parquet) in llm_text_file, or vectors you "
                f"have in llm_embedding"
            )
        texts = read_item_texts(
            self.text_file,
            id_field=self.id_field,
            fields=self.text_fields,
            template=self.text_template,
            field_separator=self.field_separator,
            seq_separator=self.seq_separator,
            encoding=self.encoding,
        )
        if self.own_texts and is_file(self.interactions):
            self._check_ids(texts)
        return texts

    def _check_ids(self, texts: ItemTexts) -> None:
        """Compare the ids of a table of the user's own with the dataset's, before anything is encoded."""
        with foreign_reader(self.interactions, "RecBole's table of interactions"):
            table = pd.read_csv(
                self.interactions,
                sep=self.field_separator,
                usecols=lambda name: str(name).partition(":")[0] == self.id_field,
                dtype=str,
                encoding=self.encoding,
                engine="c" if len(self.field_separator) == 1 else "python",
            )
        if table.empty:
            return
        items = pd.Index(table.iloc[:, 0].unique())
        known = int(items.isin(texts.ids).sum())
        compared = (
            f"{known:,} of {len(items):,} items of {self.interactions.name} have a text in {self.text_file} (there: "
            f"{examples(list(items))}; texts: {examples(texts.ids)})"
        )
        if not known:
            raise LLMInitError(f"{compared}: expected the dataset's item ids in {self.id_field}")
        if known < len(items) / 2:
            logging.getLogger().warning(f"only {compared}: check that the file belongs to the dataset")

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The encoder metadata that are known before it is loaded; a local folder's content is hashed here."""
        encoder = self.encoder
        metadata: dict[str, Any] = {
            "model": encoder.model,
            "revision": None,
            "pooling": encoder.pooling,
            "prompt": encoder.prompt,
            "max_length": encoder.max_length,
            "dtype": encoder.dtype,
        }
        if self.own_texts:
            # Another table has other items: its name keeps them apart.
            metadata["text_file"] = self.text_file.name
        folder = local_folder(encoder.model)
        if encoder.model.startswith(PREFIX):
            metadata["base_url"] = encoder.base_url
        elif folder is not None:
            metadata["model"] = "/".join(folder.resolve().parts[-2:])
            metadata["revision"] = hash_folder(folder)
        else:
            metadata["ref"] = encoder.revision or "main"
            if COMMIT.fullmatch(metadata["ref"]):
                metadata["revision"] = metadata["ref"]
        return metadata


def _encoder_settings(values: Mapping[str, Any]) -> EncoderSettings:
    model = _text(values, "llm_encoder") or _DEFAULT_ENCODER
    endpoint = model.startswith(PREFIX)
    if model.strip() == PREFIX:
        raise LLMInitError(f"llm_encoder is {model!r}, which names no model: write llm_encoder: openai:<model>")
    if endpoint:
        for key in _DECIDED_BY_THE_SERVICE:
            if values[key] is not None:
                raise LLMInitError(f"{key} is set, and {model} decides it itself: remove {key}")
    for key in () if endpoint else _OF_AN_ENDPOINT:
        if values[key] is not None:
            raise LLMInitError(f"{key} is set, and {model} is no endpoint: write llm_encoder: openai:<model>")
    if model.startswith(("/", "~", ".")) and local_folder(model) is None:
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
        timeout=_seconds(values, "llm_timeout"),
    )


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str | Path):
        raise LLMInitError(f"{key} is {value!r}, a {type(value).__name__}: expected a text, put it in quotes")
    if value is not None and not is_utf8(str(value)):
        raise LLMInitError(f"{key} is {str(value)!r}, which is no UTF-8: expected text")
    return None if value is None else str(value)


def _path(values: Mapping[str, Any], key: str) -> Path | None:
    text = _text(values, key)
    if text is None:
        return None
    if "\0" in text:
        raise LLMInitError(f"{key} is {text!r}: expected a path, which has no null character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise LLMInitError(f"{key} is {text!r} ({error}): expected a path") from error


def _seconds(values: Mapping[str, Any], key: str) -> float | None:
    value = values[key]
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise LLMInitError(f"{key} is {value!r}: expected a number of seconds above 0, at most {_LONGEST_TIMEOUT:,}")
    return seconds


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
        with contextlib.suppress(yaml.YAMLError, RecursionError, ValueError):
            value = read_yaml(value if value.startswith("[") else f"[{value}]")
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
    return (_path(settings, "data_path") or Path("dataset")) / dataset
