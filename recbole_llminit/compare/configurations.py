"""The configurations of a comparison: each is checked once, without its seed, before anything is encoded or trained."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llminit.compare.options import PATHS
from recbole_llminit.compare.trial import Trial
from recbole_llminit.compare.trial_vectors import KnownVectors, VectorRequest, identify_vectors
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import hash_files
from recbole_llminit.integration.cold_start import read_drop
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model_class import is_own_or_recboles
from recbole_llminit.integration.options import InitOptions, options_of
from recbole_llminit.processes import refuse_several_processes
from recbole_llminit.settings import is_none

from recbole.model.abstract_recommender import AbstractRecommender  # isort: skip
from recbole.utils import EvaluatorType, ModelType  # isort: skip

# RecBole's default of 4,096 scores ranks one user at a time on catalogs of more than half as many items.
_EVAL_BATCH_SIZE = 2_000_000
# Keys that decide where a trial runs or what it prints, and not its outcome.
_NOT_OUTCOME = (*PATHS, "show_progress", "state", "device", "gpu_id", "use_gpu", "log_wandb", "worker")
# Keys that decide which users and items are tested, and how: equal for all models of a dataset.
_PROTOCOL = ("eval_args", "metrics", "topk", "valid_metric", "repeatable", "rm_dup_inter", "val_interval",
             "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval",
             "benchmark_filename")  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """A configuration that has been checked, without its seed.

    Parameters
    ----------
    dataset, model : str
        What is trained on what.
    settings : mapping
        What a trial is given, but for the seed and the path of its vectors.
    strategy : str
        The strategy in the name of a trial; ``none`` for RecBole's own initialization, empty for a model that has no
        table to initialize.
    outcome : sequence
        All that decides the outcome, but for the seed and the initialization: dataset, model, the settings as RecBole
        completes them, and a hash of the dataset's files.
    initialization : sequence or None
        The settings of the initialization that decide the outcome, but for the vectors; None for RecBole's own.
    vectors : VectorRequest or None
        The vectors that a trial reads; None if it reads none.
    epochs, eval_step : int
        As in `Trial`.
    unread : frozenset of str
        The keys that the model does not read. Of a model class of the user's own it is not known: empty.
    """

    dataset: str
    model: str
    settings: Mapping[str, Any]
    strategy: str
    outcome: Sequence[Any]
    initialization: Sequence[Any] | None
    vectors: VectorRequest | None
    epochs: int
    eval_step: int
    unread: frozenset[str]

    def trial(self, seed: int, vectors: KnownVectors | None) -> Trial:
        """Return the trial of a seed, whose name holds a hash of all that decides its outcome.

        Parameters
        ----------
        seed : int
            The seed of split, negatives and initialization.
        vectors : KnownVectors or None
            The vectors that were asked for; None if none were.
        """
        path = {} if vectors is None else {"llm_embedding": vectors.path}
        identity = "none" if vectors is None else vectors.identity
        initialization = [] if self.initialization is None else [*self.initialization, identity]
        content = json.dumps([[*self.outcome, initialization], seed], sort_keys=True, default=str)
        described = f"{self.dataset}_{self.model.rpartition('.')[2]}_{self.strategy}_{seed}"
        file_name = re.sub(r"[^A-Za-z0-9.]+", "-", described)
        return Trial(
            name=f"{file_name}_{hashlib.sha256(content.encode()).hexdigest()[:10]}",
            dataset=self.dataset,
            model=self.model,
            settings={**self.settings, **path, "seed": seed},
            epochs=self.epochs,
            eval_step=self.eval_step,
        )


class ConfigurationChecker:
    """Checks the configurations of a comparison, each of them once.

    Parameters
    ----------
    with_vectors : bool
        Whether an initialization of the comparison reads vectors. Then a control that reads none asks for them as well,
        so that it initializes the same items.
    lenient : bool
        Whether a key that neither RecBole nor this package reads is allowed, as it may be read by a model class of the
        user's own.
    """

    def __init__(self, *, with_vectors: bool, lenient: bool) -> None:
        self._with_vectors = with_vectors
        self._lenient = lenient
        self._checked: dict[str, Configuration] = {}
        self._data_hashes: dict[Path, str] = {}
        self._protocols: dict[str, tuple[str, dict[str, Any]]] = {}

    def check(self, dataset: str, model: str, settings: Mapping[str, Any]) -> Configuration:
        """Check a configuration.

        Parameters
        ----------
        dataset, model : str
            What is trained on what.
        settings : mapping
            The configuration keys, without the seed.

        Raises
        ------
        LLMInitError
            If a key or value is unknown, the dataset is not there, the items are not ranked in full at test, no epoch
            is validated, or the models of the dataset are not tested alike.
        """
        key = json.dumps([dataset, model, settings], sort_keys=True, default=str)
        if key not in self._checked:
            self._checked[key] = self._check(dataset, model, settings)
        return self._checked[key]

    def _check(self, dataset: str, model: str, settings: Mapping[str, Any]) -> Configuration:
        settings, config = self._complete(dataset, model, settings)
        options = options_of(config)
        read_drop(config)
        _refuse_sampled_test(config)
        _refuse_no_validation(config)
        self._refuse_other_protocol(config)
        data_hash = self._hash_data(config)
        return Configuration(
            dataset=dataset,
            model=model,
            settings=_trial_settings(settings, options),
            strategy=_describe_strategy(config, settings, options),
            outcome=[dataset, model, _resolved_settings(config), data_hash],
            initialization=_resolved_initialization(options, config),
            vectors=self._request_vectors(options),
            epochs=config["epochs"],
            eval_step=config["eval_step"],
            unread=frozenset(config.unread_keys() if is_own_or_recboles(config.model_class) else ()),
        )

    def _complete(self, dataset: str, model: str, settings: Mapping[str, Any]) -> tuple[Mapping[str, Any], Config]:
        """Add the comparison's own defaults to the settings; return these and the configuration."""
        config = self._configure(dataset, model, settings)
        added: dict[str, Any] = {}
        if "eval_batch_size" not in settings and _ranks_from_two_tables(config):
            added["eval_batch_size"] = _EVAL_BATCH_SIZE
        if config["MODEL_TYPE"] == ModelType.TRADITIONAL:
            # RecBole trains such a model for one epoch, and would not validate it where eval_step is more.
            added |= {"epochs": 1, "eval_step": 1}
        if not added:
            return settings, config
        completed = {**settings, **added}
        return completed, self._configure(dataset, model, completed)

    def _configure(self, dataset: str, model: str, settings: Mapping[str, Any]) -> Config:
        config = Config(model, dataset, config_dict=settings, lenient=self._lenient)
        refuse_several_processes(config.final_config_dict)
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
        if folder not in self._data_hashes:
            files = sorted(folder.glob(f"{dataset}.*"))
            if not any(path.suffix == ".inter" for path in files):
                raise LLMInitError(f"there is no {dataset}.inter in {folder}: set data_path to the folder above it")
            self._data_hashes[folder] = hash_files(files)
        return self._data_hashes[folder]

    def _request_vectors(self, options: InitOptions) -> VectorRequest | None:
        if options.encode is None or not (options.wants_embedding or self._with_vectors):
            return None
        return VectorRequest(options.embedding, options.encode)


