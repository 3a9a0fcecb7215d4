"""Balanced batches and label noise: rates, balance, ranks, epochs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.balanced_batches import BalancedSampler, RelabelledDataset, symmetric_noise
from datamodules.clustering_data import Cifar10ClusteringDataModule, DigitsDataModule


def sampler(labels, **options):
    return BalancedSampler(range(len(labels)), labels, **{"batch_size": 20, "seed": 0, **options})


def test_noise_has_its_rate_and_spreads_over_the_other_classes():
    clean = np.arange(50_000) % 10
    noisy = symmetric_noise(clean, 0.4, 10, seed=1)
    wrong = noisy != clean
    assert wrong.mean() == pytest.approx(0.4, abs=0.01)
    shifts = np.bincount((noisy - clean)[wrong] % 10, minlength=10)
    assert shifts[0] == 0
    np.testing.assert_allclose(shifts[1:] / wrong.sum(), 1 / 9, atol=0.01)
    assert np.array_equal(noisy, symmetric_noise(clean, 0.4, 10, seed=1))
    assert not np.array_equal(noisy, symmetric_noise(clean, 0.4, 10, seed=2))
    assert np.array_equal(symmetric_noise(clean, 0.0, 10), clean)
    assert (symmetric_noise(clean, 1.0, 10) != clean).all()


@pytest.mark.parametrize("classes", [None, 4, 3])
def test_every_batch_has_equally_many_of_each_class(classes):
    labels = np.random.default_rng(0).choice(5, 300, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    order = [draw.item for draw in sampler(labels, classes_per_batch=classes)]
    assert len(order) == len(sampler(labels)) == 300
    seen = set()
    for start in range(0, 300, 20):
        counts = Counter(labels[order[start : start + 20]].tolist())
        assert len(counts) == (classes or 5)
        assert max(counts.values()) - min(counts.values()) <= (20 % (classes or 5) > 0)
        seen |= counts.keys()
    assert seen == {0, 1, 2, 3, 4}
    rare = Counter(index for index in order if labels[index] == 4)
    assert max(rare.values()) - min(rare.values()) <= 1  # the queue is gone through before it starts again


def test_order_depends_on_seed_and_epoch_only_and_ranks_share_the_batches():
    labels = np.arange(200) % 4
    epoch = [0]
    one = sampler(labels, epoch=lambda: epoch[0])
    first = list(one)
    assert first == list(one) == list(sampler(labels))
    epoch[0] = 1
    assert list(one) != first
    assert list(sampler(labels, seed=1)) != first
    ranks = [list(sampler(labels, num_replicas=2, rank=rank)) for rank in range(2)]
    assert [len(part) for part in ranks] == [100, 100] == [len(sampler(labels, num_replicas=2))] * 2
    assert not {draw.item for draw in ranks[0]} & {draw.item for draw in ranks[1]}
    assert len({draw.seed for part in ranks for draw in part}) == 200


def test_relabelled_samples_keep_everything_else():
    data = RelabelledDataset([{"label": 0, "path": "a"}, {"label": 1, "path": "b"}], np.array([5, 6]))
    assert len(data) == 2
    assert data[(1, 99)[0]] == {"label": 6, "path": "b"}


def test_digits_split_noise_and_contract():
    data = DigitsDataModule(label_noise=0.2, batch_size=50, num_workers=0, seed=3)
    data.setup("fit")
    clean = DigitsDataModule(batch_size=50, num_workers=0, seed=3)
    clean.setup("fit")
    assert len(data.train_set) == 1000
    assert len(data.val_set) == 797
    assert not set(clean.train_set.names) & set(clean.val_set.names)
    changed = data.train_set.labels != clean.train_set.labels
    assert changed.mean() == pytest.approx(0.2, abs=0.04)
    assert np.array_equal(data.val_set.labels, clean.val_set.labels)
    np.testing.assert_allclose(np.bincount(clean.train_set.labels) / np.bincount(clean.val_set.labels), 1.25, atol=0.04)
    batch = next(iter(data.train_dataloader()))
    assert batch["label"].bincount().tolist() == [5] * 10
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
    assert batch["image"].shape == (50, 3, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert 0.9 < float(batch["image"].max()) <= 1


def test_cifar_labels_are_noisy_in_training_only(tmp_path):
    rng = np.random.default_rng(0)
    parts = {
        f"{name}_{part}": value
        for part, count in (("train", 200), ("test", 40))
        for name, value in (
            ("x", rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)),
            ("y", np.arange(count) % 10),
        )
    }
    np.savez(tmp_path / "c.npz", **parts)
    sets = {}
    for noise in (0.0, 0.5):
        data = Cifar10ClusteringDataModule(
            file=str(tmp_path / "c.npz"), label_noise=noise, num_workers=0, batch_size=20
        )
        data.setup("fit")
        sets[noise] = data.train_set.labels, data.val_set.labels
        data.setup("test")
        assert np.array_equal(data.test_sets["test"].labels, parts["y_test"])
    assert 0.35 < (sets[0.0][0] != sets[0.5][0]).mean() < 0.65
    assert np.array_equal(sets[0.0][1], sets[0.5][1])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"A label noise of 1.5 among 10 classes"):
        DigitsDataModule(label_noise=1.5)
    with pytest.raises(ValueError, match=r"data.classes_per_batch=7: there are 4 classes"):
        sampler(np.arange(80) % 4, classes_per_batch=7)
    for options in ({"classes_per_batch": 1}, {"classes_per_batch": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"a batch of one class has no negatives"):
            sampler(np.arange(80) % 4, **options)
    with pytest.raises(ValueError, match=r"data.train=5"):
        DigitsDataModule(train=5)
