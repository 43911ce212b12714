"""The ``init_*`` and ``llm_*`` keys of a RecBole configuration, read and checked once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from recbole_llminit.encode.options import LLM_KEYS, EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists
from recbole_llminit.initialization.embedding_table import Side
from recbole_llminit.initialization.initializer import Missing
from recbole_llminit.initialization.model_exceptions import CLOSED_FORM, PRETRAINED_KEYS
from recbole_llminit.initialization.scaling import SMALLEST_STD
from recbole_llminit.initialization.users import Aggregation
from recbole_llminit.integration.ease import MODEL as EASE
from recbole_llminit.integration.ease import check_ease
from recbole_llminit.integration.model_class import is_own_or_recboles
from recbole_llminit.settings import (
    is_none,
    read_yaml,
    unknown_key,
)
from recbole_llminit.strategies.base import Scale, Strategy, get_strategy, strategy_names
from recbole_llminit.suggest import nearest, suggest

import recbole  # isort: skip
import recbole.config  # isort: skip
from recbole.utils import ModelType  # isort: skip

PREFIXES = ("init_", "llm_")
"""How the configuration keys of this package begin."""
KEYS = (
    "init_strategy",
    "init_args",
    "init_scale",
    "init_user",
    "init_missing",
    "init_tables",
    "init_trainable",
    "init_shuffle",
    "llm_embedding",
    *LLM_KEYS,
)
"""The configuration keys of this package."""


@dataclass(frozen=True)
class InitOptions:
    """The ``init_*`` and ``llm_*`` keys of a configuration, checked.

    Parameters
    ----------
    strategy : Strategy or None
        From ``init_strategy`` and ``init_args``; None for a stock run.
    scale, user, missing, tables, trainable, shuffle
        From ``init_scale``, ``init_user`` (each None for what the strategy says), ``init_missing``, ``init_tables``,
        ``init_trainable``, ``init_shuffle``.
    embedding : Path or None
        From ``llm_embedding``; None where the vectors are looked up or made.
    encode : EncodeOptions or None
        How the vectors are made where there are none; None for a stock run.
    """

    strategy: Strategy | None
    scale: Scale | None
    user: Aggregation | Literal["none"] | Path | None
    missing: Missing
    tables: Mapping[Side, Sequence[str]] | None
    trainable: bool
    shuffle: bool
    embedding: Path | None
    encode: EncodeOptions | None

    @classmethod
    def from_config(cls, config: recbole.config.Config) -> InitOptions:
        """Read the keys of any RecBole configuration.

        Raises
        ------
        LLMInitError
            If a key or value is unknown, two keys do not go together, or the model has nothing to initialize.
        """
        _refuse_unknown_keys(config)
        strategy = _read_strategy(config)
        folder = Path(os.path.normpath(config["data_path"]))
        options = cls(
            strategy=strategy,
            scale=_read_scale(config["init_scale"]),
            user=_read_user(config, strategy),
            missing=_read_choice(config, "init_missing", ("model", "mean", "error")),
            tables=read_tables(config),
            trainable=_read_flag(config, "init_trainable", default=True),
            shuffle=_read_flag(config, "init_shuffle", default=False),
            embedding=_read_embedding(config["llm_embedding"]),
            encode=None if strategy is None else EncodeOptions.from_settings(config.final_config_dict, folder),
        )
        if strategy is not None and not strategy.needs_vectors:
            options._refuse_vectors(config["init_strategy"])
        return options

    @property
    def wants_embedding(self) -> bool:
        """Whether vectors are opened: a strategy that reads none asks of those given which items have one."""
        return self.strategy is not None and (self.strategy.needs_vectors or self.embedding is not None)

    def _refuse_vectors(self, name: str) -> None:
        """Raise for keys that need vectors beside a strategy that reads none."""
        if self.shuffle:
            raise LLMInitError(f"init_shuffle permutes the vectors, and init_strategy {name!r} reads none: remove it")
        if isinstance(self.user, Path):
            raise LLMInitError(
                f"init_user is {self.user}, and init_strategy {name!r} reads no vectors: set init_user to "
                f"{', '.join(get_args(Aggregation))} or none (in a comparison for that initialization)"
            )


def options_of(config: recbole.config.Config) -> InitOptions:
    """Return the options of a configuration: those that this package's `Config` has read, else read them now."""
    found: InitOptions | None = getattr(config, "init_options", None)
    return InitOptions.from_config(config) if found is None else found


def _read_strategy(config: recbole.config.Config) -> Strategy | None:
    """Read ``init_strategy`` and ``init_args``, and refuse a model that has nothing to initialize."""
    name = config["init_strategy"]
    if is_none(name):
        return None
    if not isinstance(name, str):
        raise LLMInitError(f"init_strategy is {name!r}: expected none or one of {', '.join(strategy_names())}")
    strategy = get_strategy(name, _read_mapping(config, "init_args"))
    if config["model"] == EASE:
        check_ease(config, strategy)
        return strategy
    kinds = {ModelType.DECISIONTREE: "decision trees", ModelType.TRADITIONAL: "closed form"}
    kind = "closed form" if config["model"] in CLOSED_FORM else kinds.get(config["MODEL_TYPE"])
    if kind is not None:
        raise LLMInitError(
            f"{config['model']} has no trainable user or item table ({kind}): "
            f"remove init_strategy or choose a model that has one"
        )
    _refuse_pretrained(config)
    return strategy


