"""The ``init_*`` and ``llm_*`` keys of a RecBole configuration, read and checked once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from recbole_llminit.encode.options import LLM_KEYS, EncodeOptions
from recbole_llminit.encode.pipeline import encode_items
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists
from recbole_llminit.initialization.initializer import SMALLEST_STD, Missing
from recbole_llminit.initialization.tables import Side
from recbole_llminit.initialization.users import Aggregation
from recbole_llminit.integration.model_class import is_own_or_recboles
from recbole_llminit.processes import Ranks
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
# What makes the constructors of NeuMF, NAIS, KD_DAGFM, ConvNCF, RaCT and S3Rec read a checkpoint.
_PRETRAINED: dict[str, tuple[str, ...] | None] = {
    "use_pretrain": None,
    "pretrain_path": None,
    "warm_up": None,
    "train_method": ("after_pretrain",),
    "train_stage": ("critic_pretrain", "finetune"),
}
_PACKAGED = {"ml-100k": Path(__file__).parents[1] / "data" / "ml-100k"}


@dataclass(frozen=True)
class InitOptions:
    """The ``init_*`` and ``llm_*`` keys of a configuration, checked.

    Parameters
    ----------
    strategy : Strategy or None
        From ``init_strategy`` and ``init_args``; None for a stock run.
    scale, user, missing, tables, trainable, shuffle
        From ``init_scale`` (None where the strategy's default counts), ``init_user``, ``init_missing``,
        ``init_tables``, ``init_trainable``, ``init_shuffle``.
    embedding : Path or None
        From ``llm_embedding``; None where it is to be looked up or made.
    encode : EncodeOptions or None
        How the vectors are made where there are none; None for a stock run.
    """

    strategy: Strategy | None
    scale: Scale | None
    user: Aggregation | Literal["none"] | Path
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
            If a key or value is unknown, or the model has nothing to initialise.
        """
        name = config["init_strategy"]
        _refuse_unknown_keys(config, strict=not is_none(name) or is_own_or_recboles(config.model_class))
        strategy = None
        if not is_none(name):
            if not isinstance(name, str):
                names = ", ".join(strategy_names())
                raise LLMInitError(f"init_strategy is {name!r}: expected none or one of {names}")
            strategy = get_strategy(name, _mapping(config, "init_args"))
            # NCEPLRec solves an SVD, but says it is of the general type.
            if config["MODEL_TYPE"] in (ModelType.TRADITIONAL, ModelType.DECISIONTREE) or config["model"] == "NCEPLRec":
                kind = "decision trees" if config["MODEL_TYPE"] == ModelType.DECISIONTREE else "closed form"
                raise LLMInitError(
                    f"{config['model']} has no trainable user or item table ({kind}): "
                    f"remove init_strategy or choose a model that has one"
                )
            _refuse_pretrained(config)
        shuffle = _flag(config, "init_shuffle", default=False)
        if shuffle and strategy is not None and not strategy.needs_vectors:
            raise LLMInitError(f"init_shuffle permutes the vectors, and init_strategy {name!r} reads none: remove it")
        user = _user(config)
        if isinstance(user, Path) and strategy is not None and not strategy.needs_vectors:
            raise LLMInitError(
                f"init_user is {user}, and init_strategy {name!r} reads no vectors: set init_user to "
                f"{', '.join(get_args(Aggregation))} or none (in a comparison for that start)"
            )
        path = config["llm_embedding"]
        if path == "":
            raise LLMInitError("llm_embedding is empty: give the path of vectors, or leave it out to make them")
        return cls(
            strategy=strategy,
            scale=_scale(config["init_scale"]),
            user=user,
            missing=_choice(config, "init_missing", ("model", "mean", "error")),
            tables=read_tables(config),
            trainable=_flag(config, "init_trainable", default=True),
            shuffle=shuffle,
            embedding=None if is_none(path) else Path(str(path)).expanduser(),
            encode=None
            if strategy is None
            else EncodeOptions.from_settings(config.final_config_dict, Path(os.path.normpath(config["data_path"]))),
        )

    @property
    def wants_embedding(self) -> bool:
        """Whether vectors are opened: a strategy that reads none asks of those given which items have one."""
        return self.strategy is not None and (self.strategy.needs_vectors or self.embedding is not None)

    @property
    def packaged_embedding(self) -> Path | None:
        """The packaged vectors, where the dataset has some and no ``llm_*`` key asks for others."""
        if self.encode is None or not self.encode.are_default:
            return None
        return _PACKAGED.get(self.encode.dataset)

    def provide_embedding(self, ranks: Ranks | None = None) -> Path:
        """Return the path of the vectors: those given, else those packaged for ml-100k, else those made from the texts.

        Made vectors lie in ``llm_cache_dir``; only what is not there is encoded. The packaged ones are taken where no
        ``llm_*`` key asks for others.

        Parameters
        ----------
        ranks : Ranks, optional
            The processes of the run, all of which call this: they share the encoding.

        Raises
        ------
        LLMInitError
            If there is nothing at the path given, or vectors cannot be made.
        """
        if self.embedding is not None:
            if not exists(self.embedding):
                raise LLMInitError(
                    f"llm_embedding is {self.embedding}, and nothing is there (looked in {Path.cwd()}): check the "
                    f"path, or leave it out to make the vectors from the item texts"
                )
            return self.embedding
        if self.encode is None:
            raise LLMInitError("init_strategy is none: a stock run has no vectors")
        if self.packaged_embedding is not None:
            return self.packaged_embedding
        report = encode_items(self.encode, ranks)
        getLogger().info(f"\n{report}" if report.encoded else f"Item vectors: {report.folder}, nothing to encode")
        return report.folder


def _refuse_unknown_keys(config: recbole.config.Config, *, strict: bool) -> None:
    """Raise for a key that looks like ours; in a stock run a model's own ``init_std`` is nobody's mistake."""
    internal = getattr(config, "internal_config_dict", {})
    for key in config.final_config_dict:
        normalized = str(key).replace("-", "_").lower()
        if not normalized.startswith(PREFIXES) or key in KEYS or key in internal:
            continue
        if strict or nearest(normalized, KEYS, cutoff=0.8):
            raise unknown_key(str(key), KEYS)


def _refuse_pretrained(config: recbole.config.Config) -> None:
    """Raise where the model's constructor reads pre-trained tables, which the LLM start would overwrite."""
    for key, values in _PRETRAINED.items():
        if config[key] and (values is None or config[key] in values):
            raise LLMInitError(
                f"{config['model']} reads pre-trained weights ({key}: {config[key]}), which init_strategy would "
                f"overwrite: remove one of the two"
            )


def _mapping(config: recbole.config.Config, key: str) -> dict[str, Any]:
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


def _choice(config: recbole.config.Config, key: str, choices: tuple[str, ...]) -> Any:
    if key not in config:
        return choices[0]
    value = config[key]
    if is_none(value) and "none" in choices:
        return "none"
    if value not in choices:
        raise LLMInitError(f"{key} {value!r} is unknown{suggest(str(value), choices)} ({', '.join(choices)})")
    return value


def _user(config: recbole.config.Config) -> Aggregation | Literal["none"] | Path:
    choices = (*get_args(Aggregation), "none")
    value = config["init_user"]
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
    found: Aggregation | Literal["none"] = _choice(config, "init_user", choices)
    return found


def _scale(value: Any) -> Scale | None:
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


def _flag(config: recbole.config.Config, key: str, *, default: bool) -> bool:
    value = config[key]
    if value is None:
        return default
    # On the command line our values stay text.
    if str(value).lower() not in ("true", "false"):
        raise LLMInitError(f"{key} is {value!r}: expected True or False")
    return str(value).lower() == "true"


def read_tables(config: recbole.config.Config) -> Mapping[Side, Sequence[str]] | None:
    """Read the key ``init_tables`` of any RecBole configuration.

    Raises
    ------
    LLMInitError
        If it is no mapping of user and item to names.
    """
    value: dict[Any, Any] = _mapping(config, "init_tables")
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
