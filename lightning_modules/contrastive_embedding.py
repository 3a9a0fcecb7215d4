"""Embeddings learnt without labels: contrastive views (Chen et al. 2020), or triplets of views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import kornia.augmentation as K
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from functional.clustering import agreement, kmeans
from functional.contrastive import nt_xent
from functional.edge_costs import distance_shards
from functional.triplet import triplet_loss
from lightning_modules.gathered_embeddings import GatheredEmbeddings
from lightning_modules.image_classifier import Normalize
from lightning_modules.networks import create_network, load_weights
from lightning_modules.schedules import optimization

__all__ = ["ContrastiveEmbedding", "Views"]

Batch = dict[str, Any]


@dataclass(frozen=True)
class Views:
    """What may change between two views of an image; by default SimCLR's for 32 x 32 pixels.

    Args:
        resized_crop: least and largest share of the area that a random crop keeps; None makes no crop.
        flip: probability of a horizontal flip.
        jitter: largest relative change of brightness, contrast and saturation.
        hue: largest shift of the hue in turns.
        jitter_probability: probability of the colour changes.
        grey: probability of losing all colour.
        rotation: largest angle in degrees.
        shift: largest shift as a share of the side.
        scale: largest relative change of size.
        shear: largest shear in degrees.
    """

    resized_crop: tuple[float, float] | None = (0.2, 1.0)
    flip: float = 0.5
    jitter: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey: float = 0.2
    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0

    def pipeline(self, image_size: int) -> nn.Sequential:
        """Module from images in [0, 1], ``(B, 3, S, S)``, to views of the same shape; each image draws its own."""
        steps: list[nn.Module] = []
        if self.resized_crop is not None:
            size = (image_size, image_size)
            steps.append(K.RandomResizedCrop(size, scale=self.resized_crop, cropping_mode="resample"))
        if self.rotation or self.shift or self.scale or self.shear:
            moved = {"translate": (self.shift, self.shift)} if self.shift else {}
            resized = {"scale": (1 - self.scale, 1 + self.scale)} if self.scale else {}
            sheared = {"shear": (-self.shear, self.shear, -self.shear, self.shear)} if self.shear else {}
            steps.append(K.RandomAffine(self.rotation, **moved, **resized, **sheared, p=1.0))
        if self.flip:
            steps.append(K.RandomHorizontalFlip(p=self.flip))
        if self.jitter_probability and (self.jitter or self.hue):
            strength = (self.jitter, self.jitter, self.jitter, self.hue)
            steps.append(K.ColorJitter(*strength, p=self.jitter_probability))
        if self.grey:
            steps.append(K.RandomGrayscale(p=self.grey))
        return nn.Sequential(*steps)


class ContrastiveEmbedding(LightningModule):
    """Any timm network as an embedding in which two views of an image lie together.

    The head, through which the loss looks, is thrown away afterwards: ``embed`` gives the features before it. Labels
    are for scoring only. In validation each image is asked for the label of its nearest neighbour, and k-means for
    clusters that agree with the labels.

    Args:
        backbone: timm model name.
        loss: ``contrastive`` (NT-Xent) or ``triplet`` (the other view against semi-hard other images).
        temperature: of the contrastive loss.
        margin: of the triplet loss, between squared distances of unit vectors.
        head_size: length of the vectors that the loss compares.
        views: what changes between views.
        image_size: side of the square input; the command line fills it in from the data.
        num_classes: clusters of k-means in validation; the command line fills it in from the data.
        weights: file to take the network's weights from.
        backbone_kwargs: further arguments of ``timm.create_model``.
        mean: channel means that the first layer subtracts.
        std: channel deviations that the first layer divides by.
        optimizer: optimiser class, called with the parameters.
        lr_scheduler: scheduler class, stepped once per epoch; none by default.
        compile: compile the network with ``torch.compile``; checkpoints keep their keys.

    Raises:
        ValueError: if there is no such network or loss, or the image size is missing.
    """

    monitor: tuple[str, str] = ("val/loss", "min")

    def __init__(
        self,
        backbone: str = "small_resnet18",
        loss: Literal["contrastive", "triplet"] = "contrastive",
        temperature: float = 0.1,
        margin: float = 0.2,
        head_size: int = 128,
        views: Views | None = None,
        image_size: int | None = None,
        num_classes: int | None = None,
        weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["optimizer", "lr_scheduler", "views"])
        if loss not in ("contrastive", "triplet"):
            raise ValueError(f"model.loss={loss!r} is not one of contrastive, triplet.")
        if image_size is None:
            raise ValueError("model.image_size is missing: views are cropped to it. It is that of the data.")
        self.loss_name, self.temperature, self.margin = loss, temperature, margin
        self.num_classes = num_classes
        self.normalize = Normalize(mean, std)
        self.backbone: Any = create_network(backbone, 0, image_size, False, backbone_kwargs or {})
        if weights is not None:
            load_weights(self.backbone, weights)
        size = self._feature_size(image_size)
        self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, head_size))
        self.views = (views or Views()).pipeline(image_size)
        self.optimizer_factory, self.scheduler_factory = optimizer, lr_scheduler
        self.gathered = GatheredEmbeddings()
        if compile:
            self.backbone.compile()

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, D)`` of images in [0, 1], ``(B, 3, S, S)``."""
        return self.backbone(self.normalize(x))

    def embed(self, x: Tensor) -> Tensor:
        """The same as ``forward``: what callbacks and GANs ask for."""
        return self(x)

    def objective(self, batch: Batch) -> Tensor:
        """Loss of two fresh views of each image of a batch."""
        images = batch["image"]
        with torch.no_grad():
            first, second = self.views(images), self.views(images)
        vectors = self.head(self(torch.cat([first, second])))
        if self.loss_name == "contrastive":
            one, other = vectors.chunk(2)
            return nt_xent(one, other, self.temperature)
        same = torch.arange(len(images), device=images.device).repeat(2)
        vectors = nn.functional.normalize(vectors.float(), dim=1)
        return triplet_loss(vectors, same, self.margin, mining="semi-hard")  # the hardest of all collapse it

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs ``train/loss_step`` and ``train/loss_epoch``."""
        loss = self.objective(batch)
        size = len(batch["image"])
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss on views that are the same each time, and embeddings for the scores."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch_idx)
            self.log("val/loss", self.objective(batch), batch_size=len(batch["image"]), sync_dist=True)
        self.gathered.update(self(batch["image"]), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Labels of nearest neighbours, and agreement of k-means with the labels, where there are labels."""
        self._log_agreement("val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the embeddings, of all loaders together."""
        self.gathered.update(self(batch["image"]), batch["label"])

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self._log_agreement("test")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, and features ``(B, D)``."""
        return {"path": batch["path"], "embedding": self(batch["image"]).float()}

    def configure_optimizers(self) -> Any:
        """Optimiser over network and head, and the scheduler if there is one."""
        return optimization(self.parameters(), self.optimizer_factory, self.scheduler_factory)

    def _log_agreement(self, part: str) -> None:
        embeddings, labels = self.gathered.compute()
        self.gathered.reset()
        if len(labels) < 2 or labels.min() < 0:
            return
        nearest = torch.cat([_nearest(shard, start) for start, shard in distance_shards(embeddings)])
        self.log(f"{part}/nearest_neighbour_accuracy", (labels[nearest] == labels).float().mean(), sync_dist=True)
        if self.num_classes:
            found = agreement(labels.cpu().numpy(), kmeans(embeddings.cpu(), self.num_classes)[0])
            self.log(f"{part}/kmeans_accuracy", found.accuracy, prog_bar=True, sync_dist=True)
            self.log(f"{part}/kmeans_nmi", found.nmi, sync_dist=True)

    @torch.no_grad()
    def _feature_size(self, image_size: int) -> int:
        """Length of the features of the network, which may have none but what it gives."""
        training = self.backbone.training
        size = self.backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.backbone.train(training)
        return int(size)


def _nearest(shard: Tensor, start: int) -> Tensor:
    shard.diagonal(start).fill_(float("inf"))
    return shard.argmin(dim=1)
