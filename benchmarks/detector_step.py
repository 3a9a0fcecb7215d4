"""Step time of ``ImageDetector`` under Lightning against a plain PyTorch loop on the same batches and network.

Run ``python benchmarks/detector_step.py [--device cuda] [--steps 40] [--rounds 5]``. Prints the median step time of
both, interleaved round by round, and their ratio; the goal is a ratio of at most 1.05.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from itertools import pairwise

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from callbacks import SeedPerRank
from lightning_modules import ImageDetector


class StepTimes(Callback):
    """Time between the ends of two training steps, in seconds; the first steps are warm-up."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: object) -> None:
        """Note the time once the device is done."""
        synchronise()
        self.ends.append(time.perf_counter())


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_detector(backbone: str, size: int) -> ImageDetector:
    """The detector both loops train, always from the same weights."""
    torch.manual_seed(0)
    return ImageDetector(backbone, image_size=size, optimizer=torch.optim.AdamW)


def lightning_steps(detector: ImageDetector, loader: DataLoader, device: str) -> float:
    """Median step time in seconds, with progress bar, CSV log and per-batch seeding as in a normal run."""
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=CSVLogger(folder),
            callbacks=[SeedPerRank(), times],
        )
        trainer.fit(detector, loader)
    return median_step(times.ends)


def plain_steps(detector: ImageDetector, loader: DataLoader, device: str) -> float:
    """Median step time in seconds of the loop that one would write by hand."""
    detector.to(device).train()
    optimizer = torch.optim.AdamW(detector.parameters())
    ends: list[float] = []
    for batch in loader:
        images, labels = batch["image"].to(device), batch["label"].to(device)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(detector(images), labels)
        loss.backward()
        optimizer.step()
        synchronise()
        ends.append(time.perf_counter())
    return median_step(ends)


def median_step(ends: list[float]) -> float:
    """Median of the differences, without the first five."""
    return statistics.median(b - a for a, b in pairwise(ends[5:]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    samples = [
        {"image": torch.rand(3, options.size, options.size), "label": index % 2, "path": ""}
        for index in range(options.batch * 4)
    ]
    loader = DataLoader(
        dataset=torch.utils.data.ConcatDataset([samples] * (options.steps // 4)), batch_size=options.batch
    )
    lightning, plain = [], []
    for _ in range(options.rounds):
        lightning.append(lightning_steps(make_detector(options.backbone, options.size), loader, options.device))
        plain.append(plain_steps(make_detector(options.backbone, options.size), loader, options.device))
    ratios = [a / b for a, b in zip(lightning, plain, strict=True)]
    print(f"\n{options.backbone}, batch {options.batch} of {options.size} x {options.size}, {options.device}")
    print(f"Lightning   {1e3 * statistics.median(lightning):8.2f} ms per step")
    print(f"plain loop  {1e3 * statistics.median(plain):8.2f} ms per step")
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"ratio       {statistics.median(ratios):8.3f} (median of {options.rounds} rounds, {spread})")


if __name__ == "__main__":
    main()
