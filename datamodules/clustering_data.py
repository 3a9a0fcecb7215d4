"""Small images to be clustered: CIFAR-10 and CIFAR-100 with label noise, and scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from datamodules.balanced_batches import BalancedBatches
from datamodules.base import ImageDataModule
from datamodules.cifar import Cifar10DataModule, Cifar100DataModule
from datamodules.labelled_images import LabelledImages
from datamodules.transforms import Augmentation

__all__ = ["Cifar10ClusteringDataModule", "Cifar100ClusteringDataModule", "DigitsDataModule"]


class Cifar10ClusteringDataModule(BalancedBatches, Cifar10DataModule):
    """CIFAR-10 in balanced batches, with noise on training labels if asked for.

    Args:
        label_noise: probability that a training label is replaced by one of the others.
        classes_per_batch: classes of a training batch, equally many images of each; all by default.
        noise_seed: seed of the noise; that of the data by default.
        kwargs: as for :class:`Cifar10DataModule`.
    """


class Cifar100ClusteringDataModule(BalancedBatches, Cifar100DataModule):
    """CIFAR-100 in balanced batches, with noise on training labels if asked for.

    Args:
        label_noise: probability that a training label is replaced by one of the others.
        classes_per_batch: classes of a training batch, equally many images of each; all by default.
        noise_seed: seed of the noise; that of the data by default.
        kwargs: as for :class:`Cifar100DataModule`.
    """


class Digits(ImageDataModule):
    """The 1797 handwritten digits that come with scikit-learn, 8 x 8 pixels, grey as three equal channels.

    The split is stratified. Validation looks at the test images: it is there to watch, and whoever lets it choose a
    checkpoint must not report the test figure of that.

    Args:
        train: number of training images; the others are for validation and test.
        image_size: side of the images; other than 8, they get a black border of one pixel and are resized (bicubic).
        augmentation: none by default; a mirrored digit is no digit.
        kwargs: as for :class:`ImageDataModule`.

    Raises:
        ValueError: if ``train`` leaves too few images on one side.
    """

    num_classes = 10

    def __init__(
        self, train: int = 1000, image_size: int = 8, augmentation: Augmentation | None = None, **kwargs: Any
    ) -> None:
        super().__init__(image_size=image_size, augmentation=augmentation or Augmentation(flip=0.0), **kwargs)
        if not 10 <= train <= 1787:
            raise ValueError(f"data.train={train}: between 10 and 1787 of the 1797 images.")
        self.train = train

    def setup(self, stage: str) -> None:
        """Read the images and split them."""
        digits = load_digits()
        pixels = self._pixels(digits.images)
        labels = digits.target.astype(np.int64)
        parts = train_test_split(
            np.arange(len(labels)), train_size=self.train, stratify=labels, random_state=self.seed % 2**32
        )
        names = np.array([f"digit_{index:04d}" for index in range(len(labels))])
        self.train_set, held_out = (LabelledImages(pixels[rows], labels[rows], names[rows]) for rows in parts)
        self.val_set, self.test_sets, self.predict_set = held_out, {"digits": held_out}, held_out

    def _pixels(self, images: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Bytes ``(N, image_size, image_size, 3)`` of images with values from 0 to 16, ``(N, 8, 8)``."""
        grey = torch.from_numpy(images / 16)[:, None]
        if self.image_size != 8:
            size = (self.image_size, self.image_size)
            grey = F.interpolate(F.pad(grey, (1, 1, 1, 1)), size, mode="bicubic", align_corners=False).clamp(0, 1)
        return (grey[:, 0, ..., None] * 255).round().byte().numpy().repeat(3, axis=-1)


class DigitsDataModule(BalancedBatches, Digits):
    """scikit-learn's digits in balanced batches, with noise on training labels if asked for.

    Args:
        label_noise: probability that a training label is replaced by one of the others.
        classes_per_batch: classes of a training batch, equally many images of each; all by default.
        noise_seed: seed of the noise; that of the data by default.
        kwargs: as for :class:`Digits`.
    """
