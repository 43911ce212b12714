"""Fixtures of a small comparison, finished once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_llminit.compare.child_processes import ChildProcesses
from recbole_llminit.compare.comparison import compare
from tests.compare.small_comparison import SETTINGS, Finished, call_trial


@pytest.fixture(scope="session")
def compare_settings(tiny_store: Path) -> dict[str, Any]:
    """What the finished comparison compares; not to be changed."""
    return {**SETTINGS, "llm_embedding": str(tiny_store)}


@pytest.fixture(scope="session")
def finished(compare_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A comparison of two seeds, three initializations and a baseline with a grid of two; not to be changed."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ChildProcesses, "call", call_trial)
        report = compare(compare_settings, folder, jobs=1, command=["recbole-llminit", "compare", "--x=y z"])
    return Finished(folder, report)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run trials by a call; with one job alone, as a trial changes the working directory."""
    monkeypatch.setattr(ChildProcesses, "call", call_trial)
