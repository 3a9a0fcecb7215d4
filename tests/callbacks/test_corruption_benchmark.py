"""Errors under corruption: counted as written out, whatever the batches."""

from __future__ import annotations

import zlib

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks import CorruptionBenchmark
from functional.corruptions import corrupt


class Brightest(LightningModule):
    """Names the channel with the highest mean."""

    def forward(self, x):
        return x.mean(dim=(2, 3)).round(decimals=2)

    def test_step(self, batch, batch_idx):
        pass


def images(count=24):
    generator = torch.Generator().manual_seed(0)
    x = 0.45 + 0.1 * torch.rand(count, 3, 16, 16, generator=generator)
    return [{"image": x[i], "label": i % 3, "path": f"image{i}"} for i in range(count)]


def run(tmp_path, batch_size=8, **options):
    callback = CorruptionBenchmark(("gaussian_noise", "contrast", "fog"), **options)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[callback],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.test(Brightest(), DataLoader(dataset=images(), batch_size=batch_size), verbose=False)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return metrics, pd.read_csv(tmp_path / "corruption_errors.csv")


def test_errors_are_counted(tmp_path):
    metrics, table = run(tmp_path)
    data = images()
    x, labels = torch.stack([item["image"] for item in data]), torch.tensor([item["label"] for item in data])
    seeds = [zlib.crc32(item["path"].encode()) for item in data]
    model = Brightest()
    for row in table.itertuples():
        changed = x if row.corruption == "clean" else corrupt(x, row.corruption, row.severity, seeds)
        expected = (model(changed).argmax(1) != labels).float().mean()
        assert row.error == pytest.approx(float(expected), abs=1e-6)
    means = table[table["corruption"] != "clean"].groupby("corruption")["error"].mean()
    assert metrics["corruption/mce"] == pytest.approx(means.mean(), abs=1e-6)
    assert metrics["corruption/relative_mce"] == pytest.approx(means.mean() - metrics["corruption/clean"], abs=1e-6)
    assert metrics["corruption/fog"] == pytest.approx(means["fog"], abs=1e-6)
    assert (tmp_path / "corruption_errors.png").stat().st_size > 5000


def test_batches_do_not_matter(tmp_path):
    _, one = run(tmp_path / "one", batch_size=5)
    _, other = run(tmp_path / "other", batch_size=24)
    pd.testing.assert_frame_equal(one, other)


def test_baseline_and_extra(tmp_path):
    own = {"gaussian_noise": 0.5, "contrast": 0.25, "fog": 1.0, "clean": 0.1}
    metrics, table = run(tmp_path, baseline=own, extra=True)
    assert len(table) == 1 + 7 * 5
    means = table.groupby("corruption")["error"].mean()
    expected = sum(means[name] / own[name] for name in ("gaussian_noise", "contrast", "fog")) / 3
    assert metrics["corruption/mce"] == pytest.approx(expected, abs=1e-6)
    CorruptionBenchmark(baseline="alexnet")


def test_refusals():
    with pytest.raises(ValueError, match="rain"):
        CorruptionBenchmark(("rain",))
    with pytest.raises(ValueError, match="lacks"):
        CorruptionBenchmark(baseline={"clean": 0.1})
    with pytest.raises(ValueError, match="vgg"):
        CorruptionBenchmark(baseline="vgg")
    with pytest.raises(TypeError, match="forward"):
        CorruptionBenchmark().setup(Trainer(accelerator="cpu", logger=False), LightningModule(), "test")
