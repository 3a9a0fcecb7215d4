"""The datamodule of pairs."""

from __future__ import annotations

import pytest
import torch
from adversarial_data import write_pairs

from datamodules import AdversarialDataModule
from datamodules.adversarial_pairs import PairFolder


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path)


def test_batches_hold_both_images_of_each_pair(root):
    data = AdversarialDataModule(str(root), "bim", test_attacks=["fgsm", "bim"], batch_size=10, num_workers=0)
    data.setup("fit")
    data.setup("test")
    sets = {"train": data.train_set, "val": data.val_set, **data.test_sets}
    groups = {name: {sample["group"] for sample in part} for name, part in sets.items()}
    assert groups["fgsm"] == groups["bim"], "an image is in the same part for every attack"
    assert not groups["train"] & groups["val"]
    assert not (groups["train"] | groups["val"]) & groups["bim"]
    assert len(groups["train"] | groups["val"] | groups["bim"]) == 60
    assert all(len(part) == 2 * len(groups[name]) for name, part in sets.items())
    stored, _ = PairFolder(root / "fgsm").read()
    for batch in data.test_dataloader()["fgsm"]:
        figure = data.plot(batch)
        assert len(figure.axes) >= len(batch["label"])
        batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
        for image, label, number in zip(batch["image"], batch["label"], batch["group"], strict=True):
            expected = (stored.attacked if label else stored.image)[int(number)]
            assert torch.equal(image, torch.from_numpy(expected)), "to the last bit"
    assert data.num_classes == 2


def test_reference_images_have_their_classes(root):
    batches = list(AdversarialDataModule(str(root), num_workers=0).reference_dataloader())
    images = torch.cat([batch["image"] for batch in batches])
    assert images.shape == (120, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.max() <= 1
    assert sorted(torch.cat([batch["label"] for batch in batches]).unique().tolist()) == list(range(10))


def test_refuses_shares_and_attacks_that_are_not_there(root):
    with pytest.raises(ValueError, match="leave something to train on"):
        AdversarialDataModule(str(root), val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(FileNotFoundError, match=r"studies\.spectral_defense attack"):
        AdversarialDataModule(str(root), "pgd").setup("fit")
