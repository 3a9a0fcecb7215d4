"""Images per second from files to augmented batches, against torchvision's ImageFolder doing all in the workers.

Run ``python benchmarks/data_pipeline.py [--images 512] [--workers 2]``. Both read the same JPEG and PNG files, crop a
random part of 8 % to all of the area to 224 pixels and flip. Ours also re-saves the fakes as JPEG 96 in a third line.
Then crops of 224 pixels without a resize, with the codec nowhere, on the device, and in the workers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules import RealFakeDataModule


def write_files(root: Path, count: int) -> None:
    """Smooth random pictures: reals as JPEG of 500 x 375, fakes as PNG of 512 x 512."""
    rng = np.random.default_rng(0)
    for index in range(count):
        fake = index % 2
        size = (512, 512) if fake else (500, 375)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 4, (size[1], size[0], 3))
        image = Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))
        folder = root / ("fake" if fake else "real")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / (f"{index}.png" if fake else f"{index}.jpg"), **({} if fake else {"quality": 96}))


def ours(root: Path, workers: int, batch: int, fake_quality: int | None, **options: Any) -> Callable[[], int]:
    """A pass over the datamodule, the pipeline on the device included."""
    data: Any = RealFakeDataModule(
        root=str(root),
        image_size=224,
        fake_quality=fake_quality,
        val_fraction=0.02,
        test_fraction=0.0,
        batch_size=batch,
        num_workers=workers,
        cache_dir=str(root / "cache"),
        **options,
    )
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    data.trainer = SimpleNamespace(training=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def run() -> int:
        seen = 0
        for item in loader:
            item = data.on_before_batch_transfer(item, 0)
            item["image"] = item["image"].to(device, non_blocking=True)
            seen += len(data.on_after_batch_transfer(item, 0)["image"])
        return seen

    return run


def torchvision(root: Path, workers: int, batch: int) -> Callable[[], int]:
    """A pass over ImageFolder with torchvision's transforms in the workers."""
    transform = v2.Compose(
        [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    )
    folder = ImageFolder(
        str(root), transform, is_valid_file=lambda path: path.endswith((".jpg", ".png")), allow_empty=True
    )
    loader = DataLoader(
        dataset=folder, batch_size=batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda: sum(len(images.to(device)) for images, _ in loader)


def rate(run: Callable[[], int]) -> float:
    """Images per second of one pass."""
    start = time.perf_counter()
    seen = run()
    return seen / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, options.images)
        passes = {
            "torchvision ImageFolder": torchvision(root, options.workers, options.batch),
            "RealFakeDataModule": ours(root, options.workers, options.batch, None, crop="resized"),
            "  fakes re-saved as JPEG 96": ours(root, options.workers, options.batch, 96, crop="resized"),
            "  crops without resize": ours(root, options.workers, options.batch, None),
            "    JPEG 96 on the device": ours(root, options.workers, options.batch, 96, codec="device"),
            "    JPEG 96 in the workers": ours(root, options.workers, options.batch, 96, codec="pillow"),
        }
        for run in passes.values():
            run()  # starts the workers and warms the file cache
        rates = {name: [] for name in passes}
        for _ in range(options.rounds):
            for name, run in passes.items():
                rates[name].append(rate(run))
        print(f"{options.workers} workers, batch {options.batch}, crops of 224 from files of about 500 pixels")
        reference = statistics.median(next(iter(rates.values())))
        for name, measured in rates.items():
            median = statistics.median(measured)
            print(f"{name:28s}  {median:7.0f} images/s, ratio {median / reference:.2f}")


if __name__ == "__main__":
    main()
