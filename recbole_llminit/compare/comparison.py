"""A whole comparison: plan, trials, report."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_llminit.compare.export import save_report
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import Plan, make_plan
from recbole_llminit.compare.report import Report
from recbole_llminit.compare.runner import TRIALS, estimate_seconds, run_trials
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
        What to compare; a mapping is read as a YAML file's content is.
    folder : path
        Where trials and report go. Trials that are finished there are not run again: an interrupted comparison goes on,
        and one with more seeds or initializations uses what it has.
    jobs : int, optional
        How many processes train side by side, each on one torch thread; left out, the cores of this machine, or one
        where there is a GPU.
    command : sequence of str
        The command that made it, to stand in the report.

    Returns
    -------
    Report
        Of all that has finished; failed trials are named in ``problems``.

    Raises
    ------
    LLMInitError
        Before the first trial: if a name, key or value is unknown, data or vectors are not there, the folder cannot be
        written to, or the extra ``compare`` is not installed. After the last: if none has succeeded.
    """
    _require_extra()
    if not isinstance(options, CompareOptions):
        options = CompareOptions.from_settings(options)
    folder, jobs = Path(folder), _jobs(jobs)
    plan = make_plan(options, command)
    printer = _Printer(plan, folder)
    run_trials(plan, folder, jobs=jobs, settled=printer.settled)
    return write_report(folder)


def write_report(folder: str | Path) -> Report:
    """Write the report of the trials that have finished in a comparison's folder, and return it.

    Where it cannot be written, as on a full disk, that is named in its ``problems``.
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
    """Return what a comparison would run, as a table, with an estimate of the time; train one short trial per model.

    The estimate is an upper bound: every trial at its most epochs. Trials that are finished in the folder are counted
    as such, and their times are used instead of a short trial's. No vectors are made.
    """
    plan = make_plan(options, make_vectors=False)
    jobs = _jobs(jobs)
    by_trial, total = estimate_seconds(plan, Path(folder), jobs=jobs)
    lines = Counter((entry.dataset, entry.model) for entry in plan.entries)
    rows = []
    for (dataset, model), count in lines.items():
        names = [name for name, trial in plan.trials.items() if (trial.dataset, trial.model) == (dataset, model)]
        waiting = [by_trial[name] for name in names if name in by_trial]
        rows.append(
            [dataset, model, f"{count}", f"{len(names)}", f"{len(names) - len(waiting)}", _duration(sum(waiting))]
        )
    table = draw_table(["dataset", "model", "initializations x seeds", "trials", "finished", "at most"], rows)
    initializations = ", ".join(initialization.label for initialization in options.initializations)
    return (
        f"{table}\nstarts: {initializations}; seeds: {', '.join(map(str, options.seeds))}; tuned: "
        f"{options.tune}\n"
        f"{len(by_trial)} of {len(plan.trials)} trials are to be run: at most {_duration(total)} in {jobs} processes, "
        f"if none stops early"
    )


class _Printer:
    """Prints a line for each trial that finishes, and the table after each seed."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._waiting = {
            seed: {name for entry in plan.entries if entry.seed == seed for name in entry.trials}
            for seed in dict.fromkeys(entry.seed for entry in plan.entries)
        }
        self._last = list(self._waiting)[-1]

    def settled(self, name: str, *, now: bool) -> None:
        seed = self._plan.trials[name].settings["seed"]
        self._waiting[seed].discard(name)
        if not now:
            return
        content = json.loads((self._folder / TRIALS / f"{name}.json").read_text(encoding="utf-8"))
        epochs = f", epoch {content['curve'][-1]['epoch']}" if content["curve"] else ""
        result = ", ".join(f"{metric} {value:.4f}" for metric, value in content["test_result"].items())
        tqdm.write(f"{self._describe(name)}: {result} ({content['seconds']:.0f} s{epochs})", file=sys.stdout)
        if not self._waiting[seed] and seed != self._last:
            tqdm.write(f"\n{Report.read(self._folder).draw()}\n", file=sys.stdout)

    def _describe(self, name: str) -> str:
        """Name a trial by the first line that it stands for."""
        trial = self._plan.trials[name]
        entry = next(entry for entry in self._plan.entries if name in entry.trials)
        tuned = [f"{key} {trial.settings[key]}" for key in entry.tuned if key in trial.settings]
        dropped = [] if entry.drop is None else [f"drop {entry.drop}"]
        words = [entry.dataset, entry.model, entry.initialization, *tuned, *dropped, f"seed {entry.seed}"]
        return " ".join(filter(None, words))


def _require_extra() -> None:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise LLMInitError(
            f'compare needs {", ".join(missing)}: pip install "recbole-llminit[compare]" (in a clone: ".[compare]")'
        )


def _jobs(jobs: int | None) -> int:
    if jobs is None:
        import torch

        # A GPU is one, however many cores stand beside it.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return 1 if torch.cuda.is_available() else cores
    if jobs < 1:
        raise LLMInitError(f"jobs is {jobs}: expected 1 or more")
    return jobs


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
