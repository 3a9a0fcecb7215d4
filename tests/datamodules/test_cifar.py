"""CIFAR from one .npz and from torchvision's files."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from adversarial_data import striped_images, write_cifar
from torchvision.datasets import CIFAR10

from datamodules import Cifar10DataModule, Cifar100DataModule


def test_splits_an_npz_without_overlap_and_keeps_names_and_pixels(tmp_path):
    data = Cifar10DataModule(file=str(write_cifar(tmp_path / "cifar.npz")), batch_size=16, num_workers=0)
    data.setup("fit")
    data.setup("test")
    assert (len(data.train_set), len(data.val_set), len(data.test_sets["test"])) == (180, 20, 60)
    names = [sample["path"] for part in (data.train_set, data.val_set) for sample in part]
    assert sorted(names) == [f"train/{i:05d}" for i in range(200)]
    batch = next(iter(data.test_dataloader()["test"]))
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
    images, labels = striped_images(60, 2)
    expected = torch.from_numpy(images[:16]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(batch["image"], expected)
    assert batch["label"].tolist() == labels[:16].tolist()
    other = Cifar10DataModule(file=data.file, seed=1)
    other.setup("fit")
    assert [s["path"] for s in other.val_set] != [s["path"] for s in data.val_set]


def test_reads_torchvisions_files(tmp_path, monkeypatch):
    """Files of the original form: rows of 3,072 bytes, red before green before blue."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    images, labels = striped_images(12)
    rows = images.transpose(0, 3, 1, 2).reshape(12, -1)

    def store(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    train = [store("data_batch_1", {"data": rows[:8], "labels": labels[:8].tolist()})]
    test = [store("test_batch", {"data": rows[8:], "labels": labels[8:].tolist()})]
    meta, md5 = store("batches.meta", {"label_names": [str(i) for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta, "key": "label_names", "md5": md5})
    data = Cifar10DataModule(root=str(tmp_path), val_fraction=0.25)
    data.setup("fit")
    data.setup("test")
    assert (len(data.train_set), len(data.val_set)) == (6, 2)
    sample = data.test_sets["test"][3]
    assert np.array_equal(sample["image"].permute(1, 2, 0), images[11])
    assert (sample["label"], sample["path"]) == (labels[11], "test/00003")


def test_says_what_is_missing_or_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no CIFAR100 as torchvision keeps it: set data\.download"):
        Cifar100DataModule(root=str(tmp_path)).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"data.file: there is no"):
        Cifar10DataModule(file=str(tmp_path / "none.npz")).setup("fit")
    with pytest.raises(ValueError, match="val_fraction=1"):
        Cifar10DataModule(val_fraction=1.0)
    np.savez(tmp_path / "half.npz", x_train=np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="lacks y_train"):
        Cifar10DataModule(file=str(tmp_path / "half.npz")).setup("fit")
    np.savez(tmp_path / "float.npz", x_train=np.zeros((2, 32, 32, 3)), y_train=np.zeros(2))
    with pytest.raises(ValueError, match="x_train is float64"):
        Cifar10DataModule(file=str(tmp_path / "float.npz")).setup("fit")
    np.savez(tmp_path / "labels.npz", x_train=np.zeros((2, 32, 32, 3), np.uint8), y_train=np.array([1, 10]))
    with pytest.raises(ValueError, match="labels 1 to 10; Cifar10DataModule has 10 classes"):
        Cifar10DataModule(file=str(tmp_path / "labels.npz")).setup("fit")
    assert (Cifar10DataModule.num_classes, Cifar100DataModule.num_classes) == (10, 100)
