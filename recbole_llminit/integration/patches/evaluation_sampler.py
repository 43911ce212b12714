"""How several processes share the users or interactions of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Sampler


class EachSampleOnce(Sampler[int]):
    """Deals samples out to the processes in turn, each to one process; torch's `DistributedSampler` repeats some.

    Parameters
    ----------
    sample_count : int
        How many samples there are.
    rank, world_size : int
        The process, and how many there are. The process has the samples ``rank``, ``rank + world_size``, ...
    """

    def __init__(self, sample_count: int, rank: int, world_size: int) -> None:
        self.samples = range(rank, sample_count, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def give_sampler(loader: Any, sampler: Sampler[int]) -> None:
    """Replace the sampler of a `torch.utils.data.DataLoader` that has not been iterated yet.

    Parameters
    ----------
    loader : DataLoader
        One that makes batches of samples.
    sampler : Sampler
        What it takes instead of its own. RecBole's loaders make theirs inside their constructor.
    """
    # torch refuses to set these two by assignment after the constructor.
    vars(loader).update(
        sampler=sampler, batch_sampler=BatchSampler(sampler, loader.batch_size, drop_last=loader.drop_last)
    )
