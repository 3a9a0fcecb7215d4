"""STL-10 in torchvision's files."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import write_stl10
from PIL import Image
from torchvision.datasets import STL10

from datamodules import Stl10DataModule


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Small files of the right layout, whose checksums are not asked for."""
    write_stl10(tmp_path / "stl10_binary")
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    return tmp_path


def test_trains_on_unlabelled_images_and_scores_on_labelled_ones(root):
    data = Stl10DataModule(str(root), image_size=32, batch_size=10, num_workers=0)
    data.setup("fit")
    assert len(data.train_set) == 50
    assert sorted(set(data.train_set.labels.tolist())) == list(range(-1, 10))
    batch = next(iter(data.val_dataloader()))
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
    assert batch["image"].shape == (10, 3, 32, 32)
    assert batch["label"].tolist() == list(range(10))
    original = STL10(str(root), split="test").data[3].transpose(1, 2, 0)
    expected = np.asarray(Image.fromarray(original).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(data.val_set.images[3].astype(int) - expected).max() <= 1
    few = Stl10DataModule(str(root), unlabelled=False, num_workers=0)
    few.setup("fit")
    assert few.train_set.images.shape == (20, 96, 96, 3)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no STL10 as torchvision keeps it"):
        Stl10DataModule(str(tmp_path)).setup("test")
    with pytest.raises(ValueError, match="image_size=128"):
        Stl10DataModule(image_size=128)
