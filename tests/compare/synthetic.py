"""Made-up trials whose answers are known, and reports of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_llminit.compare.options import Role
from recbole_llminit.compare.plan import Entry
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.table import Cell
from recbole_llminit.compare.trial import TrialResult

USERS = 200
GRIDS = ({"learning_rate": (0.1,)},)
ROLES: dict[str, Role] = {
    "none": "stock",
    "none tuned": "stock",
    "var": "llm",
    "uni": "llm",
    "noise": "control",
    "": "baseline",
}
OPTIONS: dict[str, Any] = {
    "models": {"M": {}},
    "datasets": {"d": {}},
    "seeds": [1, 2],
    "tune": "stock",
    "user_strata": [5],
    "item_strata": [5],
}


def hits(share: float, seed: int = 0) -> npt.NDArray[np.float64]:
    """The recall of each user, where this share of them has a hit."""
    return (np.random.default_rng(seed).random(USERS) < share).astype(float)


def make_result(
    values: npt.ArrayLike, *, valid: float = 0.5, curve: Sequence[float] = (0.1, 0.5, 0.4), **content: Any
) -> TrialResult:
    """A finished trial with these recalls of its users; ``content`` replaces parts of its JSON file."""
    recalls = np.asarray(values, dtype=float)
    tokens = [f"u{number}" for number in range(len(recalls))]
    points = [{"epoch": number + 1, "score": score, "seconds": 2.0 * number + 3} for number, score in enumerate(curve)]
    whole = {
        "name": "t",
        "dataset": "d",
        "model": "M",
        "config": {"learning_rate": 0.1, "reg_weight": 1.0, "epochs": 5},
        "versions": {"a": "1"},
        "python": "3",
        "machine": "m",
        "seconds": 9.0,
        "initialization_seconds": None,
        "peak_memory_bytes": 1_000_000,
        "parameters": 7,
        "curve": points,
        "valid_metric": "recall@10",
        "valid_score_bigger": True,
        "best_valid_score": valid,
        "test_result": {"recall@10": float(recalls.mean())},
        "init_report": None,
        **content,
    }
    half = len(recalls) // 2
    users = pd.DataFrame({"user_id": tokens, "train_interactions": [3, 9] * half, "recall@10": recalls})
    ranks = pd.Series(np.where(recalls > 0, 1, 0), dtype="Int32").replace(0, pd.NA)
    items = pd.DataFrame({"user_id": tokens, "item_id": "i", "item_interactions": [1, 8] * half, "rank": ranks})
    return TrialResult(whole, users, items)


def make_entry(initialization: str, seed: int, *trials: str, **others: Any) -> Entry:
    """An entry of the model M, or for an empty initialization of the baseline EASE, on the dataset d."""
    model = "M" if initialization else "EASE"
    given = {"dataset": "d", "model": model, "drop": None, "role": ROLES.get(initialization, "llm"), **others}
    return Entry(initialization=initialization, seed=seed, trials=trials, **given)


def make_report(lines: Mapping[str, Mapping[int, npt.ArrayLike]]) -> Report:
    """The report of lines: by initialization (empty: a baseline) and seed the recalls of the users."""
    results = {
        f"{initialization}-{seed}": make_result(values)
        for initialization, by_seed in lines.items()
        for seed, values in by_seed.items()
    }
    entries = [
        make_entry(initialization, seed, f"{initialization}-{seed}")
        for initialization, by_seed in lines.items()
        for seed in by_seed
    ]
    return Report.of(sorted(entries, key=lambda entry: entry.seed), results, OPTIONS)


def cell_of(report: Report, initialization: str) -> Cell:
    """The cell of the recall of an initialization, in a report with one section."""
    (section,) = report.sections()
    return next(row.cells["recall@10"] for row in section.rows if row.initialization == initialization)
