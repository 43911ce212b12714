"""A whole comparison: options, vectors, trials, report."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_llminit.compare.estimate import estimate_seconds
from recbole_llminit.compare.growth import GrowingPlan
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import Entry, Plan, check_comparison
from recbole_llminit.compare.reporting.export import save_report
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.runner import TRIALS, lock_folder, read_finished, run_trials
from recbole_llminit.compare.search import MAX_WIDENINGS
from recbole_llminit.errors import LLMInitError
from recbole_llminit.text_table import draw_table

_EXTRA = ("jinja2", "matplotlib", "statsmodels", "tabulate")


def compare(
    options: CompareOptions | Mapping[str, Any],
    folder: str | Path = "comparison",
    *,
    jobs: int | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Train every model from every initialization with every seed, test them against each other, and write the report.

    Parameters
    ----------
    options : CompareOptions or mapping
        What to compare. A mapping is read like the content of a YAML file.
    folder : path
        Where trials and report go. Trials that have finished there are not run again: an interrupted comparison
        continues, and one with more seeds or initializations uses the trials that are there.
    jobs : int, optional
        How many processes train side by side, each on one torch thread. The default is the number of cores of this
        machine, or one where there is a GPU.
    command : sequence of str
        The command that asked for the comparison, to stand in the report.

    Returns
    -------
    Report
        The report of all trials that have finished; failed trials are named in its ``problems``.

    Raises
    ------
    LLMInitError
        Before anything is encoded: if a name, key or value is unknown, data or given vectors are not there, the folder
        cannot be written to, or the extra ``compare`` is not installed. Before the first trial: if vectors cannot be
        made. After the last: if no trial has finished.
    """
    _require_extra()
    if not isinstance(options, CompareOptions):
        options = CompareOptions.from_settings(options)
    folder, jobs = Path(folder), _read_jobs(jobs)
    checked = check_comparison(options)
    with lock_folder(folder):
        checked.make_vectors()
        growing = GrowingPlan(checked, checked.plan(command))
        run_trials(growing, folder, jobs=jobs, on_end=_Progress(growing, folder))
    return write_report(folder)


def write_report(folder: str | Path) -> Report:
    """Write the report of the trials that have finished in a comparison's folder, and return it.

    Where the report cannot be written, as on a full disk, this is named in its ``problems``.

    Parameters
    ----------
    folder : path
        The folder of the comparison.

    Raises
    ------
    LLMInitError
        If the folder holds no comparison, no trial has finished, or the extra ``compare`` is not installed.
    """
    _require_extra()
    report = Report.read(folder)
    try:
        save_report(report, folder)
    except OSError as error:
        problem = (
            f"the report cannot be written to {folder} ({error}): make room, then recbole-llminit compare --report"
        )
        return replace(report, problems=(*report.problems, problem))
    return report


def describe_plan(options: CompareOptions, folder: str | Path = "comparison", *, jobs: int | None = None) -> str:
    """Return what a comparison would run, as a table, with an estimate of the time; no vectors are made.

    The estimate is an upper bound, with the most epochs for every trial. For a model without a finished trial in the
    folder, a short trial is trained to measure it. What a search adds later is not in it: the trials of a second grid,
    and those that widen a grid whose edge wins.

    Parameters
    ----------
    options, folder, jobs
        As in `compare`.

    Raises
    ------
    LLMInitError
        If an option is refused, or a model cannot be trained.
    """
    checked, jobs = check_comparison(options), _read_jobs(jobs)
    growing = GrowingPlan(checked, checked.plan())
    growing.take_finished(growing.plan.trials, functools.partial(read_finished, Path(folder) / TRIALS))
    plan = growing.plan
    by_trial, total = estimate_seconds(plan, Path(folder), jobs=jobs)
    labels = ", ".join(initialization.label for initialization in options.initializations)
    return (
        f"{_draw_plan(plan, by_trial)}\n"
        f"initializations: {labels}; seeds: {', '.join(map(str, options.seeds))}; tuned: {options.tune}\n"
        f"{len(by_trial)} of {len(plan.trials)} trials are to be run: at most {_describe_seconds(total)} in {jobs} "
        f"processes, if none stops early{_describe_later(growing) if by_trial else ''}"
    )


