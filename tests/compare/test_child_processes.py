"""Child processes that run side by side and end with the context."""

import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from recbole_llminit.compare.child_processes import ChildProcesses

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_status_output_and_environment_of_a_call(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['ANSWER']); print('error', file=sys.stderr); sys.exit(3)"
    with (tmp_path / "log").open("wb") as output, ChildProcesses(1) as processes:
        assert processes.call([sys.executable, "-c", code], output, {**os.environ, "ANSWER": "42"}) == 3
    assert sorted((tmp_path / "log").read_text().split()) == ["42", "error"]


def test_leaving_the_context_stops_what_runs(tmp_path: Path) -> None:
    statuses: list[int] = []
    with (tmp_path / "log").open("wb") as output:
        with ChildProcesses(1) as processes:
            thread = threading.Thread(target=lambda: statuses.append(processes.call(SLEEP, output, os.environ)))
            thread.start()
            while not processes._running:
                time.sleep(0.01)
        thread.join(20)
        assert statuses == [-15] and processes.stopped
        with pytest.raises(OSError, match="stopped"):
            processes.call(SLEEP, output, os.environ)


def test_names_are_worked_on_side_by_side_and_each_is_yielded_once() -> None:
    both = threading.Barrier(2, timeout=20)

    def work(name: str) -> str | None:
        # Neither passes before the other has come.
        both.wait()
        return name if name == "b" else None

    with ChildProcesses(2) as processes:
        assert sorted(processes.run(deque(["a", "b"]), work)) == [("a", None), ("b", "b")]


def test_what_is_added_between_two_results_is_next() -> None:
    waiting = deque(["a", "c"])
    ended = []
    with ChildProcesses(1) as processes:
        for name, _ in processes.run(waiting, lambda name: None):
            ended.append(name)
            if name == "a":
                waiting.appendleft("b")
    assert ended == ["a", "b", "c"]


def test_an_error_of_the_caller_stops_the_rest() -> None:
    started: list[str] = []
    with pytest.raises(KeyboardInterrupt), ChildProcesses(1) as processes:
        for _ in processes.run(deque("abc"), lambda name: started.append(name)):
            processes_are_stopped = processes.stopped
            raise KeyboardInterrupt
    assert started == ["a"] and not processes_are_stopped and processes.stopped
