"""The files of a trial."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_llminit.compare.trial import FORMAT, read_trial
from recbole_llminit.errors import LLMInitError
from tests.compare.small_comparison import Finished

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def trial(finished: Finished, tmp_path: Path) -> Path:
    """The JSON file of a finished trial, which a test may change."""
    return next((finished.copy(tmp_path) / "trials").glob("tiny-BPR-var-2020_*.json"))


def test_a_trial_that_has_not_finished_has_no_result(tmp_path: Path) -> None:
    assert read_trial(tmp_path, "tiny") is None


def test_a_finished_trial_is_read_whole(trial: Path) -> None:
    result = read_trial(trial.parent, trial.stem)
    assert result is not None
    assert result.content["name"] == trial.stem and result.content["format"] == FORMAT
    assert {"user_id", "train_interactions", "recall@5", "ndcg@10"} <= set(result.users.columns)
    assert list(result.ranks.columns) == ["user_id", "item_id", "item_interactions", "rank"]


@pytest.mark.parametrize(
    ("match", "change"),
    [
        (rf"has 1 as its format, this version reads {FORMAT}", lambda content: content.update(format=1)),
        ("has '3' as seconds", lambda content: content.update(seconds="3")),
        ("has None as curve", lambda content: content.update(curve=None)),
        ("curve of other points than epoch, score, seconds", lambda content: content["curve"][0].update(score="x")),
        ("has None as untrained_test_result", lambda content: content.update(untrained_test_result=None)),
        ("cannot be read.*seconds", lambda content: content["curve"][0].pop("seconds")),
        ("cannot be read.*settings", lambda content: content.pop("settings")),
    ],
)
def test_a_file_of_another_form_is_an_error(trial: Path, match: str, change: Change) -> None:
    content = json.loads(trial.read_text())
    change(content)
    trial.write_text(json.dumps(content))
    with pytest.raises(LLMInitError, match=match) as caught:
        read_trial(trial.parent, trial.stem)
    assert str(trial) in str(caught.value)


def test_a_trial_of_an_earlier_version_has_no_untrained_model(trial: Path) -> None:
    content = json.loads(trial.read_text())
    del content["untrained_valid_score"], content["untrained_test_result"]
    trial.write_text(json.dumps(content))
    result = read_trial(trial.parent, trial.stem)
    assert result is not None and result.content == content


@pytest.mark.parametrize("part", ["users", "ranks"])
def test_a_table_that_lacks_a_column_or_is_gone_is_an_error(trial: Path, part: str) -> None:
    table = trial.with_name(f"{trial.stem}.{part}.parquet")
    pd.read_parquet(table).drop(columns="user_id").to_parquet(table)
    with pytest.raises(LLMInitError, match=f"{part}.parquet cannot be read.*user_id"):
        read_trial(trial.parent, trial.stem)
    table.unlink()
    with pytest.raises(LLMInitError, match=f"there is no .*{part}.parquet"):
        read_trial(trial.parent, trial.stem)
