"""What a comparison compares: its keys, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recbole_llminit.compare.baselines import Baseline, default_baselines, read_baselines
from recbole_llminit.compare.grids import NOISE_SCALES, Grid, count_points, read_grid, read_tune_grid
from recbole_llminit.compare.option_values import (
    MAX_TRIALS,
    as_list,
    parse_text,
    read_bounds,
    read_drops,
    read_names,
    read_seeds,
    reads_vectors,
)
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.cold_start import Drop
from recbole_llminit.settings import is_none, read_settings, read_values
from recbole_llminit.strategies.base import get_strategy, strategy_names
from recbole_llminit.suggest import nearest

Role = Literal["stock", "llm", "control", "baseline"]
Tune = Literal["none", "stock", "all"]

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
"""The keys of a comparison; all others are RecBole's, or this package's, for every trial."""

PATHS = ("data_path", "llm_embedding", "llm_cache_dir", "llm_text_file", "checkpoint_dir")
"""The keys that hold paths of this machine: they decide no outcome, and stand in no report."""

_FIRST_SEED = 2020
# Keys that the comparison sets itself, and what to use instead.
_RESERVED = {"seed": "seeds", "drop_train": "cold_start", "init_shuffle": "controls: shuffle"}
# The keys of an initialization that take no list themselves, so that a list is a grid.
_SEARCHED = ("init_scale",)


@dataclass(frozen=True)
class Initialization:
    """One way to initialize a model.

    Parameters
    ----------
    label : str
        Its name in the report.
    settings : mapping
        The configuration keys of the initialization.
    grid : mapping of str to sequence
        Keys of the initialization, and the values to try: the best by validation stands in the report.
    """

    label: str
    settings: Mapping[str, Any]
    grid: Grid = field(default_factory=dict)

    @property
    def role(self) -> Role:
        """``stock`` for RecBole's own initialization, ``llm`` for one from vectors, ``control`` for a control."""
        if is_none(self.settings.get("init_strategy")):
            return "stock"
        is_shuffled = str(self.settings.get("init_shuffle", False)).lower() == "true"
        return "control" if is_shuffled or not self.needs_vectors else "llm"

    @property
    def needs_vectors(self) -> bool:
        """Whether the strategy reads vectors."""
        return reads_vectors(self.settings)


@dataclass(frozen=True)
class CompareOptions:
    """What to compare.

    Parameters
    ----------
    models, datasets : mapping of str to mapping
        RecBole models and datasets, each with configuration keys of its own.
    initializations : tuple of Initialization
        RecBole's own initialization, those of the strategies, and the controls.
    baselines : tuple of Baseline
        What the initializations are tested against beside their own model.
    seeds : tuple of int
        Each seed sets the split, the negatives and the initialization.
    tune : {"none", "stock", "all"}
        Which initializations are also tuned over ``tune_grid``, on the validation set of each seed.
    tune_grid : mapping of str to mapping
        For each model the configuration keys and the values to try; one that is not in it takes its `default_grid`.
    cold_start : tuple of float or "all_but_one"
        For each of these, all models are trained once more with so many of the training interactions dropped (the key
        ``drop_train``).
    user_strata, item_strata : tuple of int
        The bounds of the strata of users and items, in training interactions: ``(5, 20)`` makes the strata 0-4, 5-19,
        and 20 or more.
    settings : mapping
        RecBole's keys, and this package's, for every trial.
    """

    models: Mapping[str, Mapping[str, Any]]
    datasets: Mapping[str, Mapping[str, Any]]
    initializations: tuple[Initialization, ...]
    baselines: tuple[Baseline, ...]
    seeds: tuple[int, ...]
    tune: Tune = "none"
    tune_grid: Mapping[str, Grid] = field(default_factory=dict)
    cold_start: tuple[Drop, ...] = ()
    user_strata: tuple[int, ...] = (5, 10)
    item_strata: tuple[int, ...] = (5, 20)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_files(cls, paths: Sequence[str | Path], arguments: Sequence[str] = ()) -> CompareOptions:
        """Read YAML files and ``--key=value`` arguments, which hold the comparison's keys and RecBole's.

        Parameters
        ----------
        paths : sequence of path
            YAML files; later ones win.
        arguments : sequence of str
            Arguments ``--key=value``; they win over the files.

        Raises
        ------
        LLMInitError
            If ``models`` or ``datasets`` is missing, a value cannot be read, or there are too many trials.
        """
        return cls.from_settings(read_settings(paths, arguments))

    @classmethod
    def from_settings(cls, content: Mapping[str, Any]) -> CompareOptions:
        """Read a mapping in the way in which `from_files` reads the content of a file.

        Raises
        ------
        LLMInitError
            As `from_files`.
        """
        given, settings = _separate(content)
        _refuse_misspelled(settings)
        _require_models_and_datasets(given)
        initializations = _read_strategies(given.get("strategies", ["none", "rand", "uni", "var"]))
        controls = _make_controls(given.get("controls", ["noise", "shuffle"]), initializations, settings)
        tune = _read_tune(given.get("tune"))
        first_seed = settings.pop("seed", _FIRST_SEED)
        models = read_names(given["models"], "models")
        with_vectors = any(initialization.needs_vectors for initialization in initializations)
        options = cls(
            models=models,
            datasets=read_names(given["datasets"], "datasets"),
            initializations=(*initializations, *controls),
            baselines=read_baselines(given.get("baselines", default_baselines(with_vectors=with_vectors))),
            seeds=read_seeds(given.get("seeds", 1), first_seed),
            tune=tune,
            tune_grid=read_tune_grid(given.get("tune_grid"), models),
            cold_start=read_drops(given.get("cold_start")),
            user_strata=read_bounds(given.get("user_strata", (5, 10)), "user_strata"),
            item_strata=read_bounds(given.get("item_strata", (5, 20)), "item_strata"),
            settings=settings,
        )
        _refuse_reserved_keys(options)
        _refuse_equal_labels(options)
        _refuse_too_many_trials(options)
        return options

    def tunes(self, initialization: Initialization) -> bool:
        """Whether an initialization is also tuned over ``tune_grid``."""
        return self.tune == "all" or (self.tune == "stock" and initialization.role == "stock")

    @property
    def vector_keys(self) -> Mapping[str, Any]:
        """The ``llm_*`` keys of the last initialization from vectors, which noise and the baselines share with it."""
        return _vector_keys([one for one in self.initializations if one.role == "llm"])

    def to_dict(self) -> dict[str, Any]:
        """Return the options in JSON types, as `from_settings` reads them, without the paths of this machine."""
        return {
            "models": {name: _without_paths(keys) for name, keys in self.models.items()},
            "datasets": {name: _without_paths(keys) for name, keys in self.datasets.items()},
            "strategies": {
                one.label: {**_without_paths(one.settings), **_lists(one.grid)} for one in self.initializations
            },
            # The controls stand among the strategies.
            "controls": "none",
            "baselines": {one.label: _without_paths(one.to_dict()) for one in self.baselines},
            "seeds": list(self.seeds),
            "tune": self.tune,
            "tune_grid": {model: _lists(grid) for model, grid in self.tune_grid.items()},
            "cold_start": list(self.cold_start),
            "user_strata": list(self.user_strata),
            "item_strata": list(self.item_strata),
            **_without_paths(self.settings),
        }


