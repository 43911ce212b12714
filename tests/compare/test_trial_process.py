"""One trial, from its specification to its files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit.compare import evaluation
from recbole_llminit.compare.evaluation import UserEvaluation, evaluate_users
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.compare.trial import Trial
from recbole_llminit.compare.trial_process import run_trial
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration import quick_start
from recbole_llminit.integration.quick_start import run_recbole_llminit
from tests.compare.small_comparison import ONE_TRIAL, read_json


@pytest.fixture
def trial(compare_settings: dict[str, Any]) -> Trial:
    """A trial of one epoch."""
    plan = make_plan(CompareOptions.from_settings({**compare_settings, **ONE_TRIAL, "epochs": 1}))
    (trial,) = plan.trials.values()
    return trial


def test_a_trial_leaves_its_three_files_alone(trial: Trial, tmp_path: Path) -> None:
    folder = tmp_path / "trials"
    folder.mkdir()
    run_trial(trial, folder)
    suffixes = ("json", "ranks.parquet", "users.parquet")
    assert sorted(path.name for path in folder.iterdir()) == [f"{trial.name}.{suffix}" for suffix in suffixes]
    assert Path.cwd() == tmp_path


def test_the_untrained_model_is_measured_outside_of_the_seconds(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its evaluation had taken a thousand seconds more."""

    def run(*arguments: Any, **options: Any) -> dict[str, Any]:
        result = run_recbole_llminit(*arguments, **options)
        return {**result, "untrained_seconds": result["untrained_seconds"] + 1000}

    monkeypatch.setattr(quick_start, "run_recbole_llminit", run)
    run_trial(trial, tmp_path)
    content = read_json(tmp_path / f"{trial.name}.json")
    assert 0 < content["seconds"] + 1000 < content["wall_seconds"]
    assert 0 < content["curve"][0]["seconds"] + 1000 <= content["seconds"] + 1000
    assert 0 <= content["untrained_valid_score"] <= 1
    assert content["untrained_test_result"].keys() == content["test_result"].keys()


def test_a_trial_without_a_validation_is_an_error(trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(LLMInitError, match="no epoch was validated.*epochs"):
        run_trial(replace(trial, settings={**trial.settings, "eval_step": 0}), tmp_path)
    assert not list(tmp_path.glob("tiny*"))


def test_a_second_test_with_another_result_is_an_error(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differing(checkpoint: Path) -> UserEvaluation:
        found = evaluate_users(checkpoint)
        return replace(found, users=found.users.assign(**{"recall@5": found.users["recall@5"] + 0.001}))

    monkeypatch.setattr(evaluation, "evaluate_users", differing)
    with pytest.raises(LLMInitError, match=r"the checkpoint has recall@5 0\.\d+, and the run that saved it 0\.\d+"):
        run_trial(trial, tmp_path)
