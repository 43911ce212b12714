"""The ``llm_*`` keys that say how item texts are encoded: read and checked once, with or without RecBole.

`EncodeOptions` is a plain description. It opens no file of the dataset and no model.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_llminit.encode.cell_text import is_utf8
from recbole_llminit.encode.encoder import POOLINGS, PRECISIONS, EncoderSettings
from recbole_llminit.encode.endpoint_encoder import PREFIX, resolve_base_url
from recbole_llminit.encode.model_files import local_folder
from recbole_llminit.errors import LLMInitError
from recbole_llminit.settings import is_none, read_settings, read_yaml, unknown_key
from recbole_llminit.suggest import suggest
from recbole_llminit.vectors.cache import DEFAULT_CACHE

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
"""The keys that say how item texts are encoded. ``llm_embedding``, the path of existing vectors, is not one of them."""

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
_CHANGES_NO_VECTOR = ("llm_device", "llm_batch_size", "llm_timeout", "llm_cache_dir")
_DECIDED_BY_SERVICE = ("llm_revision", "llm_pooling", "llm_max_length", "llm_device")
_OF_ENDPOINTS = ("llm_base_url", "llm_timeout")
_LONGEST_NAME = 255
_LONGEST_TIMEOUT = 86_400


def check_dataset_name(name: Any) -> None:
    """Raise `LLMInitError` where the name of a dataset is not the name of one folder.

    The name becomes part of paths that are read and written: a separator in it would lead out of the folders of the
    dataset and the cache.
    """
    expected = "expected the name of a folder in data_path, such as ml-100k"
    if not isinstance(name, str):
        raise LLMInitError(f"dataset is {name!r}, a {type(name).__name__}: {expected}, put it in quotes")
    if not is_utf8(name):
        raise LLMInitError(f"dataset is {name!r}, which cannot be encoded in UTF-8: {expected}")
    if name.strip() in ("", ".", "..") or set(name) & set("/\\\0"):
        raise LLMInitError(f"dataset is {name!r}: {expected}; set the path of the folder above it in data_path")
    if len(name.encode()) > _LONGEST_NAME:
        raise LLMInitError(
            f"dataset is {name[:40]!r}..., {len(name.encode()):,} bytes long: {expected}, at most {_LONGEST_NAME} bytes"
        )


@dataclass(frozen=True)
class EncodeOptions:
    """The ``llm_*`` keys that say how item texts are encoded, checked.

    Parameters
    ----------
    dataset : str
        The dataset's name.
    text_file : Path
        ``llm_text_file``, else the dataset's ``.item`` file.
    own_texts : bool
        Whether ``llm_text_file`` is set.
    interactions : Path
        The dataset's ``.inter`` file, which need not exist.
    text_fields, text_template
        ``llm_text_fields`` and ``llm_text_template``.
    id_field, field_separator, seq_separator, encoding : str
        RecBole's ``ITEM_ID_FIELD`` and the format of its files.
    encoder : EncoderSettings
        ``llm_encoder`` and the keys that say how it is used.
    cache_dir : Path
        ``llm_cache_dir``.
    show_progress : bool
        RecBole's ``show_progress``.
    are_default : bool
        Whether none of the keys that change a vector is set.
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
            If a value is invalid, or two keys contradict each other.
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
            are_default=not any(values[key] is not None for key in LLM_KEYS if key not in _CHANGES_NO_VECTOR),
        )

    @classmethod
    def from_files(cls, paths: Sequence[str | Path], arguments: Sequence[str]) -> EncodeOptions:
        """Read the keys of YAML files and ``--key=value`` arguments, without RecBole.

        Raises
        ------
        LLMInitError
            If no dataset is given, or an ``llm_*`` key, an argument or a value is unknown. Other keys of a file are
            RecBole's, and ignored.
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


def _encoder_settings(values: Mapping[str, Any]) -> EncoderSettings:
    model = _text(values, "llm_encoder") or _DEFAULT_ENCODER
    endpoint = model.startswith(PREFIX)
    if endpoint:
        _check_endpoint(model, values)
    else:
        _check_local_model(model, values)
    return EncoderSettings(
        model=model,
        revision=_text(values, "llm_revision"),
        pooling=_one_of(values, "llm_pooling", POOLINGS),
        prompt=_text(values, "llm_prompt"),
        max_length=_count(values, "llm_max_length"),
        dtype=_one_of(values, "llm_dtype", PRECISIONS),
        device=_text(values, "llm_device"),
        batch_size=_count(values, "llm_batch_size"),
        base_url=resolve_base_url(_text(values, "llm_base_url")) if endpoint else None,
        timeout=_seconds(values, "llm_timeout"),
    )


def _check_endpoint(model: str, values: Mapping[str, Any]) -> None:
    if model.strip() == PREFIX:
        raise LLMInitError(f"llm_encoder is {model!r}, which names no model: write llm_encoder: openai:<model>")
    for key in _DECIDED_BY_SERVICE:
        if values[key] is not None:
            raise LLMInitError(f"{key} is set, and {model} decides it itself: remove {key}")
    if values["llm_dtype"] == "bfloat16":
        raise LLMInitError(
            f"llm_dtype is bfloat16, and vectors of {model} are stored as float32 or float16: choose one"
        )


def _check_local_model(model: str, values: Mapping[str, Any]) -> None:
    for key in _OF_ENDPOINTS:
        if values[key] is not None:
            raise LLMInitError(f"{key} is set, and {model} is no endpoint: write llm_encoder: openai:<model>")
    if model.startswith(("/", "~", ".")) and local_folder(model) is None:
        raise LLMInitError(f"llm_encoder is {model}, and no folder is there (looked in {Path.cwd()}): check the path")


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str | Path):
        raise LLMInitError(f"{key} is {value!r}, a {type(value).__name__}: expected a text, put it in quotes")
    if value is not None and not is_utf8(str(value)):
        raise LLMInitError(f"{key} is {str(value)!r}, which cannot be encoded in UTF-8: expected text")
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
        # The command line gives a text: title,brand or [title, brand].
        with contextlib.suppress(yaml.YAMLError, RecursionError, ValueError):
            value = read_yaml(value if value.startswith("[") else f"[{value}]")
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(isinstance(field, str) for field in value):
        raise LLMInitError(f"llm_text_fields is {value!r}: expected a list of fields such as [title, brand]")
    return tuple(value)


def _dataset_folder(settings: Mapping[str, Any]) -> Path:
    """Return the folder in which RecBole looks for a dataset; RecBole itself contains ml-100k."""
    dataset = str(settings["dataset"])
    recbole = importlib.util.find_spec("recbole")
    if dataset == "ml-100k" and recbole is not None and recbole.submodule_search_locations:
        return Path(recbole.submodule_search_locations[0]) / "dataset_example" / dataset
    return (_path(settings, "data_path") or Path("dataset")) / dataset
