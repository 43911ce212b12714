"""The plan of a comparison: its lines, and the trials of each, named and in the order in which they run."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recbole_llminit.compare.configurations import Configuration, ConfigurationChecker
from recbole_llminit.compare.options import CompareOptions, Initialization, Role
from recbole_llminit.compare.trial import Trial
from recbole_llminit.compare.trial_vectors import TrialVectors
from recbole_llminit.integration.cold_start import Drop
from recbole_llminit.integration.options import KEYS


@dataclass(frozen=True)
class Entry:
    """One line of the report with one seed.

    Parameters
    ----------
    dataset, model, initialization : str
        The line. The initialization of a baseline is empty.
    role : {"stock", "llm", "control", "baseline"}
        The role of the line in the comparison.
    drop : float, "all_but_one" or None
        The training interactions that are dropped; None for the full data.
    seed : int
        The seed of split, negatives and initialization.
    trials : tuple of str
        The names of its trials: one, or a grid, of which the best by validation stands for the line.
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
    """The trials of a comparison.

    Parameters
    ----------
    entries : tuple of Entry
        The lines of the report, seed by seed.
    trials : mapping of str to Trial
        The trials by name, in the order in which they run.
    options : mapping
        What is compared, in JSON types.
    command : str
        The command that asked for the comparison; empty if there was none.
    """

    entries: tuple[Entry, ...]
    trials: Mapping[str, Trial]
    options: Mapping[str, Any]
    command: str = ""


@dataclass(frozen=True)
class CheckedComparison:
    """A comparison whose configurations are all checked, and whose trials have no names yet.

    The name of a trial tells its vectors from others, so that vectors are made (`make_vectors`) before trials are named
    (`plan`).
    """

    options: CompareOptions
    lines: tuple[tuple[Entry, tuple[Configuration, ...]], ...]
    vectors: TrialVectors

    def make_vectors(self) -> None:
        """Encode the vectors that the trials read and that are not there.

        Raises
        ------
        LLMInitError
            If the vectors cannot be made.
        """
        self.vectors.make_missing()

    def plan(self, command: Sequence[str] = ()) -> Plan:
        """Name the trials; encode nothing.

        Parameters
        ----------
        command : sequence of str
            The command that asked for the comparison, to stand in the report.
        """
        entries: list[Entry] = []
        trials: dict[str, Trial] = {}
        for line, configurations in self.lines:
            named = [self._trial(configuration, line.seed) for configuration in configurations]
            trials.update({trial.name: trial for trial in named})
            # Two points of a grid may be the same trial: a key set to its default changes nothing.
            entries.append(replace(line, trials=tuple(dict.fromkeys(trial.name for trial in named))))
        return Plan(tuple(entries), trials, self.options.to_dict(), shlex.join(command))

    def _trial(self, configuration: Configuration, seed: int) -> Trial:
        request = configuration.vectors
        return configuration.trial(seed, None if request is None else self.vectors.look_up(request))


def make_plan(options: CompareOptions, command: Sequence[str] = ()) -> Plan:
    """Check every configuration and list the trials; encode nothing and train nothing.

    Where vectors are missing, their trials are listed under names that they will not have.

    Parameters
    ----------
    options : CompareOptions
        What to compare.
    command : sequence of str
        The command that asked for the comparison, to stand in the report.

    Raises
    ------
    LLMInitError
        As `check_comparison`.
    """
    return check_comparison(options).plan(command)


def check_comparison(options: CompareOptions) -> CheckedComparison:
    """Check every configuration of a comparison, and look up the vectors that are there; encode nothing.

    Raises
    ------
    LLMInitError
        If a model, strategy, key or value is unknown, a dataset is not there, vectors cannot be read or there are no
        texts to make them from, the items are not ranked in full at test, no epoch is validated, or the models of a
        dataset are not tested alike.
    """
    checker = ConfigurationChecker(
        with_vectors=any(initialization.needs_vectors for initialization in options.initializations),
        # It is not known which keys a model class of the user's own reads.
        lenient=any("." in model for model in options.models),
    )
    vectors = TrialVectors()
    lines = []
    for line, points in _list_lines(options):
        configurations = tuple(_check(line, settings, checker, vectors) for settings in points)
        lines.append((line, configurations))
    checker.warn_of_unread_keys()
    return CheckedComparison(options, tuple(lines), vectors)


def _check(
    line: Entry, settings: Mapping[str, Any], checker: ConfigurationChecker, vectors: TrialVectors
) -> Configuration:
    configuration = checker.check(line.dataset, line.model, settings)
    if configuration.vectors is not None:
        vectors.look_up(configuration.vectors)
    return configuration


def _list_lines(options: CompareOptions) -> Iterator[tuple[Entry, tuple[Mapping[str, Any], ...]]]:
    """Yield each line, its trials not yet named, with the settings of its trials.

    They come seed by seed, within a seed dataset by dataset and drop by drop, the baselines last.
    """
    rounds = itertools.product(options.seeds, options.datasets.items(), (None, *options.cold_start))
    for seed, (dataset, data_keys), drop in rounds:
        shared = {**options.settings, **data_keys}
        if drop is not None:
            shared["drop_train"] = drop
        for (model, model_keys), initialization in itertools.product(options.models.items(), options.initializations):
            settings = {**shared, **model_keys, **initialization.settings}
            label, role = initialization.label, initialization.role
            yield Entry(dataset, model, label, role, drop, seed, trials=()), (settings,)
            if _is_tuned(initialization, options):
                points = (settings, *_points(settings, options.tune_grid))
                tuned = tuple(options.tune_grid)
                yield Entry(dataset, model, f"{label} tuned", role, drop, seed, trials=(), tuned=tuned), points
        for model, grid in options.baselines.items():
            points = _points(_without_our_keys(shared), grid)
            yield Entry(dataset, model, "", "baseline", drop, seed, trials=(), tuned=tuple(grid)), points


def _is_tuned(initialization: Initialization, options: CompareOptions) -> bool:
    return options.tune == "all" or (options.tune == "stock" and initialization.role == "stock")


def _points(settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], ...]:
    """Return the settings with each combination of the grid's values."""
    return tuple({**settings, **dict(zip(grid, values, strict=True))} for values in itertools.product(*grid.values()))


def _without_our_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in KEYS}
