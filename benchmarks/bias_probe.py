"""Cost of a condition of ``BiasProbe`` in units of a plain evaluation, decoding included.

Run ``python benchmarks/bias_probe.py [--backbone resnet18] [--size 224] [--images 32] [--rounds 3]``. A detector is
tested on JPEG and PNG files of about 500 pixels, without a probe, with one that only scores the clean images again, and
with one of each degradation alone. Prints the time added per condition over that of the test without a probe, which is
to be at most 1.2, and at the end its mean over all conditions. Tables and pictures are not in the times. Where others
use the machine too, ``--cpu-time`` counts the time that the process's threads ran instead.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from callbacks import BiasProbe
from datamodules import RealFakeDataModule
from lightning_modules import ImageDetector

NOTHING: dict[str, Any] = {"jpeg": (), "resize": (), "blur": (), "noise": (), "crop_phase": (), "webp": ()}


class Clock(Callback):
    """Time between the start of a test and the end of its last batch, in seconds.

    Args:
        now: where the time comes from.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now

    def on_test_start(self, *args: object) -> None:
        """Start."""
        self.start = self.now()

    def on_test_epoch_end(self, *args: object) -> None:
        """Stop once the device is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = self.now() - self.start


def write_files(root: Path, count: int) -> None:
    """Smooth random pictures with grain: reals as JPEG of 500 x 375, fakes as PNG of 512 x 512."""
    rng = np.random.default_rng(0)
    for index in range(count):
        size = (512, 512) if index % 2 else (500, 375)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
        image = Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))
        path = root / (f"fake/{index}.png" if index % 2 else f"real/{index}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=96)


def test_seconds(
    detector: ImageDetector, data: RealFakeDataModule, probe: BiasProbe | None, folder: str, now: Callable[[], float]
) -> float:
    """Time of one test."""
    clock = Clock(now)
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[clock] if probe is None else [clock, probe],  # the clock stops before the probe's report
    )
    trainer.test(detector, data, verbose=False)
    return clock.seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="of all threads; for a CPU that others use too")
    options = parser.parse_args()
    now = time.process_time if options.cpu_time else time.perf_counter
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    levels: dict[str, list[float]] = {}
    for name, level in BiasProbe().degradations.conditions:
        levels.setdefault(name, []).append(level)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "data"), options.images)
        data = RealFakeDataModule(
            root=f"{folder}/data",
            image_size=options.size,
            batch_size=options.batch,
            num_workers=options.workers,
            val_fraction=0.0,
            test_fraction=0.99,
            cache_dir=f"{folder}/cache",
        )
        detector = ImageDetector(options.backbone, image_size=options.size)
        probes: dict[str, BiasProbe | None] = {"plain": None, "clean": BiasProbe(**NOTHING, resamples=10)}
        probes |= {name: BiasProbe(**{**NOTHING, name: tuple(values)}, resamples=10) for name, values in levels.items()}
        times: dict[str, list[float]] = {name: [] for name in probes}
        test_seconds(detector, data, None, folder, now)  # warms caches
        for _ in range(options.rounds):
            for name, probe in probes.items():
                times[name].append(test_seconds(detector, data, probe, folder, now))
    report(times, {name: len(values) for name, values in levels.items()}, options)


def report(times: dict[str, list[float]], levels: dict[str, int], options: argparse.Namespace) -> None:
    """Print the cost of a condition of each kind, medians over rounds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = f"{options.images} images of {options.size} x {options.size}"
    print(f"\n{options.backbone}, about {size}, batch {options.batch}, {device}")
    plain = np.array(times["plain"])
    print(f"plain evaluation, files decoded: {1e3 * np.median(plain) / options.images:.2f} ms per image")
    clean = np.array(times["clean"]) - plain
    added = {name: np.array(times[name]) - plain - clean for name in levels}
    every = clean + sum(added.values())
    for name, seconds, count in [
        ("clean", clean, 1),
        *((name, added[name], count) for name, count in levels.items()),
        ("all", every, 1 + sum(levels.values())),
    ]:
        ratios = seconds / plain / count
        spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
        print(f"{name:12s} {count:3d} conditions  {np.median(ratios):6.2f} of it per condition ({spread})")


if __name__ == "__main__":
    main()
