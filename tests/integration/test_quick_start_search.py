"""A search over settings: the objective, and RecBole's ``HyperTuning`` over the keys of an initialization."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from recbole.trainer import HyperTuning

from recbole_llminit import objective_function

RESULT_KEYS = ["model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result", "init_report"]


@pytest.mark.parametrize(("strategy", "reported"), [("none", None), ("uni", "Uniform()")])
def test_the_objective_of_a_search(strategy: str, reported: str | None, llm: dict[str, Any], tmp_path: Path) -> None:
    """Called as ``recbole/trainer/hyper_tuning.py`` calls it: the point searched, and the fixed files."""
    path = tmp_path / "search.yaml"
    settings = {**llm, "model": "BPR", "epochs": 1}
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items()))
    result = objective_function({"init_strategy": strategy}, [str(path)])
    assert list(result) == RESULT_KEYS
    assert result["model"] == "BPR"
    report = result["init_report"]
    assert (report if report is None else report.strategy) == reported
    assert result["best_valid_score"] == result["best_valid_result"]["mrr@10"]


def test_a_hyper_parameter_search(llm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's HyperTuning over our keys, without ray: the file in yaml/."""
    monkeypatch.setattr(sys, "argv", ["search"])
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text(json.dumps({"model": "BPR", **llm, "epochs": 1, "state": "ERROR"}))
    file = Path(__file__).parents[2] / "yaml" / "init.hyper"
    search = HyperTuning(
        objective_function, params_file=str(file), fixed_config_file_list=[str(fixed)], algo="exhaustive", early_stop=20
    )
    search.run()
    tried = [tuple(entry.split(", ")) for entry in search.params2result]
    assert len(tried) == len({*tried}) == 12
    assert set(search.best_params) == {"init_strategy", "init_scale"}
    best = search.params2result[search.params2str(search.best_params)]["best_valid_score"]
    assert best == max(result["best_valid_score"] for result in search.params2result.values())
