"""Sampling that depends on seed and epoch only: resumable, and the same on one process as on many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

__all__ = ["Draw", "SeededSampler"]


class Draw(NamedTuple):
    """What a sampler hands to a data set: which sample, and the seed of all that is random about it."""

    item: int
    seed: int


class SeededSampler(DistributedSampler[Draw]):
    """Shard of a data set whose order and whose samples' seeds are a function of seed and epoch.

    It is a ``DistributedSampler`` so that Lightning leaves it in place. Unlike torch's it reads the epoch when it is
    iterated: Lightning creates the first iterator of a resumed run before it announces the epoch.

    Args:
        dataset: data set of known length that is indexed by :class:`Draw`.
        shuffle: permute anew each epoch and give all ranks equally many samples, repeating a few if need be. Without
            it every sample is drawn exactly once over all ranks, in order and with the same seed each epoch.
        seed: seed of the order and of the samples.
        epoch: returns the current epoch.
        num_replicas: number of processes.
        rank: index of this process.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        *,
        shuffle: bool,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self.current_epoch = epoch
        self.length = len(dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Draw]:
        # Evaluation has a stream of its own: it must not repeat the draws of the first training epoch.
        epoch = self.current_epoch() + 1 if self.shuffle else 0
        generator = np.random.default_rng((self.seed, epoch))
        seeds = generator.integers(2**62, size=self.length)
        order = np.arange(self.length)
        if self.shuffle:
            order = generator.permutation(order)
            order = np.resize(order, len(self) * self.num_replicas)
        return (Draw(int(index), int(seeds[index])) for index in order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.num_replicas)
        if self.shuffle:
            return whole + (rest > 0)
        return whole + (self.rank < rest)
