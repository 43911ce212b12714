"""One trial of a comparison, and the files that hold its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_llminit.data_frames import read_parquet_frame
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, require_file, write_text

FORMAT = 2
"""The version of the files. Trials of another version are run again; of version 1 the init report had other keys."""

# The keys of the JSON file and the types of their values.
_TYPES: dict[str, Any] = {
    "format": int,
    **dict.fromkeys(("name", "dataset", "model", "valid_metric", "python", "machine"), str),
    **dict.fromkeys(("settings", "config", "versions", "best_valid_result", "test_result"), dict),
    **dict.fromkeys(("seconds", "wall_seconds", "best_valid_score"), int | float),
    **dict.fromkeys(("curve", "spectra"), list),
    **dict.fromkeys(("initialization_seconds", "peak_memory_bytes", "parameters"), int | float | None),
    "valid_score_bigger": bool,
    "init_report": dict | None,
}
UNTRAINED_TYPES: dict[str, Any] = {"untrained_valid_score": int | float, "untrained_test_result": dict}
"""The keys of the untrained model and the types of their values: not in trials of an earlier version, or of EASE."""

_CURVE_KEYS = ("epoch", "score", "seconds")
_USER_COLUMNS = ["user_id", "train_interactions"]
_RANK_COLUMNS = ["user_id", "item_id", "item_interactions", "rank"]


@dataclass(frozen=True)
class Trial:
    """One training run of a comparison.

    Parameters
    ----------
    name : str
        The name of its files: dataset, model, strategy, seed, and a hash of all that decides its outcome.
    dataset, model : str
        What `run_recbole_llminit` is given.
    settings : mapping
        The configuration, seed included.
    epochs, eval_step : int
        The most epochs, and the number of epochs from one validation to the next, with RecBole's defaults completed.
    """

    name: str
    dataset: str
    model: str
    settings: Mapping[str, Any]
    epochs: int
    eval_step: int


@dataclass(frozen=True)
class TrialResult:
    """The result of a finished trial.

    Parameters
    ----------
    content : mapping
        The content of the JSON file.
    users, ranks : DataFrame
        The content of the Parquet files; see `UserEvaluation`.
    """

    content: Mapping[str, Any]
    users: pd.DataFrame
    ranks: pd.DataFrame

    @property
    def score(self) -> float:
        """The best validation score, signed so that a larger one is better."""
        score: float = self.content["best_valid_score"]
        return score if self.content["valid_score_bigger"] else -score


def write_result(result: TrialResult, folder: Path, name: str, scratch: Path) -> None:
    """Write ``name.users.parquet``, ``name.ranks.parquet``, and last ``name.json``, each of them whole.

    Parameters
    ----------
    result : TrialResult
        What to write.
    folder : Path
        Where the files go.
    name : str
        The name of the trial.
    scratch : Path
        A folder on the same disk, in which the Parquet files are written before they are moved.
    """
    for part, frame in (("users", result.users), ("ranks", result.ranks)):
        frame.to_parquet(scratch / part, index=False)
    for part in ("users", "ranks"):
        (scratch / part).replace(_parquet_path(folder, name, part))
    write_text(folder / f"{name}.json", json.dumps(result.content, indent=1) + "\n")


def read_trial(folder: Path, name: str) -> TrialResult | None:
    """Read the files of a finished trial; return None where it has not finished.

    Raises
    ------
    LLMInitError
        If a file is broken or of another version, or one of the three is missing.
    """
    path = folder / f"{name}.json"
    if not exists(path):
        return None
    users_path, ranks_path = (_parquet_path(folder, name, part) for part in ("users", "ranks"))
    for file in (path, users_path, ranks_path):
        require_file(file, f"a file of the trial {path}")
    expected = f"a file of the trial {path}, as this version writes it"
    with foreign_reader(path, expected):
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_content(content, path)
    return TrialResult(
        content=content,
        users=_read_table(users_path, _USER_COLUMNS, expected),
        ranks=_read_table(ranks_path, _RANK_COLUMNS, expected),
    )


def _parquet_path(folder: Path, name: str, part: str) -> Path:
    return folder / f"{name}.{part}.parquet"


def _check_content(content: Mapping[str, Any], path: Path) -> None:
    # Another version may have other keys.
    if isinstance(content["format"], int) and content["format"] != FORMAT:
        raise LLMInitError(f"the trial {path} has {content['format']!r} as its format, this version reads {FORMAT}")
    for key, expected in _TYPES.items():
        if not isinstance(content[key], expected):
            raise LLMInitError(f"the trial {path} has {content[key]!r} as {key}")
    for key, expected in UNTRAINED_TYPES.items():
        if key in content and not isinstance(content[key], expected):
            raise LLMInitError(f"the trial {path} has {content[key]!r} as {key}")
    if not all(isinstance(point[key], int | float) for point in content["curve"] for key in _CURVE_KEYS):
        raise LLMInitError(f"the trial {path} has a curve of other points than {', '.join(_CURVE_KEYS)}")


def _read_table(path: Path, columns: list[str], expected: str) -> pd.DataFrame:
    with foreign_reader(path, expected):
        table = read_parquet_frame(path)
        # Raises where a column is missing.
        table[columns]
        return table
