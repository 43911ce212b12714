"""The configuration: RecBole's own, plus the ``init_*`` and ``llm_*`` keys, read and checked once."""

from __future__ import annotations

import copy
import copyreg
import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from recbole_llminit.encode.options import LLM_KEYS, EncodeOptions, check_dataset_name
from recbole_llminit.encode.pipeline import encode_items
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, reason
from recbole_llminit.initialization.initializer import SMALLEST_STD, Missing
from recbole_llminit.initialization.tables import Side
from recbole_llminit.initialization.users import Aggregation
from recbole_llminit.integration import compat, distributed
from recbole_llminit.integration.model_support import list_models
from recbole_llminit.processes import LAUNCH_KEYS, Ranks
from recbole_llminit.settings import (
    as_paths,
    is_none,
    parse_arguments,
    read_settings,
    read_values,
    read_yaml,
    unknown_key,
)
from recbole_llminit.strategies.base import Scale, Strategy, get_strategy, strategy_names
from recbole_llminit.suggest import nearest, suggest

compat.apply()
distributed.apply()

import recbole  # noqa: E402  after the check that it is there
import recbole.config  # noqa: E402
from recbole.utils import ModelType  # noqa: E402
from recbole.utils import get_model as get_stock_model  # noqa: E402

from recbole_llminit import models  # noqa: E402
from recbole_llminit.integration.recbole_keys import (  # noqa: E402
    check_together,
    check_values,
    describe_given,
    keys_read_anywhere,
    nearest_key,
    readers_of,
    unknown_recbole_key,
)

_PREFIXES = ("init_", "llm_")
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


class Config(recbole.config.Config):
    """RecBole's configuration, independent of ``sys.argv`` and strict about what RecBole would ignore.

    Parameters
    ----------
    model : str or class, optional
        A RecBole model's name, a model class, or the dotted path of one; wins over the key ``model``.
    dataset : str, optional
        The dataset's name; wins over the key ``dataset``.
    config_file_list : sequence of path, optional
        YAML files; later ones win.
    config_dict : mapping, optional
        Wins over the files. It is not changed.
    arguments : sequence of str, optional
        Command-line arguments ``--key=value``; they win over files and dictionary.
    lenient : bool
        Whether a key that no model of RecBole's reads is let be, as for a model class of the user's own.

    Raises
    ------
    LLMInitError
        If an argument is not ``--key=value``, a file is not YAML, a key is unknown, or a value cannot be one of its
        key. Texts are never evaluated, as RecBole does: what is a literal is read as one (`read_value`).

    Notes
    -----
    ``config["model"]`` and ``config.model_class`` are the stock model's, and a pickled configuration is a plain
    ``recbole.config.Config``: a checkpoint opens in RecBole without this package, unless the model is one of its own.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        *,
        lenient: bool = False,
    ) -> None:
        self._arguments, self._lenient = arguments, lenient
        try:
            super().__init__(model, dataset, as_paths(config_file_list or ()), copy.deepcopy(dict(config_dict or {})))
        except LLMInitError:
            raise
        except Exception as error:
            # RecBole raises what its insides happen to raise over a value.
            given = describe_given(self, getattr(self, "external_config_dict", ()))
            raise LLMInitError(
                f"RecBole refuses the configuration ({reason(error)}): check the values of its keys, lists as "
                f"[Recall, NDCG]{given}"
            ) from error
        del self._arguments, self._lenient
        InitOptions.from_config(self)
        check_together(self.final_config_dict, of_recbole=is_own_or_recboles(self.model_class))

    def __reduce__(self) -> tuple[Any, ...]:
        # A checkpoint of several processes opens in one.
        alone = {} if self["single_spec"] else {"single_spec": True, "local_rank": 0, **dict.fromkeys(LAUNCH_KEYS)}
        state = {**self.__dict__, "final_config_dict": {**self.final_config_dict, **alone}}
        # Of all that pickle can call this does the least, and stock RecBole needs nothing of ours to read it.
        return copyreg._reconstructor, (recbole.config.Config, object, None), state  # type: ignore[attr-defined]

    def _load_config_files(self, file_list: Sequence[Path]) -> dict[str, Any]:
        return read_settings(file_list, ())

    def _load_cmd_line(self) -> dict[str, Any]:
        return self._convert_config_dict(dict(parse_arguments(self._arguments)))

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        # RecBole evaluates the text of a value as Python. Values of our keys stay the text they are.
        return read_values(config_dict, but=_PREFIXES)

    def _get_final_config_dict(self) -> dict[str, Any]:
        self._refuse_unknown()
        check_values(self.external_config_dict, self.internal_config_dict)
        found: dict[str, Any] = super()._get_final_config_dict()
        return found

    def _refuse_unknown(self) -> None:
        """Raise for a key that nothing reads; one that other models read is an error as an argument alone."""
        own = not is_own_or_recboles(self.model_class)
        known = self.known_keys()
        for key in self.unread_keys():
            argument = key in self.cmd_config_dict
            if own or self._lenient:
                wrong = (argument or self._lenient) and nearest_key(key, known) is not None
            else:
                wrong = argument or not readers_of(key)
            if wrong:
                raise unknown_recbole_key(key, known, self.model)

    def unread_keys(self) -> list[str]:
        """Return the keys given that nothing of RecBole or this package reads for the model."""
        given = self.external_config_dict.keys() - self.known_keys()
        # InitOptions knows more of its own.
        return sorted(key for key in given if not key.replace("-", "_").lower().startswith(_PREFIXES))

    def known_keys(self) -> set[str]:
        """Return the keys that RecBole, the model and this package read; a model of one's own may read others."""
        listed = {key for keys in self.parameters.values() for key in keys}
        of_code = keys_read_anywhere(self.model, self.external_config_dict.get("transform"))
        # RecBole lists config_file among its keys and reads it nowhere.
        known = {*KEYS, *self.internal_config_dict, *listed, *of_code} - {"config_file"}
        return known | {"model", "dataset", "config_files", "resume", "drop_train", *LAUNCH_KEYS, "local_rank"}

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        if model_class is getattr(models, model, None):
            self._update_internal_config_dict(Path(__file__).parents[1] / "properties" / "model" / f"{model}.yaml")

    def _get_model_and_dataset(self, model: str | type | None, dataset: str | None) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        if model is None or dataset is None:
            lacking = "model" if model is None else "dataset"
            raise LLMInitError(
                f"no {lacking} is given: pass {lacking}, set it in a YAML file, or give --{lacking}=NAME"
            )
        check_dataset_name(dataset)
        found: tuple[str, type, str] = super()._get_model_and_dataset(resolve_model_class(model), dataset)
        return found


