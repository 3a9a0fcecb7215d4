"""A latent-conditioned GAN that has learnt: balls of four colours, and what a stand-in for it could not do."""

from __future__ import annotations

import functools

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

from lightning_modules import GANAdam, LatentConditionedGAN, PixelEmbedding

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module", "ignore:You defined a .validation_step")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.3, 0.9], [0.9, 0.8, 0.1]])


def balls(count, seed):
    """Images ``(count, 3, 32, 32)`` of a ball somewhere on grey, and its colour; the colours take turns."""
    draws = torch.Generator().manual_seed(seed)
    y, x = 12 + 8 * torch.rand(2, count, 1, 1, generator=draws)
    grid = torch.arange(32.0)
    inside = ((grid[:, None] - y).square() + (grid - x).square()) < 81
    labels = torch.arange(count) % 4
    shade = COLOURS[labels][:, :, None, None] + 0.1 * torch.rand(count, 3, 1, 1, generator=draws) - 0.05
    return torch.where(inside[:, None], shade, torch.tensor(0.5)), labels


def colour_of(images):
    """Which of the four colours the middle of each image has."""
    return torch.cdist(images[:, :, 14:18, 14:18].mean((2, 3)), COLOURS).argmin(1)


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    images, labels = balls(320, 1)
    rows = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    loader = DataLoader(rows, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
    adam = functools.partial(GANAdam, lr=1e-3)
    model = LatentConditionedGAN(
        encoder=PixelEmbedding(size=4),
        clusters=4,
        image_size=32,
        latent_size=8,
        generator_width=12,
        critic_width=8,
        ema_decay=0.9,
        max_generator_steps=200,
        generator_optimizer=adam,
        critic_optimizer=adam,
    )
    Trainer(max_epochs=-1, limit_val_batches=0, enable_checkpointing=False, **QUIET).fit(model, loader)
    return model.eval(), images


def test_samples_have_the_colour_of_held_out_images(trained):
    model, _ = trained
    images, labels = balls(40, 2)
    conditions = model.conditions_like(images)
    assert (colour_of(model.sample(conditions)) == labels).float().mean() >= 0.8
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    samples = colour_of(model.sample(conditions[order]))
    assert (samples == labels[order]).float().mean() >= 0.8  # permuted conditions permute what is drawn
    assert (samples == labels).float().mean() <= 0.5


def test_samples_are_no_training_images_and_listen_to_the_noise(trained):
    model, seen = trained
    images, _ = balls(12, 3)
    conditions = model.conditions_like(images)
    samples = [model.sample(conditions, seed) for seed in range(2)]
    nearest = torch.cdist(samples[0].flatten(1), seen.flatten(1)).min(1).values
    assert (nearest > 0.5).all()  # in 3072 pixels
    assert (samples[0] - samples[1]).abs().mean() > 1e-3


def test_another_encoder_draws_other_images(trained):
    model, _ = trained
    images, _ = balls(4, 4)
    own = model.conditions_like(images)
    model.encoder.embed = lambda x: PixelEmbedding.embed(model.encoder, x.flip(1))
    other = model.conditions_like(images)
    del model.encoder.embed
    assert not torch.allclose(model.sample(own), model.sample(other), atol=0.05)
