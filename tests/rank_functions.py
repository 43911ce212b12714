"""Functions that the processes of a run call in the tests; each process imports this module."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.processes import Launch


def where(launch: Launch) -> tuple[int, int]:
    """Return the local rank of the process and the number of processes."""
    return launch.local_rank, launch.world_size


def _wait(folder: Path, launch: Launch) -> None:
    """Let rank 0 write its process id and wait for an hour; let the others continue once it has written it."""
    if launch.local_rank == 0:
        (folder / "pid.writing").write_text(str(os.getpid()))
        (folder / "pid.writing").rename(folder / "pid")
        time.sleep(3600)
    while not (folder / "pid").exists():
        time.sleep(0.05)


def refuse(folder: Path, launch: Launch) -> NoReturn:
    """Raise the package's error on rank 1."""
    _wait(folder, launch)
    raise LLMInitError(f"rank {launch.local_rank} refuses")


def die(folder: Path, launch: Launch) -> None:
    """Kill rank 1."""
    _wait(folder, launch)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(folder: Path, launch: Launch) -> NoReturn:
    """End rank 1 with an exit status."""
    _wait(folder, launch)
    sys.exit(7)
