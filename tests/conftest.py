"""Data that tests generate, and the command line called in process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


torch.set_num_threads(1)  # the tests' tensors are small; more threads only wait for one another


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deselect what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        items[:] = [item for item in items if "gpu" not in item.keywords]


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a directory of its own, with its own cache, without W&B's network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    return tmp_path


@pytest.fixture
def cli() -> Callable[..., object]:
    """The command line in process, on one CPU device."""
    from train import main

    def run(command: str, *arguments: str) -> object:
        return main(
            [command, *arguments, "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
        )

    return run


def write_image(path: Path, pixels: np.ndarray, **save: object) -> None:
    """Save uint8 pixels in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save)


def noise(rng: np.random.Generator, height: int, width: int, strength: int = 60) -> np.ndarray:
    """Random pixels around a random colour, ``(height, width, 3)``."""
    colour = rng.integers(80, 176, 3)
    return (colour + rng.integers(-strength, strength + 1, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def real_fake_root(tmp_path: Path) -> Path:
    """40 reals and 40 fakes, 40 x 48 pixels, told apart by the strength of their noise."""
    rng = np.random.default_rng(0)
    for label, strength in (("real", 60), ("fake", 15)):
        for index in range(40):
            write_image(tmp_path / "data" / label / f"{index:02d}.png", noise(rng, 40, 48, strength))
    return tmp_path / "data"


@pytest.fixture
def detector_arguments(real_fake_root: Path) -> list[str]:
    """A small detector on the folder of :func:`real_fake_root`."""
    return [
        "--model=ImageDetector",
        "--model.backbone=cifar_resnet8",
        "--model.backbone_kwargs={width: 4}",
        "--data=RealFakeDataModule",
        f"--data.root={real_fake_root}",
        "--data.image_size=32",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
    ]


def write_stl10(folder: Path, train: int = 20, test: int = 10, unlabelled: int = 30) -> None:
    """Random files in the layout of STL-10; their checksums are wrong."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test), ("unlabeled", unlabelled)):
        rng.integers(256, size=(count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
