"""The report of a comparison: what its finished trials show."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from recbole_llminit.compare.options import Role
from recbole_llminit.compare.plan import Entry
from recbole_llminit.compare.reporting import analysis
from recbole_llminit.compare.reporting.lines import ModelKey, choose_complete
from recbole_llminit.compare.reporting.protocol import describe_environment, tabulate_protocol
from recbole_llminit.compare.reporting.results import EPOCH_0, gather_results, tabulate_runs, tabulate_trials
from recbole_llminit.compare.reporting.statistics import LEAST_SEEDS, SIGNIFICANCE_LEVEL
from recbole_llminit.compare.reporting.table import LINE_WIDTH, Section, Table, escape_markdown
from recbole_llminit.compare.reporting.verdict import make_verdict
from recbole_llminit.compare.runner import FAILED, PLAN, TRIALS
from recbole_llminit.compare.trial import TrialResult, read_trial
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, require_file


@dataclass(frozen=True)
class Report:
    """The outcome of a comparison; prints as its verdict and its table.

    A *line* is a dataset, an amount of dropped training interactions (``drop``), a model and an initialization; the
    initialization of a baseline is empty. Each frame with a row for each line has these four columns.

    Parameters
    ----------
    options : mapping
        The options of the comparison, as `CompareOptions.to_dict` returns them.
    command : str
        The command that asked for the comparison; empty where it was called from Python.
    valid_metric : str
        The metric of early stopping and tuning.
    valid_score_bigger : bool
        Whether a larger validation score is better.
    metrics : tuple of str
        The metrics that are tested: those at the cut-off of the validation metric.
    runs : DataFrame
        A row for each line and seed: the trial that stands for it (of a grid the best by validation), its test metrics,
        times and memory.
    trials : DataFrame
        A row for each finished trial of each line and seed, those that a search did not choose included.
    tests : DataFrame
        A row for each pair of lines that is tested and each metric: ``mean`` and ``reference_mean`` over the seeds that
        both have, the fields of `PairedTest` (over users) and `SeedTest` (over seeds), and ``p_holm``, ``p_seeds_holm``
        and ``outcome`` of `correct_tests`, whose family is the tests of the same dataset, ``drop`` and metric.
    strata : DataFrame
        A row for each line, side (user, item) and stratum: counts and metrics, means over the seeds.
    efficiency : DataFrame
        A row for each line: parameters, times and memory, medians over the seeds.
    curves : DataFrame
        A row for each line, seed and validation.
    spectra : DataFrame
        A row for each line, seed and trained user or item table: its singular values, effective rank and information
        abundance (see `Spectrum`).
    protocol : DataFrame
        A row for each dataset and ``drop``: counts of the first seed, settings, regularization, versions.
    environment : tuple of str
        The versions and machines of the trials, and the vectors that were read.
    problems : tuple of str
        What failed, is broken, or has not finished.
    incomplete : frozenset of ModelKey
        The models (with dataset and ``drop``) that lack an initialization without an LLM: none of their figures is
        bold.
    """

    options: Mapping[str, Any]
    command: str
    valid_metric: str
    valid_score_bigger: bool
    metrics: tuple[str, ...]
    runs: pd.DataFrame
    trials: pd.DataFrame
    tests: pd.DataFrame
    strata: pd.DataFrame
    efficiency: pd.DataFrame
    curves: pd.DataFrame
    spectra: pd.DataFrame
    protocol: pd.DataFrame
    environment: tuple[str, ...]
    problems: tuple[str, ...]
    incomplete: frozenset[ModelKey]

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """Make the report of the finished trials in the folder of a comparison.

        Broken files and failed trials are left out and named in ``problems``.

        Raises
        ------
        LLMInitError
            If the folder holds no comparison, or none of its trials has finished.
        """
        folder = Path(folder)
        plan, entries = _read_plan(folder)
        names = dict.fromkeys(name for entry in entries for name in entry.trials)
        results, failed, problems = _read_trials(folder / TRIALS, names)
        with foreign_reader(folder, "the finished trials of a comparison"):
            return cls.of(entries, results, plan["options"], failed, problems, plan.get("command", ""))

    @classmethod
    def of(
        cls,
        entries: Sequence[Entry],
        results: Mapping[str, TrialResult],
        options: Mapping[str, Any],
        failed: Iterable[str] = (),
        problems: Sequence[str] = (),
        command: str = "",
    ) -> Report:
        """Make the report of finished trials.

        Parameters
        ----------
        entries : sequence of Entry
            The entries of the plan. Those that are not complete are left out; see `choose_complete`.
        results : mapping of str to TrialResult
            The finished trials by name.
        options : mapping
            The options of the plan.
        failed : iterable of str
            The names of the trials that failed.
        problems : sequence of str
            Further problems to name.
        command : str
            The command that asked for the comparison.

        Raises
        ------
        LLMInitError
            If no model has finished a seed.
        """
        complete = choose_complete(entries, set(results), set(failed))
        if not complete.entries:
            named = "".join(f"\n{problem}" for problem in problems[:5])
            raise LLMInitError(f"no model of the comparison has finished a seed: there is nothing to report{named}")
        lines = gather_results(complete.entries, results)
        # The protocol is the same for all trials: any one tells the metrics.
        first = next(result for of_line in lines.values() for result in of_line.by_seed.values())
        valid_metric = first.content["valid_metric"]
        metrics = analysis.tested_metrics(valid_metric, first.content["test_result"], first.users)
        return cls(
            options=options,
            command=command,
            valid_metric=valid_metric,
            valid_score_bigger=first.content["valid_score_bigger"],
            metrics=metrics,
            runs=tabulate_runs(complete.entries, results, lines),
            trials=tabulate_trials(entries, results, lines),
            tests=analysis.tabulate_tests(lines, metrics),
            strata=analysis.tabulate_strata(lines, options, metrics),
            efficiency=analysis.tabulate_efficiency(lines, metrics),
            curves=analysis.tabulate_curves(lines),
            spectra=analysis.tabulate_spectra(lines),
            protocol=tabulate_protocol(lines),
            environment=describe_environment(results),
            problems=(*problems, *complete.messages),
            incomplete=complete.incomplete,
        )

    @property
    def table(self) -> Table:
        """The table of the report."""
        return Table(self.runs, self.tests, self.metrics, self.headline, self.valid_score_bigger, self.incomplete)

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that verdict and table show; see `headline_metrics`."""
        return analysis.headline_metrics(self.metrics, self.valid_metric)

    @property
    def verdict(self) -> tuple[str, ...]:
        """What beat what, in a paragraph for each dataset and ``drop``; see `make_verdict`."""
        return make_verdict(self.runs, self.tests, self.headline, valid_score_bigger=self.valid_score_bigger)

    @property
    def references(self) -> tuple[str, ...]:
        """The names of all initializations and baselines that others are tested against."""
        return self.table.references

    def sections(self) -> list[Section]:
        """Return the table in sections: one for each dataset and each amount of dropped training interactions."""
        return self.table.sections()

    def to_dataframe(self) -> pd.DataFrame:
        """Return the table: a row for each line, with the mean of every test metric over the seeds.

        ``<metric> std`` is the standard deviation over the seeds. Beside the tested metrics stand ``better_than`` and
        ``worse_than``: the names of what the line is better and worse than by the ``outcome`` of the tests.
        """
        return self.table.to_dataframe()

    def to_markdown(self) -> str:
        """Return the table in markdown, a section for each dataset and each amount of dropped interactions."""
        return "\n".join(
            f"{escape_markdown(section.title)}\n\n{section.to_markdown()}\n" for section in self.sections()
        )

    def to_latex(self) -> str:
        """Return the table in LaTeX (``booktabs``)."""
        return "\n".join(section.to_latex() for section in self.sections())

    def to_dict(self) -> dict[str, Any]:
        """Return options, frames (without ``curves`` and ``protocol``), environment and problems in JSON types."""
        frames = {
            name: json.loads(getattr(self, name).to_json(orient="records"))
            for name in ("runs", "tests", "strata", "efficiency", "spectra")
        }
        content = {"options": self.options, "metrics": self.metrics, "verdict": self.verdict, **frames}
        content |= {"references": self.references, "problems": self.problems, "environment": self.environment}
        found: dict[str, Any] = json.loads(json.dumps(content))
        return found

    def __str__(self) -> str:
        """Write the verdict, draw and explain the table, and name the problems."""
        verdict, legend = (
            [textwrap.fill(text, LINE_WIDTH) for text in texts] for texts in (self.verdict, [self.legend])
        )
        return "\n\n".join(filter(None, [*verdict, self.draw(), *legend, *self.problems]))

    def draw(self) -> str:
        """Draw the table for the terminal."""
        return "\n\n".join(section.draw() for section in self.sections())

    @property
    def legend(self) -> str:
        """What the columns, marks and bold figures of the table mean; empty where nothing was tested."""
        if not self.references:
            return ""
        has_epoch_0 = any(section.epoch_0 for section in self.sections())
        epoch_0 = f"{EPOCH_0}: the initialized model before its training. ".capitalize() if has_epoch_0 else ""
        return (
            f"Figures: mean ± standard deviation over the seeds. {epoch_0}"
            f"Against NAME: the change from NAME in {' and '.join(self.headline)}; initializations are compared within "
            f"their model. ▲ significantly higher, ▼ significantly lower, = not significant. {self._significance} "
            f"Bold (* in the terminal): the best of its model, and significantly above every initialization without an "
            f"LLM. {self._fairness}"
        )

    @property
    def _significance(self) -> str:
        """Say which tests decide."""
        by_users = (
            f"p < {SIGNIFICANCE_LEVEL} in a paired t-test over users, their differences averaged over the seeds, after "
            f"Holm's correction over all tests of a metric"
        )
        fewest, most = self.tests["seeds"].min(), self.tests["seeds"].max()
        if most < LEAST_SEEDS:
            return (
                f"Significant: {by_users}. With fewer than {LEAST_SEEDS} seeds their chance (split, negatives, "
                f"initialization) was not tested."
            )
        untested = f" Pairs with fewer than {LEAST_SEEDS} common seeds are tested over users alone."
        return (
            f"Significant: {by_users}, and p < {SIGNIFICANCE_LEVEL} in a paired t-test over the seeds' means, "
            f"uncorrected.{untested if fewest < LEAST_SEEDS else ''}"
        )

    @property
    def _fairness(self) -> str:
        """Say which lines were tuned."""
        return {
            "none": "Only baselines, and noise in its scale, are tuned.",
            "stock": "Only baselines, noise in its scale, and the lines called tuned are tuned, the LLM "
            "initializations are not.",
            "all": "The lines called tuned, and the baselines, are tuned.",
        }[str(self.options["tune"])]


