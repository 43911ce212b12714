"""The table of bad inputs, run: each case in a forked child, in a fresh folder, through the real command line."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import robustness_calls
import robustness_cases
import robustness_checkpoints
import robustness_hostile
import robustness_ids
import robustness_stores
import robustness_vectors
from robustness_cases import CANARY, Case
from robustness_children import Ending, limit_files, run_child, run_children
from robustness_valid import BASE, write_cache, write_checkpoints, write_comparison

_TABLES = (
    robustness_cases,
    robustness_vectors,
    robustness_ids,
    robustness_checkpoints,
    robustness_stores,
    robustness_hostile,
    robustness_calls,
)

LIMIT = 60.0
"""Seconds after which a case is taken to hang."""

_LONGEST_MESSAGE = 2000
_TRAINED = "epoch 0 training"
_SAID = re.compile(r"^recbole-llminit( \w+)?: error: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Parameters
    ----------
    case : Case
        The case.
    ending : Ending
        How its child ended.
    wrong : str
        What is wrong; empty where nothing is.
    message : str
        The first line of what was said.
    """

    case: Case
    ending: Ending
    wrong: str
    message: str

    @property
    def word(self) -> str:
        """``right``, ``error`` or ``WRONG``."""
        return "WRONG" if self.wrong else "right" if self.ending.status == 0 else "error"


def all_cases() -> list[Case]:
    """Return the whole table; no case stands twice."""
    found = [case for table in _TABLES for case in table.cases()]
    return list({(case.group, case.what): case for case in found}.values())


def write_home(folder: Path) -> None:
    """Make what every case finds in its working folder: settings, vectors, checkpoints, a cache, a comparison."""
    for write in (write_checkpoints, write_comparison):
        work = folder / write.__name__
        work.mkdir()
        ending = run_child(lambda write=write, work=work: write(work) or 0, limit=300)  # type: ignore[misc]
        if ending.status != 0:
            raise RuntimeError(f"{write.__name__} failed: {ending.stdout[-2000:]}{ending.stderr[-4000:]}")
    home = folder / "home"
    home.mkdir()
    for path in (folder / "write_checkpoints").iterdir():
        if path.suffix in (".pth", ".json"):
            shutil.copy(path, home / path.name)
    shutil.copytree(folder / "write_checkpoints" / "store", home / "store")
    shutil.copytree(folder / "write_comparison" / "comparison", home / "comparison")
    run_child(lambda: write_cache(home / "cache") or 0, limit=60)  # type: ignore[func-returns-value]
    (home / "base.yaml").write_text(BASE)
    (home / "a_file").write_text("hello\n")
    (home / "a_folder").mkdir()


def run_cases(cases: Sequence[Case], folder: Path, keep: Path | None = None) -> Iterator[Outcome]:
    """Run cases, two at a time, and judge them; those that are wrong leave their folder and output in ``keep``."""
    places = {number: folder / f"case{number:04d}" for number in range(len(cases))}

    def actions() -> Iterator[tuple[int, Callable[[], int]]]:
        for number, case in enumerate(cases):
            yield number, lambda case=case, place=places[number]: _act(case, folder / "home", place)  # type: ignore[misc]

    for number, ending in run_children(actions(), limit=LIMIT):
        outcome = judge(cases[number], ending, places[number])
        if outcome.wrong and keep is not None:
            _keep(outcome, places[number], keep / f"input{number:04d}")
        shutil.rmtree(places[number], ignore_errors=True)
        yield outcome


def judge(case: Case, ending: Ending, place: Path) -> Outcome:
    """Say whether a case ended as it has to."""
    said = _SAID.findall(ending.stderr)
    text = f"{ending.stdout}\n{ending.stderr}"
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    message = said[-1][1] if said else last
    wrong = _wrong(case, ending, [part for _, part in said], text)
    if not wrong and case.spoiled is not None:
        wrong = case.spoiled(place)
    if any(place.rglob(f"{CANARY}*")):
        wrong = "executed"
    return Outcome(case, ending, wrong, message)


def _wrong(case: Case, ending: Ending, said: Sequence[str], text: str) -> str:
    if ending.hung:
        return f"hung for {LIMIT:.0f} s"
    if ending.signal:
        return f"crash by {ending.signal}"
    if "Traceback (most recent call last)" in text:
        return "traceback"
    if ending.status == 0:
        return "accepted in silence" if case.expected == "error" else ""
    if case.expected == "right":
        return "refused"
    if ending.status != 2:
        return f"exit status {ending.status}"
    if len(said) != 1:
        return f"{len(said)} messages"
    return _wrong_message(case, ending, said[0], text)


def _wrong_message(case: Case, ending: Ending, said: str, text: str) -> str:
    if not ending.stderr.rstrip("\n").endswith(said.rstrip("\n")):
        return "a message of several lines"
    if len(said) > _LONGEST_MESSAGE:
        return f"a message of {len(said):,} characters"
    if _TRAINED in text and not case.late:
        return "an error after training began"
    if not re.search(case.names or ".", said, re.IGNORECASE):
        return f"the message does not name {case.names}"
    return ""


def _act(case: Case, home: Path, place: Path) -> int:
    """Do what a case says, in the child."""
    shutil.copytree(home, place)
    os.mkfifo(place / "a_pipe")
    os.environ["HOME"] = str(place)
    tempfile.tempdir = None
    os.chdir(place)
    if case.prepare is not None:
        case.prepare()
    if case.file_limit:
        limit_files(case.file_limit)
    return case.act()


def _keep(outcome: Outcome, place: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "files", ignore_errors=True)
    # Not copied: there may be pipes and devices in it.
    with contextlib.suppress(OSError):
        place.rename(folder / "files")
    (folder / "output.txt").write_text(
        f"{outcome.case.group}: {outcome.case.what}\n{outcome.wrong}\nstatus {outcome.ending.status}\n"
        f"--- stdout\n{outcome.ending.stdout}\n--- stderr\n{outcome.ending.stderr}"
    )
