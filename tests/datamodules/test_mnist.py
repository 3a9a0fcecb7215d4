"""MNIST's idx files: values, splits and refusals."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from datamodules import MnistDataModule


def write_idx(file, array):
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_mnist(root, train=40, test=10, end=".gz"):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count).astype(np.uint8)
        write_idx(root / f"{part}-images-idx3-ubyte{end}", arrays[part][0])
        write_idx(root / f"{part}-labels-idx1-ubyte{end}", arrays[part][1])
    return arrays


@pytest.mark.parametrize(("folder", "end"), [("", ".gz"), ("MNIST/raw", "")])
def test_images_and_labels_are_those_of_the_files(tmp_path, folder, end):
    arrays = write_mnist(tmp_path / folder, end=end)
    data = MnistDataModule(root=str(tmp_path), batch_size=5, num_workers=0, val_fraction=0.25)
    data.setup("fit")
    data.setup("test")
    assert (len(data.train_set), len(data.val_set), len(data.test_sets["test"])) == (30, 10, 10)
    names = [sample["path"] for part in (data.train_set, data.val_set) for sample in map(part.__getitem__, range(10))]
    assert len(set(names)) == 20
    for part, key in ((data.val_set, "train"), (data.test_sets["test"], "t10k")):
        for sample in map(part.__getitem__, range(10)):
            row = int(sample["path"].rpartition("/")[2])
            assert sample["label"] == arrays[key][1][row]
            for channel in sample["image"].numpy():
                assert np.array_equal(channel, arrays[key][0][row])
    batch = next(iter(data.test_dataloader()["test"]))
    assert batch["image"].shape == (5, 3, 28, 28)


def test_missing_and_damaged_files_are_refused(tmp_path):
    data = MnistDataModule(root=str(tmp_path), num_workers=0)
    with pytest.raises(FileNotFoundError, match=r"set data\.download to true"):
        data.setup("fit")
    write_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1]))
    with pytest.raises(ValueError, match="its header says"):
        data.setup("fit")
    write_idx(file, np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="3 images of train and 40 labels"):
        data.setup("fit")
    write_idx(file, np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="no idx file of 3-dimensional bytes"):
        data.setup("fit")
    with pytest.raises(ValueError, match="val_fraction"):
        MnistDataModule(val_fraction=1.0)
