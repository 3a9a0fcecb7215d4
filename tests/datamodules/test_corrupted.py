"""Readers of CIFAR-10-C and ImageNet-C on small sets of the same layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from datamodules import CorruptedCifar10DataModule, CorruptedImageNetDataModule
from lightning_modules import ImageClassifier


@pytest.fixture
def cifar(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(6, dtype=np.uint8), 5))
    for name in ("fog", "snow"):
        images = rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
        images[:, 0, 0, 0] = np.repeat(np.arange(1, 6), 6)  # the severity
        np.save(tmp_path / f"{name}.npy", images)
    return tmp_path


def test_cifar_layout(cifar):
    data = CorruptedCifar10DataModule(str(cifar), num_workers=0, batch_size=4)
    data.setup("test")
    assert list(data.test_sets) == [f"{name}@{level}" for name in ("fog", "snow") for level in range(1, 6)]
    for level in range(1, 6):
        samples = [data.test_sets[f"snow@{level}"][row] for row in range(6)]
        assert [int(sample["image"][0, 0, 0]) for sample in samples] == [level] * 6
        assert [sample["label"] for sample in samples] == list(range(6))
    stored = np.load(cifar / "snow.npy")
    assert np.array_equal(samples[2]["image"].numpy(), stored[26].transpose(2, 0, 1))


def test_cifar_is_tested_per_severity(cifar):
    data = CorruptedCifar10DataModule(str(cifar), num_workers=0, batch_size=4)
    model = ImageClassifier("cifar_resnet8", 10, 32, backbone_kwargs={"width": 4})
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    found = trainer.test(model, data, verbose=False)
    metrics = {key: value for part in found for key, value in part.items()}
    mean = np.mean([metrics[f"test/{name}@3/accuracy"] for name in ("fog", "snow")])
    assert metrics["test@3/accuracy"] == pytest.approx(mean)


def test_imagenet_layout(tmp_path):
    for group, name in (("noise", "shot_noise"), ("blur", "zoom_blur")):
        for level in range(1, 6):
            for label, wnid in enumerate(("n01", "n02")):
                folder = tmp_path / group / name / str(level) / wnid
                folder.mkdir(parents=True)
                Image.fromarray(np.full((40, 48, 3), 40 * level + label, np.uint8)).save(folder / "a.JPEG", quality=100)
    data = CorruptedImageNetDataModule(str(tmp_path), image_size=32, num_workers=0, batch_size=2)
    data.setup("test")
    assert len(data.test_sets) == 10
    sample = data.test_sets["zoom_blur@4"][1]
    assert sample["label"] == 1
    assert torch.allclose(sample["image"].float(), torch.tensor(161.0), atol=1)
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader()["shot_noise@2"])), 0)
    assert batch["image"].shape == (2, 3, 32, 32)


def test_refusals(cifar, tmp_path):
    data = CorruptedCifar10DataModule(str(cifar))
    with pytest.raises(ValueError, match="test images only"):
        data.setup("fit")
    with pytest.raises(ValueError, match="rain"):
        CorruptedCifar10DataModule(str(cifar), ["rain"]).setup("test")
    with pytest.raises(FileNotFoundError, match="no corruptions"):
        CorruptedImageNetDataModule(str(tmp_path / "none")).setup("test")
    np.save(cifar / "fog.npy", np.zeros((7, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="30 labels"):
        data.setup("test")
