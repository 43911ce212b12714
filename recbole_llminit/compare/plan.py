"""What a comparison consists of: the starts, their controls, the baselines, and the trials of each."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from recbole_llminit.cold_start import Drop, read_drop
from recbole_llminit.compare.trial import Trial
from recbole_llminit.config import KEYS, Config, InitOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import read_embeddings
from recbole_llminit.settings import is_none, read_settings
from recbole_llminit.store import hash_files
from recbole_llminit.strategy import get_strategy, nearest

from recbole.utils import EvaluatorType  # isort: skip

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
TUNED = " tuned"
# Small grids of what has no table to initialise, closed form and seconds each.
BASELINES: dict[str, dict[str, list[Any]]] = {
    "EASE": {"reg_weight": [10.0, 30.0, 100.0, 300.0, 1000.0]},
    "ItemKNN": {"k": [20, 50, 100, 200, 400], "shrink": [0.0, 10.0]},
    "Pop": {},
}
LEARNING_RATES = {"learning_rate": [0.0003, 0.001, 0.003, 0.01]}
# RecBole's default of 4,096 scores ranks one user at a time on catalogues of more than half as many items.
_EVAL_BATCH_SIZE = 2_000_000
_FIRST_SEED = 2020
# What changes where a trial runs or what it prints, and not its outcome.
_NOT_OUTCOME = ("data_path", "llm_embedding", "llm_cache_dir", "checkpoint_dir", "show_progress", "state", "device",
                "gpu_id", "use_gpu", "log_wandb", "worker")  # fmt: skip


@dataclass(frozen=True)
class Start:
    """One way to start a model.

    Parameters
    ----------
    label : str
        Its name in the report.
    settings : mapping
        The configuration keys that make it.
    role : {"stock", "llm", "control"}
        Whether it is RecBole's own start, one from vectors, or one of the controls.
    """

    label: str
    settings: Mapping[str, Any]

    @property
    def role(self) -> Role:
        """What the start is in the comparison, read from its settings."""
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
class Entry:
    """One line of the report with one seed.

    Parameters
    ----------
    dataset, model, start : str
        The line; the start of a baseline is empty.
    role : {"stock", "llm", "control", "baseline"}
        What the line is in the comparison.
    drop : float, "all_but_one" or None
        The training interactions that are dropped; None for the full data.
    seed : int
        The seed of split, negatives and start.
    trials : tuple of str
        The trials among which the best by validation stands for the line: one, or a grid.
    """

    dataset: str
    model: str
    start: str
    role: Role
    drop: Drop | None
    seed: int
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The trials of a comparison, in the order in which they run: seed by seed.

    Parameters
    ----------
    entries : tuple of Entry
        The lines, seed by seed.
    trials : mapping of str to Trial
        Their trials by name.
    options : mapping
        The settings that it was made from, in JSON types.
    command : str
        The command that asked for it.
    """

    entries: tuple[Entry, ...]
    trials: Mapping[str, Trial]
    options: Mapping[str, Any]
    command: str = ""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare.

    Parameters
    ----------
    models, datasets : mapping of str to mapping
        RecBole models and datasets, with configuration keys of their own.
    starts : tuple of Start
        Stock RecBole's, those of the strategies, and the controls.
    baselines : mapping of str to mapping
        Models without a table to initialise, with a grid of keys; the best by validation stands in the report.
    seeds : tuple of int
        Each sets split, negatives and start.
    tune : {"none", "stock", "all"}
        Which starts are also tuned over ``tune_grid``, on the validation set of each seed.
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
    starts: tuple[Start, ...]
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
        settings = dict(content)
        given = {key: _parsed(key, settings.pop(key)) for key in COMPARE_KEYS if key in settings}
        # The file of a single run serves as it is.
        for singular in ("model", "dataset"):
            one = settings.pop(singular, None)
            given.setdefault(f"{singular}s", one)
        for key in settings:
            match = nearest(key.replace("-", "_"), COMPARE_KEYS, cutoff=0.75)
            if match and key != "seed":
                raise LLMInitError(f"the key {key!r} is unknown: did you mean {match!r}?")
        for key in ("models", "datasets"):
            if not given.get(key):
                raise LLMInitError(f"no {key} are given: give --{key}=NAME,NAME or {key}: [NAME, NAME] in a YAML file")
        starts = _starts(given.get("strategies", ["none", "rand", "uni", "var"]))
        tune: Any = "none" if is_none(given.get("tune")) or given["tune"] is False else given["tune"]
        if tune not in ("none", "stock", "all"):
            raise LLMInitError(f"tune is {tune!r}: expected none, stock or all")
        return cls(
            models=_named(given["models"], "models"),
            datasets=_named(given["datasets"], "datasets"),
            starts=(*starts, *_controls(given.get("controls", ["noise", "shuffle"]), starts)),
            baselines=_baselines(given.get("baselines", list(BASELINES))),
            seeds=_seeds(given.get("seeds", 1), settings.pop("seed", _FIRST_SEED)),
            tune=tune,
            tune_grid=_grid(given.get("tune_grid", LEARNING_RATES), "tune_grid"),
            cold_start=_levels(given.get("cold_start")),
            user_strata=_bounds(given.get("user_strata", (5, 10)), "user_strata"),
            item_strata=_bounds(given.get("item_strata", (5, 20)), "item_strata"),
            settings=settings,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options in JSON types, without the paths of this machine."""
        return {
            "models": {name: dict(keys) for name, keys in self.models.items()},
            "datasets": {name: dict(keys) for name, keys in self.datasets.items()},
            "starts": {start.label: dict(start.settings) for start in self.starts},
            "baselines": {name: dict(grid) for name, grid in self.baselines.items()},
            "seeds": list(self.seeds),
            "tune": self.tune,
            "tune_grid": dict(self.tune_grid),
            "cold_start": list(self.cold_start),
            "user_strata": list(self.user_strata),
            "item_strata": list(self.item_strata),
            "settings": {key: value for key, value in self.settings.items() if key not in _NOT_OUTCOME},
        }


def make_plan(options: CompareOptions, command: Sequence[str] = ()) -> Plan:
    """Check every configuration, make the vectors that are missing, and list the trials.

    Raises
    ------
    LLMInitError
        If a model, strategy, key or value is unknown, a dataset is not there, the vectors cannot be made, or the items
        are not ranked in full at test; before any trial.
    """
    prepared = _Prepared(with_vectors=any(start.role != "stock" and start.needs_vectors for start in options.starts))
    entries: list[Entry] = []
    trials: dict[str, Trial] = {}

    def add(dataset: str, model: str, label: str, settings: Mapping[str, Any]) -> str:
        trial = prepared.trial(dataset, model, label, settings)
        trials[trial.name] = trial
        return trial.name

    for seed, (dataset, data_keys), drop in itertools.product(
        options.seeds, options.datasets.items(), (None, *options.cold_start)
    ):
        shared = {"eval_batch_size": _EVAL_BATCH_SIZE, **options.settings, **data_keys, "seed": seed}
        if drop is not None:
            shared["drop_train"] = drop
        for (model, model_keys), start in itertools.product(options.models.items(), options.starts):
            keys = {**shared, **model_keys, **start.settings}
            own = add(dataset, model, start.label, keys)
            entries.append(Entry(dataset, model, start.label, start.role, drop, seed, (own,)))
            if options.tune == "all" or (options.tune == "stock" and start.role == "stock"):
                grid = [add(dataset, model, start.label, {**keys, **point}) for point in _points(options.tune_grid)]
                tuned = tuple(dict.fromkeys((own, *grid)))
                entries.append(Entry(dataset, model, f"{start.label}{TUNED}", start.role, drop, seed, tuned))
        for model, values in options.baselines.items():
            grid = [add(dataset, model, "", {**_without_ours(shared), **point}) for point in _points(values)]
            entries.append(Entry(dataset, model, "", "baseline", drop, seed, tuple(grid)))
    return Plan(tuple(entries), trials, options.to_dict(), shlex.join(command))


class _Prepared:
    """Checks each configuration once, and knows what its outcome depends on beside its keys.

    Parameters
    ----------
    with_vectors : bool
        Whether a start of the comparison reads vectors: then a control that reads none is given them all the same, so
        that it is written to the same items.
    """

    def __init__(self, *, with_vectors: bool) -> None:
        self._with_vectors = with_vectors
        self._data: dict[str, str] = {}
        self._vectors: dict[str, tuple[str, str]] = {}
        self._checked: dict[str, dict[str, Any]] = {}

    def trial(self, dataset: str, model: str, label: str, settings: Mapping[str, Any]) -> Trial:
        without_seed = {key: value for key, value in settings.items() if key != "seed"}
        key = json.dumps([dataset, model, without_seed], sort_keys=True, default=str)
        if key not in self._checked:
            self._checked[key] = self._check(dataset, model, without_seed)
        found = self._checked[key]
        settings = {**settings, **found["paths"]}
        # The encoder's keys have done their part: the vectors are made, and named by their path.
        settings = {
            key: value for key, value in settings.items() if not key.startswith("llm_") or key in found["paths"]
        }
        content = json.dumps([found["outcome"], settings["seed"]], sort_keys=True, default=str)
        what = re.sub(r"[^A-Za-z0-9.]+", "-", f"{dataset}_{model.rpartition('.')[2]}_{label}_{settings['seed']}")
        return Trial(f"{what}_{hashlib.sha256(content.encode()).hexdigest()[:10]}", dataset, model, settings)

    def _check(self, dataset: str, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = Config(model, dataset, config_dict=settings)
        Config(model, dataset, arguments=[f"--{key}={value}" for key, value in settings.items() if key not in KEYS])
        options = InitOptions.from_config(config)
        read_drop(config)
        modes = config["eval_args"]["mode"]
        if config["eval_type"] != EvaluatorType.RANKING or modes["test"] != "full":
            raise LLMInitError(
                f"compare ranks all items at test (metrics over samples or labels do not compare models): set "
                f"eval_args mode to full for {model}, and ranking metrics; mode is {modes}, metrics are "
                f"{config['metrics']}"
            )
        folder = Path(config["data_path"])
        if str(folder) not in self._data:
            files = sorted(folder.glob(f"{dataset}*.inter")) + sorted(folder.glob(f"{dataset}*.kg"))
            if not files:
                raise LLMInitError(f"there is no {dataset}.inter in {folder}: set data_path to the folder above it")
            self._data[str(folder)] = hash_files(files)
        paths = {"data_path": str(Path(settings.get("data_path", "dataset")).resolve())}
        vectors = "none"
        if options.wants_embedding or (options.strategy is not None and self._with_vectors):
            asked = json.dumps(
                [dataset, {key: value for key, value in settings.items() if key.startswith("llm_")}], sort_keys=True
            )
            if asked not in self._vectors:
                path = options.provide_embedding().resolve()
                self._vectors[asked] = (str(path), read_embeddings(path, config["ITEM_ID_FIELD"]).fingerprint)
            paths["llm_embedding"], vectors = self._vectors[asked]
        # RecBole's defaults are part of it: a key set to its default is the same trial as without it.
        resolved = {key: value for key, value in config.final_config_dict.items() if key not in _NOT_OUTCOME}
        resolved = {key: value for key, value in resolved.items() if key != "seed" and not key.startswith("llm_")}
        return {"paths": paths, "outcome": [dataset, model, resolved, self._data[str(folder)], vectors]}


def _without_ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in KEYS}


def _points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _parsed(key: str, value: Any) -> Any:
    """Read an argument's text: a list with commas, or YAML."""
    if not isinstance(value, str):
        return value
    if not re.search(r"[\[\]{}:]", value):
        value = f"[{value}]" if "," in value else value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise LLMInitError(f"{key} is {value!r}: expected NAME,NAME or YAML ({error})") from error


def _named(value: Any, key: str) -> dict[str, dict[str, Any]]:
    """Read names, each with keys of its own or none."""
    value = [value] if isinstance(value, str) else value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    if not isinstance(value, dict) or not all(isinstance(keys, dict | None) for keys in value.values()):
        raise LLMInitError(f"{key} is {value!r}: expected names, or a mapping of names to keys of their own")
    return {str(name): dict(keys or {}) for name, keys in value.items()}


def _starts(value: Any) -> tuple[Start, ...]:
    """Read the strategies; stock RecBole's start is always the first."""
    value = [value] if isinstance(value, str) or value is None else value
    if isinstance(value, list):
        value = {("none" if is_none(name) else str(name)): None for name in value}
    named = _named(value, "strategies")
    starts = [Start(label, keys or {"init_strategy": label}) for label, keys in named.items()]
    for start in starts:
        if not is_none(start.settings.get("init_strategy")):
            get_strategy(start.settings["init_strategy"], start.settings.get("init_args"))
    if not any(start.label == "none" for start in starts):
        starts.insert(0, Start("none", {"init_strategy": "none"}))
    return tuple(starts)


def _controls(value: Any, starts: Sequence[Start]) -> tuple[Start, ...]:
    names = [] if is_none(value) else [value] if isinstance(value, str) else value
    llm = [start for start in starts if start.role == "llm"]
    controls = []
    for name in names:
        if name not in ("noise", "shuffle"):
            raise LLMInitError(f"controls has {name!r}: expected noise, shuffle, both, or none")
        if name == "noise" and not any(start.label == "noise" for start in starts):
            controls.append(Start("noise", {"init_strategy": "noise"}))
        if name == "shuffle" and llm:
            controls.append(Start(f"{llm[-1].label} shuffled", {**llm[-1].settings, "init_shuffle": True}))
    return tuple(controls)


def _baselines(value: Any) -> dict[str, dict[str, list[Any]]]:
    if is_none(value):
        return {}
    named = _named(value, "baselines")
    return {name: _grid(grid or BASELINES.get(name, {}), f"baselines {name}") for name, grid in named.items()}


def _grid(value: Any, key: str) -> dict[str, list[Any]]:
    if not isinstance(value, dict) or not all(isinstance(values, list) and values for values in value.values()):
        raise LLMInitError(f"{key} is {value!r}: expected lists of values by key, as {{learning_rate: [0.001, 0.01]}}")
    return value


def _seeds(value: Any, first: Any) -> tuple[int, ...]:
    if isinstance(value, list) and value and all(type(seed) is int for seed in value):
        return tuple(dict.fromkeys(value))
    if type(value) is not int or value < 1:
        raise LLMInitError(f"seeds is {value!r}: expected how many, or a list of seeds")
    return tuple(range(int(first), int(first) + value))


def _levels(value: Any) -> tuple[Drop, ...]:
    levels = [] if is_none(value) else value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(levels))


def _bounds(value: Any, key: str) -> tuple[int, ...]:
    bounds = [value] if type(value) is int else list(value)
    if not all(type(bound) is int and bound > 0 for bound in bounds) or bounds != sorted(set(bounds)):
        raise LLMInitError(f"{key} is {value!r}: expected rising numbers of training interactions, as [5, 20]")
    return tuple(bounds)
