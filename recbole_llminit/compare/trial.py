"""One trial of a comparison: a training run, its test user by user, and the files that hold them."""

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

import pandas as pd

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, require_file, write_text
from recbole_llminit.vectors.readers import read_parquet

if TYPE_CHECKING:
    from recbole_llminit.compare.evaluation import UserEvaluation

FORMAT = 1
# What a report reads of a trial, and what it is.
_CONTENT: dict[str, Any] = {
    "format": int,
    **dict.fromkeys(("name", "dataset", "model", "valid_metric", "python", "machine"), str),
    **dict.fromkeys(("settings", "config", "versions", "best_valid_result", "test_result"), dict),
    **dict.fromkeys(("seconds", "wall_seconds", "best_valid_score"), int | float),
    **dict.fromkeys(("curve", "spectra"), list),
    **dict.fromkeys(("initialization_seconds", "peak_memory_bytes", "parameters"), int | float | None),
    "valid_score_bigger": bool,
    "init_report": dict | None,
}
_OF_A_VALIDATION = ("epoch", "score", "seconds")
_PACKAGES = ("recbole-llminit", "recbole", "torch", "numpy", "pandas", "scipy")


@dataclass(frozen=True)
class Trial:
    """One training run of a comparison.

    Parameters
    ----------
    name : str
        Its file name: what it is, and a hash of all that decides its outcome.
    dataset, model : str
        What `run_recbole_llminit` is given.
    settings : mapping
        The configuration, seed included.
    epochs, eval_step : int
        The most epochs, and after how many a validation follows, as RecBole's defaults complete the configuration.
    """

    name: str
    dataset: str
    model: str
    settings: Mapping[str, Any]
    epochs: int
    eval_step: int


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial left on disk.

    Parameters
    ----------
    content : mapping
        The JSON file.
    users, ranks : DataFrame
        The Parquet files; see `UserEvaluation`.
    """

    content: Mapping[str, Any]
    users: pd.DataFrame
    ranks: pd.DataFrame


def run_trial(trial: Trial, folder: Path) -> None:
    """Train and test in this process, and write ``name.json``, ``name.users.parquet`` and ``name.ranks.parquet``.

    The JSON file appears last and whole: where it is, the trial is finished. RecBole's own files (checkpoint,
    TensorBoard) go to a folder beside it that is removed; its log is the standard output.
    """
    import torch

    torch.set_num_threads(1)
    folder = folder.resolve()
    work = Path(tempfile.mkdtemp(prefix=f".{trial.name}.", dir=folder))
    home = Path.cwd()
    try:
        os.chdir(work)
        content, evaluation = _train_and_evaluate(trial, work)
        evaluation.users.to_parquet(work / "users", index=False)
        evaluation.ranks.to_parquet(work / "ranks", index=False)
        (work / "users").replace(folder / f"{trial.name}.users.parquet")
        (work / "ranks").replace(folder / f"{trial.name}.ranks.parquet")
        write_text(folder / f"{trial.name}.json", json.dumps(content, indent=1) + "\n")
    finally:
        os.chdir(home)
        shutil.rmtree(work, ignore_errors=True)


def _train_and_evaluate(trial: Trial, work: Path) -> tuple[dict[str, Any], UserEvaluation]:
    """Train into the folder ``work``; return the content of the JSON file, and the test user by user."""
    from recbole_llminit.compare.evaluation import evaluate_users
    from recbole_llminit.integration.quick_start import run_recbole_llminit

    curve: list[dict[str, Any]] = []
    began = time.perf_counter()

    def validated(epoch: int, score: float) -> None:
        curve.append({"epoch": epoch + 1, "score": float(score), "seconds": time.perf_counter() - began})

    result = run_recbole_llminit(
        trial.model,
        trial.dataset,
        config_dict={**trial.settings, "checkpoint_dir": str(work), "show_progress": False},
        callback_fn=validated,
    )
    seconds, memory = time.perf_counter() - began, _peak_memory()
    if not curve:
        raise LLMInitError("no epoch was validated, and a comparison chooses by validation: check epochs and split")
    (checkpoint,) = work.glob("*.pth")
    evaluation = evaluate_users(checkpoint)
    means = evaluation.users.drop(columns=["user_id", "train_interactions"]).mean().to_dict()
    for again in (evaluation.result, means):
        _refuse_difference(result["test_result"], again, evaluation.config["metric_decimal_place"])
    report = result["init_report"]
    content = {
        "format": FORMAT,
        "name": trial.name,
        "dataset": trial.dataset,
        "model": trial.model,
        "settings": dict(trial.settings),
        "config": json.loads(json.dumps(evaluation.config.final_config_dict, default=str)),
        "versions": {package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - began,
        "initialization_seconds": None if report is None else report.seconds,
        "peak_memory_bytes": memory,
        "parameters": evaluation.parameters,
        "spectra": [asdict(spectrum) for spectrum in evaluation.spectra],
        "curve": curve,
        "valid_metric": evaluation.config["valid_metric"].lower(),
        "valid_score_bigger": result["valid_score_bigger"],
        "best_valid_score": result["best_valid_score"],
        "best_valid_result": result["best_valid_result"],
        "test_result": result["test_result"],
        "init_report": None if report is None else report.to_dict(),
    }
    return content, evaluation


def read_trial(folder: Path, name: str) -> TrialResult | None:
    """Read a finished trial's files; None where it has not finished.

    Raises
    ------
    LLMInitError
        If a file is broken or one of the three is missing.
    """
    path = folder / f"{name}.json"
    if not exists(path):
        return None
    expected = f"a file of the trial {path}, as this version writes it"
    for file in (path, *(folder / f"{name}.{part}.parquet" for part in ("users", "ranks"))):
        require_file(file, f"a file of the trial {path}")
    with foreign_reader(path, expected):
        content = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key, kind in _CONTENT.items() if not isinstance(content[key], kind)]
        if wrong or content["format"] != FORMAT:
            raise LLMInitError(
                f"the trial {path} has {content['format']!r} as its format, this version reads {FORMAT}"
                if not wrong
                else f"the trial {path} has {content[wrong[0]]!r} as {wrong[0]}"
            )
        if not all(isinstance(point[key], int | float) for point in content["curve"] for key in _OF_A_VALIDATION):
            raise LLMInitError(f"the trial {path} has a curve of other points than {', '.join(_OF_A_VALIDATION)}")
    with foreign_reader(folder / f"{name}.users.parquet", expected):
        users = read_parquet(folder / f"{name}.users.parquet")
        users[["user_id", "train_interactions"]]
    with foreign_reader(folder / f"{name}.ranks.parquet", expected):
        ranks = read_parquet(folder / f"{name}.ranks.parquet")
        ranks[["user_id", "item_id", "item_interactions", "rank"]]
    return TrialResult(content, users, ranks)


def _refuse_difference(result: Mapping[str, float], again: Mapping[str, float], places: int) -> None:
    """Raise where the test user by user is not the test of the run."""
    for name, value in result.items():
        # On a GPU sums may differ in the last place. A figure may be NaN, and not every one is a mean over users.
        if name in again and abs(again[name] - value) > 1.5 * 10.0**-places:
            raise LLMInitError(f"the checkpoint has {name} {again[name]}, and the run that saved it {value}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _peak_memory() -> int | None:
    """Return the most memory that this process has held, in bytes; None where the system does not say."""
    # Not getrusage: on Linux it starts with what the process held that started this one.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _end_with_parent() -> None:
    """End this process when the one that started it has gone: its end of the pipe is closed then."""
    # Not through sys.stdin, whose lock would be held when the interpreter closes it.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Run the trial that a JSON file describes: ``python -m recbole_llminit.compare.trial SPECIFICATION FOLDER``."""
    specification, folder = sys.argv[1:]
    sys.argv[1:] = []
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_trial(Trial(**json.loads(Path(specification).read_text(encoding="utf-8"))), Path(folder))


if __name__ == "__main__":
    main()
