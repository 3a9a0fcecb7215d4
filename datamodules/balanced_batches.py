"""Batches with equally many images of each of some classes, and wrong labels on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.base import ImageDataModule
from datamodules.sampling import Draw, SeededSampler

__all__ = ["BalancedBatches", "BalancedSampler", "RelabelledDataset", "symmetric_noise"]


def symmetric_noise(labels: ArrayLike, rate: float, classes: int, seed: int = 0) -> NDArray[np.int64]:
    """Replace each label with probability ``rate`` by one of the other classes, all alike.

    Args:
        labels: classes from 0, shape ``(N,)``.
        rate: in [0, 1].
        classes: number of classes, at least 2.
        seed: of the draw.

    Returns:
        Labels of the same shape.

    Raises:
        ValueError: if the rate is outside [0, 1], or there is no other class.
    """
    if not 0 <= rate <= 1 or classes < 2:
        raise ValueError(f"A label noise of {rate} among {classes} classes: needed are a rate in [0, 1] and 2 classes.")
    clean = np.asarray(labels, np.int64)
    rng = np.random.default_rng((seed, 6))
    wrong, shift = rng.random(len(clean)) < rate, rng.integers(1, classes, len(clean))
    return np.where(wrong, (clean + shift) % classes, clean)


class RelabelledDataset(Dataset[dict[str, Any]]):
    """A data set with other labels.

    Args:
        dataset: whose samples are dictionaries with ``label``.
        labels: of each sample, shape ``(N,)``.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], labels: NDArray[np.int64]) -> None:
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One sample."""
        index = draw[0] if isinstance(draw, tuple) else draw
        return {**self.dataset[draw], "label": int(self.labels[index])}


class BalancedSampler(SeededSampler):
    """Order in which every run of ``batch_size`` samples has equally many of each of some classes.

    Classes of a batch are drawn without replacement, their samples come from a shuffled queue of their own, which is
    shuffled anew when it is empty. A batch that the classes do not divide has one sample more of some. As with
    :class:`SeededSampler` the order is a function of seed and epoch, and ranks have batches of their own.

    Args:
        dataset: data set of known length that is indexed by :class:`Draw`.
        labels: class of each sample, shape ``(N,)``.
        batch_size: samples per batch and process.
        classes_per_batch: all classes by default.
        seed: seed of the order and of the samples.
        epoch: returns the current epoch.
        num_replicas: number of processes.
        rank: index of this process.

    Raises:
        ValueError: if there are fewer classes than ``classes_per_batch``, fewer samples in a batch, or fewer than two
            classes are asked for.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        labels: ArrayLike,
        *,
        batch_size: int,
        classes_per_batch: int | None = None,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, shuffle=True, seed=seed, epoch=epoch, num_replicas=num_replicas, rank=rank)
        if batch_size < 1 or (classes_per_batch is not None and classes_per_batch < 2):
            raise ValueError(
                f"data.batch_size={batch_size} must be at least 1 and data.classes_per_batch={classes_per_batch} at "
                "least 2: a batch of one class has no negatives."
            )
        values = np.asarray(labels)
        self.members = [np.flatnonzero(values == value) for value in np.unique(values)]
        self.batch_size = min(batch_size, self.length)
        self.classes = classes_per_batch or min(len(self.members), self.batch_size)
        if self.classes > min(len(self.members), self.batch_size):
            raise ValueError(
                f"data.classes_per_batch={self.classes}: there are {len(self.members)} classes, and a batch has "
                f"{self.batch_size} images."
            )

    @property
    def batches(self) -> int:
        """Batches of each process in an epoch."""
        return max(1, self.length // (self.batch_size * self.num_replicas))

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.current_epoch() + 1))
        seeds = rng.integers(2**62, size=len(self) * self.num_replicas)
        total = self.batches * self.num_replicas
        order = np.empty((total, self.batch_size), np.int64)
        chosen = np.stack([rng.permutation(len(self.members))[: self.classes] for _ in range(total)])
        places = np.take_along_axis(chosen, np.tile(np.arange(self.batch_size) % self.classes, (total, 1)), axis=1)
        for number, members in enumerate(self.members):
            wanted = places == number
            rounds = -(-int(wanted.sum()) // len(members))
            queue = [rng.permutation(members) for _ in range(rounds)]
            order[wanted] = np.concatenate([*queue, np.zeros(0, np.int64)])[: wanted.sum()]
        mine = (np.arange(total) % self.num_replicas) == self.rank
        own = zip(order[mine].flat, seeds.reshape(order.shape)[mine].flat, strict=True)
        return (Draw(int(index), int(seed)) for index, seed in own)


class BalancedBatches(ImageDataModule):
    """Mix-in for image datamodules of classes: balanced training batches and noise on training labels.

    Name it before the datamodule: ``class Mine(BalancedBatches, Cifar10DataModule)``. Training sets need ``labels``,
    ``(N,)``. Labels of validation and test stay as they are.

    Args:
        label_noise: probability that a training label is replaced by one of the others.
        classes_per_batch: classes of a training batch, equally many images of each; all by default.
        noise_seed: seed of the noise; that of the data by default.
        kwargs: as for the datamodule.
    """

    num_classes: int

    def __init__(
        self,
        label_noise: float = 0.0,
        classes_per_batch: int | None = None,
        noise_seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        symmetric_noise([], label_noise, self.num_classes)  # refuses a rate outside [0, 1]
        self.label_noise, self.classes_per_batch = label_noise, classes_per_batch
        self.noise_seed = self.seed if noise_seed is None else noise_seed

    def setup(self, stage: str) -> None:
        """Set up the data, then replace training labels."""
        super().setup(stage)
        if stage == "fit" and self.label_noise > 0:
            clean: Any = self.train_set
            labels = symmetric_noise(clean.labels, self.label_noise, self.num_classes, self.noise_seed)
            self.train_set = RelabelledDataset(clean, labels)

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced training batches."""
        data: Any = self.train_set
        sampler = BalancedSampler(
            data,
            data.labels,
            batch_size=self.batch_size,
            classes_per_batch=self.classes_per_batch,
            **self.shard(),
        )
        return self.batches(data, sampler, sampler.batch_size)
