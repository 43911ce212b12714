"""Code that needs a process in which nothing has been patched: each piece runs in a fork of one such process.

As a script it reads ``{name: code}`` as JSON and writes ``{name: [output, traceback]}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).parents[1]


class Outcome(NamedTuple):
    """What a piece of code has printed, and the traceback of what it has raised, or nothing."""

    output: str
    error: str


def run_each(pieces: Mapping[str, str], *, preload: str = "") -> dict[str, Outcome]:
    """Run pieces of code, each in a process of its own and in a folder of its own.

    Parameters
    ----------
    pieces : mapping of str to str
        The code by name.
    preload : str
        Code that runs once before, in the process of which they are forks; they know its names.
    """
    request = {"preload": preload, "pieces": {name: textwrap.dedent(code) for name, code in pieces.items()}}
    ran = subprocess.run(
        [sys.executable, __file__], input=json.dumps(request), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return {name: Outcome(*outcome) for name, outcome in json.loads(ran.stdout).items()}


def _fork(code: str, names: dict[str, Any]) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        child = os.fork()
        if child == 0:
            _run(code, names, folder)
        os.waitpid(child, 0)
        return Outcome((folder / "output").read_text(), (folder / "error").read_text())


def _run(code: str, names: dict[str, Any], folder: Path) -> None:
    """Run code, and end this process."""
    error = ""
    os.chdir(folder)
    with (folder / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            exec(code, names)
        except BaseException:
            error = traceback.format_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    (folder / "error").write_text(error)
    os._exit(0)


if __name__ == "__main__":
    request = json.load(sys.stdin)
    shared: dict[str, Any] = {"__name__": "preload"}
    exec(request["preload"], shared)
    answer = {name: _fork(code, shared) for name, code in request["pieces"].items()}
    print(json.dumps(answer))
