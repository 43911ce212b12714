"""The process of one trial: ``python -m recbole_llminit.compare.trial_process SPECIFICATION FOLDER``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llminit.compare.trial import FORMAT, UNTRAINED_TYPES, Trial, TrialResult, write_result
from recbole_llminit.errors import LLMInitError

if TYPE_CHECKING:
    from recbole_llminit.compare.evaluation import UserEvaluation

_PACKAGES = ("recbole-llminit", "recbole", "torch", "numpy", "pandas", "scipy")


@dataclass(frozen=True)
class _Training:
    """What a training run gives, beside its checkpoint.

    Parameters
    ----------
    result : mapping
        What `run_recbole_llminit` returns.
    curve : list of dict
        Epoch, score and seconds of each validation.
    seconds : float
        The seconds from the start of the run to the end of its test. They, and those of the curve, leave out the
        evaluation of the untrained model.
    peak_memory : int or None
        The most memory that the process has held until then, in bytes.
    """

    result: Mapping[str, Any]
    curve: list[dict[str, Any]]
    seconds: float
    peak_memory: int | None


def run_trial(trial: Trial, folder: Path) -> None:
    """Train and test in this process, and write ``name.json``, ``name.users.parquet`` and ``name.ranks.parquet``.

    The JSON file appears last and whole: once it is there, the trial is finished. RecBole's own files (checkpoint,
    TensorBoard) go to a folder beside it that is removed in the end; its log goes to the standard output.

    Parameters
    ----------
    trial : Trial
        What to train.
    folder : Path
        The folder of the trials.

    Raises
    ------
    LLMInitError
        If no epoch was validated, or the second test of the checkpoint differs from the first.
    """
    import torch

    torch.set_num_threads(1)
    folder = folder.resolve()
    scratch = Path(tempfile.mkdtemp(prefix=f".{trial.name}.", dir=folder))
    before = Path.cwd()
    try:
        os.chdir(scratch)
        write_result(_train_and_evaluate(trial, scratch), folder, trial.name, scratch)
    finally:
        os.chdir(before)
        shutil.rmtree(scratch, ignore_errors=True)


def _train_and_evaluate(trial: Trial, scratch: Path) -> TrialResult:
    from recbole_llminit.compare.evaluation import evaluate_users

    began = time.perf_counter()
    training = _train(trial, scratch)
    (checkpoint,) = scratch.glob("*.pth")
    evaluation = evaluate_users(checkpoint)
    _check_evaluation(training.result["test_result"], evaluation)
    content = {
        "format": FORMAT,
        **_describe_trial(trial, evaluation),
        **_describe_environment(),
        **_describe_training(training),
        "wall_seconds": time.perf_counter() - began,
        "parameters": evaluation.parameters,
        "spectra": [asdict(spectrum) for spectrum in evaluation.spectra],
    }
    return TrialResult(content, evaluation.users, evaluation.ranks)


def _train(trial: Trial, scratch: Path) -> _Training:
    """Train and test; the checkpoint of the best epoch goes to the folder ``scratch``."""
    from recbole_llminit.integration.quick_start import run_recbole_llminit

    curve: list[dict[str, Any]] = []
    began = time.perf_counter()

    def record_validation(epoch: int, score: float) -> None:
        curve.append({"epoch": epoch + 1, "score": float(score), "seconds": time.perf_counter() - began})

    result = run_recbole_llminit(
        trial.model,
        trial.dataset,
        config_dict={**trial.settings, "checkpoint_dir": str(scratch), "show_progress": False},
        callback_fn=record_validation,
        untrained=True,
    )
    seconds = time.perf_counter() - began
    if not curve:
        raise LLMInitError("no epoch was validated, and a comparison chooses by validation: check epochs and split")
    # A run without this evaluation takes as much less time, and the curve begins after it.
    extra = result.get("untrained_seconds", 0.0)
    curve = [{**point, "seconds": point["seconds"] - extra} for point in curve]
    return _Training(result, curve, seconds - extra, _peak_memory())


def _check_evaluation(test_result: Mapping[str, float], evaluation: UserEvaluation) -> None:
    """Raise where the test user by user is not the test of the run."""
    means = evaluation.users.drop(columns=["user_id", "train_interactions"]).mean().to_dict()
    # On a GPU sums may differ in the last place.
    tolerance = 1.5 * 10.0 ** -evaluation.config["metric_decimal_place"]
    for again in (evaluation.result, means):
        for name, value in test_result.items():
            # A metric may be NaN, and not every metric is a mean over users.
            if name in again and abs(again[name] - value) > tolerance:
                raise LLMInitError(f"the checkpoint has {name} {again[name]}, and the run that saved it {value}")


def _describe_trial(trial: Trial, evaluation: UserEvaluation) -> dict[str, Any]:
    return {
        "name": trial.name,
        "dataset": trial.dataset,
        "model": trial.model,
        "settings": dict(trial.settings),
        "config": json.loads(json.dumps(evaluation.config.final_config_dict, default=str)),
        "valid_metric": evaluation.config["valid_metric"].lower(),
    }


def _describe_environment() -> dict[str, Any]:
    return {
        "versions": {package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _describe_training(training: _Training) -> dict[str, Any]:
    report = training.result["init_report"]
    kept = ("valid_score_bigger", "best_valid_score", "best_valid_result", "test_result")
    return {
        "seconds": training.seconds,
        "initialization_seconds": None if report is None else report.seconds,
        "peak_memory_bytes": training.peak_memory,
        "curve": training.curve,
        **{key: training.result[key] for key in kept},
        **{key: training.result[key] for key in UNTRAINED_TYPES if key in training.result},
        "init_report": None if report is None else report.to_dict(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _peak_memory() -> int | None:
    """Return the most memory that this process has held, in bytes; None where the system does not say."""
    # Not from getrusage: on Linux that counts what the parent process held when it started this one.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _end_with_parent() -> None:
    """End this process when its parent ends, which closes its end of the pipe at our standard input."""
    # Not through sys.stdin: its lock would be held when the interpreter closes it.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Run the trial that a JSON file describes."""
    specification, folder = sys.argv[1:]
    # RecBole reads the arguments of the process.
    sys.argv[1:] = []
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_trial(Trial(**json.loads(Path(specification).read_text(encoding="utf-8"))), Path(folder))


if __name__ == "__main__":
    main()