def _trial_settings(settings: Mapping[str, Any], options: InitOptions) -> dict[str, Any]:
    """Return the settings that a trial is given, which runs in another folder: paths are absolute."""
    # The encoder's keys have done their part once the vectors are made: these are passed on by their path.
    kept = {key: value for key, value in settings.items() if not key.startswith("llm_")}
    kept["data_path"] = str(Path(settings.get("data_path", "dataset")).resolve())
    if isinstance(options.user, Path):
        kept["init_user"] = str(options.user.resolve())
    return kept


def _describe_strategy(config: Config, settings: Mapping[str, Any], options: InitOptions) -> str:
    name = settings.get("init_strategy", "")
    # A model without a table to initialize has no initialization, and the key is empty in its name.
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL and options.strategy is None:
        name = ""
    described = "none" if is_none(name) else str(name)
    return f"{described}-shuffled" if options.shuffle else described


def _resolved_settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide the outcome, defaults included: a key that is set to its default changes none."""
    return {
        key: value
        for key, value in config.final_config_dict.items()
        if key not in (*_NOT_OUTCOME, "seed") and not key.startswith(("llm_", "init_"))
    }


def _resolved_initialization(options: InitOptions, config: Config) -> list[Any] | None:
    if options.strategy is None:
        return None
    scale = options.strategy.default_scale if options.scale is None else options.scale
    user = identify_vectors(options.user, config["USER_ID_FIELD"]) if isinstance(options.user, Path) else options.user
    return [repr(options.strategy), scale, user, options.missing, options.tables, options.trainable, options.shuffle]


def _ranks_from_two_tables(config: Config) -> bool:
    """Whether all scores of a user cost no more memory than the scores: other models score pairs, or sequences."""
    has_full_scores = config.model_class.full_sort_predict is not AbstractRecommender.full_sort_predict
    return has_full_scores and config["MODEL_TYPE"] in (
        ModelType.GENERAL,
        ModelType.TRADITIONAL,
        ModelType.KNOWLEDGE,
    )


def _refuse_sampled_test(config: Config) -> None:
    """Raise where the test does not rank all items."""
    modes = config["eval_args"]["mode"]
    if config["eval_type"] != EvaluatorType.RANKING or modes["test"] != "full":
        raise LLMInitError(
            f"compare ranks all items at test (metrics over samples or labels do not compare models): set eval_args "
            f"mode to full for {config['model']}, and ranking metrics; mode is {modes}, metrics are {config['metrics']}"
        )


def _refuse_no_validation(config: Config) -> None:
    """Raise where no epoch would be validated: validation chooses the best epoch, and the best point of a grid."""
    split = config["eval_args"]["split"]
    shares = (split or {}).get("RS") or (split or {}).get("TS") or [1, 1, 1]
    is_empty = (split or {}).get("LS") == "test_only" or len(shares) < 3 or not shares[1]
    step = config["eval_step"]
    if (is_empty and not config["benchmark_filename"]) or not 1 <= step <= config["epochs"]:
        raise LLMInitError(
            f"compare chooses by validation, and {config['model']} would have none: eval_args split is {split}, "
            f"eval_step {step}, epochs {config['epochs']}"
        )
