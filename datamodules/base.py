"""The batch contract, and the datamodule that all image datamodules share.

A batch is a dictionary:

=============  ==========================================================================================
``image``      float32 ``(B, 3, H, W)`` in [0, 1] when it reaches the module (uint8 until it is on the device)
``label``      int64 ``(B,)``; for detectors 0 = real, 1 = fake; -1 where it is unknown
``path``       list of B file names
``generator``  list of B names: ``real`` or the generator that made the image
``views``      float32 ``(B, V, 3, H, W)``, augmented versions of training images, only if asked for
``native_size``  int64 ``(B, 2)``, height and width of the file's image
``crop_offset``  int64 ``(B, 2)``, top and left of the crop, -1 where a resize came after; for training images before
               what the pipeline does
``mask``, ``attributes``, ``group``, ``support_*``, ``query_*``: by need
=============  ==========================================================================================

Pixels stay in [0, 1] up to the network's door. Data flows one way: file, worker (decode, crop), batch, device
(:meth:`ImageDataModule.on_after_batch_transfer`), module.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.sampling import SeededSampler
from datamodules.transforms import Augmentation, compress_windows, eval_pipeline, train_pipeline, view_pipeline

__all__ = ["ImageDataModule"]


class ImageDataModule(LightningDataModule):
    """Loaders with seeded samplers, and the on-device pipeline.

    Subclasses set ``train_set``, ``val_set``, ``test_sets`` and ``predict_set`` in ``setup`` and, if the number of
    classes is fixed, a class attribute ``num_classes``, which the command line passes on to the model.

    Args:
        image_size: side of the square images that reach the model.
        batch_size: images per batch and process.
        num_workers: loader processes; by default the CPU cores that this process can count on, at most 8.
        seed: seed of splits and of the order of training images (together with ``seed_everything``).
        augmentation: random changes of training images on the device.
        augmented_views: further versions of each training image, for consistency losses.
        crop_size: side of the square that workers hand over for training, before the pipeline on the device brings it
            to ``image_size``; ``image_size`` by default.
    """

    train_set: Dataset[Any]
    val_set: Dataset[Any]
    predict_set: Dataset[Any]

    def __init__(
        self,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        augmented_views: int = 0,
        crop_size: int | None = None,
    ) -> None:
        super().__init__()
        if min(image_size or 0, batch_size or 0) < 1:  # a config's null comes as None
            raise ValueError(f"data.image_size={image_size} and data.batch_size={batch_size} must be at least 1.")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"data.num_workers={num_workers} must be at least 0.")
        if seed < 0:
            raise ValueError(f"data.seed={seed} must not be negative.")
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = _available_cores() if num_workers is None else num_workers
        self.seed = seed
        self.augmented_views = augmented_views
        augmentation = augmentation or Augmentation()
        self.crop_size = crop_size or image_size
        if self.crop_size < image_size:
            raise ValueError(
                f"data.crop_size={crop_size} is smaller than data.image_size={image_size}; raise the one or "
                "lower the other."
            )
        with_views = augmented_views > 0
        self.train_pipeline: nn.Module = train_pipeline(augmentation, image_size, self.crop_size, with_views)
        self.view_pipeline: nn.Module = view_pipeline(augmentation)
        self.eval_pipeline: nn.Module = eval_pipeline(image_size)
        self.test_sets: dict[str, Dataset[Any]] = {}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches; a last incomplete batch is dropped unless it is the only one."""
        size = len(self.train_set)  # type: ignore[arg-type]
        return self.loader(self.train_set, shuffle=True, drop_last=size >= self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in a fixed order."""
        return self.loader(self.val_set)

    def test_dataloader(self) -> dict[str, DataLoader[Any]]:
        """Named test loaders."""
        return {name: self.loader(test_set) for name, test_set in self.test_sets.items()}

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of images without labels."""
        return self.loader(self.predict_set)

    def loader(self, dataset: Dataset[Any], shuffle: bool = False, drop_last: bool = False) -> DataLoader[Any]:
        """Loader over this process's share of a data set.

        Raises:
            ValueError: if there are no images, or fewer than processes.
        """
        trainer = self.trainer
        if trainer is not None and not len(dataset):  # type: ignore[arg-type]
            raise ValueError("data: there are no images for one of the parts; look at its splits and fractions.")
        if trainer is not None and len(dataset) < trainer.world_size:  # type: ignore[arg-type]
            raise ValueError(
                f"{len(dataset)} images cannot be shared by {trainer.world_size} processes; "  # type: ignore[arg-type]
                "lower trainer.devices."
            )
        sampler = SeededSampler(dataset, shuffle=shuffle, **self.shard())
        return self.batches(dataset, sampler, self.batch_size, drop_last)

    def shard(self) -> dict[str, Any]:
        """Arguments that every sampler takes: seed, current epoch, and this process's place among all."""
        trainer = self.trainer
        return {
            "seed": self.seed + (int(os.environ.get("PL_GLOBAL_SEED", "0")) << 32),
            "epoch": lambda: _next_epoch(trainer) if trainer is not None else 0,
            "num_replicas": trainer.world_size if trainer is not None else 1,
            "rank": trainer.global_rank if trainer is not None else 0,
        }

    def batches(
        self, dataset: Dataset[Any], sampler: Sampler[Any], batch_size: int, drop_last: bool = False
    ) -> DataLoader[Any]:
        """Loader with this datamodule's workers."""
        return DataLoader(
            dataset=dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Take what is needed as numbers, such as the seed of the first sample, without waiting for the device."""
        if isinstance(seeds := batch.get("seed"), Tensor):
            batch["seed"] = int(seeds[0])
        if "codec" in batch:
            batch["codec"] = {key: value.tolist() for key, value in batch["codec"].items()}
        return batch

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Compress and crop windows, and run the pipeline, on the device; random draws come from the batch's seed."""
        seed, codec = batch.pop("seed", None), batch.pop("codec", None)
        images = as_float(batch["image"] if codec is None else compress_windows(batch["image"], codec))
        if self.trainer is None or not self.trainer.training:
            batch["image"] = self.eval_pipeline(images)
            return batch
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            if seed is not None:
                torch.manual_seed(int(seed))
            batch["image"] = images = self.train_pipeline(images)
            if self.augmented_views:
                views = [self.view_pipeline(images) for _ in range(self.augmented_views)]
                batch["views"] = torch.stack(views, dim=1)
        return batch

    def plot(self, batch: dict[str, Any], columns: int = 8) -> Figure:
        """Labelled sheet of a batch.

        Args:
            batch: as above; ``image`` in [0, 1] or uint8.
            columns: pictures per row.

        Returns:
            A matplotlib figure, not shown.
        """
        images = as_float(batch["image"]).permute(0, 2, 3, 1).cpu().numpy()
        rows = -(-len(images) // columns)
        figure = Figure(figsize=(1.6 * columns, 1.8 * rows), layout="constrained")
        for index, (axes, image) in enumerate(
            zip(figure.subplots(rows, columns, squeeze=False).flat, images, strict=False)
        ):
            axes.imshow(image)
            axes.set_title(batch["generator"][index] if "generator" in batch else str(int(batch["label"][index])))
        for axes in figure.axes:
            axes.set_axis_off()
        return figure


def _next_epoch(trainer: Trainer) -> int:
    """Epoch that an iterator made now is for; ``trainer.current_epoch`` lags while a run is being resumed."""
    loop = trainer.fit_loop
    progress: Any = loop.epoch_progress.current
    # A checkpoint written after an epoch's validation comes before Lightning counts the epoch.
    uncounted = progress.processed == progress.started - 1 and loop.epoch_loop.batch_progress.is_last_batch
    return int(progress.processed + (loop.restarting and uncounted))


def as_float(images: Tensor) -> Tensor:
    """Images in [0, 1] as float32, from uint8 in 0..255 or from floats in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _available_cores() -> int:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, len(os.sched_getaffinity(0)) // processes if hasattr(os, "sched_getaffinity") else 2))
