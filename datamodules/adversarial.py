"""Attacked and clean images, for detectors of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.adversarial_pairs import PairFolder, Pairs, load_reference
from datamodules.base import ImageDataModule, as_float

__all__ = ["AdversarialDataModule"]


class PairDataset(Dataset[dict[str, Any]]):
    """Each pair as two samples, the image (0) and then the attacked image (1).

    The pixels come as bits, int32, since Lightning rounds floats on their way to a module in half precision; an attack
    lies in their last digits.

    Args:
        pairs: the pairs.
        attack: their attack.
    """

    def __init__(self, pairs: Pairs, attack: str) -> None:
        self.pairs, self.attack = pairs, attack

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One sample; ``group`` is the number of its pair, ``victim_class`` what the attacked classifier said of it."""
        index = draw[0] if isinstance(draw, tuple) else draw
        row, label = divmod(int(index), 2)
        pixels = (self.pairs.attacked if label else self.pairs.image)[row]
        number = int(self.pairs.number[row])
        return {
            "image": torch.from_numpy(pixels.copy()).view(torch.int32),
            "label": label,
            "victim_class": int((self.pairs.prediction if label else self.pairs.label)[row]),
            "path": f"{self.attack if label else 'clean'}/{number:05d}",
            "generator": self.attack if label else "clean",
            "group": number,
        }


class ReferenceImages(Dataset[dict[str, Any]]):
    """Training images of the victim with their classes."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One sample, float32 in [0, 1]."""
        index = draw[0] if isinstance(draw, tuple) else draw
        return {"image": as_float(torch.from_numpy(self.images[index])), "label": int(self.labels[index])}


class AdversarialDataModule(ImageDataModule):
    """Pairs that ``studies.spectral_defense attack`` has stored: 64 % to train, 16 % to validate, 20 % to test.

    A pair is never torn apart, and an image is in the same part whatever the attack.

    Args:
        root: folder of pairs, with a folder for each attack.
        attack: attack to train, validate and, by default, test on; the name of its folder.
        test_attacks: attacks to test on, one loader each: a row of the transfer matrix.
        val_fraction: expected share of the images to validate on.
        test_fraction: expected share of the images to test on.
        batch_size: images per batch and process.
        num_workers: loader processes.
        seed: seed of the split.
    """

    num_classes = 2

    def __init__(
        self,
        root: str,
        attack: str = "fgsm",
        test_attacks: Sequence[str] | None = None,
        val_fraction: float = 0.16,
        test_fraction: float = 0.2,
        batch_size: int = 100,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if val_fraction <= 0 or test_fraction <= 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must be positive and leave "
                "something to train on."
            )
        self.root, self.attack = Path(root), attack
        self.test_attacks = list(test_attacks or [attack])
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    def setup(self, stage: str) -> None:
        """Read the pairs.

        Raises:
            FileNotFoundError: if an attack has none.
            ValueError: if there are too few of them to be split.
        """
        if stage in ("fit", "validate"):
            parts = self._split(self.attack)
            self.train_set, self.val_set = (PairDataset(parts[part], self.attack) for part in ("train", "val"))
        else:
            self.test_sets = {name: PairDataset(self._split(name)["test"], name) for name in self.test_attacks}
            self.predict_set = self.test_sets[self.test_attacks[0]]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches, the last incomplete one included."""
        return self.loader(self.train_set, shuffle=True)

    def reference_dataloader(self) -> DataLoader[Any]:
        """Clean training images of the victim, ``label`` being their class; all of them for every process."""
        return DataLoader(dataset=ReferenceImages(*load_reference(self.root)), batch_size=self.batch_size)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turn bits into pixels."""
        return {**batch, "image": batch["image"].view(torch.float32)}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Leave the pixels alone."""
        return batch

    def plot(self, batch: dict[str, Any], columns: int = 8) -> Figure:
        """As in :class:`ImageDataModule`, also of a batch straight from a loader."""
        bits = batch["image"].dtype == torch.int32
        return super().plot(self.on_before_batch_transfer(batch, 0) if bits else batch, columns)

    def _split(self, attack: str) -> dict[str, Pairs]:
        pairs, _ = PairFolder(self.root / attack).read()
        parts = pairs.parts(self.seed, self.val_fraction, self.test_fraction)
        return {name: pairs[rows] for name, rows in parts.items()}