def _read_plan(folder: Path) -> tuple[dict[str, Any], list[Entry]]:
    """Read the plan of a comparison, and its entries."""
    path = folder / PLAN
    require_file(path, f"the plan of a comparison, which {folder} holds none of")
    with foreign_reader(path, "the plan of a comparison"):
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entries = [Entry.from_dict(entry) for entry in plan["entries"]]
        unknown = {entry.role for entry in entries} - set(get_args(Role))
        if unknown or not isinstance(plan["options"], dict) or not isinstance(plan.get("command", ""), str):
            raise ValueError(f"options {plan['options']!r}, command {plan.get('command')!r}, roles {unknown}")
    return plan, entries


def _read_trials(folder: Path, names: Iterable[str]) -> tuple[dict[str, TrialResult], set[str], list[str]]:
    """Read the finished trials; return them by name, the names of the failed ones, and what is wrong with the rest."""
    results: dict[str, TrialResult] = {}
    failed: set[str] = set()
    problems: list[str] = []
    for name in names:
        try:
            result = read_trial(folder, name)
        except LLMInitError as error:
            problems.append(str(error))
            continue
        reason = folder / f"{name}{FAILED}"
        if result is not None:
            results[name] = result
        elif reason.exists():
            failed.add(name)
            problems.append(f"the trial {name} failed: {reason.read_text(encoding='utf-8').strip()}")
    return results, failed, problems
