"""Child processes that run side by side and end with this process."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import IO

Work = Callable[[str], str | None]


class ChildProcesses:
    """Child processes, which are stopped when the context is left.

    Parameters
    ----------
    jobs : int
        How many run side by side.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def __enter__(self) -> ChildProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()

    def call(self, command: list[str], output: IO[bytes], environment: Mapping[str, str]) -> int:
        """Run a command to its end; return its exit status, which is negative where a signal ended it.

        The standard input of the child is a pipe, which closes when this process ends.

        Parameters
        ----------
        command : list of str
            Program and arguments.
        output : file
            Where standard output and standard error go.
        environment : mapping of str to str
            The environment variables.

        Raises
        ------
        OSError
            If the context has been left, or the process cannot be started.
        """
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

    def run(self, names: deque[str], work: Work) -> Iterator[tuple[str, str | None]]:
        """Call ``work`` with each name, several side by side; yield each name with the result, as the calls end.

        Parameters
        ----------
        names : deque of str
            What there is to do, taken from the left as a process is free. The caller may add to it between two results.
        work : callable
            Takes a name, and uses `call`.
        """
        futures: dict[Future[str | None], str] = {}
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                while True:
                    # No more than the pool runs at once: an interruption leaves nothing in its queue.
                    while names and len(futures) < self._jobs:
                        name = names.popleft()
                        futures[pool.submit(work, name)] = name
                    if not futures:
                        return
                    done, _ = wait(futures, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield futures.pop(future), future.result()
            except BaseException:
                # Before the pool waits for its threads, which wait for the children.
                self.__exit__()
                raise
