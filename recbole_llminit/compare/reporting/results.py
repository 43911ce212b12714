"""The results of a comparison: the trial that stands for each line and seed, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recbole_llminit.compare.options import Role
from recbole_llminit.compare.plan import Entry
from recbole_llminit.compare.reporting.lines import Line
from recbole_llminit.compare.runner import seconds_per_epoch
from recbole_llminit.compare.search import Candidate, edges_of
from recbole_llminit.compare.trial import TrialResult


@dataclass(frozen=True)
class LineResults:
    """The trials that stand for one line of the report.

    Parameters
    ----------
    role : {"stock", "llm", "control", "baseline"}
        What the line is in the comparison.
    by_seed : dict of int to TrialResult
        One trial for each seed; of a grid the best by validation.
    """

    role: Role
    by_seed: dict[int, TrialResult]

    def name(self, line: Line) -> str:
        """Return what the line of these results is called: its initialization, or the label of a baseline."""
        return line.model if self.role == "baseline" else line.initialization


Results = Mapping[Line, LineResults]

EPOCH_0 = "epoch 0"
"""What the columns of the initialized model before its training begin with."""


def gather_results(entries: Sequence[Entry], trials: Mapping[str, TrialResult]) -> dict[Line, LineResults]:
    """Return the results of each line: for each seed the trial with the best validation score.

    Parameters
    ----------
    entries : sequence of Entry
        The entries to report; each has at least one finished trial.
    trials : mapping of str to TrialResult
        The finished trials by name.
    """
    results: dict[Line, LineResults] = {}
    for entry in entries:
        of_line = results.setdefault(Line.of(entry), LineResults(entry.role, {}))
        of_line.by_seed[entry.seed] = max(_finished(entry, trials), key=lambda result: result.score)
    return results


def tabulate_runs(entries: Sequence[Entry], trials: Mapping[str, TrialResult], results: Results) -> pd.DataFrame:
    """Return a row for each entry: the trial that stands for it, its test metrics, times and memory.

    Parameters
    ----------
    entries : sequence of Entry
        The entries to report.
    trials : mapping of str to TrialResult
        The finished trials by name.
    results : mapping of Line to LineResults
        See `gather_results`.
    """
    rows = []
    for entry in entries:
        line = Line.of(entry)
        content = results[line].by_seed[entry.seed].content
        finished = _finished(entry, trials)
        edges = edges_of(entry.grids, [Candidate.of(result) for result in finished])
        rows.append(
            {
                **line._asdict(),
                "role": entry.role,
                "seed": entry.seed,
                "trial": content["name"],
                "tuned": _describe_tuned(entry, content),
                "at_edge": ", ".join(map(str, edges)),
                "candidates": len(finished),
                **describe_training(content),
                **_describe_cost(content),
                **_describe_initialization(content["init_report"]),
                "valid_score": content["best_valid_score"],
                **content["test_result"],
                **describe_epoch_0(content),
            }
        )
    return pd.DataFrame(rows)


def tabulate_trials(entries: Sequence[Entry], trials: Mapping[str, TrialResult], results: Results) -> pd.DataFrame:
    """Return a row for each finished trial of each entry: what was tuned, its validation score and its test metrics.

    Parameters
    ----------
    entries : sequence of Entry
        All entries of the plan; one that is not reported has chosen no trial.
    trials, results : mapping
        As in `tabulate_runs`.
    """
    rows = []
    for entry in entries:
        line = Line.of(entry)
        chosen = results[line].by_seed.get(entry.seed) if line in results else None
        for result in _finished(entry, trials):
            training = describe_training(result.content)
            rows.append(
                {
                    **line._asdict(),
                    "role": entry.role,
                    "seed": entry.seed,
                    "trial": result.content["name"],
                    "tuned": _describe_tuned(entry, result.content),
                    "chosen": result is chosen,
                    "valid_score": result.content["best_valid_score"],
                    "best_epoch": training["best_epoch"],
                    "epochs": training["epochs"],
                    **result.content["test_result"],
                }
            )
    return pd.DataFrame(rows)


def each_result(results: Results) -> Iterator[tuple[Line, int, TrialResult]]:
    """Yield line, seed and result of each trial that stands for a line."""
    for line, of_line in results.items():
        for seed, result in of_line.by_seed.items():
            yield line, seed, result


def describe_training(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the epoch of the best validation, how many epochs were trained, and whether the limit ended them."""
    curve, sign = content["curve"], score_sign(content)
    # Of equal scores the last, as in RecBole's early stopping.
    best = max(curve, key=lambda point: (sign * point["score"], point["epoch"]), default=None)
    return {
        "best_epoch": best["epoch"] if best else None,
        "epochs": curve[-1]["epoch"] if curve else None,
        "at_limit": bool(curve) and curve[-1]["epoch"] >= content["config"]["epochs"] > 1,
    }


def describe_epoch_0(content: Mapping[str, Any]) -> dict[str, float]:
    """Return validation score and test metrics of the model before its training; empty where they were not measured.

    Trials of an earlier version, and models that are not trained by gradients, have none.
    """
    if "untrained_valid_score" not in content:
        return {}
    measured = {"valid_score": content["untrained_valid_score"], **content["untrained_test_result"]}
    return {f"{EPOCH_0} {name}": value for name, value in measured.items()}


def score_sign(content: Mapping[str, Any]) -> int:
    """Return 1 where a larger validation score is better, else -1."""
    return 1 if content["valid_score_bigger"] else -1


def _finished(entry: Entry, trials: Mapping[str, TrialResult]) -> list[TrialResult]:
    return [trials[name] for name in entry.trials if name in trials]


def _describe_tuned(entry: Entry, content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {content['config'][key]}" for key in entry.tuned)


def _describe_cost(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seconds": content["seconds"],
        "seconds_per_epoch": seconds_per_epoch(content["curve"]),
        **{key: content[key] for key in ("initialization_seconds", "peak_memory_bytes", "parameters")},
    }


def _describe_initialization(init_report: Mapping[str, Any] | None) -> dict[str, Any]:
    if init_report is None:
        return {"strategy": None, "item_std": None}
    item_stds = [table["std_after"] for table in init_report.get("tables", ()) if table["side"] == "item"]
    return {"strategy": init_report["strategy"], "item_std": item_stds[0] if item_stds else None}