def _without_paths(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in PATHS}


def _lists(grid: Grid) -> dict[str, list[Any]]:
    return {key: list(values) for key, values in grid.items()}


def _separate(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the comparison's keys with their values parsed, and the settings of every trial."""
    if not isinstance(content, Mapping):
        raise LLMInitError(f"what to compare is {content!r}: expected a mapping, or CompareOptions")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in content.items()}
    given = {key: parse_text(key, settings.pop(key)) for key in COMPARE_KEYS if key in settings}
    # The configuration file of a single run can be compared as it is.
    for key in ("model", "dataset"):
        given.setdefault(f"{key}s", settings.pop(key, None))
    # Each initialization has a strategy of its own.
    settings.pop("init_strategy", None)
    return given, read_values(settings, text_prefixes=("init_", "llm_"))


def _refuse_misspelled(settings: Mapping[str, Any]) -> None:
    """Raise for a key that is nearly one of the comparison's."""
    for key in settings:
        match = nearest(key.replace("-", "_"), COMPARE_KEYS, cutoff=0.75)
        # RecBole's seed is nearly seeds.
        if match and key != "seed":
            raise LLMInitError(f"the key {key!r} is unknown: did you mean {match!r}?")


def _require_models_and_datasets(given: Mapping[str, Any]) -> None:
    for key in ("models", "datasets"):
        if not given.get(key):
            raise LLMInitError(f"no {key} are given: give --{key}=NAME,NAME or {key}: [NAME, NAME] in a YAML file")


def _read_tune(value: Any) -> Tune:
    # YAML reads the word no as False.
    tune: Any = "none" if is_none(value) or value is False else value
    if tune not in ("none", "stock", "all"):
        raise LLMInitError(f"tune is {tune!r}: expected none, stock or all")
    return tune  # type: ignore[no-any-return]


def _read_strategies(value: Any) -> tuple[Initialization, ...]:
    """Read the key ``strategies``; where RecBole's own initialization is not among them, it becomes the first."""
    value = [value] if isinstance(value, str) or value is None else value
    if isinstance(value, list):
        value = {("none" if is_none(name) else str(name)): None for name in value}
    initializations = [_read_strategy(label, keys) for label, keys in read_names(value, "strategies").items()]
    if not any(initialization.label == "none" for initialization in initializations):
        initializations.insert(0, Initialization("none", {"init_strategy": "none"}))
    return tuple(initializations)


