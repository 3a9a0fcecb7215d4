"""Classified images in memory, part of the training ones held out for validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.base import ImageDataModule

__all__ = ["HeldOutImages", "LabelledImages", "Pixels"]

Pixels = NDArray[np.uint8]


class LabelledImages(Dataset[dict[str, Any]]):
    """Images in memory.

    Args:
        images: uint8, shape ``(N, H, W, 3)``.
        labels: classes from 0, shape ``(N,)``.
        names: a name for each image.
    """

    def __init__(self, images: Pixels, labels: NDArray[np.int64], names: NDArray[np.str_]) -> None:
        self.images, self.labels, self.names = images, labels, names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One sample."""
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        image = torch.from_numpy(self.images[index].transpose(2, 0, 1).copy())
        return {"image": image, "label": int(self.labels[index]), "path": str(self.names[index]), "seed": seed}


class HeldOutImages(ImageDataModule):
    """Base of data sets that come as training and test images; the test images choose nothing.

    Subclasses say in ``part`` where the images are.

    Args:
        val_fraction: share of the training images to validate on, in (0, 1).
        kwargs: as for :class:`ImageDataModule`.

    Raises:
        ValueError: if the share lies outside.
    """

    def __init__(self, val_fraction: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction={val_fraction} must lie between 0 and 1.")
        self.val_fraction = val_fraction

    def part(self, part: str) -> tuple[Pixels, NDArray[np.int64], NDArray[np.str_]]:
        """Images ``(N, H, W, 3)``, labels ``(N,)`` and names ``(N,)`` of ``train`` or ``test``."""
        raise TypeError(f"{type(self).__name__} must say where its images are: define part(part).")

    def setup(self, stage: str) -> None:
        """Read the images, and draw those that are held out."""
        if stage in ("fit", "validate"):
            images, labels, names = self.part("train")
            order = np.random.default_rng(self.seed).permutation(len(labels))
            held_out = max(1, round(self.val_fraction * len(labels)))
            self.val_set, self.train_set = (
                LabelledImages(images[rows], labels[rows], names[rows])
                for rows in (np.sort(order[:held_out]), np.sort(order[held_out:]))
            )
        else:
            test = LabelledImages(*self.part("test"))
            self.test_sets, self.predict_set = {"test": test}, test