def _refuse_unknown_keys(config: recbole.config.Config) -> None:
    """Raise for a key that looks like ours; in a stock run a user's own model may read an ``init_std``."""
    strict = not is_none(config["init_strategy"]) or is_own_or_recboles(config.model_class)
    internal = getattr(config, "internal_config_dict", {})
    for key in config.final_config_dict:
        normalized = str(key).replace("-", "_").lower()
        if not normalized.startswith(PREFIXES) or key in KEYS or key in internal:
            continue
        if strict or nearest(normalized, KEYS, cutoff=0.8):
            raise unknown_key(str(key), KEYS)


def _refuse_pretrained(config: recbole.config.Config) -> None:
    """Raise where the model's constructor reads pre-trained tables, which the vectors would overwrite."""
    for key, values in PRETRAINED_KEYS.items():
        if config[key] and (values is None or config[key] in values):
            raise LLMInitError(
                f"{config['model']} reads pre-trained weights ({key}: {config[key]}), which init_strategy would "
                f"overwrite: remove one of the two"
            )


def _read_mapping(config: recbole.config.Config, key: str) -> dict[str, Any]:
    value = config[key]
    if isinstance(value, str) and not is_none(value):
        try:
            value = read_yaml(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise LLMInitError(f"{key} is {value!r}, which is not YAML: write it as {{key: value}}") from error
    if is_none(value):
        return {}
    if not isinstance(value, dict):
        raise LLMInitError(f"{key} is {value!r}: expected a mapping such as {{key: value}}")
    return value


def _read_choice(config: recbole.config.Config, key: str, choices: tuple[str, ...]) -> Any:
    if key not in config:
        return choices[0]
    value = config[key]
    if is_none(value) and "none" in choices:
        return "none"
    if value not in choices:
        raise LLMInitError(f"{key} {value!r} is unknown{suggest(str(value), choices)} ({', '.join(choices)})")
    return value


def _read_user(config: recbole.config.Config, strategy: Strategy | None) -> Aggregation | Literal["none"] | Path | None:
    choices = (*get_args(Aggregation), "none")
    value = config["init_user"]
    if "init_user" not in config and strategy is not None and not strategy.is_reduction:
        return None
    if value == "":
        raise LLMInitError(f"init_user is empty: expected {', '.join(choices)}, or the path of the users' own vectors")
    if isinstance(value, (str, Path)) and value not in choices and not is_none(value):
        path = Path(value).expanduser()
        if exists(path):
            return path
        if path.suffix or len(path.parts) > 1:
            raise LLMInitError(
                f"init_user is {value}, and nothing is there (looked in {Path.cwd()}): expected {', '.join(choices)}, "
                f"or the path of the users' own vectors"
            )
    found: Aggregation | Literal["none"] = _read_choice(config, "init_user", choices)
    return found


def _read_scale(value: Any) -> Scale | None:
    if value is None:
        return None
    if value in ("raw", "model", "score"):
        return cast("Scale", value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise LLMInitError(f"init_scale is {value!r}: expected raw, model, score or a number above 0")
    if number < SMALLEST_STD:
        raise LLMInitError(f"init_scale is {value!r}, at which every score is 0: expected a number such as 0.05")
    return number


def _read_flag(config: recbole.config.Config, key: str, *, default: bool) -> bool:
    value = config[key]
    if value is None:
        return default
    # On the command line our values stay text.
    if str(value).lower() not in ("true", "false"):
        raise LLMInitError(f"{key} is {value!r}: expected True or False")
    return str(value).lower() == "true"


def _read_embedding(path: Any) -> Path | None:
    if path == "":
        raise LLMInitError("llm_embedding is empty: give the path of vectors, or leave it out to make them")
    return None if is_none(path) else Path(str(path)).expanduser()


def read_tables(config: recbole.config.Config) -> Mapping[Side, Sequence[str]] | None:
    """Read the key ``init_tables`` of any RecBole configuration.

    Raises
    ------
    LLMInitError
        If it is no mapping of user and item to names.
    """
    value: dict[Any, Any] = _read_mapping(config, "init_tables")
    value = {side: [names] if isinstance(names, str) else names for side, names in value.items()}
    wrong = set(value) - {"user", "item"}
    if wrong:
        raise LLMInitError(f"init_tables has the key {min(map(str, wrong))!r}: expected user and item")
    listed = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value.values())
    if not listed:
        raise LLMInitError(
            f"init_tables is {value!r}: expected parameter names by side, such as "
            f"{{user: [user_embedding.weight], item: [item_embedding.weight]}} (quote a name with brackets of its own)"
        )
    return value or None
