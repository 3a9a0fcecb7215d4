"""Cost of ``RobustnessIndicators`` at its default settings, as a share of training with validation.

Run ``python benchmarks/robustness_indicators.py [--images 9000] [--validation 1000] [--epochs 5]``. A CIFAR ResNet-20
is trained on noise, with and without the callback, in one process; the callback's hooks are timed and set against all
else of the fit. Prints both, and the share, which is to be at most 5 %. Counted is the time that the process's threads
ran, so that other users of the machine do not matter.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, Dataset

from callbacks import RobustnessIndicators
from lightning_modules import ImageClassifier


class Noise(Dataset[dict[str, Any]]):
    """Images of noise around a level that their class gives.

    Args:
        count: number of images.
    """

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 10
        self.images = torch.rand(count, 3, 32, 32, generator=generator) * 0.5 + self.labels[:, None, None, None] / 20

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample."""
        return {"image": self.images[index], "label": int(self.labels[index])}


class Timed(RobustnessIndicators):
    """Adds up the time of the hooks that do the work."""

    seconds = 0.0

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Timed."""
        start = time.process_time()
        super().on_validation_batch_end(*args, **kwargs)
        self.seconds += time.process_time() - start

    def on_validation_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Timed."""
        start = time.process_time()
        super().on_validation_epoch_end(*args, **kwargs)
        self.seconds += time.process_time() - start


class Clock(Callback):
    """Time of the fit without the time before its first epoch."""

    def on_train_start(self, *args: object) -> None:
        """Start."""
        self.start = time.process_time()

    def on_train_end(self, *args: object) -> None:
        """Stop."""
        self.seconds = time.process_time() - self.start


def main() -> None:
    """Train, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    watcher, clock = Timed(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=options.epochs,
            callbacks=[clock, watcher],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        training, validation = (
            DataLoader(dataset=Noise(count), batch_size=128, drop_last=False)
            for count in (options.images, options.validation)
        )
        trainer.fit(ImageClassifier("cifar_resnet20", num_classes=10, image_size=32), training, validation)
    rest = clock.seconds - watcher.seconds
    print(f"fit of {options.epochs} epochs {rest:.2f} s, callback {watcher.seconds:.2f} s")
    print(f"share added: {100 * watcher.seconds / rest:.1f} %")


if __name__ == "__main__":
    main()
