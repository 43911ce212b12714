"""The trials of a comparison: checked, named, and in order."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_llminit.compare.options import PATHS, CompareOptions, Role
from recbole_llminit.compare.trial import Trial
from recbole_llminit.encode.pipeline import plan_encoding
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import hash_files
from recbole_llminit.integration.cold_start import Drop, read_drop
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.options import KEYS, InitOptions
from recbole_llminit.integration.recbole_keys import describe_unread
from recbole_llminit.processes import refuse_several
from recbole_llminit.settings import is_none
from recbole_llminit.vectors.readers import read_embeddings

from recbole.model.abstract_recommender import AbstractRecommender  # isort: skip
from recbole.utils import EvaluatorType, ModelType  # isort: skip

# RecBole's default of 4,096 scores ranks one user at a time on catalogues of more than half as many items.
_EVAL_BATCH_SIZE = 2_000_000
# What changes where a trial runs or what it prints, and not its outcome.
_NOT_OUTCOME = (*PATHS, "show_progress", "state", "device", "gpu_id", "use_gpu", "log_wandb", "worker")
# What decides which users and items are tested, and how: the same for all that is compared.
_PROTOCOL = ("eval_args", "metrics", "topk", "valid_metric", "repeatable", "rm_dup_inter", "val_interval",
             "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval",
             "benchmark_filename")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One line of the report with one seed.

    Parameters
    ----------
    dataset, model, initialization : str
        The line; the initialization of a baseline is empty.
    role : {"stock", "llm", "control", "baseline"}
        What the line is in the comparison.
    drop : float, "all_but_one" or None
        The training interactions that are dropped; None for the full data.
    seed : int
        The seed of split, negatives and initialization.
    trials : tuple of str
        The trials among which the best by validation stands for the line: one, or a grid.
    tuned : tuple of str
        The keys of the grid.
    """

    dataset: str
    model: str
    initialization: str
    role: Role
    drop: Drop | None
    seed: int
    trials: tuple[str, ...]
    tuned: tuple[str, ...] = ()


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


def make_plan(options: CompareOptions, command: Sequence[str] = (), *, make_vectors: bool = True) -> Plan:
    """Check every configuration, make the vectors that are missing, and list the trials.

    Parameters
    ----------
    options : CompareOptions
        What to compare.
    command : sequence of str
        The command that asked for it, to stand in the report.
    make_vectors : bool
        False encodes nothing: trials whose vectors are missing are listed under names that they will not have.

    Raises
    ------
    LLMInitError
        If a model, strategy, key or value is unknown, a dataset is not there, the vectors cannot be made, the items are
        not ranked in full at test, or the models of a dataset are not tested alike; before any trial.
    """
    vectors = any(
        initialization.role != "stock" and initialization.needs_vectors for initialization in options.initializations
    )
    # Of a class of the user's own it is not known which keys it reads.
    lenient = any("." in model for model in options.models)
    prepared = _Prepared(with_vectors=vectors, make_vectors=make_vectors, lenient=lenient)
    entries: list[Entry] = []
    trials: dict[str, Trial] = {}

    def add(dataset: str, model: str, settings: Mapping[str, Any]) -> str:
        trial = prepared.trial(dataset, model, settings)
        trials[trial.name] = trial
        return trial.name

    for seed, (dataset, data_keys), drop in itertools.product(
        options.seeds, options.datasets.items(), (None, *options.cold_start)
    ):
        shared = {**options.settings, **data_keys, "seed": seed}
        if drop is not None:
            shared["drop_train"] = drop
        for (model, model_keys), initialization in itertools.product(options.models.items(), options.initializations):
            keys = {**shared, **model_keys, **initialization.settings}
            own = add(dataset, model, keys)
            entries.append(Entry(dataset, model, initialization.label, initialization.role, drop, seed, (own,)))
            if options.tune == "all" or (options.tune == "stock" and initialization.role == "stock"):
                grid = [add(dataset, model, {**keys, **point}) for point in _points(options.tune_grid)]
                names, tuned = tuple(dict.fromkeys((own, *grid))), tuple(options.tune_grid)
                entries.append(
                    Entry(
                        dataset, model, f"{initialization.label} tuned", initialization.role, drop, seed, names, tuned
                    )
                )
        for model, values in options.baselines.items():
            grid = [add(dataset, model, {**_without_ours(shared), **point}) for point in _points(values)]
            entries.append(Entry(dataset, model, "", "baseline", drop, seed, tuple(grid), tuple(values)))
    for line in prepared.unread:
        getLogger().warning(line)
    return Plan(tuple(entries), trials, options.to_dict(), shlex.join(command))


