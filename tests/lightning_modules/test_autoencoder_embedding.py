"""AutoencoderEmbedding and PixelEmbedding: what they learn, and as encoders of a GAN."""

from __future__ import annotations

import functools

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

from datamodules import DigitsDataModule
from lightning_modules import AutoencoderEmbedding, LatentConditionedGAN, PixelEmbedding

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module", "ignore:You defined a .validation_step")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TINY = {"image_size": 32, "latent_size": 4, "generator_width": 4, "critic_width": 4, "num_classes": 10}


def autoencoder(**options):
    seed_everything(0, verbose=False)
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    settings = {"backbone_kwargs": {"width": 4}, "image_size": 16, "code_size": 8, "decoder_width": 4}
    return AutoencoderEmbedding(**{**settings, "optimizer": adam, **options})


def squares(count=16):
    """Grey images with a bright square at one of four places."""
    images = torch.full((count, 3, 16, 16), 0.2)
    for index in range(count):
        row, column = divmod(index % 4, 2)
        images[index, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0.9
    return images


def test_it_learns_to_give_images_back_better_than_their_mean():
    images = squares()
    loader = DataLoader([{"image": image, "label": -1} for image in images], batch_size=16)
    model = autoencoder()
    trainer = Trainer(max_epochs=150, enable_checkpointing=False, limit_val_batches=1, **QUIET)
    trainer.fit(model, loader, loader)
    blind = (images - images.mean(0)).square().mean()
    model.eval()
    with torch.no_grad():
        error = (model.reconstruct(images) - images).square().mean()
        codes = model.embed(images)
    assert codes.shape == (16, 8)
    assert error < 0.2 * blind
    assert float(trainer.callback_metrics["val/loss"]) < 0.2 * blind
    assert torch.cdist(codes[:4], codes[:4])[~torch.eye(4, dtype=torch.bool)].min() > 0


def test_pixels_are_those_of_an_averaged_copy():
    embedding = PixelEmbedding(size=2)
    constant = torch.tensor([0.1, 0.5, 0.9])[None, :, None, None].expand(1, 3, 16, 16)
    torch.testing.assert_close(embedding.embed(constant), constant[..., :2, :2].flatten(1))
    found = embedding.embed(squares(4)).view(4, 3, 2, 2)
    assert found[:, 0].flatten(1).argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["autoencoder", "pixels"])
def test_a_gan_is_conditioned_on_it(kind):
    encoder = autoencoder(image_size=32) if kind == "autoencoder" else PixelEmbedding(size=4)
    model = LatentConditionedGAN(encoder=encoder, encoder_epochs=int(kind == "autoencoder"), clusters=4, **TINY)
    assert model.condition.size == (8 if kind == "autoencoder" else 48)
    data = DigitsDataModule(image_size=32, train=100, batch_size=25, num_workers=0)
    Trainer(max_epochs=3, limit_val_batches=0, enable_checkpointing=False, **QUIET).fit(model, datamodule=data)
    assert model.generator_steps == (4 if kind == "autoencoder" else 8)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="image_size=30 must be a multiple of 4"):
        autoencoder(image_size=30)
    with pytest.raises(ValueError, match="size=0"):
        PixelEmbedding(size=0)
    with pytest.raises(ValueError, match=r"PixelEmbedding has no objective\(batch\)"):
        LatentConditionedGAN(encoder=PixelEmbedding(), encoder_epochs=1, **TINY)
