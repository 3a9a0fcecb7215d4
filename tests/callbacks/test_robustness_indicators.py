"""Indicators over training: what is logged and written, and that training does not notice."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from callbacks import RobustnessIndicators
from functional.robustness import robustness_indicators
from lightning_modules import ImageClassifier


def images(count=60, classes=3):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": (0.2 + 0.25 * (i % classes) + 0.3 * torch.rand(3, 16, 16, generator=generator)).clamp(0, 1),
            "label": i % classes,
            "path": str(i),
        }
        for i in range(count)
    ]


def fit(tmp_path, *callbacks, epochs=3):
    seed_everything(0, verbose=False)
    model = ImageClassifier("cifar_resnet8", 3, 16, backbone_kwargs={"width": 4, "drop_rate": 0.3}, mixup_alpha=0.5)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        log_every_n_steps=1,
    )
    data = images()
    trainer.fit(
        model,
        DataLoader(dataset=data, batch_size=20, shuffle=True),
        DataLoader(dataset=data, batch_size=20),
    )
    return trainer, model


@pytest.mark.parametrize("clustering", [("kmeans",), ("kmeans", "multicut")])
def test_training_is_bit_identical(tmp_path, clustering):
    _, plain = fit(tmp_path / "plain")
    watcher = RobustnessIndicators(every_n_epochs=1, max_samples=50, clustering=clustering)
    trainer, watched = fit(tmp_path / "watched", watcher)
    expected, found = plain.state_dict(), watched.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "robustness/kmeans_accuracy" in trainer.callback_metrics


def test_figures_are_those_of_the_module(tmp_path):
    watcher = RobustnessIndicators(every_n_epochs=2, max_samples=50)
    trainer, model = fit(tmp_path, watcher)
    table = pd.read_csv(tmp_path / "robustness_indicators.csv")
    assert table["epoch"].tolist() == [1, 2]  # every second, and the last
    data = images()[:50]
    with torch.no_grad():
        embeddings = model.eval().embed(torch.stack([item["image"] for item in data]))
    expected = robustness_indicators(embeddings, [item["label"] for item in data], ("kmeans",), starts=1)
    for name, value in expected.items():
        assert float(trainer.callback_metrics[f"robustness/{name}"]) == pytest.approx(value, abs=1e-4)
        assert table[name].iloc[-1] == pytest.approx(value, abs=1e-4)
    for name in ("robustness_distances", "robustness_indicators"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    resumed = RobustnessIndicators()
    resumed.load_state_dict(watcher.state_dict())
    assert resumed.state_dict() == watcher.state_dict()


def test_refusals():
    with pytest.raises(ValueError, match="every_n_epochs=0"):
        RobustnessIndicators(every_n_epochs=0)
    with pytest.raises(ValueError, match="dbscan"):
        RobustnessIndicators(clustering=("dbscan",))
    with pytest.raises(TypeError, match="embed"):
        RobustnessIndicators().setup(Trainer(accelerator="cpu", logger=False), LightningModule(), "fit")
