"""The processes of one run: how they are started, and how they communicate."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

from recbole_llminit.errors import LLMInitError

Value = TypeVar("Value")

LAUNCH_KEYS = ("nproc", "world_size", "group_offset", "offset", "ip", "port")
"""RecBole's configuration keys for a run of several processes."""

TIMEOUT = datetime.timedelta(days=30)
"""How long a process waits for the others: one of them may have far more to do than another."""

_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130
_POLL_SECONDS = 0.2
# Parts of what gloo and NCCL say when a connection breaks.
_CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "NCCL error", "ncclRemoteError")
# The process that failed should report its error before those that have only lost the connection to it.
_SECONDS_BEFORE_CONNECTION_ERROR = 2


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among the processes of its run. By default, it is the only one.

    Parameters
    ----------
    rank : int
        The number of this process, from 0.
    world_size : int
        The number of processes.
    group : torch.distributed.ProcessGroup, optional
        The group through which they communicate; the default group where it is None.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    def wait(self) -> None:
        """Wait until every process has called this method (a barrier)."""
        if self.world_size > 1:
            import torch.distributed

            torch.distributed.barrier(self.group)

    def share(self, value: Value) -> Value:
        """Return the value of rank 0 on every rank (a broadcast)."""
        if self.world_size == 1:
            return value
        import torch.distributed

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def sum(self, *numbers: int) -> list[int]:
        """Return the sum of each number over all ranks (an all-reduce)."""
        if self.world_size == 1:
            return list(numbers)
        import torch
        import torch.distributed

        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor, group=self.group)
        return [int(number) for number in tensor]


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the process group of a command that torchrun started; yield this process alone without torchrun.

    Every process of the run must call this function.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Ranks(torch.distributed.get_rank(), world_size)
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def ranks_of_run(group: Any | None) -> Iterator[Ranks]:
    """Yield the ranks of a process group that exists, and destroy the groups at the end of the run.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        A gloo group of all processes of the run; None yields this process alone.

    Raises
    ------
    LLMInitError
        If the connection to another process is lost because that process has ended.
    """
    import torch.distributed

    if group is None:
        yield Ranks()
        return
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), group)
    except RuntimeError as error:
        if not any(message in str(error) for message in _CONNECTION_LOST):
            raise
        time.sleep(_SECONDS_BEFORE_CONNECTION_ERROR)
        raise LLMInitError(
            f"another process of this run has ended, and rank {torch.distributed.get_rank()} cannot go on without it: "
            f"see the error of that process; if an epoch was saved, --resume=CHECKPOINT continues from it"
        ) from error
    # Only without an error: destroying a group waits long for a process that has ended.
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Launch:
    """The processes of a run and the address at which they meet: RecBole's settings for several processes.

    Parameters
    ----------
    nproc : int
        The number of processes on this host.
    world_size : int
        The number of processes on all hosts.
    group_offset : int
        The rank of this host's first process.
    ip, port : str, int
        The address on which rank 0 listens.
    local_rank : int
        The number of this process among those of its host, from 0.
    """

    nproc: int
    world_size: int
    group_offset: int
    ip: str
    port: int
    local_rank: int = 0

    @classmethod
    def from_torchrun(cls) -> Launch | None:
        """Read the environment variables that torchrun sets; return None for a run of one process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
            return None
        ranks = {key: int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
        return cls(
            nproc=ranks["LOCAL_WORLD_SIZE"],
            world_size=ranks["WORLD_SIZE"],
            group_offset=ranks["RANK"] - ranks["LOCAL_RANK"],
            ip=os.environ["MASTER_ADDR"],
            port=int(os.environ["MASTER_PORT"]),
            local_rank=ranks["LOCAL_RANK"],
        )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Launch | None:
        """Read the keys ``nproc``, ``world_size``, ``group_offset``, ``ip`` and ``port``.

        Returns
        -------
        Launch or None
            None for a run of one process.

        Raises
        ------
        LLMInitError
            If a value is no whole number in its range, or the processes of this host are more than those of all hosts.
        """
        nproc = _whole_number(settings, "nproc", 1, least=1)
        world_size = _whole_number(settings, "world_size", -1, least=-1)
        offset = _whole_number(settings, "group_offset", 0, least=0)
        if nproc == 1 and world_size <= 1:
            return None
        world_size = nproc if world_size < 1 else world_size
        if nproc + offset > world_size:
            raise LLMInitError(
                f"nproc {nproc} and group_offset {offset} are more than world_size {world_size}: expected the number "
                f"of processes on all hosts in world_size"
            )
        one_host = nproc == world_size
        return cls(
            nproc=nproc,
            world_size=world_size,
            group_offset=offset,
            ip=str(settings.get("ip") or "localhost"),
            # On one host any free port will do; several hosts must be told the same one.
            port=_free_port()
            if one_host and settings.get("port") is None
            else _whole_number(settings, "port", 5678, least=1),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration keys that tell RecBole which process this is."""
        return {
            "local_rank": self.local_rank,
            "nproc": self.nproc,
            "world_size": self.world_size,
            "offset": self.group_offset,
            "ip": self.ip,
            "port": self.port,
        }

    def start(self, function: Callable[..., Value]) -> Value:
        """Start this host's processes, each of which calls ``function(launch=...)``, and wait for them.

        When one process ends early, the others are stopped.

        Parameters
        ----------
        function : callable
            What each process runs; it is pickled.

        Returns
        -------
        object
            What the function returned in the first process.

        Raises
        ------
        LLMInitError
            If the function cannot be pickled, raised this error in a process, or a process ended early.
        KeyboardInterrupt
            If this process or one of those that it started was interrupted.
        """
        import torch.multiprocessing
        from torch.multiprocessing.spawn import ProcessExitedException, start_processes

        _require_picklable(function)
        queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
        processes = start_processes(_run_process, (self, function, queue), self.nproc, join=False)  # type: ignore[no-untyped-call]
        outcomes: dict[int, Any] = {}
        try:
            _wait_for_processes(processes, queue, outcomes)
        except ProcessExitedException as ended:
            self._raise_early_end(ended, outcomes)
        except KeyboardInterrupt:
            for process in processes.processes:
                process.terminate()
            raise
        result: Value = outcomes[0]
        return result

    def _raise_early_end(self, ended: Any, outcomes: Mapping[int, Any]) -> NoReturn:
        """Raise the error that a process put into its outcome, else one that says how the process ended."""
        errors = [outcome for outcome in outcomes.values() if isinstance(outcome, LLMInitError)]
        if errors:
            raise errors[0] from None
        if ended.exit_code == _EXIT_INTERRUPTED:
            raise KeyboardInterrupt from None
        if ended.signal_name:
            how, remedy = ended.signal_name, "if it was not killed by hand, check whether memory ran out"
        else:
            how, remedy = f"exit status {ended.exit_code}", "see its output above"
        raise LLMInitError(
            f"process {ended.error_index} of {self.nproc} on this host ended early ({how}), and the others were "
            f"stopped: {remedy}; if an epoch was saved, --resume=CHECKPOINT continues from it"
        ) from None


