"""The processes that torchrun started, and how they meet."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that torchrun started; alone if nothing is given."""

    rank: int = 0
    world: int = 1

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()

    def share(self, value: Value) -> Value:
        """Return the first rank's value."""
        if self.world == 1:
            return value
        import torch.distributed

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def sum(self, *numbers: int) -> list[int]:
        """Return the sums over all ranks."""
        if self.world == 1:
            return list(numbers)
        import torch
        import torch.distributed

        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor)
        return [int(number) for number in tensor]


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Meet the other processes where torchrun started several; all of them must call this."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed

    # A rank may have far more to do than another.
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=30))
    try:
        yield Ranks(torch.distributed.get_rank(), world)
    finally:
        torch.distributed.destroy_process_group()
