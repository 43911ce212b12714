"""RecBole's log of a run: one file for each, beside the user's own handlers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit import run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from tests.messages import logged, naming


def test_two_runs_with_different_settings_in_one_process(llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ipykernel", "-f", "kernel.json", "--epochs=0", "nonsense"])
    llm = {**llm, "epochs": 1}
    results = [
        run_recbole_llminit("BPR", config_dict={**llm, "init_strategy": "uni", "seed": 1}),
        run_recbole_llminit(
            "SASRec", config_dict={**llm, "train_neg_sample_args": None, "init_strategy": "rand", "seed": 2}
        ),
    ]
    assert [result["init_report"].strategy for result in results] == ["Uniform()", "Random()"]
    logs = sorted(Path("log").glob("*/*.log"))
    assert [log.parent.name for log in logs] == ["BPR", "SASRec"]
    for log, strategy, other in zip(logs, ("Uniform()", "Random()"), ("Random()", "Uniform()"), strict=True):
        assert log.read_text().count(strategy) == 1
        assert log.read_text().count("test result") == 1
        assert other not in log.read_text()


def test_a_users_own_log_handler_stays(llm: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1}, saved=False)
    assert logged(caplog, "29 of 29 items", "40 of 40 users")


def test_a_log_that_cannot_be_opened_leaves_the_users_handler(llm: dict[str, Any], tmp_path: Path) -> None:
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    (tmp_path / "log").write_text("a file where the folder should be")
    try:
        with pytest.raises(LLMInitError, match=naming("log", str(tmp_path / "log"))):
            run_recbole_llminit("BPR", config_dict=llm)
        assert handler in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(handler)
