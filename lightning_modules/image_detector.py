"""Detector of AI-generated images (Grommelt et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import CatMetric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryCalibrationError,
    BinaryRecall,
    BinarySensitivityAtSpecificity,
    BinarySpecificity,
    MulticlassAccuracy,
)

from functional.detection import unsure_band
from lightning_modules.image_classifier import ImageClassifier

__all__ = ["ImageDetector"]

VERDICTS = ("real", "fake", "unsure")


class _BalancedAccuracy(MulticlassAccuracy):
    """Mean of TPR and TNR from fake probabilities."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update((preds > 0.5).long(), target)


class _TPRAtFPR(BinarySensitivityAtSpecificity):
    """The rate alone, without the threshold that torchmetrics returns beside it."""

    def compute(self) -> Tensor:  # type: ignore[override]
        return super().compute()[0]


class ImageDetector(ImageClassifier):
    """Two-class detector, 0 = real, 1 = fake, with thresholds chosen on validation data.

    Its score is the logit difference ``fake - real``. After each validation epoch the scores above which at most
    ``error_rate`` of the reals lie, and below which at most ``error_rate`` of the fakes lie, are stored in the
    checkpoint; between the two, :meth:`predict_step` says "unsure".

    Args:
        backbone: timm model name, e.g. ``resnet50``, ``swin_tiny_patch4_window7_224``, ``cifar_resnet20``.
        image_size: side of the square input; the command line fills it in from the data.
        error_rate: tolerated share of wrong verdicts per class on validation data, in [0, 0.5).
        kwargs: further arguments of :class:`ImageClassifier`; ``num_classes`` is 2.
    """

    headline = "val/auroc"
    unsure_below: Tensor
    unsure_above: Tensor

    def __init__(
        self, backbone: str = "resnet50", image_size: int | None = None, error_rate: float = 0.05, **kwargs: Any
    ) -> None:
        if kwargs.pop("num_classes", 2) != 2:
            raise ValueError("model.num_classes: a detector tells two classes apart, real and fake.")
        super().__init__(backbone=backbone, num_classes=2, image_size=image_size, **kwargs)
        if not 0 <= error_rate < 0.5:
            raise ValueError(f"model.error_rate={error_rate}: a tolerated share of wrong verdicts lies in [0, 0.5).")
        self.error_rate = error_rate
        # Until a validation has run the band is empty, at even odds.
        self.register_buffer("unsure_below", torch.zeros(()))
        self.register_buffer("unsure_above", torch.zeros(()))
        self.val_scores, self.val_labels = CatMetric(), CatMetric()

    def build_metrics(self) -> MetricCollection:
        """Accuracies at even odds, ranking metrics, calibration error and TPR at 1 % and 5 % FPR."""
        return MetricCollection(
            {
                "accuracy": BinaryAccuracy(),
                "balanced_accuracy": _BalancedAccuracy(num_classes=2, average="macro"),
                "tpr": BinaryRecall(),
                "tnr": BinarySpecificity(),
                "auroc": BinaryAUROC(),
                "average_precision": BinaryAveragePrecision(),
                "ece": BinaryCalibrationError(n_bins=15),
                "tpr_at_fpr_1": _TPRAtFPR(min_specificity=0.99),
                "tpr_at_fpr_5": _TPRAtFPR(min_specificity=0.95),
            },
            compute_groups=False,
        )

    def score(self, logits: Tensor) -> Tensor:
        """Logit difference fake minus real, shape ``(B,)``, from logits ``(B, 2)``; zero means even odds."""
        logits = logits.float()
        return logits[:, 1] - logits[:, 0]

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of "fake", shape ``(B,)``; float64 on devices that have it, so that ranks do not tie at 1."""
        difference = self.score(logits)
        return torch.sigmoid(difference if difference.device.type == "mps" else difference.double())

    def update_validation(self, logits: Tensor, labels: Tensor) -> None:
        """Collect metrics and the scores from which the thresholds are chosen."""
        super().update_validation(logits, labels)
        self.val_scores.update(self.score(logits))
        self.val_labels.update(labels)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and choose the thresholds."""
        super().on_validation_epoch_end()
        scores, labels = self.val_scores.compute(), self.val_labels.compute()
        self.val_scores.reset()
        self.val_labels.reset()
        if not self.trainer.sanity_checking and labels.unique().numel() == 2:
            lower, upper = unsure_band(scores, labels, self.error_rate)
            self.unsure_below.copy_(lower)
            self.unsure_above.copy_(upper)

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, probability of "fake" ``(B,)``, score ``(B,)``, verdict ``(B,)`` (0 real, 1 fake, 2 unsure), bounds.

        The verdict compares the score with the bounds chosen on validation data, ``unsure_below`` and
        ``unsure_above``; the probability is the plain sigmoid of the score and may lie on the other side of even odds.
        """
        score = self.score(self(batch["image"]))
        verdict = torch.full_like(score, 2, dtype=torch.long)
        verdict[score < self.unsure_below] = 0
        verdict[score > self.unsure_above] = 1
        return {
            "path": batch["path"],
            "probability": torch.sigmoid(score),
            "score": score,
            "verdict": verdict,
            "unsure_below": self.unsure_below.expand_as(score),
            "unsure_above": self.unsure_above.expand_as(score),
            "verdict_names": VERDICTS,
        }
