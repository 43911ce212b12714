"""The plan of a comparison: its lines, and the trials of each, named and in the order in which they run."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recbole_llminit.compare.baselines import Baseline
from recbole_llminit.compare.configurations import ConfigurationChecker
from recbole_llminit.compare.grids import Grid, Point, default_grid, grid_points
from recbole_llminit.compare.options import CompareOptions, Initialization, Role
from recbole_llminit.compare.trial import Trial
from recbole_llminit.compare.trial_vectors import TrialVectors
from recbole_llminit.compare.unread_keys import UnreadKeys
from recbole_llminit.integration.cold_start import Drop
from recbole_llminit.integration.options import KEYS


@dataclass(frozen=True)
class Entry:
    """One line of the report with one seed.

    Parameters
    ----------
    dataset, model, initialization : str
        The line. Of a baseline ``model`` is its label, and the initialization is empty.
    role : {"stock", "llm", "control", "baseline"}
        The role of the line in the comparison.
    drop : float, "all_but_one" or None
        The training interactions that are dropped; None for the full data.
    seed : int
        The seed of split, negatives and initialization.
    trials : tuple of str
        The names of its trials: one, or those of a search, of which the best by validation stands for the line.
    grids : tuple of mapping
        The grids that are searched, one after the other, each at the best values of those before.
    """

    dataset: str
    model: str
    initialization: str
    role: Role
    drop: Drop | None
    seed: int
    trials: tuple[str, ...]
    grids: tuple[Grid, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Entry:
        """Return the entry that a plan file describes."""
        content = dict(content)
        # An earlier version wrote the keys alone.
        keys = content.pop("tuned", ())
        grids = content.pop("grids", [dict.fromkeys(keys, ())] if keys else [])
        return cls(**{**content, "trials": tuple(content["trials"]), "grids": tuple(grids)})

    @property
    def tuned(self) -> tuple[str, ...]:
        """The keys of the grids."""
        return tuple(key for grid in self.grids for key in grid)


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

    def with_trials(self, number: int, added: Iterable[Trial]) -> Plan:
        """Return the plan with further trials of an entry.

        Parameters
        ----------
        number : int
            The place of the entry in ``entries``.
        added : iterable of Trial
            The trials; another entry may have them already.
        """
        entry, named = self.entries[number], {trial.name: trial for trial in added}
        grown = replace(entry, trials=tuple(dict.fromkeys((*entry.trials, *named))))
        entries = (*self.entries[:number], grown, *self.entries[number + 1 :])
        return replace(self, entries=entries, trials={**self.trials, **named})


@dataclass(frozen=True)
class PlannedLine:
    """A line of the report with one seed, its trials not yet named.

    Parameters
    ----------
    entry : Entry
        The line, without trials.
    model : str
        What is trained.
    settings : mapping
        The configuration of each of its trials, but for the keys of its grids.
    points : tuple of mapping
        The values of the keys of its grids, for each of the trials to begin with.
    """

    entry: Entry
    model: str
    settings: Mapping[str, Any]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class CheckedComparison:
    """A comparison whose configurations are all checked, and whose trials have no names yet.

    The name of a trial tells its vectors from others, so that vectors are made (`make_vectors`) before trials are named
    (`plan`).
    """

    options: CompareOptions
    lines: tuple[PlannedLine, ...]
    checker: ConfigurationChecker
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
        """Name the trials to begin with; encode nothing.

        Parameters
        ----------
        command : sequence of str
            The command that asked for the comparison, to stand in the report.
        """
        entries: list[Entry] = []
        trials: dict[str, Trial] = {}
        for line in self.lines:
            named = [self.trial(line, point) for point in line.points]
            trials.update({trial.name: trial for trial in named})
            # Two points of a grid may be the same trial: a key set to its default changes nothing.
            entries.append(replace(line.entry, trials=tuple(dict.fromkeys(trial.name for trial in named))))
        return Plan(tuple(entries), trials, self.options.to_dict(), shlex.join(command))

    def trial(self, line: PlannedLine, point: Point) -> Trial:
        """Return the trial of a line at a point of its grids.

        Raises
        ------
        LLMInitError
            If the configuration is refused.
        """
        configuration = self.checker.check(line.entry.dataset, line.model, {**line.settings, **point})
        request = configuration.vectors
        return configuration.trial(line.entry.seed, None if request is None else self.vectors.look_up(request))


def make_plan(options: CompareOptions, command: Sequence[str] = ()) -> Plan:
    """Check every configuration and list the trials to begin with; encode nothing and train nothing.

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
        If a model, strategy, key or value is unknown, no model reads a key that is set for it, a dataset is not there,
        vectors cannot be read or there are no texts to make them from, the items are not ranked in full at test, no
        epoch is validated, or the models of a dataset are not tested alike.
    """
    checker = ConfigurationChecker(
        with_vectors=any(initialization.needs_vectors for initialization in options.initializations),
        # It is not known which keys a model class of the user's own reads.
        lenient=any("." in model for model in options.models),
    )
    vectors, unread = TrialVectors(), UnreadKeys()
    lines = tuple(_list_lines(options))
    for line in lines:
        for point in line.points:
            configuration = checker.check(line.entry.dataset, line.model, {**line.settings, **point})
            unread.add(line.entry.model, configuration)
            if configuration.vectors is not None:
                vectors.look_up(configuration.vectors)
    unread.refuse(options)
    return CheckedComparison(options, lines, checker, vectors)


def _list_lines(options: CompareOptions) -> Iterator[PlannedLine]:
    """Yield each line with the settings of its trials.

    They come seed by seed, within a seed dataset by dataset and drop by drop, the baselines last.
    """
    rounds = itertools.product(options.seeds, options.datasets.items(), (None, *options.cold_start))
    for seed, (dataset, data_keys), drop in rounds:
        shared = {**options.settings, **data_keys}
        if drop is not None:
            shared["drop_train"] = drop
        for (model, model_keys), initialization in itertools.product(options.models.items(), options.initializations):
            entry = Entry(dataset, model, initialization.label, initialization.role, drop, seed, trials=())
            settings = {**shared, **model_keys, **initialization.settings}
            yield _line(entry, model, settings, initialization.grid)
            if options.tunes(initialization):
                tuned = replace(entry, initialization=f"{initialization.label} tuned")
                yield _tuned_line(tuned, settings, initialization, options)
        for baseline in options.baselines:
            entry = Entry(dataset, baseline.label, "", "baseline", drop, seed, trials=())
            yield _line(entry, baseline.model, _baseline_settings(baseline, shared, options), baseline.grid)


def _line(entry: Entry, model: str, settings: Mapping[str, Any], grid: Grid) -> PlannedLine:
    """Return a line that is one trial, or the search of one grid."""
    grids = (grid,) if grid else ()
    return PlannedLine(replace(entry, grids=grids), model, settings, tuple(grid_points(grid)))


def _tuned_line(
    entry: Entry, settings: Mapping[str, Any], initialization: Initialization, options: CompareOptions
) -> PlannedLine:
    """Return the line of an initialization that is tuned; the untuned trials are among its own."""
    grid = options.tune_grid.get(entry.model, default_grid(entry.model))
    untuned = grid_points(initialization.grid)
    if initialization.grid:
        # The product of both grids would take several times as many trials.
        return PlannedLine(replace(entry, grids=(initialization.grid, grid)), entry.model, settings, tuple(untuned))
    return PlannedLine(replace(entry, grids=(grid,)), entry.model, settings, (*untuned, *grid_points(grid)))


def _baseline_settings(baseline: Baseline, shared: Mapping[str, Any], options: CompareOptions) -> dict[str, Any]:
    """Return the settings of a baseline; of this package's keys it has those of the vectors, if it reads them."""
    kept = {key: value for key, value in shared.items() if key not in KEYS}
    vectors = {}
    if baseline.needs_vectors:
        vectors = {key: value for key, value in shared.items() if key.startswith("llm_")} | dict(options.vector_keys)
    return {**kept, **vectors, **baseline.settings}