def _read_strategy(label: str, keys: dict[str, Any]) -> Initialization:
    """Read one of the strategies; its label is the strategy's name where ``init_strategy`` is not given."""
    if "init_strategy" not in keys:
        known = strategy_names()
        if keys and label not in (*known, "none"):
            raise LLMInitError(
                f"the initialization {label!r} has no init_strategy: expected none or one of {', '.join(known)}"
            )
        keys = {"init_strategy": label, **keys}
    strategy = keys["init_strategy"]
    if label == "none" and not is_none(strategy):
        raise LLMInitError(f"the initialization 'none' has init_strategy {strategy}: give it another name")
    if not is_none(strategy):
        # Raises for a strategy that is unknown.
        get_strategy(str(strategy))
    grid = {key: keys[key] for key in _SEARCHED if isinstance(keys.get(key), list)}
    settings = {key: value for key, value in keys.items() if key not in grid}
    return Initialization(label, settings, read_grid(grid, f"strategies {label}"))


def _make_controls(
    value: Any, initializations: Sequence[Initialization], settings: Mapping[str, Any]
) -> list[Initialization]:
    """Read the key ``controls``, and make the controls of the last initialization from vectors."""
    names = as_list(value)
    for name in names:
        if name not in ("noise", "shuffle"):
            raise LLMInitError(f"controls has {name!r}: expected noise, shuffle, both, or none")
    from_vectors = [initialization for initialization in initializations if initialization.role == "llm"]
    controls = []
    for name in names:
        if name == "noise" and not any(initialization.label == "noise" for initialization in initializations):
            # Noise has no scale of its own as vectors have: it gets the best one, unless one is set for all trials.
            grid = {} if "init_scale" in settings else {"init_scale": NOISE_SCALES}
            controls.append(_noise(from_vectors, grid))
        if name == "shuffle" and from_vectors:
            controls.append(_shuffled(from_vectors[-1]))
    return controls


def _noise(from_vectors: Sequence[Initialization], grid: Grid) -> Initialization:
    # With the vectors of the last initialization the control initializes the same items.
    return Initialization("noise", {**_vector_keys(from_vectors), "init_strategy": "noise"}, grid)


def _vector_keys(from_vectors: Sequence[Initialization]) -> dict[str, Any]:
    settings = from_vectors[-1].settings if from_vectors else {}
    return {key: value for key, value in settings.items() if key.startswith("llm_")}


def _shuffled(initialization: Initialization) -> Initialization:
    label = f"{initialization.label} shuffled"
    return Initialization(label, {**initialization.settings, "init_shuffle": True}, initialization.grid)


def _refuse_reserved_keys(options: CompareOptions) -> None:
    """Raise for a key that the comparison sets itself: it would be overridden, or the report would name it wrongly."""
    initializations = {one.label: one.settings for one in options.initializations}
    baselines = {one.label: one.to_dict() for one in options.baselines}
    named = {"models": options.models, "datasets": options.datasets, "strategies": initializations}
    places: dict[str, Mapping[str, Any]] = {"all trials": options.settings}
    for kind, members in {**named, "baselines": baselines, "tune_grid": options.tune_grid}.items():
        places.update({f"{kind} {name}": keys for name, keys in members.items()})
    for place, keys in places.items():
        for key, instead in _RESERVED.items():
            is_control = key == "init_shuffle" and place.startswith("strategies ")
            if key in keys and not is_control:
                raise LLMInitError(f"{key} is set for {place}: the comparison sets it, use {instead}")


def _refuse_equal_labels(options: CompareOptions) -> None:
    """Raise where two initializations or baselines have the same label, which names them in the report."""
    labels = [initialization.label for initialization in options.initializations]
    if options.tune != "none":
        labels += [f"{label} tuned" for label in labels]
    labels += [baseline.label for baseline in options.baselines]
    repeated = [label for label in labels if labels.count(label) > 1]
    if repeated:
        raise LLMInitError(
            f"two initializations or baselines are called {repeated[0]!r}: give one another name, or leave out the "
            f"control"
        )


def _refuse_too_many_trials(options: CompareOptions) -> None:
    """Raise for more trials than anybody waits for, before they are listed one by one."""
    per_model = sum(count_points(initialization.grid) for initialization in options.initializations)
    tuned = sum(options.tunes(initialization) for initialization in options.initializations)
    per_round = len(options.models) * per_model + tuned * sum(map(count_points, options.tune_grid.values()))
    per_round += sum(count_points(baseline.grid) for baseline in options.baselines)
    count = len(options.seeds) * len(options.datasets) * (1 + len(options.cold_start)) * per_round
    if count > MAX_TRIALS:
        raise LLMInitError(
            f"these are {count:,} trials ({len(options.seeds):,} seeds, {per_round:,} trials each on every dataset): "
            f"expected {MAX_TRIALS:,} at most, choose fewer seeds or initializations, or smaller grids"
        )
