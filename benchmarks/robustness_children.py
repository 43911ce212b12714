"""Actions in forked children, of which the outcome is kept whatever becomes of them: output, status, signal, time.

Everything is imported before the fork, so that a child costs milliseconds. Linux only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

MEMORY = 8 << 30
"""The address space of a child."""

_LARGEST_FILE = 1 << 30
_MOST_OUTPUT = 8 << 20
_POLL = 0.05

Key = TypeVar("Key")


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Parameters
    ----------
    status : int
        The exit status, or minus the signal that killed it.
    hung : bool
        Whether it was killed because its time was over.
    seconds : float
        How long it ran.
    stdout, stderr : str
        What it wrote; of very long output the beginning.
    """

    status: int
    hung: bool
    seconds: float
    stdout: str
    stderr: str

    @property
    def signal(self) -> str:
        """The name of the signal that killed it, but not of ours; empty where none did."""
        return signal.Signals(-self.status).name if self.status < 0 and not self.hung else ""


class Child:
    """A forked process that runs an action, in a process group of its own.

    Parameters
    ----------
    action : callable
        Returns the exit status. An exception is written to the standard error, and the status is 1.
    memory : int
        The most address space, in bytes.
    """

    def __init__(self, action: Callable[[], int], *, memory: int = MEMORY) -> None:
        self._pipes = {name: os.pipe() for name in ("stdout", "stderr")}
        self._output = {name: bytearray() for name in self._pipes}
        self._began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            _be_child(action, self._pipes["stdout"][1], self._pipes["stderr"][1], memory)
        for reading, writing in self._pipes.values():
            os.close(writing)
            os.set_blocking(reading, False)

    @property
    def descriptors(self) -> list[int]:
        """What to wait on for output."""
        return [reading for reading, _ in self._pipes.values()]

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._began

    def poll(self, limit: float) -> Ending | None:
        """Take what was written; return the ending of a child that has ended, and end one whose time is over."""
        self._read()
        hung = self.seconds > limit
        if hung:
            self.kill()
        found, status = os.waitpid(self.process, 0 if hung else os.WNOHANG)
        if not found:
            return None
        seconds = self.seconds
        self._read()
        # What it started may have outlived it.
        self.kill()
        for reading in self.descriptors:
            os.close(reading)
        texts = {name: bytes(output).decode("utf-8", "replace") for name, output in self._output.items()}
        return Ending(os.waitstatus_to_exitcode(status), hung, seconds, **texts)

    def kill(self) -> None:
        """Kill it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)

    def _read(self) -> None:
        for name, (reading, _) in self._pipes.items():
            with contextlib.suppress(BlockingIOError):
                while block := os.read(reading, 1 << 16):
                    if len(self._output[name]) < _MOST_OUTPUT:
                        self._output[name] += block


def run_children(
    actions: Iterable[tuple[Key, Callable[[], int]]], *, limit: float, jobs: int = 2, memory: int = MEMORY
) -> Iterator[tuple[Key, Ending]]:
    """Run actions in children, some side by side, and yield their endings as they come.

    Parameters
    ----------
    actions : iterable of (key, callable)
        What to run, and a name for each.
    limit : float
        Seconds after which a child is killed.
    jobs : int
        How many run at once.
    memory : int
        The most address space of each, in bytes.
    """
    waiting = iter(actions)
    running: dict[int, tuple[Key, Child]] = {}
    while True:
        while len(running) < jobs and (following := next(waiting, None)) is not None:
            child = Child(following[1], memory=memory)
            running[child.process] = (following[0], child)
        if not running:
            return
        select.select([end for _, child in running.values() for end in child.descriptors], [], [], _POLL)
        for process, (key, child) in list(running.items()):
            ending = child.poll(limit)
            if ending is not None:
                del running[process]
                yield key, ending


def run_child(action: Callable[[], int], *, limit: float, memory: int = MEMORY) -> Ending:
    """Run one action in a child to its end."""
    ((_, ending),) = run_children([("", action)], limit=limit, jobs=1, memory=memory)
    return ending


def limit_files(size: int) -> None:
    """Limit the size of the files that this process writes: what a full disk does, without one."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _be_child(action: Callable[[], int], stdout: int, stderr: int, memory: int) -> None:
    """Run the action and leave the process; never returns."""
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, stdout), (2, stderr)):
            os.dup2(source, target)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        limit_files(_LARGEST_FILE)
        gc.freeze()
        status = action()
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)
