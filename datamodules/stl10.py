"""STL-10 (Coates et al. 2011): 100,000 images without labels and 13,000 with, 96 x 96 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.datasets import STL10

from datamodules.base import ImageDataModule
from datamodules.labelled_images import LabelledImages

__all__ = ["Stl10DataModule"]


class Stl10DataModule(ImageDataModule):
    """STL-10 from torchvision's files: training on unlabelled images, scores on labelled ones.

    Args:
        root: folder of torchvision's files (``stl10_binary``).
        download: fetch them into ``root`` (2.6 GB, network access).
        unlabelled: train on the unlabelled images too; their label is -1.
        image_size: side that the images are resized to, at most 96.
        kwargs: as for :class:`ImageDataModule`.

    Raises:
        ValueError: if the images would be enlarged.
    """

    num_classes = 10

    def __init__(
        self, root: str = "data", download: bool = False, unlabelled: bool = True, image_size: int = 96, **kwargs: Any
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        if image_size > 96:
            raise ValueError(f"data.image_size={image_size}: the images of STL-10 have 96 pixels.")
        self.root, self.download, self.unlabelled = root, download, unlabelled

    def prepare_data(self) -> None:
        """Download, if asked to."""
        if self.download:
            STL10(self.root, split="train", download=True)

    def setup(self, stage: str) -> None:
        """Read the images; validation and test look at the labelled test images, whose labels choose nothing.

        Raises:
            FileNotFoundError: if they are not there.
        """
        if stage in ("fit", "validate"):
            self.train_set = self._part("train+unlabeled" if self.unlabelled else "train")
        held_out = self._part("test")
        self.val_set, self.test_sets, self.predict_set = held_out, {"test": held_out}, held_out

    def _part(self, split: str) -> LabelledImages:
        try:
            stored = STL10(self.root, split=split)
        except (RuntimeError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"data.root={self.root!r} holds no STL10 as torchvision keeps it: set data.download to true."
            ) from error
        names = np.array([f"{split}/{number:06d}" for number in range(len(stored.labels))])
        return LabelledImages(self._resized(stored.data), stored.labels.astype(np.int64), names)

    def _resized(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bytes ``(N, S, S, 3)`` of bytes ``(N, 3, 96, 96)``, in parts: floats take four times the room."""
        if self.image_size == images.shape[-1]:
            return images.transpose(0, 2, 3, 1)
        size = (self.image_size, self.image_size)
        parts = [
            F.interpolate(torch.from_numpy(part).float(), size, mode="bilinear", antialias=True).round().byte()
            for part in np.array_split(images, -(-len(images) // 4096))
        ]
        return torch.cat(parts).permute(0, 2, 3, 1).numpy()