@dataclass(frozen=True)
class _Checked:
    """What is known of a configuration without its seed."""

    settings: Mapping[str, Any]
    outcome: Sequence[Any]
    initialization: str
    epochs: int
    eval_step: int


class _Prepared:
    """Checks each configuration once, and knows what its outcome depends on beside its keys.

    Parameters
    ----------
    with_vectors : bool
        Whether a initialization of the comparison reads vectors: then a control that reads none is given them all the
        same, so that it is written to the same items.
    make_vectors : bool
        Whether vectors that are not there are made.
    lenient : bool
        Whether a key that nothing of RecBole's or this package reads may be of a model of the user's own.
    """

    def __init__(self, *, with_vectors: bool, make_vectors: bool, lenient: bool) -> None:
        self._lenient = lenient
        self._with_vectors = with_vectors
        self._make_vectors = make_vectors
        self._data: dict[str, str] = {}
        self._vectors: dict[str, tuple[str, str]] = {}
        self._checked: dict[str, _Checked] = {}
        self._protocols: dict[str, tuple[str, dict[str, Any]]] = {}
        self.unread: dict[str, None] = {}

    def trial(self, dataset: str, model: str, settings: Mapping[str, Any]) -> Trial:
        seed = settings["seed"]
        without_seed = {key: value for key, value in settings.items() if key != "seed"}
        key = json.dumps([dataset, model, without_seed], sort_keys=True, default=str)
        if key not in self._checked:
            self._checked[key] = self._check(dataset, model, without_seed)
        found = self._checked[key]
        content = json.dumps([found.outcome, seed], sort_keys=True, default=str)
        what = re.sub(r"[^A-Za-z0-9.]+", "-", f"{dataset}_{model.rpartition('.')[2]}_{found.initialization}_{seed}")
        return Trial(
            name=f"{what}_{hashlib.sha256(content.encode()).hexdigest()[:10]}",
            dataset=dataset,
            model=model,
            settings={**found.settings, "seed": seed},
            epochs=found.epochs,
            eval_step=found.eval_step,
        )

    def _check(self, dataset: str, model: str, settings: Mapping[str, Any]) -> _Checked:
        config = self._configure(model, dataset, settings)
        completed: dict[str, Any] = {}
        if "eval_batch_size" not in settings and _ranks_from_two_tables(config):
            completed["eval_batch_size"] = _EVAL_BATCH_SIZE
        if config["MODEL_TYPE"] == ModelType.TRADITIONAL:
            # RecBole trains it for one epoch, and would validate none where eval_step is more.
            completed |= {"epochs": 1, "eval_step": 1}
        if completed:
            settings = {**settings, **completed}
            config = self._configure(model, dataset, settings)
        for key in config.unread_keys():
            self.unread.setdefault(describe_unread(key, model))
        options = InitOptions.from_config(config)
        read_drop(config)
        _refuse_no_ranking(config)
        _refuse_no_validation(config)
        self._refuse_other_protocol(config)
        data = self._hash_data(config)
        # The encoder's keys have done their part once the vectors are made, which are named by their path.
        passed = {key: value for key, value in settings.items() if not key.startswith("llm_")}
        passed["data_path"] = str(Path(settings.get("data_path", "dataset")).resolve())
        vectors = "none"
        if options.wants_embedding or (options.strategy is not None and self._with_vectors):
            passed["llm_embedding"], vectors = self._provide(options, config, settings)
        # RecBole's defaults are part of it: a key set to its default is the same trial as without it.
        resolved = {
            key: value
            for key, value in config.final_config_dict.items()
            if key not in (*_NOT_OUTCOME, "seed") and not key.startswith(("llm_", "init_"))
        }
        user: str | Path = options.user
        if isinstance(user, Path):
            passed["init_user"], user = str(user.resolve()), _identify(user, config["USER_ID_FIELD"])
        initialization = [] if options.strategy is None else [repr(options.strategy),
                 options.strategy.default_scale if options.scale is None else options.scale, user,
                 options.missing, options.tables, options.trainable, options.shuffle, vectors]  # fmt: skip
        name = "" if config["MODEL_TYPE"] == ModelType.TRADITIONAL else settings.get("init_strategy", "")
        return _Checked(
            settings=passed,
            outcome=[dataset, model, resolved, data, initialization],
            initialization=("none" if is_none(name) else name) + "-shuffled" * options.shuffle,
            epochs=config["epochs"],
            eval_step=config["eval_step"],
        )

    def _configure(self, model: str, dataset: str, settings: Mapping[str, Any]) -> Config:
        config = Config(model, dataset, config_dict=settings, lenient=self._lenient)
        refuse_several(config.final_config_dict)
        return config

    def _refuse_other_protocol(self, config: Config) -> None:
        """Raise where two models of a dataset are not tested on the same users and items in the same way."""
        protocol = {key: config[key] for key in _PROTOCOL}
        first, expected = self._protocols.setdefault(config["dataset"], (config["model"], protocol))
        for key, value in protocol.items():
            if value != expected[key]:
                raise LLMInitError(
                    f"{key} is {value} for {config['model']} and {expected[key]} for {first} on {config['dataset']}, "
                    f"and what is compared must be tested alike: set it for all, or leave one out (baselines: none)"
                )

    def _hash_data(self, config: Config) -> str:
        folder, dataset = Path(config["data_path"]), config["dataset"]
        if str(folder) not in self._data:
            files = sorted(folder.glob(f"{dataset}.*"))
            if not any(path.suffix == ".inter" for path in files):
                raise LLMInitError(f"there is no {dataset}.inter in {folder}: set data_path to the folder above it")
            self._data[str(folder)] = hash_files(files)
        return self._data[str(folder)]

    def _provide(self, options: InitOptions, config: Config, settings: Mapping[str, Any]) -> tuple[str, str]:
        """Return the path and what tells the vectors from others, made once for all that ask for the same."""
        keys = {key: value for key, value in settings.items() if key.startswith("llm_")}
        asked = json.dumps([config["dataset"], keys], sort_keys=True, default=str)
        if asked not in self._vectors:
            if not self._make_vectors and _are_missing(options):
                self._vectors[asked] = ("", "to be made")
            else:
                path = options.provide_embedding().resolve()
                self._vectors[asked] = (str(path), _identify(path, config["ITEM_ID_FIELD"]))
        return self._vectors[asked]