def _describe_later(growing: GrowingPlan) -> str:
    """Say what a search may add to the plan; nothing where no grid is searched."""
    if not any(entry.grids for entry in growing.plan.entries):
        return ""
    later = (
        f"{growing.later_trials} trials of grids that are searched after others, and " if growing.later_trials else ""
    )
    return f"\nnot counted: {later}up to {MAX_WIDENINGS} trials for each key and side of a grid whose edge wins"


def _draw_plan(plan: Plan, by_trial: Mapping[str, float]) -> str:
    """Draw a row for each model on each dataset.

    Parameters
    ----------
    plan : Plan
        The trials.
    by_trial : mapping of str to float
        The seconds of each trial that has not finished.
    """
    by_model: dict[tuple[str, str], list[Entry]] = {}
    for entry in plan.entries:
        by_model.setdefault((entry.dataset, entry.model), []).append(entry)
    rows = []
    for (dataset, model), entries in by_model.items():
        names = {name for entry in entries for name in entry.trials}
        seconds = [by_trial[name] for name in names if name in by_trial]
        counts = [str(len(entries)), str(len(names)), str(len(names) - len(seconds))]
        rows.append([dataset, model, *counts, _describe_seconds(sum(seconds))])
    return draw_table(["dataset", "model", "initializations x seeds", "trials", "finished", "at most"], rows)


class _Progress:
    """Prints a line for each trial that finishes, and the table whenever a seed has ended that is not the last.

    Parameters
    ----------
    growing : GrowingPlan
        The trials.
    folder : Path
        The folder of the comparison.
    """

    def __init__(self, growing: GrowingPlan, folder: Path) -> None:
        self._growing = growing
        self._folder = folder
        self._ended: set[str] = set()
        self._last_seed = growing.plan.entries[-1].seed

    def __call__(self, name: str, *, newly_finished: bool) -> None:
        """Take the end of a trial, as `TrialListener`."""
        seed = self._growing.plan.trials[name].settings["seed"]
        self._ended.add(name)
        if not newly_finished:
            return
        tqdm.write(self._describe_result(name), file=sys.stdout)
        of_seed = (entry for entry in self._growing.plan.entries if entry.seed == seed)
        if seed != self._last_seed and all(self._ended.issuperset(entry.trials) for entry in of_seed):
            tqdm.write(f"\n{Report.read(self._folder).draw()}\n", file=sys.stdout)

    def _describe_result(self, name: str) -> str:
        content = json.loads((self._folder / TRIALS / f"{name}.json").read_text(encoding="utf-8"))
        metrics = ", ".join(f"{metric} {value:.4f}" for metric, value in content["test_result"].items())
        last_epoch = content["curve"][-1]["epoch"]
        return f"{self._describe_trial(name)}: {metrics} ({content['seconds']:.0f} s, epoch {last_epoch})"

    def _describe_trial(self, name: str) -> str:
        """Name a trial by the first line of the report that it belongs to."""
        plan = self._growing.plan
        settings = plan.trials[name].settings
        entry = next(entry for entry in plan.entries if name in entry.trials)
        words = [entry.dataset, entry.model, entry.initialization]
        words += [f"{key} {settings[key]}" for key in entry.tuned if key in settings]
        if entry.drop is not None:
            words.append(f"drop {entry.drop}")
        return " ".join(filter(None, [*words, f"seed {entry.seed}"]))


def _require_extra() -> None:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise LLMInitError(
            f'compare needs {", ".join(missing)}: pip install "recbole-llminit[compare]" (in a clone: ".[compare]")'
        )


def _read_jobs(jobs: int | None) -> int:
    if jobs is None:
        import torch

        # However many cores stand beside a GPU, it trains one model at a time.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return 1 if torch.cuda.is_available() else cores
    if jobs < 1:
        raise LLMInitError(f"jobs is {jobs}: expected 1 or more")
    return jobs


def _describe_seconds(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
