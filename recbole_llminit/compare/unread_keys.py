"""Keys that no model reads for which they are set: a comparison refuses them, as they would change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_llminit.compare.configurations import Configuration
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.recbole_keys import describe_unread


class UnreadKeys:
    """The keys that each model and baseline of a comparison does not read, collected from its configurations."""

    def __init__(self) -> None:
        self._read: dict[str, set[str]] = {}
        self._unread: dict[str, set[str]] = {}
        self._names: dict[str, str] = {}

    def add(self, label: str, configuration: Configuration) -> None:
        """Take a configuration.

        Parameters
        ----------
        label : str
            The name of the model, or the label of the baseline.
        configuration : Configuration
            One of its configurations.
        """
        self._names[label] = configuration.model
        self._unread.setdefault(label, set()).update(configuration.unread)
        self._read.setdefault(label, set()).update(configuration.settings.keys() - configuration.unread)

    def refuse(self, options: CompareOptions) -> None:
        """Raise for a key that nothing reads where it is set.

        Raises
        ------
        LLMInitError
            If a model or baseline does not read a key of its own or of its grid, or none of the models reads a key that
            is set for all trials, for a dataset, or for an initialization.
        """
        self._refuse_keys_of_models(options)
        models = list(options.models)
        for initialization in options.initializations:
            self._refuse_unless_one_reads(f"strategies {initialization.label}", initialization.settings, models)
        # What a baseline reads does not count: its keys stand with it, and reg_weight is another thing to EASE.
        self._refuse_unless_one_reads("all trials", options.settings, models)
        for dataset, keys in options.datasets.items():
            self._refuse_unless_one_reads(f"datasets {dataset}", keys, models)

    def _refuse_keys_of_models(self, options: CompareOptions) -> None:
        own = {f"models {model}": (model, set(keys)) for model, keys in options.models.items()}
        own |= {f"baselines {one.label}": (one.label, {*one.settings, *one.grid}) for one in options.baselines}
        for place, (label, keys) in own.items():
            for key in sorted(keys & self._unread_by(label)):
                raise LLMInitError(f"{key} is set for {place}, and {self._describe(key, label)}")
        for model, grid in options.tune_grid.items():
            for key in sorted(grid.keys() & self._unread_by(model)):
                raise LLMInitError(
                    f"{key} is in the grid that {model} is tuned over, and {self._describe(key, model)}, or give each "
                    f"model a grid of its own, as tune_grid: {{{model}: {{weight_decay: [0.0, 0.00001]}}}}"
                )

    def _refuse_unless_one_reads(self, place: str, keys: Mapping[str, Any], labels: list[str]) -> None:
        for key in keys:
            if all(key in self._unread_by(label) for label in labels):
                raise LLMInitError(f"{key} is set for {place}, and {self._describe(key, *labels)}")

    def _unread_by(self, label: str) -> set[str]:
        """Return the keys that none of the configurations of a model reads."""
        return self._unread.get(label, set()) - self._read.get(label, set())

    def _describe(self, key: str, *labels: str) -> str:
        """Say that models do not read a key, and what to do."""
        models = dict.fromkeys(self._names[label] for label in labels)
        instead = " or set weight_decay, which regularizes every model" if key == "reg_weight" else ""
        return f"{describe_unread(key, *models)}: leave it out{instead}"
