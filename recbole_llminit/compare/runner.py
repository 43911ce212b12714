"""Running the trials of a plan: in parallel processes, resumable, and one failure costs one trial."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_llminit.compare.child_processes import ChildProcesses
from recbole_llminit.compare.growth import GrowingPlan
from recbole_llminit.compare.plan import Plan
from recbole_llminit.compare.trial import Trial, TrialResult, read_trial
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import write_text

TRIALS = "trials"
"""The folder of the trials in the folder of a comparison."""

PLAN = "plan.json"
"""The file of the plan in the folder of a comparison."""

FAILED = ".failed"
"""The suffix of the file that says why a trial failed."""

_LITTLE_SPACE = 100_000_000
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class TrialListener(Protocol):
    """Called when a trial has ended."""

    def __call__(self, name: str, *, newly_finished: bool) -> None:
        """Take the end of a trial.

        Parameters
        ----------
        name : str
            The name of the trial.
        newly_finished : bool
            Whether it has been run now and has finished; False where it had finished before, or has failed.
        """


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a comparison's folder and lock it for one comparison; meanwhile SIGTERM ends this process as Ctrl-C does.

    Parameters
    ----------
    folder : Path
        The folder of the comparison.

    Raises
    ------
    LLMInitError
        If another comparison runs in the folder, or it cannot be written to.
    """
    try:
        (folder / TRIALS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise LLMInitError(f"another comparison is running in {folder}: wait for it, or give another --out") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        lock.release()


def run_trials(growing: GrowingPlan, folder: Path, *, jobs: int, on_end: TrialListener) -> None:
    """Run the trials of a plan that have not finished, and those that it grows by.

    The reason of a failure is printed, and stands in the file ``name.failed`` beside the other files of the trial. What
    the plan grows by runs next, so that the first seeds are complete first.

    Parameters
    ----------
    growing : GrowingPlan
        The trials, in the order in which they run.
    folder : Path
        The folder of the comparison, which the caller has locked (`lock_folder`). A trial that has finished there is
        not run again, unless its files are broken.
    jobs : int
        How many processes train side by side, each on one torch thread.
    on_end : callable
        Called with the name of each trial that has finished or failed.

    Raises
    ------
    LLMInitError
        If the folder cannot be written to.
    """
    trials = folder / TRIALS

    def read(name: str) -> TrialResult | None:
        result = read_finished(trials, name)
        if result is not None:
            on_end(name, newly_finished=False)
        return result

    waiting = deque(growing.take_finished(growing.plan.trials, read))
    _write_plan(growing.plan, folder)
    _remove_leftovers(trials)
    with ChildProcesses(jobs) as processes, tqdm(total=len(waiting), desc="trials", unit="trial", ncols=100) as bar:
        for name, failure in processes.run(waiting, lambda name: train(growing.plan.trials[name], trials, processes)):
            if failure is not None:
                tqdm.write(f"failed: {name}: {failure} (its log: {trials / f'{name}.log'})", file=sys.stderr)
            before = growing.plan
            added = growing.take(name, None if failure is not None else read_trial(trials, name))
            # They may have been run before: by another command in this folder, or before a trial failed.
            added = growing.take_finished(added, read)
            if growing.plan is not before:
                _write_plan(growing.plan, folder)
            waiting.extendleft(reversed(added))
            bar.total += len(added)
            on_end(name, newly_finished=failure is None)
            bar.update()


def read_finished(trials: Path, name: str) -> TrialResult | None:
    """Return the result of a trial that has finished and whose files are whole; print that broken ones run again."""
    try:
        return read_trial(trials, name)
    except LLMInitError as error:
        tqdm.write(f"{error}; it is run again", file=sys.stderr)
        return None


def train(trial: Trial, trials: Path, processes: ChildProcesses) -> str | None:
    """Run one trial in a process of its own; return the reason if it failed.

    Parameters
    ----------
    trial : Trial
        What to train.
    trials : Path
        The folder for its files, its log (``name.log``), and the reason of a failure (``name.failed``).
    processes : ChildProcesses
        The processes of which it is one.
    """
    failure = trials / f"{trial.name}{FAILED}"
    try:
        failure.unlink(missing_ok=True)
        reason = _call_trial(trial, trials, processes)
        if reason is None:
            # Raises where its files are broken.
            read_trial(trials, trial.name)
            return None
    except (OSError, LLMInitError) as error:
        reason = str(error)
    reason += _describe_little_space(trials)
    # A trial that was stopped has not failed. On a full disk the caller alone can name the failure.
    if not processes.stopped:
        with suppress(OSError):
            failure.write_text(f"{reason}\n", encoding="utf-8")
    return reason


def seconds_per_epoch(curve: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the median time of an epoch from one validation to the next; None for a single validation.

    Parameters
    ----------
    curve : iterable of mapping
        Epoch and seconds of each validation.
    """
    gaps = [
        (after["seconds"] - before["seconds"]) / (after["epoch"] - before["epoch"])
        for before, after in itertools.pairwise(curve)
    ]
    return statistics.median(gaps) if gaps else None


def _call_trial(trial: Trial, trials: Path, processes: ChildProcesses) -> str | None:
    """Run the process of a trial; return the last line of its log if it failed."""
    specification = trials / f".{trial.name}.specification"
    log = trials / f"{trial.name}.log"
    try:
        specification.write_text(json.dumps(asdict(trial)), encoding="utf-8")
        with log.open("wb") as output:
            command = [sys.executable, "-m", "recbole_llminit.compare.trial_process", str(specification), str(trials)]
            status = processes.call(command, output, _trial_environment())
    finally:
        with suppress(OSError):
            specification.unlink(missing_ok=True)
    if status == 0:
        return None
    if status < 0:
        return f"its process ended by signal {-status}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"exit status {status}"]
    return lines[-1].removeprefix("recbole_llminit.errors.LLMInitError: ")


def _trial_environment() -> dict[str, str]:
    # A model class of the user's own may be in the folder from which the comparison was started.
    path = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(_ONE_THREAD, "1")}


def _describe_little_space(folder: Path) -> str:
    """Return how little space is left on the disk; nothing where there is enough."""
    # torch does not name a full disk as the cause: it reports a wrong position in the file.
    free = shutil.disk_usage(folder).free
    return f" ({free / 1e6:.0f} MB are free on the disk of {folder})" if free < _LITTLE_SPACE else ""


def _remove_leftovers(trials: Path) -> None:
    """Remove the files and folders that a killed comparison left of the trials that were running."""
    for leftover in trials.glob(".*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _write_plan(plan: Plan, folder: Path) -> None:
    content = {
        "command": plan.command,
        "options": plan.options,
        "entries": [asdict(entry) for entry in plan.entries],
    }
    try:
        write_text(folder / PLAN, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> LLMInitError:
    return LLMInitError(f"{folder} cannot be written to ({error}): make room, or give another --out")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
