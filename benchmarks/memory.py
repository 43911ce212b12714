"""Anonymous memory of this process: what the page cache holds of mapped files is not in it. Linux only."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def anonymous() -> float:
    """Return the anonymous memory (``RssAnon`` in ``/proc/self/status``) in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def give_back_freed() -> None:
    """Return memory that was freed to the system: it would be used again, and neither be counted nor cost anything."""
    ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Peak:
    """The highest anonymous memory that was seen, in MB."""

    megabytes: float


@contextmanager
def watch_memory(interval: float) -> Iterator[Peak]:
    """Read the anonymous memory every ``interval`` seconds while the block runs; its peak is complete afterwards."""
    peak, stop = Peak(anonymous()), threading.Event()

    def watch() -> None:
        while not stop.wait(interval):
            peak.megabytes = max(peak.megabytes, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
