"""RecBole's own configuration keys: which model reads which, and what each may be.

RecBole accepts any key and any value: an unknown key is never read, and a wrong value is an error late in the run, or
trains something else.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.model_exceptions import UNLISTED_KEYS
from recbole_llminit.settings import is_none, read_yaml_file
from recbole_llminit.suggest import nearest, suggest

_OUR_PROPERTIES = Path(__file__).parents[1] / "properties" / "model"
# RecBole's code reads these, and none of its property files lists them.
_UNLISTED_KEYS = ("encoding", "verbose", "tail_ratio", "neg_sampling", "training_neg_sample_num")
# The data transforms (``recbole/data/transform.py``) read these; any model may have a transform.
_TRANSFORM_KEYS = ("mask_ratio", "ft_ratio", "eta", "gamma", "beta")

_SMALLEST = {
    **dict.fromkeys(("epochs", "train_batch_size", "eval_batch_size", "MAX_ITEM_LIST_LENGTH"), 1),
    **dict.fromkeys(("seed", "worker", "eval_step", "stopping_step"), 0),
    **dict.fromkeys(("metric_decimal_place", "loss_decimal_place"), 0),
}
_SHOWN_LENGTH, _SHOWN_VALUE_LENGTH = 400, 100
_LARGEST_SEED = 2**32 - 1
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
_TEACHERS = ("CrossNet", "CIN")
_INNER_KEYS = {
    "eval_args": ("split", "order", "group_by", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
    "clip_grad_norm": ("max_norm", "norm_type", "error_if_nonfinite"),
}
_EVAL_MODE = re.compile(r"full|labeled|(uni|pop)[1-9][0-9]*")
_INTERVAL_KEYS = (
    "user_inter_num_interval",
    "item_inter_num_interval",
    "entity_kg_num_interval",
    "relation_kg_num_interval",
)
_BOUND = r"\s*-?([0-9.]+(e[-+]?[0-9]+)?|inf)\s*"
_INTERVAL = re.compile(rf"[(\[]{_BOUND},{_BOUND}[)\]]", re.IGNORECASE)
# A model's key whose default is a whole number counts something where its name is one of these.
_COUNT_KEY = re.compile(
    r"^(n|num)_|_(size|dim|dimension|layers?|num|heads|len|length|epochs|interval|steps?)$|^(k|depth|order)$"
)
# The types of the keys that have no default, from the comments in RecBole's property files.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("clip_grad_norm", "seq_len", "threshold", "preload_weight"), (dict,)),
    **dict.fromkeys(("discretization", "load_col", "unload_col", "unused_col"), (dict,)),
    **dict.fromkeys(("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"), (list,)),
    **dict.fromkeys(("normalize_field", "benchmark_filename"), (list,)),
    **dict.fromkeys(("additional_feat_suffix", "metrics"), (list, str)),
    **dict.fromkeys(("dataset_save_path", "dataloaders_save_path", "transform", "rm_dup_inter"), (str,)),
    "normalize_all": (bool,),
    "gpu_id": (str, int, list, tuple),
}
_TYPE_NAMES = {
    bool: "True or False",
    str: "a text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    int: "a number",
}


def unlisted_keys(model: str, transform: object) -> set[str]:
    """Return the keys that RecBole's code reads for a model, and that none of its property files lists."""
    of_transform = () if is_none(transform) else _TRANSFORM_KEYS
    return {*_UNLISTED_KEYS, *UNLISTED_KEYS.get(model, ()), *of_transform}


@functools.cache
def _properties_by_model() -> Mapping[str, Mapping[str, Any]]:
    """Return the content of each model's property file."""
    import recbole

    properties = Path(recbole.__file__).parent / "properties" / "model"
    files = [*properties.glob("*.yaml"), *_OUR_PROPERTIES.glob("*.yaml")]
    return {path.stem: read_yaml_file(path) for path in files}


def readers_of(key: str) -> list[str]:
    """Return the names of the models that read a key by their property file or code, in alphabetical order."""
    return sorted(
        model
        for model, properties in _properties_by_model().items()
        if key in properties or key in UNLISTED_KEYS.get(model, ())
    )


def default_value(model: str, key: str) -> Any:
    """Return the value of a key in a model's property file; None where the file, or the key in it, is missing."""
    return _properties_by_model().get(model, {}).get(key)


def is_count(key: str) -> bool:
    """Return whether a key counts something by its name, such as layers, dimensions or neighbors."""
    return _COUNT_KEY.search(key) is not None


