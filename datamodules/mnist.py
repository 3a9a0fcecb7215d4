"""MNIST (LeCun et al. 1998), from its four ``idx`` files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import MNIST

from datamodules.labelled_images import HeldOutImages, Pixels
from datamodules.transforms import Augmentation

__all__ = ["MnistDataModule"]

_TYPE_UNSIGNED_BYTE = 8


class MnistDataModule(HeldOutImages):
    """Handwritten digits, 28 x 28 pixels, grey as three equal channels.

    Part of the training images is held out for validation; the test images choose nothing.

    Args:
        root: folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``, each with
            ``.gz`` or without, or of torchvision's ``MNIST/raw``.
        download: fetch the files into ``root`` (network access).
        val_fraction: share of the training images to validate on, in (0, 1).
        image_size: side of the images that reach the model, at most 28.
        augmentation: none by default; a mirrored digit is no digit.
        kwargs: as for :class:`ImageDataModule`.
    """

    num_classes = 10

    def __init__(
        self,
        root: str = "data/mnist",
        download: bool = False,
        val_fraction: float = 0.125,
        image_size: int = 28,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ) -> None:
        augmentation = augmentation or Augmentation(flip=0.0)
        super().__init__(val_fraction=val_fraction, image_size=image_size, augmentation=augmentation, **kwargs)
        self.root, self.download = Path(root), download

    def prepare_data(self) -> None:
        """Download, if asked to."""
        if self.download:
            MNIST(str(self.root), download=True)

    def part(self, part: str) -> tuple[Pixels, NDArray[np.int64], NDArray[np.str_]]:
        """Images, labels and names of ``train`` or ``test``.

        Raises:
            FileNotFoundError: if they are not there.
            ValueError: if a file is of another form.
        """
        part = {"test": "t10k"}.get(part, part)
        images = _read_idx(self._find(f"{part}-images-idx3-ubyte"), 3)
        labels = _read_idx(self._find(f"{part}-labels-idx1-ubyte"), 1)
        if len(images) != len(labels) or (len(labels) and labels.max() >= self.num_classes):
            raise ValueError(
                f"data.root={str(self.root)!r}: {len(images)} images of {part} and {len(labels)} labels, "
                "which must be as many, and below 10."
            )
        names = np.array([f"{part}/{number:05d}" for number in range(len(labels))])
        return images[..., None].repeat(3, axis=-1), labels.astype(np.int64), names

    def _find(self, name: str) -> Path:
        places = [self.root / folder / f"{name}{end}" for folder in ("", "MNIST/raw") for end in ("", ".gz")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"data.root={str(self.root)!r} holds no {name} or {name}.gz; set data.download to true to fetch it."
            )
        return found


def _read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Unsigned bytes of an ``idx`` file: two zeros, type, number of dimensions, big-endian sizes, and the values."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if len(content) < 4 + 4 * dimensions or content[:4] != bytes((0, 0, _TYPE_UNSIGNED_BYTE, dimensions)):
        raise ValueError(f"{str(file)!r} is no idx file of {dimensions}-dimensional bytes.")
    shape = np.frombuffer(content, ">u4", dimensions, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(values) != int(shape.prod()):
        raise ValueError(f"{str(file)!r} holds {len(values)} values, its header says {tuple(map(int, shape))}.")
    return values.reshape(tuple(map(int, shape)))
