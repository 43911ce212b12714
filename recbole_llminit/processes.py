"""The processes of one run: how they are started, and how they meet."""

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
from typing import Any, TypeVar

from recbole_llminit.errors import LLMInitError

Value = TypeVar("Value")
LAUNCH_KEYS = ("nproc", "world_size", "group_offset", "offset", "ip", "port")

# A rank may have far more to do than another.
TIMEOUT = datetime.timedelta(days=30)
_INTERRUPTED = 130
_SECONDS_BETWEEN_LOOKS = 0.2
# What gloo and NCCL say when a connection breaks; who broke it should be seen first.
_LOST = ("Connection closed by peer", "Connection reset by peer", "NCCL error", "ncclRemoteError")
_SECONDS_TO_SEE_WHO = 2


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those of its run; alone if nothing is given."""

    rank: int = 0
    world: int = 1
    group: Any = None

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier(self.group)

    def share(self, value: Value) -> Value:
        """Return the first rank's value."""
        if self.world == 1:
            return value
        import torch.distributed

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def sum(self, *numbers: int) -> list[int]:
        """Return the sums over all ranks."""
        if self.world == 1:
            return list(numbers)
        import torch
        import torch.distributed

        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor, group=self.group)
        return [int(number) for number in tensor]


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Meet the other processes where torchrun started several; all of them must call this."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Ranks(torch.distributed.get_rank(), world)
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def ranks_of_run(group: Any | None) -> Iterator[Ranks]:
    """Give the processes of a gloo group, and leave the run in the end; or, of None, this process alone.

    Raises
    ------
    LLMInitError
        If another process has gone.
    """
    import torch.distributed

    if group is None:
        yield Ranks()
        return
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), group)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        time.sleep(_SECONDS_TO_SEE_WHO)
        raise LLMInitError(
            f"another process of this run has ended, and rank {torch.distributed.get_rank()} cannot go on without it: "
            f"see what that one said; if an epoch was saved, --resume=CHECKPOINT goes on from it"
        ) from error
    # Not after an error: a process that waits for one that has gone waits long.
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Launch:
    """How many processes a run has, and where they meet: RecBole's settings for several processes.

    Parameters
    ----------
    nproc : int
        How many processes this host has.
    world_size : int
        How many there are on all hosts.
    group_offset : int
        The rank of this host's first process.
    ip, port : str, int
        Where rank 0 listens.
    local_rank : int
        Which of this host's processes this one is.
    """

    nproc: int
    world_size: int
    group_offset: int
    ip: str
    port: int
    local_rank: int = 0

    @classmethod
    def from_torchrun(cls) -> Launch | None:
        """Read what torchrun says to the processes it starts; None for a run of one process."""
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
        """Read ``nproc``, ``world_size``, ``group_offset``, ``ip`` and ``port``; None for a run of one process.

        Raises
        ------
        LLMInitError
            If a value cannot be.
        """
        nproc = _whole_number(settings, "nproc", 1, least=1)
        world = _whole_number(settings, "world_size", -1, least=-1)
        offset = _whole_number(settings, "group_offset", 0, least=0)
        several = nproc > 1 or world > 1
        if not several:
            return None
        world = nproc if world < 1 else world
        if nproc + offset > world:
            raise LLMInitError(
                f"nproc {nproc} and group_offset {offset} are more than world_size {world}: expected as world_size the "
                f"number of processes on all hosts"
            )
        # On one host any free port does; hosts have to know it.
        port = _free_port() if nproc == world and settings.get("port") is None else None
        return cls(
            nproc=nproc,
            world_size=world,
            group_offset=offset,
            ip=str(settings.get("ip") or "localhost"),
            port=port or _whole_number(settings, "port", 5678, least=1),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration keys by which RecBole knows this process."""
        return {
            "local_rank": self.local_rank,
            "nproc": self.nproc,
            "world_size": self.world_size,
            "offset": self.group_offset,
            "ip": self.ip,
            "port": self.port,
        }

    def start(self, function: Callable[..., Value]) -> Value:
        """Start this host's processes, each of which calls ``function(launch=...)``; return what the first one returns.

        When one of them ends early, the others are stopped.

        Raises
        ------
        LLMInitError
            What the function raised in one of them; or if one was killed.
        KeyboardInterrupt
            If this process or one of those was interrupted.
        """
        import torch.multiprocessing
        from torch.multiprocessing.spawn import ProcessExitedException, start_processes

        try:
            pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise LLMInitError(
                f"a run of several processes sends its arguments to them, and one cannot be sent ({error}): define the "
                f"model's class and callback_fn at the top of a module"
            ) from error
        queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
        said: list[tuple[int, Any]] = []
        processes = start_processes(_call, (self, function, queue), self.nproc, join=False)  # type: ignore[no-untyped-call]
        try:
            finished = False
            while not finished:
                try:
                    finished = processes.join(_SECONDS_BETWEEN_LOOKS)
                finally:
                    # While they run: a process does not end before what it said is read.
                    while not queue.empty():
                        said.append(queue.get())
        except ProcessExitedException as ended:
            errors = [value for _, value in said if isinstance(value, LLMInitError)]
            if errors:
                raise errors[0] from None
            if ended.exit_code == _INTERRUPTED:
                raise KeyboardInterrupt from None
            if ended.signal_name:
                how, then = ended.signal_name, "if it was not killed by hand, see whether memory ran out"
            else:
                how, then = f"exit status {ended.exit_code}", "see what it said above"
            raise LLMInitError(
                f"process {ended.error_index} of {self.nproc} on this host ended early ({how}), and the others were "
                f"stopped: {then}; if an epoch was saved, --resume=CHECKPOINT goes on from it"
            ) from None
        except KeyboardInterrupt:
            for process in processes.processes:
                process.terminate()
            raise
        result: Value = next(value for local_rank, value in said if local_rank == 0)
        return result


def refuse_several(settings: Mapping[str, Any]) -> None:
    """Raise `LLMInitError` for settings of several processes where a run is a trial of many."""
    if Launch.from_settings(settings) is not None or Launch.from_torchrun() is not None:
        raise LLMInitError("nproc, world_size and torchrun: a trial is one process, leave them out")


def _call(local_rank: int, launch: Launch, function: Callable[..., Any], queue: Any) -> None:
    # As under torchrun: the encoder takes this rank's GPU by it.
    os.environ["LOCAL_RANK"] = str(local_rank)
    try:
        value = function(launch=replace(launch, local_rank=local_rank))
        if local_rank == 0:
            queue.put((local_rank, value))
    except LLMInitError as error:
        queue.put((local_rank, error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _whole_number(settings: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = default if settings.get(key) is None else settings[key]
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise LLMInitError(f"{key} is {value!r}: expected a whole number from {least} on")
    return number


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
