"""What the processes of a run may do; in a module of its own, which each of them imports."""

import os
import signal
import sys
import time

from recbole_llminit.errors import LLMInitError


def where(launch):
    return launch.local_rank, launch.world_size


def _wait(folder, launch):
    """Let rank 0 say who it is and wait for an hour; let the others go on once it has."""
    if launch.local_rank == 0:
        (folder / "pid.writing").write_text(str(os.getpid()))
        (folder / "pid.writing").rename(folder / "pid")
        time.sleep(3600)
    while not (folder / "pid").exists():
        time.sleep(0.05)


def refuse(folder, launch):
    _wait(folder, launch)
    raise LLMInitError(f"rank {launch.local_rank} refuses")


def die(folder, launch):
    _wait(folder, launch)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(folder, launch):
    _wait(folder, launch)
    sys.exit(7)