def _identify(path: Path, id_field: str) -> str:
    """Return the fingerprint of the vectors and of their ids: a store has the same one while more are encoded."""
    embeddings = read_embeddings(path, id_field)
    ids = hashlib.sha256("\n".join(sorted(embeddings.tokens.to_pylist())).encode())
    return f"{embeddings.fingerprint}-{ids.hexdigest()[:16]}"


def _are_missing(options: InitOptions) -> bool:
    """Whether vectors would have to be made."""
    if options.encode is None or options.embedding is not None or options.packaged_embedding is not None:
        return False
    return len(plan_encoding(options.encode).missing) > 0


def _ranks_from_two_tables(config: Config) -> bool:
    """Whether a user's scores cost no more than their number: other models predict pair by pair, or in sequences."""
    own = config.model_class.full_sort_predict is not AbstractRecommender.full_sort_predict
    return own and config["MODEL_TYPE"] in (ModelType.GENERAL, ModelType.TRADITIONAL, ModelType.KNOWLEDGE)


def _refuse_no_ranking(config: Config) -> None:
    modes = config["eval_args"]["mode"]
    if config["eval_type"] != EvaluatorType.RANKING or modes["test"] != "full":
        raise LLMInitError(
            f"compare ranks all items at test (metrics over samples or labels do not compare models): set eval_args "
            f"mode to full for {config['model']}, and ranking metrics; mode is {modes}, metrics are {config['metrics']}"
        )


def _refuse_no_validation(config: Config) -> None:
    """Raise where no epoch would be validated: the best one, and the best of a grid, are chosen by it."""
    split = config["eval_args"]["split"]
    shares = (split or {}).get("RS") or (split or {}).get("TS") or [1, 1, 1]
    empty = (split or {}).get("LS") == "test_only" or len(shares) < 3 or not shares[1]
    step = config["eval_step"]
    if (empty and not config["benchmark_filename"]) or not 1 <= step <= config["epochs"]:
        raise LLMInitError(
            f"compare chooses by validation, and {config['model']} would have none: eval_args split is {split}, "
            f"eval_step {step}, epochs {config['epochs']}"
        )


def _without_ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in KEYS}


def _points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
