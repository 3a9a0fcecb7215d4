"""Classifier of face attributes, several at once: the independent judge of edits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_auroc

from functional.face_regions import crop_boxes
from lightning_modules.image_classifier import Normalize
from lightning_modules.networks import create_network, load_weights
from lightning_modules.schedules import optimization

__all__ = ["AttributeClassifier"]

Batch = dict[str, Any]


class AttributeClassifier(LightningModule):
    """Any timm network with one logit for each attribute, on the whole image or on the box of the region.

    Batches need ``image``, ``attributes`` ``(B, A)`` with 0 or 1 and, with ``crop_size``, ``box`` ``(B, 4)``. Losses
    and accuracies weigh both values of an attribute alike, however rare one is: the weights of the loss follow the
    shares in the training batches seen so far.

    Args:
        attributes: their names, in the order of the batch's columns.
        backbone: timm model name.
        backbone_kwargs: further arguments of ``timm.create_model``.
        crop_size: side that the region's box, with a margin, is resized to; the whole image by default.
        margin: of the surroundings shown with the box, in units of its sides.
        weights: file to take the network's weights from, as for ImageClassifier.
        image_size: side of the images; the command line fills it in from the data.
        optimizer: optimiser class, called with the parameters.
        lr_scheduler: scheduler class, stepped once per epoch; none by default.

    Raises:
        ValueError: if there are no attributes.
    """

    monitor: tuple[str, str] = ("val/balanced_accuracy", "max")
    positives: Tensor
    seen: Tensor

    def __init__(
        self,
        attributes: list[str],
        backbone: str = "small_cnn",
        backbone_kwargs: dict[str, Any] | None = None,
        crop_size: int | None = None,
        margin: float = 0.25,
        weights: str | None = None,
        image_size: int | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["optimizer", "lr_scheduler"])
        if not attributes:
            raise ValueError("model.attributes is empty: name what the classifier is to tell.")
        self.attributes, self.crop_size, self.margin = list(attributes), crop_size, margin
        self.normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.backbone: Any = create_network(backbone, len(attributes), image_size, False, backbone_kwargs or {})
        if weights is not None:
            load_weights(self.backbone, weights)
        self.register_buffer("positives", torch.ones(len(attributes)))  # one of each kind, so that no share is 0
        self.register_buffer("seen", torch.full((), 2.0))
        self.optimizer_factory, self.scheduler_factory = optimizer, lr_scheduler
        self.val_scores, self.val_truths = CatMetric(), CatMetric()
        self.test_scores, self.test_truths = CatMetric(), CatMetric()

    def view(self, x: Tensor, boxes: Tensor | None) -> Tensor:
        """What the network looks at: images ``(B, 3, H, W)`` or, from their boxes, ``(B, 3, crop_size, crop_size)``.

        Raises:
            ValueError: if boxes are needed and missing.
        """
        if self.crop_size is None:
            return x
        if boxes is None:
            raise ValueError("model.crop_size looks at regions: give batches with `box`, or set it to null.")
        border = self.margin * (boxes[:, 2:] - boxes[:, :2])
        wider = torch.cat([boxes[:, :2] - border, boxes[:, 2:] + border], dim=1)
        return crop_boxes(x, wider, self.crop_size)

    def forward(self, x: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Logits ``(B, A)`` of images in [0, 1], ``(B, 3, H, W)``, with boxes of the region ``(B, 4)``."""
        return self.backbone(self.normalize(self.view(x, boxes)))

    def embed(self, x: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Features before the last layer, ``(B, D)``; arguments as for :meth:`forward`."""
        features = self.backbone.forward_features(self.normalize(self.view(x, boxes)))
        return self.backbone.forward_head(features, pre_logits=True)

    def loss(self, logits: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross entropy of logits ``(B, A)``; either value of an attribute has half of the weight."""
        share = (self.positives / self.seen).clamp(0.01, 0.99)
        weight = torch.where(attributes > 0.5, 0.5 / share, 0.5 / (1 - share))
        return F.binary_cross_entropy_with_logits(logits.float(), attributes.float(), weight)

    def objective(self, batch: Batch) -> Tensor:
        """Loss on a batch: what landscapes and Hessians look at."""
        return self.loss(self(batch["image"], batch.get("box")), batch["attributes"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs ``train/loss``."""
        self.positives += batch["attributes"].sum(0)
        self.seen += len(batch["attributes"])
        loss = self.objective(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics and log ``val/loss``."""
        logits = self(batch["image"], batch.get("box"))
        loss = self.loss(logits, batch["attributes"])
        self.log("val/loss", loss, on_epoch=True, batch_size=len(logits), sync_dist=True)
        self.val_scores.update(logits.float())
        self.val_truths.update(batch["attributes"])

    def on_validation_epoch_end(self) -> None:
        """Log balanced accuracy and AUROC of each attribute, and the mean balanced accuracy."""
        self._log_metrics("val", self.val_scores, self.val_truths)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics, over all loaders together."""
        self.test_scores.update(self(batch["image"], batch.get("box")).float())
        self.test_truths.update(batch["attributes"])

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self._log_metrics("test", self.test_scores, self.test_truths)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, and the probability of each attribute ``(B, A)``."""
        probabilities = self(batch["image"], batch.get("box")).float().sigmoid()
        return {"path": batch["path"], "probabilities": probabilities}

    def configure_optimizers(self) -> Any:
        """Optimiser, and the scheduler if there is one."""
        return optimization(self.parameters(), self.optimizer_factory, self.scheduler_factory)

    def _log_metrics(self, part: str, scores: CatMetric, truths: CatMetric) -> None:
        logits = scores.compute().view(-1, len(self.attributes))
        truth = truths.compute().view_as(logits) > 0.5
        right = (logits > 0) == truth
        recall = (right & truth).sum(0) / truth.sum(0).clamp_min(1)
        specificity = (right & ~truth).sum(0) / (~truth).sum(0).clamp_min(1)
        balanced = (recall + specificity) / 2
        for index, name in enumerate(self.attributes):
            self.log(f"{part}/balanced_accuracy/{name}", balanced[index], sync_dist=True)
            self.log(f"{part}/accuracy/{name}", right[:, index].float().mean(), sync_dist=True)
            if truth[:, index].unique().numel() == 2:
                area = binary_auroc(logits[:, index].sigmoid(), truth[:, index].long())
                self.log(f"{part}/auroc/{name}", area, sync_dist=True)
        self.log(f"{part}/balanced_accuracy", balanced.mean(), prog_bar=True, sync_dist=True)
        scores.reset()
        truths.reset()
