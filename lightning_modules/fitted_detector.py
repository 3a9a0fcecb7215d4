"""Detectors whose head is fitted once, by scikit-learn, on the features of all training images."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.fitted_heads import FittedHead
from lightning_modules.image_detector import ImageDetector

__all__ = ["FittedDetector", "TrainingFeatures"]

Batch = dict[str, Any]


class TrainingFeatures(Metric):
    """Features, labels and file names of all training images, gathered over processes, each image once."""

    features: list[Tensor]
    labels: list[Tensor]
    names: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("features", "labels", "names"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, paths: list[str]) -> None:
        """Keep a batch: features ``(B, K)``, labels ``(B,)`` and B file names."""
        self.features.append(features.detach())
        self.labels.append(labels)
        digests = [hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest() for path in paths]
        names = [int.from_bytes(digest, "big", signed=True) for digest in digests]
        self.names.append(torch.tensor(names, device=labels.device))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Features ``(N, K)`` and labels ``(N,)`` in the order of hashed names: whatever the batches and processes."""
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        names = dim_zero_cat(self.names).cpu()
        order = names.argsort(stable=True)
        ordered = names[order]
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]  # processes repeat images to have equally many
        chosen = order[first].to(labels.device)
        return features[chosen], labels[chosen]


class FittedDetector(ImageDetector):
    """Detector with a head on features instead of a network on images.

    A :class:`FittedHead` is fitted when the last training batch has been seen, on the features of all processes, and
    training ends with that epoch. Subclasses say what the features are (``embed``, ``batch_features``), build the head
    in ``build_backbone``, and call ``collect_features`` at the end of their ``__init__`` if it is a fitted one; other
    heads are trained as in :class:`ImageDetector`.
    """

    def collect_features(self) -> None:
        """Prepare for a head that is fitted."""
        self.seen = TrainingFeatures()
        # Lightning counts steps of an optimiser, and DDP asks for a parameter with a gradient. This is both.
        self.counter = nn.Parameter(torch.zeros(()))

    @property
    def fits_once(self) -> bool:
        """Whether the head is fitted, and not trained by gradient descent."""
        return isinstance(self.backbone, FittedHead)

    @property
    def fitted(self) -> bool:
        """Whether the head can predict."""
        return not self.fits_once or self.backbone.fitted

    def batch_features(self, batch: Batch) -> Tensor:
        """Features of a batch, ``(B, K)``."""
        return self.embed(batch["image"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``, or features, shape ``(B, K)``.

        Returns:
            Minus and plus half the head's score, shape ``(B, 2)``, so that the logit difference is the score.
        """
        score = self.backbone(x if x.ndim == 2 else self.embed(x))
        return torch.stack([-score / 2, score / 2], dim=1)

    def score(self, logits: Tensor) -> Tensor:
        """The head's score, shape ``(B,)``, above 0 for label 1; in float64 for the fitted heads."""
        return logits[:, 1] - logits[:, 0]

    def objective(self, batch: Batch) -> Tensor:
        """Cross entropy on a batch as it is."""
        return super().objective(self._with_features(batch))

    def on_train_start(self) -> None:
        """Warn where a loader leaves out training images that a fit in one epoch would miss."""
        loader: Any = self.trainer.train_dataloader
        left = len(loader.sampler) % loader.batch_size if getattr(loader, "drop_last", False) else 0
        if left and self.fits_once:
            rank_zero_warn(
                f"The training loader drops its last incomplete batch, so {left} images per process are not fitted on; "
                "give a data.batch_size that divides their number, or a datamodule that drops none."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Collect features, and fit with the last batch; a gradient step for other heads."""
        if not self.fits_once:
            return super().training_step(self._with_features(batch), batch_idx)
        with torch.no_grad():
            self.seen.update(self.batch_features(batch), batch["label"], batch["path"])
        if self.trainer.is_last_batch:
            if len(self.seen.features) != batch_idx + 1:
                raise RuntimeError(
                    f"Only {len(self.seen.features)} of {batch_idx + 1} training batches were seen: the run was "
                    "resumed within the epoch, and features are not in the checkpoint. Start again without --ckpt_path."
                )
            features, labels = self.seen.compute()
            self.seen.reset()
            self.fit_head(features, labels)
            loss = F.cross_entropy(self(features), labels)
            self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))
            self.trainer.should_stop = True  # further epochs would fit the same again
        return 0 * self.counter

    def fit_head(self, features: Tensor, labels: Tensor) -> None:
        """Fit on the features ``(N, K)`` and labels ``(N,)`` of all training images."""
        self.backbone.fit(features, labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """As in :class:`ImageDetector`; Lightning's check before training has nothing to look at yet."""
        if self.fitted or not self.trainer.sanity_checking:
            super().validation_step(self._with_features(batch), batch_idx)

    def on_validation_epoch_end(self) -> None:
        """As in :class:`ImageDetector`, once there is something to validate."""
        if self.fitted:
            super().on_validation_epoch_end()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the loader that the batch came from."""
        super().test_step(self._with_features(batch), batch_idx, dataloader_idx)

    def configure_optimizers(self) -> Any:
        """For a fitted head one that changes nothing; that of :class:`ImageDetector` for others."""
        if self.fits_once:
            return torch.optim.SGD([self.counter], lr=0.0)
        return super().configure_optimizers()

    def _with_features(self, batch: Batch) -> Batch:
        """The batch with its features where the base class looks for images."""
        return {**batch, "image": self.batch_features(batch)}
