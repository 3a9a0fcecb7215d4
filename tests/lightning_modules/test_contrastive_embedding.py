"""Embeddings from views: what views change, that neighbours get closer, and that labels are not looked at."""

from __future__ import annotations

import functools

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from datamodules import DigitsDataModule
from functional.contrastive import nt_xent
from lightning_modules.contrastive_embedding import ContrastiveEmbedding, Views

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
MOVED = Views(resized_crop=None, flip=0.0, jitter_probability=0.0, grey=0.0, rotation=15, shift=0.1, scale=0.1)


def embedding(**options):
    seed_everything(0, verbose=False)
    small = {"backbone": "small_cnn", "backbone_kwargs": {"width": 4}, "image_size": 8, "num_classes": 10}
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "views": MOVED, "temperature": 0.3}
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    return ContrastiveEmbedding(**{**small, **plain, "optimizer": adam, **options})


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_images_of_a_class_come_closer_without_labels(loss):
    data = DigitsDataModule(batch_size=100, num_workers=0)
    model = embedding(loss=loss)
    trainer = Trainer(max_epochs=6, enable_checkpointing=False, num_sanity_val_steps=0, **QUIET)
    before = trainer.validate(model, datamodule=data, verbose=False)[0]
    trainer.fit(model, datamodule=data)
    after = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert after["val/loss"] < 0.8 * before["val/loss"]
    assert after["val/kmeans_nmi"] > before["val/kmeans_nmi"] + 0.05
    assert after["val/nearest_neighbour_accuracy"] > 0.85


def test_objective_is_that_of_two_views_and_ignores_labels():
    model = embedding(views=Views(resized_crop=None, flip=0.0, jitter_probability=0.0, grey=0.0)).eval()
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    vectors = model.head(model.embed(images))
    expected = nt_xent(vectors, vectors, 0.3)  # nothing changes between the views
    torch.testing.assert_close(model.objective({"image": images}), expected)
    assert model.embed(images).shape == (6, 64)


def test_views_keep_size_and_range_and_differ():
    torch.manual_seed(0)
    images = torch.rand(16, 3, 32, 32)
    pipeline = Views().pipeline(32)
    first, second = pipeline(images), pipeline(images)
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert not torch.equal(first, second)
    grey = Views(resized_crop=None, flip=0.0, jitter_probability=0.0, grey=1.0).pipeline(32)(images)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    untouched = Views(resized_crop=None, flip=0.0, jitter_probability=0.0, grey=0.0).pipeline(32)
    assert torch.equal(untouched(images), images)
    flipped = Views(resized_crop=None, flip=1.0, jitter_probability=0.0, grey=0.0).pipeline(32)(images)
    assert torch.equal(flipped, images.flip(3))


def test_validation_is_the_same_each_time():
    data, model = DigitsDataModule(train=1500, batch_size=100, num_workers=0), embedding()
    trainer = Trainer(**QUIET)
    first, second = (trainer.validate(model, datamodule=data, verbose=False)[0] for _ in range(2))
    assert first == second


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="loss='supervised' is not one of contrastive, triplet"):
        embedding(loss="supervised")
    with pytest.raises(ValueError, match=r"model\.image_size is missing"):
        embedding(image_size=None)
    with pytest.raises(ValueError, match="backbone='nonet' is no timm model"):
        embedding(backbone="nonet")
