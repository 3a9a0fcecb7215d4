"""Embeddings that a GAN can be conditioned on, beside contrastive ones: an autoencoder's code, and the pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_modules.image_classifier import Normalize
from lightning_modules.networks import create_network, load_weights
from lightning_modules.schedules import optimization

__all__ = ["AutoencoderEmbedding", "PixelEmbedding"]

Batch = dict[str, Any]


class AutoencoderEmbedding(LightningModule):
    """Any timm network whose features, through a short code, must give the image back.

    ``embed`` gives the code. Labels are not used.

    Args:
        backbone: timm model name of the encoder.
        code_size: length of the code.
        decoder_width: channels of the decoder's narrowest maps.
        image_size: side of the square input, a multiple of 4; the command line fills it in from the data.
        num_classes: not used; the command line fills it in.
        weights: file to take the encoder network's weights from.
        backbone_kwargs: further arguments of ``timm.create_model``.
        mean: channel means that the first layer subtracts.
        std: channel deviations that the first layer divides by.
        optimizer: optimiser class, called with the parameters.
        lr_scheduler: scheduler class, stepped once per epoch; none by default.

    Raises:
        ValueError: if the image size is missing or no multiple of 4, or the code has no length.
    """

    monitor: tuple[str, str] = ("val/loss", "min")

    def __init__(
        self,
        backbone: str = "small_cnn",
        code_size: int = 64,
        decoder_width: int = 32,
        image_size: int | None = None,
        num_classes: int | None = None,
        weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["optimizer", "lr_scheduler"])
        if image_size is None or image_size % 4 or min(code_size, decoder_width) < 1:
            raise ValueError(
                f"model.image_size={image_size} must be a multiple of 4, code_size={code_size} and "
                f"decoder_width={decoder_width} at least 1."
            )
        self.normalize = Normalize(mean, std)
        self.backbone: Any = create_network(backbone, code_size, image_size, False, backbone_kwargs or {})
        if weights is not None:
            load_weights(self.backbone, weights)
        self.decoder = _decoder(code_size, decoder_width, image_size)
        self.optimizer_factory, self.scheduler_factory = optimizer, lr_scheduler

    def forward(self, x: Tensor) -> Tensor:
        """Codes ``(B, code_size)`` of images in [0, 1], ``(B, 3, S, S)``."""
        return self.backbone(self.normalize(x))

    def embed(self, x: Tensor) -> Tensor:
        """The same as ``forward``: what callbacks and GANs ask for."""
        return self(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images in [0, 1], of the same shape, from the codes of images."""
        return torch.sigmoid(self.decoder(self(x)))

    def objective(self, batch: Batch) -> Tensor:
        """Mean squared error between images and what their codes give back."""
        return F.mse_loss(self.reconstruct(batch["image"]).float(), batch["image"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs ``train/loss_step`` and ``train/loss_epoch``."""
        loss = self.objective(batch)
        size = len(batch["image"])
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The error on validation images."""
        self.log("val/loss", self.objective(batch), prog_bar=True, batch_size=len(batch["image"]), sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The error on test images, over all loaders together."""
        loss = self.objective(batch)
        self.log("test/loss", loss, batch_size=len(batch["image"]), sync_dist=True, add_dataloader_idx=False)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, and codes ``(B, code_size)``."""
        return {"path": batch["path"], "embedding": self.embed(batch["image"]).float()}

    def configure_optimizers(self) -> Any:
        """Optimiser over both halves, and the scheduler if there is one."""
        return optimization(self.parameters(), self.optimizer_factory, self.scheduler_factory)


class PixelEmbedding(LightningModule):
    """The pixels of a smaller copy of the image: the embedding that has learnt nothing.

    Args:
        size: side of the copy.
        image_size: not used; the command line fills it in.
        num_classes: not used; the command line fills it in.

    Raises:
        ValueError: if the copy has no size.
    """

    def __init__(self, size: int = 8, image_size: int | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        if size < 1:
            raise ValueError(f"size={size} must be at least 1.")
        self.size = size

    def embed(self, x: Tensor) -> Tensor:
        """Pixels ``(B, 3 * size * size)`` of images in [0, 1], ``(B, 3, H, W)``, brought to ``size`` by averaging."""
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True).flatten(1)


def _decoder(code_size: int, width: int, image_size: int) -> nn.Sequential:
    """From codes to logits of pixels: maps of a quarter of the side, twice doubled."""
    side, channels = image_size // 4, (4 * width, 2 * width, width)
    layers: list[nn.Module] = [nn.Linear(code_size, channels[0] * side * side), nn.Unflatten(1, (-1, side, side))]
    for before, after in pairwise(channels):
        layers += [nn.ReLU(), nn.Upsample(scale_factor=2.0), nn.Conv2d(before, after, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
