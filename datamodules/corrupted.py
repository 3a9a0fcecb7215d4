"""Published corrupted test sets (Hendrycks and Dietterich 2019) as they are distributed: CIFAR-10-C and ImageNet-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from datamodules.base import ImageDataModule
from datamodules.labelled_images import LabelledImages

__all__ = ["CorruptedCifar10DataModule", "CorruptedImageNetDataModule", "FolderImages"]

_SEVERITIES = (1, 2, 3, 4, 5)
_SUFFIXES = (".jpeg", ".jpg", ".png")


class FolderImages(Dataset[dict[str, Any]]):
    """Images in one folder per class, decoded when they are asked for.

    Args:
        folder: holds the classes' folders.
        classes: their names, in the order of the labels.

    Raises:
        ValueError: if the folder has a class that is not among them, or no images.
    """

    def __init__(self, folder: Path, classes: list[str]) -> None:
        unknown = {path.name for path in folder.iterdir() if path.is_dir()} - set(classes)
        if unknown:
            raise ValueError(f"{folder} has the class {min(unknown)!r}, which other conditions lack.")
        self.items = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        if not self.items:
            raise ValueError(f"{folder} holds no images of the form <class>/<name>.JPEG.")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One sample."""
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        path, label = self.items[index]
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "label": label, "path": str(path), "seed": seed}


class _TestOnly(ImageDataModule):
    """Data with test loaders only, named ``<corruption>@<severity>``."""

    def __init__(self, root: str, corruptions: list[str] | None = None, image_size: int = 32, **kwargs: Any) -> None:
        super().__init__(image_size=image_size, **kwargs)
        self.root, self.corruptions = Path(root), corruptions

    def setup(self, stage: str) -> None:
        """Find the corruptions.

        Raises:
            ValueError: on any stage but ``test`` and ``predict``, or if a corruption is not there.
        """
        if stage not in ("test", "predict"):
            raise ValueError(f"{type(self).__name__} has test images only: run test or predict, not {stage}.")
        there = self.found()
        wanted = self.corruptions or there
        if missing := [name for name in wanted if name not in there]:
            raise ValueError(f"data.corruptions: {missing[0]!r} is not in {self.root}; there are {', '.join(there)}.")
        if not wanted:
            raise FileNotFoundError(f"data.root={str(self.root)!r} holds no corruptions.")
        self.test_sets = {f"{name}@{level}": self.part(name, level) for name in wanted for level in _SEVERITIES}
        self.predict_set = next(iter(self.test_sets.values()))

    def found(self) -> list[str]:
        """Names of the corruptions in the folder."""
        raise TypeError(f"{type(self).__name__} must say what is in its folder.")

    def part(self, corruption: str, severity: int) -> Dataset[dict[str, Any]]:
        """One corruption at one severity."""
        raise TypeError(f"{type(self).__name__} must say how it reads.")


class CorruptedCifar10DataModule(_TestOnly):
    """CIFAR-10-C: a test loader for each corruption and severity, and a mean over corruptions for each severity.

    Args:
        root: folder of ``labels.npy`` and ``<corruption>.npy``, uint8, five severities of equally many images one after
            the other.
        corruptions: which ones; all by default.
        kwargs: as for :class:`ImageDataModule`.
    """

    num_classes = 10

    def __init__(self, root: str = "data/CIFAR-10-C", corruptions: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(root, corruptions, **kwargs)

    def found(self) -> list[str]:
        """Names of the files but ``labels.npy``."""
        return sorted(path.stem for path in self.root.glob("*.npy") if path.stem != "labels")

    def part(self, corruption: str, severity: int) -> LabelledImages:
        """Rows of one severity; only what is looked at is read.

        Raises:
            ValueError: if the file is of another form.
        """
        labels: NDArray[np.int64] = np.load(self.root / "labels.npy", allow_pickle=False).astype(np.int64)
        images = np.load(self.root / f"{corruption}.npy", mmap_mode="r", allow_pickle=False)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels) or len(labels) % 5:
            raise ValueError(
                f"{self.root / corruption}.npy is {images.dtype} {images.shape} with {len(labels)} labels; needed are "
                "uint8 images (5 N, H, W, 3) and as many labels."
            )
        count = len(labels) // 5
        rows = slice((severity - 1) * count, severity * count)
        names = np.array([f"{corruption}/{severity}/{number:05d}" for number in range(count)])
        return LabelledImages(images[rows], labels[rows], names)


class CorruptedImageNetDataModule(_TestOnly):
    """ImageNet-C: a test loader for each corruption and severity, and a mean over corruptions for each severity.

    Args:
        root: folder of ``<corruption>/<severity>/<class>/<name>.JPEG``; groups such as ``noise/`` may lie above the
            corruptions. Classes are numbered by their sorted names.
        corruptions: which ones; all by default.
        image_size: side of the centre crop.
        kwargs: as for :class:`ImageDataModule`.
    """

    num_classes = 1000

    def __init__(
        self,
        root: str = "data/ImageNet-C",
        corruptions: list[str] | None = None,
        image_size: int = 224,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, corruptions, image_size=image_size, **kwargs)
        self._folders: dict[str, Path] = {}

    def found(self) -> list[str]:
        """Names of the folders that hold the folders 1 to 5."""
        levels = [*self.root.glob("*/1"), *self.root.glob("*/*/1")]
        self._folders = {path.parent.name: path.parent for path in levels if path.is_dir()}
        return sorted(self._folders)

    def part(self, corruption: str, severity: int) -> FolderImages:
        """One folder.

        Raises:
            FileNotFoundError: if a severity is missing.
        """
        folder = self._folders[corruption] / str(severity)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: each corruption has the folders 1 to 5.")
        classes = sorted(path.name for path in (self._folders[corruption] / "1").iterdir() if path.is_dir())
        return FolderImages(folder, classes)
