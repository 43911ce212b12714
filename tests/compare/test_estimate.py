"""How long a comparison takes at most."""

import re
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit import cli
from recbole_llminit.compare.estimate import estimate_seconds
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.errors import LLMInitError
from tests.compare.small_comparison import Finished, as_arguments


@pytest.mark.usefixtures("no_processes")
def test_the_estimate_measures_what_has_not_run(
    compare_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"strategies": "var,noise", "baselines": "none", "epochs": 100_000}
    assert cli.main(["compare", *as_arguments({**compare_settings, **change}), "--dry-run", "--out=out"]) == 0
    printed = capsys.readouterr()
    assert "measuring BPR on tiny (3 epochs)" in printed.err
    assert "6 of 6 trials are to be run: at most " in printed.out
    assert re.search(r"\| tiny +\| BPR +\| 6 +\| 6 +\| 0 +\| [1-9][\d.]* (s|min|h) ", printed.out)
    assert not Path("out").exists()


def test_a_finished_trial_is_measured_in_place_of_a_short_one(
    finished: Finished, compare_settings: dict[str, Any]
) -> None:
    more = {**compare_settings, "seeds": [2020, 2021, 2022, 2023]}
    plan = make_plan(CompareOptions.from_settings(more))
    by_trial, total = estimate_seconds(plan, finished.folder, jobs=2)
    assert set(by_trial) == {name for name, trial in plan.trials.items() if trial.settings["seed"] > 2021}
    assert total == pytest.approx(sum(by_trial.values()) / 2)


@pytest.mark.usefixtures("no_processes")
def test_a_model_that_cannot_be_trained_is_named(compare_settings: dict[str, Any], tmp_path: Path) -> None:
    # Wider than the vectors: training finds out.
    change = {"embedding_size": 500, "strategies": "var", "controls": "none", "baselines": "none"}
    plan = make_plan(CompareOptions.from_settings({**compare_settings, **change}))
    with pytest.raises(LLMInitError, match=r"BPR on tiny cannot be trained.*500"):
        estimate_seconds(plan, tmp_path, jobs=1)
