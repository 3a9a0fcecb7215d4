"""Fixed samples to look at a module with, apart from the training's own loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

__all__ = ["cast", "fixed_batches"]


def fixed_batches(trainer: Trainer, module: LightningModule, split: str, samples: int, batch_size: int) -> list[Any]:
    """Batches on the module's device after the datamodule's evaluation pipeline, the same on every process.

    Args:
        trainer: whose loaders say where the samples come from.
        module: to whose device they are brought.
        split: ``train`` or ``val``.
        samples: number of samples, spread evenly over the data set; all if it has fewer.
        batch_size: samples at a time.

    Raises:
        TypeError: if the loader reads a stream.
    """
    loader = _loader(trainer, split)
    stage, trainer.state.stage = trainer.state.stage, RunningStage.VALIDATING  # no augmentation on the device
    try:
        return [
            trainer.strategy.batch_to_device(batch, module.device, dataloader_idx=0)
            for batch in _spread_samples(loader, samples, batch_size)
        ]
    finally:
        trainer.state.stage = stage


def cast(item: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in a precision, images channels last, which convolutions on a CPU like best."""
    if isinstance(item, Tensor):
        item = item.to(dtype) if item.is_floating_point() else item
        return item.contiguous(memory_format=torch.channels_last) if item.ndim == 4 else item
    if isinstance(item, dict):
        return {key: cast(value, dtype) for key, value in item.items()}
    if isinstance(item, list | tuple) and not hasattr(item, "_fields"):
        return type(item)(cast(value, dtype) for value in item)
    return item


def _loader(trainer: Trainer, split: str) -> DataLoader[Any]:
    loaders: Any = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
    datamodule: Any = getattr(trainer, "datamodule", None)
    if loaders is None and datamodule is not None:
        if split == "train":
            datamodule.setup("fit")
        loaders = datamodule.train_dataloader() if split == "train" else datamodule.val_dataloader()
    loaders = list(loaders.values()) if isinstance(loaders, dict) else loaders
    loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            f"split={split}: landscapes and Hessians need a DataLoader over a data set of known length, got "
            f"{type(loader).__name__}."
        )
    return loader


def _spread_samples(loader: DataLoader[Any], samples: int, batch_size: int) -> DataLoader[Any]:
    """A loader of its own over evenly spread samples, in order."""
    length = len(loader.dataset)  # type: ignore[arg-type]
    indices: Sequence[Any] = np.unique(np.linspace(0, length - 1, min(samples, length)).round().astype(int)).tolist()
    if loader.batch_sampler is not None:
        drawn = next(iter(loader.batch_sampler))[0]
        if isinstance(drawn, tuple):  # data sets that are indexed by number and seed
            indices = [(index, index) for index in indices]
    return DataLoader(
        dataset=loader.dataset, batch_size=batch_size, sampler=indices, collate_fn=loader.collate_fn, num_workers=0
    )
