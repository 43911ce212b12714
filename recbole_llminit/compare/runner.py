"""Running the trials of a plan: in parallel processes, resumable, one failure costing one trial."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_llminit.compare.plan import Plan
from recbole_llminit.compare.trial import Trial, read_trial
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import write_text

TRIALS = "trials"
PLAN = "plan.json"
FAILED = ".failed"
_LITTLE_SPACE = 100_000_000
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Settled(Protocol):
    """What is told of trials that have ended."""

    def __call__(self, name: str, *, now: bool) -> None:
        """Take the name of a trial; ``now`` where it has just finished, not before, and not failed."""


def run_trials(
    plan: Plan,
    folder: Path,
    *,
    jobs: int,
    settled: Settled,
) -> None:
    """Run the trials of a plan that are not finished.

    What a trial fails of stands in a file beside the others, ``name.failed``, and is printed.

    Parameters
    ----------
    plan : Plan
        What to run, in its order.
    folder : path
        Trials lie in its folder ``trials``. A trial that stands there is not run again; one whose files are broken is.
    jobs : int
        How many processes train side by side, each on one torch thread.
    settled : callable
        Called with the name of each trial that is finished or failed, and whether it has finished ``now``.

    Raises
    ------
    LLMInitError
        If another comparison runs in the folder, or it cannot be written to.
    """
    trials = folder / TRIALS
    with _held(folder):
        _write_plan(plan, folder)
        _sweep(trials)
        waiting = []
        for name in plan.trials:
            if _is_finished(trials, name):
                settled(name, now=False)
            else:
                waiting.append(name)
        with _Processes(jobs) as processes, tqdm(total=len(waiting), desc="trials", unit="trial", ncols=100) as bar:
            for name, reason in processes.run(waiting, lambda name: _train(plan.trials[name], trials, processes)):
                if reason is not None:
                    tqdm.write(f"failed: {name}: {reason} (its log: {trials / f'{name}.log'})", file=sys.stderr)
                settled(name, now=reason is None)
                bar.update()


def estimate_seconds(plan: Plan, folder: Path, *, jobs: int) -> tuple[dict[str, float], float]:
    """Estimate how long the trials that are not finished take at most: early stopping makes it less.

    Of each dataset and model a trial that is finished in the folder is measured; where there is none, one is trained
    for three validations.

    Returns
    -------
    by_trial : dict of str to float
        Seconds of each trial that is not finished.
    total : float
        Seconds of all of them, in ``jobs`` processes.
    """
    trials = folder / TRIALS
    measured: dict[tuple[str, str], tuple[float, float]] = {}
    by_trial: dict[str, float] = {}
    for name, trial in plan.trials.items():
        if _is_finished(trials, name):
            continue
        key = (trial.dataset, trial.model)
        if key not in measured:
            # The last one reads vectors, if any does: what is wrong with them or their width shows here.
            alike = [other for other in plan.trials.values() if (other.dataset, other.model) == key]
            ready = [other for other in alike if other.settings.get("llm_embedding") != ""]
            measured[key] = _measure((ready or alike)[-1], plan, trials)
        fixed, per_epoch = measured[key]
        by_trial[name] = fixed + per_epoch * trial.epochs
    return by_trial, sum(by_trial.values()) / max(1, min(jobs, len(by_trial)))


def seconds_per_epoch(curve: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the median time from one validation to the next, an epoch's share of it; None for a single one."""
    points = list(curve)
    gaps = [
        (after["seconds"] - before["seconds"]) / (after["epoch"] - before["epoch"])
        for before, after in itertools.pairwise(points)
    ]
    return statistics.median(gaps) if gaps else None


