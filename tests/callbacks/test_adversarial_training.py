"""Attacked training images: within epsilon, harder, the same each time, and the module as it was."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks import AdversarialTraining
from lightning_modules import ImageClassifier


class Recorder(ImageClassifier):
    """Keeps what its training step is given."""

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["image"].clone())
        return super().training_step(batch, batch_idx)


def fit(callback, steps=2):
    torch.manual_seed(0)
    model = Recorder("cifar_resnet8", 3, 16, backbone_kwargs={"width": 4})
    model.seen = []
    generator = torch.Generator().manual_seed(1)
    data = [{"image": torch.rand(3, 16, 16, generator=generator), "label": i % 3} for i in range(16)]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        callbacks=[callback] if callback else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(dataset=data, batch_size=8))
    return model, torch.stack([item["image"] for item in data])


def test_images_move_by_epsilon_and_get_harder():
    model, clean = fit(AdversarialTraining(epsilon=0.05), steps=1)
    change = model.seen[0] - clean[:8]
    assert float(change.abs().max()) <= 0.05 + 1e-6
    assert float(change.abs().mean()) > 0.02
    assert model.seen[0].min() >= 0
    assert model.seen[0].max() <= 1
    torch.manual_seed(0)
    fresh = Recorder("cifar_resnet8", 3, 16, backbone_kwargs={"width": 4}).eval()
    labels = torch.arange(8) % 3
    with torch.no_grad():
        before, after = (float(fresh.objective({"image": x, "label": labels})) for x in (clean[:8], model.seen[0]))
    assert after > before + 1e-3


def test_runs_repeat_and_differ_by_step():
    one, _ = fit(AdversarialTraining())
    other, _ = fit(AdversarialTraining())
    assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=True))
    changed, _ = fit(AdversarialTraining(seed=1))
    assert not torch.equal(one.seen[0], changed.seen[0])
    assert all(p.grad is None or p.grad.isfinite().all() for p in one.parameters())
    assert one.backbone.bn1.num_batches_tracked == 2  # attacked images are seen once


def test_refusals():
    with pytest.raises(ValueError, match="epsilon=0"):
        AdversarialTraining(epsilon=0)
    with pytest.raises(ValueError, match="step=-1"):
        AdversarialTraining(step=-1)
    with pytest.raises(TypeError, match="objective"):
        AdversarialTraining().setup(Trainer(accelerator="cpu", logger=False), LightningModule(), "fit")
