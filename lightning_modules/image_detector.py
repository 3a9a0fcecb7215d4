"""Detector of AI-generated images (Grommelt et al. 2024)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
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

from functional.calibration import delivery_variants
from lightning_modules.calibration import ECE_BINS, VERDICTS, CalibratedError, VerdictCalibration
from lightning_modules.image_classifier import ImageClassifier

__all__ = ["ImageDetector"]


class _BalancedAccuracy(MulticlassAccuracy):
    """Mean of TPR and TNR from fake probabilities."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update((preds > 0.5).long(), target)


class _TPRAtFPR(BinarySensitivityAtSpecificity):
    """The rate alone, without the threshold that torchmetrics returns beside it."""

    def compute(self) -> Tensor:  # type: ignore[override]
        return super().compute()[0]


class ImageDetector(ImageClassifier):
    """Two-class detector, 0 = real, 1 = fake, with temperature and thresholds chosen on validation data.

    Its score is the logit difference ``fake - real``. After each validation epoch the temperature that makes a
    probability of the score, the scores above which at most ``error_rate`` of the reals lie, and below which at most
    ``error_rate`` of the fakes lie, are stored in the checkpoint; between the two, :meth:`predict_step` says "unsure".

    Args:
        backbone: timm model name, e.g. ``resnet50``, ``swin_tiny_patch4_window7_224``, ``cifar_resnet20``.
        image_size: side of the square input; the command line fills it in from the data.
        error_rate: tolerated share of wrong verdicts per class on validation data, in [0, 0.5).
        predict_variants: let ``predict`` judge each picture also as recompressed (JPEG 95, 85, 75, 65) and rescaled
            (0.5, 0.75, 1.5), eight times the work; a verdict that flips between real and fake becomes "unsure".
        predict_attribution: let ``predict`` draw a second sheet with a map of where the network saw "fake": a hint,
            not evidence.
        kwargs: further arguments of :class:`ImageClassifier`; ``num_classes`` is 2.
    """

    headline = "val/auroc"
    verdict_names = VERDICTS

    def __init__(
        self,
        backbone: str = "resnet50",
        image_size: int | None = None,
        error_rate: float = 0.05,
        predict_variants: bool = False,
        predict_attribution: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("num_classes", 2) != 2:
            raise ValueError("model.num_classes: a detector tells two classes apart, real and fake.")
        super().__init__(backbone=backbone, num_classes=2, image_size=image_size, **kwargs)
        self.calibration = VerdictCalibration(error_rate)
        self.predict_variants, self.predict_attribution = predict_variants, predict_attribution
        self.val_scores, self.val_labels = CatMetric(nan_strategy=float("inf")), CatMetric()  # NaN would be dropped

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
                "ece": BinaryCalibrationError(n_bins=ECE_BINS),
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
        """Log the metrics, choose temperature and thresholds, log ``val/temperature`` and ``val/ece_calibrated``."""
        super().on_validation_epoch_end()
        scores, labels = self.val_scores.compute(), self.val_labels.compute()
        self.val_scores.reset()
        self.val_labels.reset()
        if self.trainer.sanity_checking or labels.unique().numel() < 2:
            return
        if not scores.isfinite().all():
            rank_zero_warn("Validation scores are not finite: temperature and thresholds keep their last values.")
            return
        report = self.calibration.fit(scores, labels)
        for name in ("temperature", "ece_calibrated"):
            self.log(f"val/{name}", report[name], sync_dist=True)

    def on_test_start(self) -> None:
        """Add the error of the calibrated probability, ``ece_calibrated``, to the metrics of each loader."""
        super().on_test_start()
        for metrics in self.test_metrics:
            cast(MetricCollection, metrics).add_metrics({"ece_calibrated": CalibratedError().to(self.device)})

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the loader that the batch came from."""
        logits = self(batch["image"])
        cast(MetricCollection, self.test_metrics[dataloader_idx]).update(
            preds=self.scores(logits),
            target=batch["label"],
            calibrated=self.calibration.probability(self.score(logits)),
        )

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, probability of "fake" ``(B,)``, score ``(B,)``, verdict ``(B,)`` (0 real, 1 fake, 2 unsure), bounds.

        The verdict compares the score with the bounds chosen on validation data, ``unsure_below`` and
        ``unsure_above``; the probability is the sigmoid of score over temperature and may lie on the other side of
        even odds. ``threshold`` is the score above which at most ``error_rate`` of the validation reals lay.

        With ``predict_variants`` also ``probability_min`` and ``probability_max`` over the picture and its variants,
        and ``verdict_agreement``, the share of variants that get the picture's own verdict. Where "real" and "fake"
        both occur among picture and variants, the verdict returned is "unsure".
        """
        score = self.score(self(batch["image"]))
        outputs = self.judge(batch["path"], score)
        return outputs | self._spread(batch["image"], score) if self.predict_variants else outputs

    def judge(self, paths: list[str], score: Tensor) -> dict[str, Any]:
        """What ``predict`` says of images with some scores ``(B,)``: probability, verdict and bounds, each ``(B,)``."""
        return {
            "path": paths,
            "probability": self.calibration.probability(score),
            "score": score,
            "verdict": self.calibration.verdict(score),
            "unsure_below": self.calibration.unsure_below.expand_as(score),
            "unsure_above": self.calibration.unsure_above.expand_as(score),
            "threshold": self.calibration.threshold.expand_as(score),
            "verdict_names": self.verdict_names,
        }

    def attribution(self, x: Tensor) -> Tensor:
        """Where the network saw "fake": Grad-CAM of the score on the last map of features. A hint, not evidence.

        The channels are weighted by the mean gradient of the score, summed, and what is negative is dropped. Each map
        is divided by its own maximum, so maps of different images do not compare; a map without any evidence for
        "fake" is zero. Transformers that read a class token are looked at before their last block, after which the
        other tokens no longer matter. Gradients of parameters are neither computed nor touched, and the call works in
        inference mode. Like :meth:`embed` it takes the network in its present mode; call ``eval()`` first.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``.

        Returns:
            Maps in [0, 1], float32, shape ``(B, H, W)``.

        Raises:
            ValueError: if the network is built for another image size.
            TypeError: if the network's features are not a map.

        Source: Selvaraju et al. 2017, Sec. 3.
        """
        self._check_size(x)
        with torch.inference_mode(False):
            features, score = self._features_and_score(x.clone())  # autograd can save a clone, but no inference tensor
            (gradient,) = torch.autograd.grad(score.sum(), features)
            maps, slopes = (self._as_maps(part.detach().float(), x) for part in (features, gradient))
            evidence = (slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True).relu()
            evidence = F.interpolate(evidence, x.shape[-2:], mode="bilinear").squeeze(1)
            return evidence / evidence.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    def _spread(self, images: Tensor, score: Tensor) -> dict[str, Tensor]:
        """Columns on the delivery variants of images ``(B, 3, H, W)`` with scores ``(B,)``; see `predict_step`."""
        # One forward per variant: no more memory than without, and one shape for a compiled network.
        scores = torch.stack([score, *(self.score(self(variant)) for variant in delivery_variants(images))])
        probabilities, verdicts = self.calibration.probability(scores), self.calibration.verdict(scores)
        flips = (verdicts == 0).any(dim=0) & (verdicts == 1).any(dim=0)
        return {
            "verdict": torch.where(flips, 2, verdicts[0]),
            "probability_min": probabilities.amin(dim=0),
            "probability_max": probabilities.amax(dim=0),
            "verdict_agreement": (verdicts[1:] == verdicts[0]).float().mean(dim=0),
        }

    def _features_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Last features all of which the score depends on, and the score ``(B,)`` as a function of them."""
        kept: list[Tensor] = []

        def start_here(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            kept.append(arguments[0].detach().requires_grad_())
            torch.set_grad_enabled(True)  # until the end of the no_grad block: nothing earlier is kept for a gradient
            return (kept[0].clone(), *arguments[1:])  # which later layers may change in place

        reads_class_token = getattr(self.backbone, "global_pool", None) == "token" and hasattr(self.backbone, "blocks")
        handle = self.backbone.blocks[-1].register_forward_pre_hook(start_here) if reads_class_token else None
        try:
            with torch.no_grad():
                features = self.backbone.forward_features(self.normalize(x))
                if handle is None and isinstance(features, Tensor):
                    features = start_here(self.backbone, (features,))[0]
                if not kept:
                    raise TypeError(self._no_map(features))
                return kept[0], self.score(self.backbone.forward_head(features))
        finally:
            if handle is not None:
                handle.remove()

    def _as_maps(self, features: Tensor, images: Tensor) -> Tensor:
        """Features ``(B, C, h, w)``, ``(B, h, w, C)`` or ``(B, tokens, C)`` of images as ``(B, C, h, w)``."""
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if getattr(self.backbone, "output_fmt", "") == "NHWC" else features
        if features.ndim == 3 and len(features) == len(images):
            aspect = images.shape[-2] / images.shape[-1]
            for prefix in (getattr(self.backbone, "num_prefix_tokens", 0), 0):  # some join them after the last block
                patches = features[:, prefix:]
                count = patches.shape[1]
                rows, columns = round((count * aspect) ** 0.5), round((count / aspect) ** 0.5)
                if rows * columns == count > 1:
                    return patches.mT.unflatten(2, (rows, columns))
        raise TypeError(self._no_map(features))

    def _no_map(self, features: Any) -> str:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        return (
            f"model.predict_attribution: the features of {type(self.backbone).__name__} ({shape}) are no map of the "
            "image. Leave it off for this backbone."
        )