def is_own_or_recboles(model_class: type) -> bool:
    """Whether a model class is RecBole's or this package's, so that all keys it reads are known."""
    return model_class.__module__.startswith(("recbole.", "recbole_llminit."))


def resolve_model_class(model: str | type) -> type:
    """Return the stock class of a RecBole model's name, a dotted path ``package.module.Class``, or a model class."""
    found: Any
    if not isinstance(model, str | type):
        raise LLMInitError(f"the model is {model!r}, a {type(model).__name__}: expected a name, a class or its path")
    if not isinstance(model, str):
        # A user's subclass of one of ours inherits the attribute, and is itself what the user wants.
        found = vars(model).get("stock_class", model)
    elif "." in model:
        module_name, _, class_name = model.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (Exception, SystemExit) as error:
            # The module is the user's own and may raise anything.
            raise LLMInitError(
                f"the model {model!r} cannot be imported ({reason(error)}): expected package.module.Class on the "
                f"Python path"
            ) from error
    elif model in models.__all__:
        found = getattr(models, model)
    else:
        try:
            found = get_stock_model(model)
        except (ImportError, ValueError, AttributeError) as error:
            # RecBole ends its search for a name in models of optional packages, whose import error says nothing of it.
            if model.lower() in ("lightgbm", "xgboost") and isinstance(error, ModuleNotFoundError):
                raise LLMInitError(f"RecBole's {model} cannot be imported: pip install {error.name}") from error
            names = [row.model for row in list_models()]
            raise LLMInitError(
                f"the model {model!r} is none of RecBole's{suggest(model, names, cutoff=0.7)} (a class of your own is "
                f"named with its module, as my_model.MyModel)"
            ) from error
    if not isinstance(found, type) or not hasattr(found, "type"):
        raise LLMInitError(
            f"the model {model!r} is {found!r}: expected a subclass of one of RecBole's, such as GeneralRecommender"
        )
    compat.patch_model(found)
    return found


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
        if not normalized.startswith(_PREFIXES) or key in KEYS or key in internal:
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
