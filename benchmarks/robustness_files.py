"""Damaged files, read: each becomes a result or an `LLMInitError`, in forked workers that may crash, hang or grow."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import math
import mmap
import os
import random
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from robustness_children import Child, run_child
from robustness_mutations import BYTES, TEXT, mutate
from robustness_readers import Subject, subjects

from recbole_llminit.errors import LLMInitError

LIMIT = 10.0
"""Seconds after which a reader is taken to hang."""

_WORKERS = 2
_UNTIL_FRESH = 2000
_KINDS = [*BYTES, *TEXT, *(f"inside: {kind}" for kind in (*BYTES, *TEXT)), "?"]
_RESULT, _ERROR, _OTHER, _CRASH, _HUNG = range(1, 6)


@dataclass(frozen=True)
class Finding:
    """What one damaged file did that it must not."""

    number: int
    subject: str
    kind: str
    file: str
    what: str


class _Damages:
    """The damaged files by number: which subject, which of its files, and what becomes of it.

    Parameters
    ----------
    subjects : sequence of Subject
        What is read.
    folder : path
        Where their whole files lie, by the subject's number.
    paths : sequence of str
        What each reads, relative to its folder.
    count, seed : int
        How many files, and the seed of all draws.
    """

    def __init__(self, subjects: Sequence[Subject], folder: Path, paths: Sequence[str], count: int, seed: int) -> None:
        self.subjects = subjects
        self.folder = folder
        self.paths = paths
        self.count = count
        self._seed = seed
        shares = np.cumsum([subject.share for subject in subjects])
        self._bounds = np.ceil(shares / shares[-1] * count).astype(int)
        self._whole = [self._read(folder / str(number)) for number in range(len(subjects))]

    @staticmethod
    def _read(folder: Path) -> dict[str, bytes]:
        found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    def __getitem__(self, number: int) -> tuple[int, str, str, bytes]:
        """Return the subject's number, the file, the kind of damage and the content."""
        chance = random.Random(f"{self._seed} {number}")  # noqa: S311  damages, not keys
        subject = int(np.searchsorted(self._bounds, number, side="right"))
        whole = self._whole[subject]
        file = chance.choice(sorted(whole))
        kind, content = mutate(file, whole[file], chance)
        return subject, file, kind, content


class _Board:
    """What the workers write and the parent reads, in memory that they share."""

    def __init__(self, count: int) -> None:
        self.outcome = self._array(count, np.uint8)
        self.kind = self._array(count, np.uint8)
        self.seconds = self._array(count, np.float32)
        self.current = self._array(_WORKERS, np.int64)
        self.began = self._array(_WORKERS, np.float64)

    @staticmethod
    def _array(count: int, dtype: Any) -> npt.NDArray[Any]:
        size = max(1, count) * np.dtype(dtype).itemsize
        return np.frombuffer(mmap.mmap(-1, size), dtype=dtype, count=count)


def read_damaged(count: int, seed: int, folder: Path, keep: Path | None = None) -> tuple[pd.DataFrame, list[Finding]]:
    """Damage and read ``count`` files; return the table by reader and damage, and what went wrong.

    Parameters
    ----------
    count, seed : int
        How many files, and the seed of all draws.
    folder : path
        Has what `robustness_inputs.write_home` makes; what is read is written there.
    keep : path, optional
        Where the files that did wrong are kept.
    """
    damages = _prepare(count, seed, folder)
    board = _Board(count)
    findings: list[Finding] = []
    running: dict[int, Child] = {}
    following = {worker: worker for worker in range(_WORKERS)}
    while running or any(number < count for number in following.values()):
        for worker, number in following.items():
            if worker not in running and number < count:
                board.began[worker] = math.inf
                running[worker] = Child(lambda worker=worker, number=number: _work(damages, board, worker, number))  # type: ignore[misc]
        time.sleep(0.05)
        for worker, child in list(running.items()):
            over = time.monotonic() - board.began[worker] > LIMIT
            ending = child.poll(0 if over else math.inf)
            if ending is None:
                continue
            del running[worker]
            number = int(board.current[worker])
            if over or ending.status != 0:
                board.outcome[number] = _HUNG if over else _CRASH
                board.seconds[number] = time.monotonic() - board.began[worker]
                said = "hung" if over else f"crash by {ending.signal or ending.status}"
                findings.append(_finding(damages, number, f"{said} {_stack(ending.stderr)}"))
            following[worker] = number + _WORKERS
            findings += [_finding(damages, *said) for said in map(json.loads, ending.stdout.splitlines())]
    if keep is not None:
        _keep(damages, findings, keep)
    return _table(damages, board), findings


