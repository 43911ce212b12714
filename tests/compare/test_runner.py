"""Trials in processes: what fails, what is stopped, and what is left behind."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from filelock import FileLock

from recbole_llminit.compare.child_processes import ChildProcesses
from recbole_llminit.compare.comparison import compare
from recbole_llminit.compare.growth import GrowingPlan
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import check_comparison
from recbole_llminit.compare.runner import lock_folder, run_trials, seconds_per_epoch
from recbole_llminit.errors import LLMInitError
from tests.compare.small_comparison import ONE_TRIAL, Finished, as_arguments, call_trial, read_json


def growing_of(settings: dict[str, Any]) -> GrowingPlan:
    checked = check_comparison(CompareOptions.from_settings(settings))
    return GrowingPlan(checked, checked.plan())


@pytest.mark.slow
def test_a_process_trains_as_a_call_does(finished: Finished, compare_settings: dict[str, Any], tmp_path: Path) -> None:
    growing = growing_of(compare_settings)
    plan = growing.plan
    name = next(name for name in plan.trials if "-var-2021_" in name)
    growing.plan = replace(plan, trials={name: plan.trials[name]})
    ended: list[tuple[str, bool]] = []
    with lock_folder(tmp_path):
        run_trials(
            growing,
            tmp_path,
            jobs=2,
            on_end=lambda name, *, newly_finished: ended.append((name, newly_finished)),
        )
    assert ended == [(name, True)]
    content, called = read_json(tmp_path / "trials" / f"{name}.json"), finished.trial(name)
    for key in ("test_result", "best_valid_result", "best_valid_score", "spectra", "parameters", "settings"):
        assert content[key] == called[key], key
    assert [point["score"] for point in content["curve"]] == [point["score"] for point in called["curve"]]
    assert "train loss" in (tmp_path / "trials" / f"{name}.log").read_text()


@pytest.mark.usefixtures("no_processes")
def test_what_was_left_behind_is_removed(compare_settings: dict[str, Any], tmp_path: Path) -> None:
    asked = {**compare_settings, **ONE_TRIAL, "baselines": "Pop"}
    (tmp_path / "trials" / ".tiny.x").mkdir(parents=True)
    (tmp_path / "trials" / ".tiny.specification").write_text("")
    ended: list[tuple[str, bool]] = []

    def listen(name: str, *, newly_finished: bool) -> None:
        ended.append((name, newly_finished))

    names = list(growing_of(asked).plan.trials)
    run_trials(growing_of(asked), tmp_path, jobs=1, on_end=listen)
    assert ended == [(name, True) for name in names]
    assert not [path for path in (tmp_path / "trials").iterdir() if path.name.startswith(".")]
    run_trials(growing_of(asked), tmp_path, jobs=1, on_end=listen)
    assert sorted(ended[2:]) == sorted((name, False) for name in names)


@pytest.mark.slow
def test_a_full_disk_fails_its_trials_and_loses_nothing(
    compare_settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=50_000_000))
    options = CompareOptions.from_settings({**compare_settings, **ONE_TRIAL, "baselines": "Pop"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Pop's checkpoint has some 9,000 bytes and fits, as the plan and the logs do; BPR's, 24,000, does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
    try:
        report = compare(options, tmp_path / "out", jobs=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "failed: tiny-BPR-none-2020" in capsys.readouterr().err
    assert "tiny-BPR-none-2020" in report.problems[0] and "50 MB" in report.problems[0]
    assert "File too large" in report.problems[-1] and "report" in report.problems[-1]
    assert report.to_dataframe()["model"].to_list() == ["Pop"]
    monkeypatch.setattr(ChildProcesses, "call", call_trial)
    report = compare(options, tmp_path / "out", jobs=1)
    assert not report.problems and len(report.runs) == 2


def test_two_comparisons_in_one_folder_are_refused(compare_settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(LLMInitError, match=rf"another comparison.*{tmp_path / 'out'}.*--out"),
    ):
        compare(compare_settings, tmp_path / "out")


def test_a_folder_that_cannot_be_written_to(compare_settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LLMInitError, match=rf"{tmp_path / 'file'} cannot be written to.*--out"):
        compare(compare_settings, tmp_path / "file")


@pytest.fixture
def start(compare_settings: dict[str, Any]) -> Callable[[], "subprocess.Popen[str]"]:
    """Start a comparison of one long trial."""
    long = {"epochs": 100_000, "stopping_step": 100_000}
    arguments = [*as_arguments({**compare_settings, **ONE_TRIAL, **long}), "--out=out", "--jobs=1"]

    def popen() -> "subprocess.Popen[str]":
        # SIGINT is ignored in a background job, and so in its children.
        return subprocess.Popen(
            [sys.executable, "-m", "recbole_llminit", "compare", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return popen


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.time() + 120
    while not condition():
        assert time.time() < until and process.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_comparison_takes_its_trials_with_it(
    how: signal.Signals, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    trials = Path("out/trials")
    comparison = start()
    # What an ordered stop ends need not have trained; of a kill the trial itself has to learn while it trains.
    if how == signal.SIGKILL:
        wait_until(lambda: any("train loss" in log.read_text() for log in trials.glob("*.log")), comparison)
    wait_until(lambda: len(psutil.Process(comparison.pid).children()) == 1, comparison)
    (trial,) = psutil.Process(comparison.pid).children()
    comparison.send_signal(how)
    error = comparison.communicate(timeout=60)[1]
    if how != signal.SIGKILL:
        assert comparison.returncode == 130 and "finished trials are kept" in error and "run again" in error
    trial.wait(timeout=20)
    assert not trial.is_running()
    # Neither finished nor failed.
    assert not list(trials.glob("*.json")) and not list(trials.glob("*.failed"))


def test_seconds_per_epoch() -> None:
    curve = [{"epoch": epoch, "seconds": seconds} for epoch, seconds in ((2, 5.0), (4, 7.0), (6, 11.0), (8, 12.0))]
    assert seconds_per_epoch(curve) == 1.0
    assert seconds_per_epoch(curve[:1]) is None
