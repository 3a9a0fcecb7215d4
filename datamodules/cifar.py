"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from torchvision's files or from one ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100

from datamodules.labelled_images import HeldOutImages, Pixels

__all__ = ["Cifar10DataModule", "Cifar100DataModule"]


class Cifar10DataModule(HeldOutImages):
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes, 32 x 32 pixels.

    Part of the training images is held out for validation; the test images choose nothing.

    Args:
        root: folder of torchvision's files (``cifar-10-batches-py``), not read where ``file`` is given.
        file: ``.npz`` with ``x_train``, ``x_test`` (uint8, ``(N, H, W, 3)``), ``y_train``, ``y_test`` (classes from 0)
            and optionally names, ``id_train`` and ``id_test``.
        download: fetch torchvision's files into ``root`` (network access).
        val_fraction: share of the training images to validate on, in (0, 1).
        image_size: side of the images that reach the model, at most that of the file's.
        kwargs: as for :class:`ImageDataModule`.
    """

    num_classes = 10
    dataset: ClassVar[type[CIFAR10]] = CIFAR10

    def __init__(
        self,
        root: str = "data",
        file: str | None = None,
        download: bool = False,
        val_fraction: float = 0.1,
        image_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(val_fraction=val_fraction, image_size=image_size, **kwargs)
        self.root, self.file, self.download = root, file, download

    def prepare_data(self) -> None:
        """Download, if asked to."""
        if self.download and self.file is None:
            self.dataset(self.root, download=True)

    def part(self, part: str) -> tuple[Pixels, NDArray[np.int64], NDArray[np.str_]]:
        """Images, labels and names of ``train`` or ``test``.

        Raises:
            FileNotFoundError: if they are not there.
            ValueError: if the ``.npz`` is of another form.
        """
        if self.file is not None:
            return self._from_file(part)
        try:
            stored = self.dataset(self.root, train=part == "train")
        except RuntimeError as error:
            raise FileNotFoundError(
                f"data.root={self.root!r} holds no {self.dataset.__name__} as torchvision keeps it: set data.download "
                "to true, or name an .npz with data.file."
            ) from error
        names = np.array([f"{part}/{number:05d}" for number in range(len(stored.targets))])
        return stored.data, np.asarray(stored.targets, np.int64), names

    def _from_file(self, part: str) -> tuple[Pixels, NDArray[np.int64], NDArray[np.str_]]:
        file = Path(str(self.file))
        if not file.is_file():
            raise FileNotFoundError(f"data.file: there is no {str(file)!r}.")
        with np.load(file, allow_pickle=False) as arrays:
            missing = {f"x_{part}", f"y_{part}"} - set(arrays.files)
            if missing:
                raise ValueError(f"data.file={str(file)!r} lacks {', '.join(sorted(missing))}; it has {arrays.files}.")
            images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64).reshape(-1)
            names = (
                arrays[f"id_{part}"]
                if f"id_{part}" in arrays.files
                else np.array([f"{part}/{number:05d}" for number in range(len(labels))])
            )
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) != len(labels):
            raise ValueError(
                f"data.file={str(file)!r}: x_{part} is {images.dtype} {images.shape} with {len(labels)} labels; needed "
                "are uint8 images of shape (N, H, W, 3) and as many labels."
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"data.file={str(file)!r}: labels {labels.min()} to {labels.max()}; {type(self).__name__} has "
                f"{self.num_classes} classes, numbered from 0."
            )
        return images, labels, names


class Cifar100DataModule(Cifar10DataModule):
    """CIFAR-100: 50,000 training and 10,000 test images of a hundred classes, 32 x 32 pixels."""

    num_classes = 100
    dataset = CIFAR100
