"""How long a comparison takes at most, from finished trials or from a short one of each model."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from recbole_llminit.compare.child_processes import ChildProcesses
from recbole_llminit.compare.plan import Plan
from recbole_llminit.compare.runner import TRIALS, read_finished, seconds_per_epoch, train
from recbole_llminit.compare.trial import Trial
from recbole_llminit.errors import LLMInitError

_VALIDATIONS = 3


@dataclass(frozen=True)
class _Duration:
    """The seconds of a trial: a part that does not depend on the number of epochs, and those of an epoch."""

    fixed: float
    per_epoch: float

    def of(self, epochs: int) -> float:
        return self.fixed + self.per_epoch * epochs


def estimate_seconds(plan: Plan, folder: Path, *, jobs: int) -> tuple[dict[str, float], float]:
    """Estimate how long the trials that have not finished take at most; early stopping makes it less.

    For each model on each dataset the times of a trial that has finished in the folder are used. Where there is none,
    one is trained for three validations.

    Parameters
    ----------
    plan : Plan
        The trials.
    folder : Path
        The folder of the comparison, which may not be there yet.
    jobs : int
        How many processes train side by side.

    Returns
    -------
    by_trial : dict of str to float
        The seconds of each trial that has not finished.
    total : float
        The seconds of all of them together.

    Raises
    ------
    LLMInitError
        If a model cannot be trained.
    """
    trials = folder / TRIALS
    by_trial: dict[str, float] = {}
    for alike in _group(plan):
        finished = [trial.name for trial in alike if read_finished(trials, trial.name) is not None]
        waiting = [trial for trial in alike if trial.name not in finished]
        if waiting:
            duration = _read_duration(trials / f"{finished[0]}.json") if finished else _measure(_choose(alike))
            by_trial |= {trial.name: duration.of(trial.epochs) for trial in waiting}
    return by_trial, sum(by_trial.values()) / max(1, min(jobs, len(by_trial)))


def _group(plan: Plan) -> list[list[Trial]]:
    """Return the trials of each model or baseline on each dataset, which take about the same time."""
    labels = {name: (entry.dataset, entry.model) for entry in plan.entries for name in entry.trials}
    groups: dict[tuple[str, str], list[Trial]] = {}
    for name, trial in plan.trials.items():
        groups.setdefault(labels[name], []).append(trial)
    return list(groups.values())


def _choose(alike: Sequence[Trial]) -> Trial:
    """Choose which trial of a model on a dataset is measured."""
    ready = [trial for trial in alike if trial.settings.get("llm_embedding") != ""]
    # The last one is from vectors, unless noise is the only control: a table too wide for them shows at once.
    return (ready or alike)[-1]


def _measure(trial: Trial) -> _Duration:
    tqdm.write(f"measuring {trial.model} on {trial.dataset} ({trial.eval_step * _VALIDATIONS} epochs)", file=sys.stderr)
    epochs = min(trial.epochs, trial.eval_step * _VALIDATIONS)
    short = replace(trial, settings={**trial.settings, "epochs": epochs})
    with tempfile.TemporaryDirectory() as scratch, ChildProcesses(1) as processes:
        failure = train(short, Path(scratch), processes)
        if failure is not None:
            raise LLMInitError(f"{trial.model} on {trial.dataset} cannot be trained for an estimate: {failure}")
        return _read_duration(Path(scratch) / f"{trial.name}.json")


def _read_duration(path: Path) -> _Duration:
    content = json.loads(path.read_text(encoding="utf-8"))
    per_epoch = seconds_per_epoch(content["curve"]) or 0.0
    fixed = content["wall_seconds"] - per_epoch * content["curve"][-1]["epoch"]
    return _Duration(max(0.0, fixed), per_epoch)
