"""A small comparison, its finished folder, and trials that are run by a call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from recbole_llminit.compare.child_processes import ChildProcesses
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.trial import Trial
from recbole_llminit.compare.trial_process import run_trial
from tests.stock import DATA

SETTINGS: dict[str, Any] = {
    "models": "BPR",
    "datasets": "tiny",
    "data_path": str(DATA),
    # As a control, noise would be searched over its scale.
    "strategies": ["none", "var", "noise"],
    "controls": "none",
    "baselines": {"ItemKNN": {"k": [2, 10]}},
    "seeds": 2,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "embedding_size": 16,
    "epochs": 3,
    "train_batch_size": 64,
    "metrics": ["Recall", "NDCG"],
    "topk": [5, 10],
    "valid_metric": "NDCG@5",
    "user_strata": [8, 12],
    "item_strata": [10, 20],
}
ONE_TRIAL: dict[str, Any] = {"strategies": "none", "controls": "none", "baselines": "none", "seeds": 1}


@dataclass(frozen=True)
class Finished:
    """A finished comparison."""

    folder: Path
    report: Report

    def copy(self, folder: Path) -> Path:
        """A copy of the folder, which a test may change."""
        return Path(shutil.copytree(self.folder, folder / "copy"))

    def trial(self, pattern: str) -> dict[str, Any]:
        """The content of the first trial whose name matches."""
        return read_json(next((self.folder / "trials").glob(f"{pattern}.json")))


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def modified(folder: Path) -> dict[Path, int]:
    """When each trial was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "trials").glob("*.json")}


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def call_trial(processes: ChildProcesses, command: list[str], output: IO[bytes], environment: Mapping[str, str]) -> int:
    """Stand in for `ChildProcesses.call`: run a trial in this process, which has imported RecBole already."""
    specification, folder = command[-2:]
    try:
        run_trial(Trial(**read_json(Path(specification))), Path(folder))
    except Exception as error:
        output.write(f"{type(error).__name__}: {error}\n".encode())
        return 1
    return 0
