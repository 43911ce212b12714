"""The protocol of a comparison: its data, settings, regularization and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_llminit.compare.reporting.lines import Line, Part
from recbole_llminit.compare.reporting.results import Results
from recbole_llminit.compare.trial import TrialResult
from recbole_llminit.integration.recbole_keys import readers_of

# The settings that stand in the report where all trained models of a part share them.
_SHARED_KEYS = ("eval_args", "repeatable", "metrics", "topk", "valid_metric", "epochs", "eval_step", "stopping_step",
                "train_batch_size", "embedding_size", "train_neg_sample_args")  # fmt: skip
# RecBole's trainer reads these for every model that is trained in epochs, and a model reads the others.
_TRAINER_KEYS = ("learning_rate", "weight_decay")
_REGULARIZATION_KEYS = ("reg_weight", "reg_weights")
_PACKAGES = ("recbole-llminit", "recbole", "torch", "numpy")


def tabulate_protocol(results: Results) -> pd.DataFrame:
    """Return a row for each part: its data, settings and versions.

    Counts are of its first trial. Settings are those that all its trained models share; learning rate and
    regularization stand by model.
    """
    results_by_part: dict[Part, dict[Line, list[TrialResult]]] = {}
    for line, of_line in results.items():
        results_by_part.setdefault(line.part, {})[line] = list(of_line.by_seed.values())
    rows = []
    for part, by_line in results_by_part.items():
        contents = [trial.content for trials in by_line.values() for trial in trials]
        configs_by_model: dict[str, list[Mapping[str, Any]]] = {}
        for line, trials in by_line.items():
            configs_by_model.setdefault(line.model, []).extend(trial.content["config"] for trial in trials)
        rows.append(
            {
                **part._asdict(),
                **_count_tested(next(iter(by_line.values()))[0]),
                **_shared_settings([content["config"] for content in contents]),
                **_settings_by_model(configs_by_model),
                **_versions(contents),
            }
        )
    return pd.DataFrame(rows)


def describe_environment(trials: Mapping[str, TrialResult]) -> tuple[str, ...]:
    """Return the versions and machines of the trials, and the vectors that they read, each once."""
    return tuple(dict.fromkeys(line for trial in trials.values() for line in _describe_environment(trial.content)))


def _count_tested(trial: TrialResult) -> dict[str, int]:
    users, ranks = trial.users, trial.ranks
    return {
        "users_tested": users["user_id"].nunique(),
        "their_training_interactions": int(users.groupby("user_id")["train_interactions"].first().sum()),
        "test_interactions": len(ranks),
        "items_tested": ranks["item_id"].nunique(),
    }


def _shared_settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    # Models that are trained for one epoch have settings of training that nothing reads.
    trained = [config for config in configs if _is_trained(config)] or configs
    return {
        key: str(trained[0].get(key)) for key in _SHARED_KEYS if len({str(config.get(key)) for config in trained}) == 1
    }


def _settings_by_model(configs_by_model: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Return learning rate and regularization: the values of each model that reads them, all that its lines have."""
    described = {}
    for key in (*_TRAINER_KEYS, *_REGULARIZATION_KEYS):
        values_by_model = {
            model: _join_values(config[key] for config in configs if key in config and _reads(model, config, key))
            for model, configs in configs_by_model.items()
        }
        named = [f"{model} {values}" for model, values in values_by_model.items() if values]
        if named:
            described[key] = "; ".join(named)
    return described


def _is_trained(config: Mapping[str, Any]) -> bool:
    return config.get("epochs") != 1


def _reads(model: str, config: Mapping[str, Any], key: str) -> bool:
    if key in _TRAINER_KEYS:
        return _is_trained(config)
    # It is not known which keys a model class of the user's own reads.
    return "." in model or model in readers_of(key)


def _join_values(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _versions(contents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the outcome; several where trials differ."""
    found = {"python": _join_values(content["python"] for content in contents)}
    for package in _PACKAGES:
        found[package] = _join_values(
            content["versions"][package] for content in contents if package in content["versions"]
        )
    return {package: versions for package, versions in found.items() if versions}


def _describe_environment(content: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    lines = [f"Python {content['python']}, {versions}; {content['machine']}; one thread"]
    read = content["init_report"]
    if read and read["llm_dim"]:
        # A path on this machine is reduced to its last part.
        encoder = Path(read["encoder"]).name if Path(read["encoder"]).is_absolute() else read["encoder"]
        lines.append(
            f"vectors of {content['dataset']}: {encoder}, {read['llm_dim']} dimensions [{read['fingerprint']}]"
        )
    return lines