def refuse_several_processes(settings: Mapping[str, Any]) -> None:
    """Raise `LLMInitError` where the settings or torchrun ask for several processes: a trial runs in one."""
    if Launch.from_settings(settings) is not None or Launch.from_torchrun() is not None:
        raise LLMInitError(
            "nproc, world_size or torchrun asks for several processes: a trial is one process, leave them out"
        )


def _require_picklable(function: Callable[..., Any]) -> None:
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LLMInitError(
            f"a run of several processes sends its arguments to them, and one cannot be pickled ({error}): define the "
            f"model's class and callback_fn at the top of a module"
        ) from error


def _wait_for_processes(processes: Any, queue: Any, outcomes: dict[int, Any]) -> None:
    """Wait until all processes have ended, and collect their outcomes by local rank."""
    finished = False
    while not finished:
        try:
            finished = processes.join(_POLL_SECONDS)
        finally:
            # While the processes run: a process cannot end before its outcome has been read.
            while not queue.empty():
                local_rank, outcome = queue.get()
                outcomes[local_rank] = outcome


def _run_process(local_rank: int, launch: Launch, function: Callable[..., Any], queue: Any) -> None:
    """Call the function in a new process, and put its result (of rank 0) or its `LLMInitError` into the queue."""
    # As torchrun sets it: the encoder chooses this rank's GPU by it.
    os.environ["LOCAL_RANK"] = str(local_rank)
    try:
        value = function(launch=replace(launch, local_rank=local_rank))
        if local_rank == 0:
            queue.put((local_rank, value))
    except LLMInitError as error:
        queue.put((local_rank, error))
        sys.exit(_EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)


def _whole_number(settings: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = default if settings.get(key) is None else settings[key]
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise LLMInitError(f"{key} is {value!r}: expected a whole number of at least {least}")
    return number


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