def describe_unread(key: str, *models: str) -> str:
    """Return a sentence that says that models do not read a key, and which others do."""
    readers = readers_of(key)
    sentence = f"{', '.join(models)} {'does' if len(models) == 1 else 'do'} not read {key}"
    if not readers:
        return sentence
    more = " and others" if len(readers) > 4 else ""
    return f"{sentence} ({', '.join(readers[:4])}{more} read{'s' if len(readers) == 1 else ''} it)"


def unknown_recbole_key(key: str, known: Collection[str], model: str) -> LLMInitError:
    """Return the error for a key that neither RecBole nor this package reads for a model."""
    match = nearest_key(key, known)
    if match is None and readers_of(key):
        return LLMInitError(f"{describe_unread(key, model)}: leave it out")
    meant = f": did you mean {match!r}?" if match else suggest(key, known, cutoff=0.65)
    return LLMInitError(f"the key {key!r} is unknown, nothing of RecBole's reads it{meant or ': leave it out'}")


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """Return the known key that differs from an unknown one by a slip, if there is one."""
    return nearest(key.replace("-", "_"), known, cutoff=0.85)


def check_values(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise for a value that its key cannot have.

    Parameters
    ----------
    given : mapping
        The user's keys and values.
    defaults : mapping
        The defaults of RecBole's property files for the model; a value has to have the type of its default.

    Raises
    ------
    LLMInitError
        For the first such value.
    """
    for key, value in given.items():
        if key in _CHECKS:
            _CHECKS[key](key, value)
        elif key in _TYPES or key in defaults:
            _check_type(key, value, defaults.get(key))


def _check_type(key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        if not (isinstance(value, bool) or value in (0, 1)):
            raise _refusal(key, value, "True or False")
    elif isinstance(default, int | float):
        _check_number(key, value)
        if isinstance(default, int) and is_count(key):
            _check_whole(key, value, least=1 if key.endswith("_size") else min(0, default))
    elif not (is_none(value) and (default is None or isinstance(default, dict))):
        _check_one_of_types(key, value, _TYPES.get(key) or (() if default is None else (type(default),)))
    if key in _INNER_KEYS and isinstance(value, dict):
        _check_inner_keys(key, value)


def _check_one_of_types(key: str, value: Any, types: tuple[type, ...]) -> None:
    if not types or (list in types and isinstance(value, tuple)):
        return
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise _refusal(key, value, " or ".join(dict.fromkeys(_TYPE_NAMES[kind] for kind in types)))


def _check_inner_keys(key: str, value: Mapping[Any, Any]) -> None:
    for inner, content in value.items():
        if inner not in _INNER_KEYS[key]:
            names = _INNER_KEYS[key]
            raise LLMInitError(f"{key} has the key {inner!r}{suggest(inner, names)} (it takes {', '.join(names)})")
        if inner in ("max_norm", "norm_type", "alpha"):
            _check_number(f"{key} {inner}", content)
        elif inner == "sample_num":
            _check_whole(f"{key} {inner}", content, least=1)
        elif inner == "candidate_num":
            _check_whole(f"{key} {inner}", content)
        elif inner == "mode":
            _check_mode(content)


def _check_mode(value: Any) -> None:
    modes = list(value.values()) if isinstance(value, dict) and value.keys() <= {"valid", "test"} else [value]
    if not modes or not all(isinstance(mode, str) and _EVAL_MODE.fullmatch(mode) for mode in modes):
        raise _refusal("eval_args mode", value, "full, labeled, uni100 or pop100, or one for each of valid and test")


def _check_intervals(key: str, value: Any) -> None:
    # RecBole silently ignores an interval that it cannot read.
    parts = [] if is_none(value) else str(value).split(";")
    if not all(_INTERVAL.fullmatch(part.strip()) for part in parts):
        raise _refusal(key, value, "intervals such as [5,inf) or (0,1];[3,4]")


def _check_values_kept(key: str, value: Any) -> None:
    if not isinstance(value, dict) and not is_none(value):
        raise _refusal(key, value, "a mapping")
    for field, kept in (value or {}).items():
        # A field of tokens has a list of those to keep.
        if not isinstance(kept, list | tuple):
            _check_intervals(f"{key} {field}", kept)


def _check_number(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refusal(key, value, "a number")


def _check_whole(key: str, value: Any, least: int = 0, most: float = math.inf) -> None:
    if type(value) is not int or not least <= value <= most:
        bounds = f"from {least} on" if most == math.inf else f"from {least} to {most}"
        raise _refusal(key, value, f"a whole number {bounds}")


def _check_learning_rate(key: str, value: Any) -> None:
    _check_number(key, value)
    if value <= 0:
        raise _refusal(key, value, "a number above 0")


def _check_topk(key: str, value: Any) -> None:
    cuts = value if isinstance(value, list | tuple) and value else [value]
    if not all(type(cut) is int and cut > 0 for cut in cuts):
        raise _refusal(key, value, "a whole number above 0, or a list of them")


def _check_metrics(key: str, value: Any) -> None:
    from recbole.evaluator import metric_types

    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise _refusal(key, value, "names such as [Recall, NDCG]")
    for name in names:
        if name.lower() not in metric_types:
            raise LLMInitError(
                f"{key} has {name!r}, which RecBole does not know{suggest(name, metric_types)} (it knows "
                f"{', '.join(metric_types)})"
            )


def _one_of(choices: tuple[str, ...]) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if not isinstance(value, str) or value.lower() not in [choice.lower() for choice in choices]:
            raise LLMInitError(f"{key} is {value!r}{suggest(value, choices)} (expected one of {', '.join(choices)})")

    return check


def _refusal(key: str, value: Any, expected: str) -> LLMInitError:
    shown = repr(value)
    if len(shown) > _SHOWN_VALUE_LENGTH:
        shown = f"{shown[:_SHOWN_VALUE_LENGTH]} ..."
    return LLMInitError(f"{key} is {shown}: expected {expected}")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **{key: functools.partial(_check_whole, least=least) for key, least in _SMALLEST.items()},
    "seed": functools.partial(_check_whole, most=_LARGEST_SEED),
    "learning_rate": _check_learning_rate,
    "topk": _check_topk,
    "metrics": _check_metrics,
    "learner": _one_of(_LEARNERS),
    **dict.fromkeys(_INTERVAL_KEYS, _check_intervals),
    "val_interval": _check_values_kept,
    # KD_DAGFM evaluates the name as Python.
    "teacher": _one_of(_TEACHERS),
}


def check_together(settings: Mapping[str, Any], *, of_recbole: bool) -> None:
    """Raise for values that contradict each other, which RecBole finds out in training.

    Parameters
    ----------
    settings : mapping
        The configuration as RecBole completes it.
    of_recbole : bool
        Whether the model is RecBole's or this package's, none of which has sparse gradients.

    Raises
    ------
    LLMInitError
        If ``valid_metric`` is not computed, or the learner needs sparse gradients that the model does not have.
    """
    if settings["eval_step"] > 0:
        check_valid_metric(settings)
    if of_recbole and settings["learner"].lower() == "sparse_adam":
        raise LLMInitError(
            f"learner is sparse_adam, and no table of {settings['model']} has sparse gradients: use adam"
        )


def describe_given(config: Any, keys: Collection[str]) -> str:
    """Return the end of a message that lists which of some keys the user has given, with their values."""
    given = {key: value for key, value in getattr(config, "external_config_dict", {}).items() if key in keys}
    shown = ", ".join(f"{key}: {value}" for key, value in given.items())
    if len(shown) > _SHOWN_LENGTH:
        shown = f"{shown[:_SHOWN_LENGTH]} ..."
    return f"; given were {shown}" if shown else ""


def check_valid_metric(settings: Mapping[str, Any]) -> None:
    """Raise where ``valid_metric`` is none of the metrics that are computed, which RecBole finds out after an epoch.

    Parameters
    ----------
    settings : mapping
        The configuration as RecBole completes it.

    Raises
    ------
    LLMInitError
        If it is none of them, or no text.
    """
    from recbole.evaluator import metric_types
    from recbole.utils import EvaluatorType

    named = settings["valid_metric"]
    if not isinstance(named, str):
        raise _refusal("valid_metric", named, "a text such as NDCG@10")
    name, _, cut = named.lower().partition("@")
    computed = [metric.lower() for metric in settings["metrics"]]
    # GAUC is a ranking metric without a cut-off.
    cuts = [str(k) for k in settings["topk"]] if metric_types.get(name) == EvaluatorType.RANKING else [""]
    if name not in computed or cut not in (cuts if name != "gauc" else [""]):
        raise LLMInitError(
            f"valid_metric is {named}, and it is none of metrics {settings['metrics']} at topk {settings['topk']}: "
            f"set another valid_metric, or add it to metrics and topk"
        )
