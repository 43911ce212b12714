"""What to compare: the keys of a comparison, read and checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.cold_start import Drop
from recbole_llminit.integration.recbole_keys import check_values
from recbole_llminit.settings import is_none, read_settings, read_values, read_yaml
from recbole_llminit.strategies.base import get_strategy, strategy_names
from recbole_llminit.suggest import nearest

Role = Literal["stock", "llm", "control", "baseline"]

COMPARE_KEYS = (
    "models",
    "datasets",
    "strategies",
    "controls",
    "baselines",
    "seeds",
    "tune",
    "tune_grid",
    "cold_start",
    "user_strata",
    "item_strata",
)
# Small grids of what has no table to initialise, closed form and seconds each.
BASELINES: dict[str, dict[str, list[Any]]] = {
    "EASE": {"reg_weight": [10.0, 30.0, 100.0, 300.0, 1000.0]},
    "ItemKNN": {"k": [20, 50, 100, 200, 400], "shrink": [0.0, 10.0]},
    "Pop": {},
}
LEARNING_RATES = {"learning_rate": [0.0003, 0.001, 0.003, 0.01]}
# Where things lie on this machine, which is nobody else's business.
PATHS = ("data_path", "llm_embedding", "llm_cache_dir", "llm_text_file", "checkpoint_dir")
_FIRST_SEED = 2020
_MOST_TRIALS = 100_000
# What the comparison sets itself, and what to use in its place.
_OURS = {"seed": "seeds", "drop_train": "cold_start", "init_shuffle": "controls: shuffle"}


@dataclass(frozen=True)
class Initialization:
    """One way to initialization a model.

    Parameters
    ----------
    label : str
        Its name in the report.
    settings : mapping
        The configuration keys that make it.
    role : {"stock", "llm", "control"}
        Whether it is RecBole's own initialization, one from vectors, or one of the controls.
    """

    label: str
    settings: Mapping[str, Any]

    @property
    def role(self) -> Role:
        """What the initialization is in the comparison, read from its settings."""
        if is_none(self.settings.get("init_strategy")):
            return "stock"
        shuffled = str(self.settings.get("init_shuffle", False)).lower() == "true"
        return "control" if shuffled or not self.needs_vectors else "llm"

    @property
    def needs_vectors(self) -> bool:
        """Whether it reads vectors."""
        name = self.settings.get("init_strategy")
        return not is_none(name) and get_strategy(str(name)).needs_vectors


@dataclass(frozen=True)
class CompareOptions:
    """What to compare.

    Parameters
    ----------
    models, datasets : mapping of str to mapping
        RecBole models and datasets, with configuration keys of their own.
    initializations : tuple of Initialization
        Stock RecBole's, those of the strategies, and the controls.
    baselines : mapping of str to mapping
        Models without a table to initialise, with a grid of keys; the best by validation stands in the report.
    seeds : tuple of int
        Each sets split, negatives and initialization.
    tune : {"none", "stock", "all"}
        Which initializations are also tuned over ``tune_grid``, on the validation set of each seed.
    tune_grid : mapping of str to list
        Keys and the values to try.
    cold_start : tuple of float or "all_but_one"
        For each, everything is trained once more with that much of the training interactions dropped (``drop_train``).
    user_strata, item_strata : tuple of int
        Where the strata of users and items begin, by training interactions: ``(5, 20)`` makes 0-4, 5-19 and 20 or more.
    settings : mapping
        RecBole's keys, and this package's, for every trial.
    """

    models: Mapping[str, Mapping[str, Any]]
    datasets: Mapping[str, Mapping[str, Any]]
    initializations: tuple[Initialization, ...]
    baselines: Mapping[str, Mapping[str, Sequence[Any]]]
    seeds: tuple[int, ...]
    tune: Literal["none", "stock", "all"] = "none"
    tune_grid: Mapping[str, Sequence[Any]] = field(default_factory=lambda: LEARNING_RATES)
    cold_start: tuple[Drop, ...] = ()
    user_strata: tuple[int, ...] = (5, 10)
    item_strata: tuple[int, ...] = (5, 20)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_files(cls, paths: Sequence[str | Path], arguments: Sequence[str] = ()) -> CompareOptions:
        """Read YAML files and ``--key=value`` arguments: the keys of a comparison, and RecBole's for every trial.

        Raises
        ------
        LLMInitError
            If a key of the comparison is missing or its value cannot be read.
        """
        return cls.from_settings(read_settings(paths, arguments))

    @classmethod
    def from_settings(cls, content: Mapping[str, Any]) -> CompareOptions:
        """Read a mapping as `from_files` reads a file's content."""
        if not isinstance(content, Mapping):
            raise LLMInitError(f"what to compare is {content!r}: expected a mapping, or CompareOptions")
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in content.items()}
        given = {key: _parsed(key, settings.pop(key)) for key in COMPARE_KEYS if key in settings}
        # The file of a single run serves as it is.
        for singular in ("model", "dataset"):
            one = settings.pop(singular, None)
            given.setdefault(f"{singular}s", one)
        # Each initialization says its own.
        settings.pop("init_strategy", None)
        settings = read_values(settings, but=("init_", "llm_"))
        for key in settings:
            match = nearest(key.replace("-", "_"), COMPARE_KEYS, cutoff=0.75)
            if match and key != "seed":
                raise LLMInitError(f"the key {key!r} is unknown: did you mean {match!r}?")
        for key in ("models", "datasets"):
            if not given.get(key):
                raise LLMInitError(f"no {key} are given: give --{key}=NAME,NAME or {key}: [NAME, NAME] in a YAML file")
        initializations = _initializations(given.get("strategies", ["none", "rand", "uni", "var"]))
        initializations = (*initializations, *_controls(given.get("controls", ["noise", "shuffle"]), initializations))
        tune: Any = "none" if is_none(given.get("tune")) or given["tune"] is False else given["tune"]
        if tune not in ("none", "stock", "all"):
            raise LLMInitError(f"tune is {tune!r}: expected none, stock or all")
        first = settings.pop("seed", _FIRST_SEED)
        found = cls(
            models=_named(given["models"], "models"),
            datasets=_named(given["datasets"], "datasets"),
            initializations=initializations,
            baselines=_baselines(given.get("baselines", list(BASELINES))),
            seeds=_seeds(given.get("seeds", 1), first),
            tune=tune,
            tune_grid=_grid(given.get("tune_grid", LEARNING_RATES), "tune_grid"),
            cold_start=_levels(given.get("cold_start")),
            user_strata=_bounds(given.get("user_strata", (5, 10)), "user_strata"),
            item_strata=_bounds(given.get("item_strata", (5, 20)), "item_strata"),
            settings=settings,
        )
        found.refuse_own_keys()
        found.refuse_too_many()
        return found

    def refuse_too_many(self) -> None:
        """Raise for more trials than anybody waits for, before they are listed one by one."""
        grid = math.prod(len(values) for values in self.tune_grid.values())
        tuned = {
            "none": 0,
            "stock": sum(initialization.role == "stock" for initialization in self.initializations),
            "all": len(self.initializations),
        }
        of_models = len(self.models) * (len(self.initializations) + tuned[self.tune] * grid)
        of_baselines = sum(math.prod(len(values) for values in keys.values()) for keys in self.baselines.values())
        rounds = len(self.seeds) * len(self.datasets) * (1 + len(self.cold_start))
        count = rounds * (of_models + of_baselines)
        if count > _MOST_TRIALS:
            raise LLMInitError(
                f"these are {count:,} trials ({len(self.seeds):,} seeds, {of_models + of_baselines:,} trials each on "
                f"every dataset): expected {_MOST_TRIALS:,} at most, choose fewer seeds or initializations, or "
                f"smaller grids"
            )

    def refuse_own_keys(self) -> None:
        """Raise for a key that the comparison sets itself where it would be overridden or mislabelled."""
        initializations = {initialization.label: initialization.settings for initialization in self.initializations}
        places: dict[str, Mapping[str, Any]] = {"all trials": self.settings, "tune_grid": self.tune_grid}
        for key, named in (("models", self.models), ("datasets", self.datasets), ("strategies", initializations)):
            places.update({f"{key} {name}": keys for name, keys in named.items()})
        places.update({f"baselines {name}": grid for name, grid in self.baselines.items()})
        for place, keys in places.items():
            for key, instead in _OURS.items():
                if key in keys and not (key == "init_shuffle" and place.startswith("strategies ")):
                    raise LLMInitError(f"{key} is set for {place}: the comparison sets it, use {instead}")
        labels = [initialization.label for initialization in self.initializations]
        labels += [f"{label} tuned" for label in labels if self.tune != "none"]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise LLMInitError(
                f"two initializations are called {twice[0]!r}: give one another name, or leave out the control"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as `from_settings` reads them, in JSON types and without the paths of this machine."""
        return {
            "models": {name: _without_paths(keys) for name, keys in self.models.items()},
            "datasets": {name: _without_paths(keys) for name, keys in self.datasets.items()},
            "strategies": {
                initialization.label: _without_paths(initialization.settings) for initialization in self.initializations
            },
            "controls": "none",
            "baselines": {name: dict(grid) for name, grid in self.baselines.items()},
            "seeds": list(self.seeds),
            "tune": self.tune,
            "tune_grid": dict(self.tune_grid),
            "cold_start": list(self.cold_start),
            "user_strata": list(self.user_strata),
            "item_strata": list(self.item_strata),
            **_without_paths(self.settings),
        }


def _parsed(key: str, value: Any) -> Any:
    """Read an argument's text: a list with commas, or YAML."""
    if not isinstance(value, str):
        return value
    if not re.search(r"[\[\]{}:]", value):
        value = f"[{value}]" if "," in value else value
    try:
        return read_yaml(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LLMInitError(f"{key} is {value!r}: expected NAME,NAME or YAML ({error})") from error


def _named(value: Any, key: str) -> dict[str, dict[str, Any]]:
    """Read names, each with keys of its own or none."""
    value = [value] if isinstance(value, str) else value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    if not isinstance(value, dict) or not all(isinstance(keys, dict | None) for keys in value.values()):
        raise LLMInitError(f"{key} is {value!r}: expected names, or a mapping of names to keys of their own")
    return {str(name): dict(keys or {}) for name, keys in value.items()}


def _without_paths(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in PATHS}


def _initializations(value: Any) -> tuple[Initialization, ...]:
    """Read the strategies; stock RecBole's initialization is always the first."""
    value = [value] if isinstance(value, str) or value is None else value
    if isinstance(value, list):
        value = {("none" if is_none(name) else str(name)): None for name in value}
    initializations = [_initialization(label, keys) for label, keys in _named(value, "strategies").items()]
    if not any(initialization.label == "none" for initialization in initializations):
        initializations.insert(0, Initialization("none", {"init_strategy": "none"}))
    return tuple(initializations)


def _initialization(label: str, keys: dict[str, Any]) -> Initialization:
    """Read one initialization; its name stands for the strategy where none is given."""
    if "init_strategy" not in keys:
        known = strategy_names()
        if keys and label not in (*known, "none"):
            raise LLMInitError(
                f"the initialization {label!r} has no init_strategy: expected none or one of {', '.join(known)}"
            )
        keys = {"init_strategy": label, **keys}
    if label == "none" and not is_none(keys["init_strategy"]):
        raise LLMInitError(f"the initialization 'none' has init_strategy {keys['init_strategy']}: give it another name")
    if not is_none(keys["init_strategy"]):
        get_strategy(str(keys["init_strategy"]))
    return Initialization(label, keys)


def _controls(value: Any, initializations: Sequence[Initialization]) -> tuple[Initialization, ...]:
    names = [] if is_none(value) else value if isinstance(value, list) else [value]
    llm = [initialization for initialization in initializations if initialization.role == "llm"]
    # The vectors of the last initialization, so that the control is written to the same items.
    vectors = {key: keys for key, keys in llm[-1].settings.items() if key.startswith("llm_")} if llm else {}
    controls = []
    for name in names:
        if name not in ("noise", "shuffle"):
            raise LLMInitError(f"controls has {name!r}: expected noise, shuffle, both, or none")
        if name == "noise" and not any(initialization.label == "noise" for initialization in initializations):
            controls.append(Initialization("noise", {**vectors, "init_strategy": "noise"}))
        if name == "shuffle" and llm:
            controls.append(Initialization(f"{llm[-1].label} shuffled", {**llm[-1].settings, "init_shuffle": True}))
    return tuple(controls)


def _baselines(value: Any) -> dict[str, dict[str, list[Any]]]:
    if is_none(value) or value == {}:
        return {}
    named = _named(value, "baselines")
    return {name: _grid(grid or BASELINES.get(name, {}), f"baselines {name}") for name, grid in named.items()}


def _grid(value: Any, key: str) -> dict[str, list[Any]]:
    if not isinstance(value, dict) or not all(isinstance(values, list) and values for values in value.values()):
        raise LLMInitError(f"{key} is {value!r}: expected lists of values by key, as {{learning_rate: [0.001, 0.01]}}")
    return value


def _seeds(value: Any, first: Any) -> tuple[int, ...]:
    if isinstance(value, list) and value:
        seeds = tuple(dict.fromkeys(value))
    elif type(value) is not int or not 1 <= value <= _MOST_TRIALS:
        raise LLMInitError(f"seeds is {value!r}: expected how many, up to {_MOST_TRIALS:,}, or a list of seeds")
    elif type(first) is not int:
        raise LLMInitError(f"seed is {first!r}: expected a whole number, the first of the seeds")
    else:
        seeds = tuple(range(first, first + value))
    for seed in seeds:
        try:
            check_values({"seed": seed}, {})
        except LLMInitError as error:
            raise LLMInitError(f"seeds is {value!r}, and {error}") from error
    return seeds


def _levels(value: Any) -> tuple[Drop, ...]:
    levels = [] if is_none(value) else value if isinstance(value, list) else [value]
    shares = [level for level in levels if level != "all_but_one"]
    if not all(isinstance(level, int | float) and not isinstance(level, bool) and 0 < level < 1 for level in shares):
        raise LLMInitError(
            f"cold_start is {value!r}: expected shares between 0 and 1, and all_but_one, as [0.5, all_but_one]"
        )
    return tuple(dict.fromkeys(levels))


def _bounds(value: Any, key: str) -> tuple[int, ...]:
    bounds = list(value) if isinstance(value, list | tuple) else [value]
    if not all(type(bound) is int and bound > 0 for bound in bounds) or bounds != sorted(set(bounds)):
        raise LLMInitError(f"{key} is {value!r}: expected rising numbers of training interactions, as [5, 20]")
    return tuple(bounds)