def _prepare(count: int, seed: int, folder: Path) -> _Damages:
    """Write the whole files of every subject, each into a folder of its own."""
    work = folder / "whole"

    def write() -> int:
        for number, subject in enumerate(found):
            place = work / str(number)
            place.mkdir(parents=True)
            path = subject.write(place) or place
            (work / f"{number}.path").write_text(str(Path(path).relative_to(place)))
            # Without damage it is read.
            with contextlib.redirect_stdout(io.StringIO()):
                subject.read(path)
            if subject.name.startswith("store"):
                shutil.rmtree(place)
                place.mkdir()
                subject.write(place)
        return 0

    found = subjects(folder)
    ending = run_child(write, limit=120)
    if ending.status != 0:
        raise RuntimeError(f"a whole file is not read: {ending.stderr[-4000:]}")
    paths = [(work / f"{number}.path").read_text() for number in range(len(found))]
    return _Damages(found, work, paths, count, seed)


def _work(damages: _Damages, board: _Board, worker: int, first: int) -> int:
    """Read damaged files, in a worker; what went wrong is written as lines of JSON."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    home = damages.folder.parent / f"worker{worker}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.chdir(home)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for number in range(first, min(damages.count, first + _WORKERS * _UNTIL_FRESH), _WORKERS):
        board.current[worker] = number
        board.began[worker] = time.monotonic()
        said = _read_one(damages, board, home, number)
        board.seconds[number] = time.monotonic() - board.began[worker]
        if said:
            report.write(json.dumps([number, said]) + "\n")
            report.flush()
        board.began[worker] = math.inf
    return 0


def _read_one(damages: _Damages, board: _Board, home: Path, number: int) -> str:
    """Read one damaged file; return what went wrong."""
    index, file, kind, content = damages[number]
    board.kind[number] = _KINDS.index(kind if kind in _KINDS else "?")
    subject = damages.subjects[index]
    place = home / str(index)
    if subject.name.startswith("store") or not place.exists():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(damages.folder / str(index), place)
    # Never in place: an earlier reader may have mapped it.
    target = place / file
    target.unlink()
    target.write_bytes(content)
    try:
        subject.read(place / damages.paths[index])
        board.outcome[number] = _RESULT
    except LLMInitError:
        board.outcome[number] = _ERROR
    except BaseException as error:
        board.outcome[number] = _OTHER
        lines = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{Path(line.filename).name}:{line.lineno} {line.name}" for line in reversed(lines[-5:]))
        return f"{type(error).__name__}: {str(error)[:200]} [{where}]"
    finally:
        target.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(damages.folder / str(index) / file, target)
    return ""


def _stack(stderr: str) -> str:
    """Return the Python functions in which a worker died, from what `faulthandler` wrote."""
    found = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', stderr)
    return " < ".join(f"{Path(file).name}:{line} {function}" for file, line, function in found[:5])


def _finding(damages: _Damages, number: int, what: str) -> Finding:
    index, file, kind, _ = damages[number]
    return Finding(number, damages.subjects[index].name, kind, file, what)


def _keep(damages: _Damages, findings: Sequence[Finding], keep: Path) -> None:
    for finding in findings:
        index, file, _, content = damages[finding.number]
        place = keep / f"file{finding.number:06d}"
        shutil.copytree(damages.folder / str(index), place, dirs_exist_ok=True)
        (place / file).write_bytes(content)
        (place / "finding.txt").write_text(f"{finding}\n")


def _table(damages: _Damages, board: _Board) -> pd.DataFrame:
    """Count by reader and kind of damage."""
    numbers = range(damages.count)
    frame = pd.DataFrame(
        {
            "reader": [damages.subjects[damages[number][0]].name for number in numbers],
            "damage": [_KINDS[board.kind[number]] for number in numbers],
            "outcome": board.outcome,
            "seconds": board.seconds,
        }
    )
    groups = frame.groupby(["reader", "damage"], sort=False)
    return groups.agg(
        files=("outcome", "size"),
        results=("outcome", lambda found: int((found == _RESULT).sum())),
        errors=("outcome", lambda found: int((found == _ERROR).sum())),
        other_exceptions=("outcome", lambda found: int((found == _OTHER).sum())),
        crashes=("outcome", lambda found: int((found == _CRASH).sum())),
        slow=("seconds", lambda found: int((found > LIMIT).sum())),
        slowest_seconds=("seconds", "max"),
    ).reset_index()