def _measure(trial: Trial, plan: Plan, trials: Path) -> tuple[float, float]:
    """Return the seconds of a trial that do not depend on its epochs, and those of an epoch."""
    for name, other in plan.trials.items():
        if (other.dataset, other.model) == (trial.dataset, trial.model) and _is_finished(trials, name):
            return _split_seconds(trials / f"{name}.json")
    tqdm.write(f"measuring {trial.model} on {trial.dataset} ({trial.eval_step * 3} epochs)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch, _Processes(1) as processes:
        epochs = min(trial.epochs, 3 * trial.eval_step)
        short = replace(trial, settings={**trial.settings, "epochs": epochs})
        reason = _train(short, Path(scratch), processes)
        if reason is not None:
            raise LLMInitError(f"{trial.model} on {trial.dataset} cannot be trained for an estimate: {reason}")
        return _split_seconds(Path(scratch) / f"{trial.name}.json")


def _split_seconds(path: Path) -> tuple[float, float]:
    content = json.loads(path.read_text(encoding="utf-8"))
    epoch = seconds_per_epoch(content["curve"]) or 0.0
    return max(0.0, content["wall_seconds"] - epoch * content["curve"][-1]["epoch"]), epoch


def _sweep(trials: Path) -> None:
    """Remove what a killed comparison left of its running trials."""
    for left_behind in trials.glob(".*"):
        if left_behind.is_dir():
            shutil.rmtree(left_behind, ignore_errors=True)
        else:
            left_behind.unlink(missing_ok=True)


def _is_finished(trials: Path, name: str) -> bool:
    try:
        return read_trial(trials, name) is not None
    except LLMInitError as error:
        tqdm.write(f"{error}; it is run again", file=sys.stderr)
        return False


def _train(trial: Trial, trials: Path, processes: _Processes) -> str | None:
    """Run one trial in a process of its own; return the reason if it failed."""
    specification = trials / f".{trial.name}.specification"
    failure = trials / f"{trial.name}{FAILED}"
    log = trials / f"{trial.name}.log"
    # A model of the user's own may stand in the folder from which the comparison was started.
    path = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    try:
        failure.unlink(missing_ok=True)
        specification.write_text(json.dumps(asdict(trial)), encoding="utf-8")
        with log.open("wb") as output:
            status = processes.call(
                [sys.executable, "-m", "recbole_llminit.compare.trial", str(specification), str(trials)],
                output,
                {**os.environ, "PYTHONPATH": path, **dict.fromkeys(_ONE_THREAD, "1")},
            )
        if status == 0:
            read_trial(trials, trial.name)
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines and status > 0 else f"its process ended by signal {-status}"
        reason = reason.removeprefix("recbole_llminit.errors.LLMInitError: ")
    except (OSError, LLMInitError) as error:
        reason = str(error)
    finally:
        with suppress(OSError):
            specification.unlink(missing_ok=True)
    free = shutil.disk_usage(trials).free
    if free < _LITTLE_SPACE:
        # torch says of a full disk that a position is unexpected.
        reason = f"{reason} ({free / 1e6:.0f} MB are free on the disk of {trials})"
    # Where the disk is full there is no place for this either; the caller says it.
    if processes.stopped:
        return reason
    with suppress(OSError):
        failure.write_text(f"{reason}\n", encoding="utf-8")
    return reason


class _Processes:
    """Child processes that do not outlive this one."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()

    def call(self, command: list[str], output: Any, environment: Mapping[str, str]) -> int:
        """Run a command to its end; its standard input is a pipe that closes when this process goes."""
        with self._lock:
            if self.stopped:
                raise OSError("stopped")
            process = subprocess.Popen(  # noqa: S603  our own module
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=dict(environment)
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def run(self, names: Iterable[str], work: Callable[[str], str | None]) -> Iterator[tuple[str, str | None]]:
        """Do the work for each name, some side by side; yield each with what the work returned, as they end."""
        names = iter(names)
        futures: dict[Future[str | None], str] = {}
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                while True:
                    # No more than the pool takes, so that an interruption leaves nothing queued.
                    while len(futures) < self._jobs and (name := next(names, None)) is not None:
                        futures[pool.submit(work, name)] = name
                    if not futures:
                        return
                    done, _ = wait(futures, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield futures.pop(future), future.result()
            except BaseException:
                self.__exit__()
                raise


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder for one comparison; SIGTERM ends it as an interruption does."""
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


def _unwritable(folder: Path, error: OSError) -> LLMInitError:
    return LLMInitError(f"{folder} cannot be written to ({error}): make room, or give another --out")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


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
