"""Detector of adversarial attacks on a classifier (Harder et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from lightning_modules.adversarial_head import AdversarialHead, AdversarialHeadName, Scaler
from lightning_modules.fitted_detector import FittedDetector
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.image_detector import ImageDetector
from lightning_modules.victim_features import FeatureName, VictimFeatures

__all__ = ["AdversarialDetector", "Guarded"]

Batch = dict[str, Any]
LARGEST_DISAGREEMENT = 0.1
"""Share of images whose class a victim may see differently on another machine; that of another victim is far larger."""
RANGE_SLACK = 1e-3
UNSURE = 2


class Guarded(NamedTuple):
    """What a guarded classifier says of images.

    Attributes:
        logits: of the classifier, shape ``(B, classes)``.
        score: of the detector, above 0 for "attacked", shape ``(B,)``.
        verdict: 0 clean, 1 attacked, 2 unsure, shape ``(B,)``.
    """

    logits: Tensor
    score: Tensor
    verdict: Tensor


class AdversarialDetector(FittedDetector):
    """Guard in front of a classifier: tells attacked images (1) from clean ones (0).

    The victim, any :class:`ImageClassifier` or detector of ours, is frozen. Features of all training images, clean and
    attacked, are collected in one pass, over all processes; then a classifier of scikit-learn is fitted and kept as
    tensors. Temperature and thresholds are chosen on validation images as in :class:`ImageDetector`, and ``predict``
    flags images. A detector is fitted for one attack; how it transfers to others is for ``test`` to say.

    The published threat model is an attacker who does not know of the detector. One who does gets past it, see
    ``studies.spectral_defense adaptive``.

    Args:
        victim: the classifier to guard.
        features: ``input_mfs``, ``input_pfs``, ``layer_mfs``, ``layer_pfs``, or a baseline, ``lid`` or ``mahalanobis``;
            see :class:`VictimFeatures`.
        layers: names of layers of the victim's ``backbone`` to look into; the paper's for VGG by default.
        own_maximum: divide each layer's spectrum by its own maximum (CIFAR-100 with DeepFool and Carlini-Wagner).
        log1p: logarithm of 1 + magnitude (not in the paper).
        neighbours: k of ``lid``.
        references: clean images that ``lid`` compares with.
        step: signed-gradient step of ``mahalanobis`` in normalised pixels.
        head: ``logistic_regression``, ``svm_rbf`` or ``svm_linear``.
        C: inverse strength of the regularisation.
        gamma: kernel width of ``svm_rbf``, a number, ``auto`` or ``scale``.
        scaler: ``none`` (published), ``standard`` or, published for ``svm_rbf``, ``minmax``, by the training images.
        head_seed: seed of the fit.
        error_rate: tolerated share of wrong verdicts per class on validation data, in [0, 0.5).
        image_size: side of the square input; the command line fills it in from the data.
        num_classes: 2, clean and attacked.

    Source: Harder et al. 2021, SpectralDefense, Sec. III and IV.
    """

    verdict_names = ("clean", "attacked", "unsure")
    not_hyperparameters = (*ImageDetector.not_hyperparameters, "victim")

    def __init__(
        self,
        victim: ImageClassifier,
        features: FeatureName = "layer_mfs",
        layers: list[str] | None = None,
        own_maximum: bool = False,
        log1p: bool = False,
        neighbours: int = 20,
        references: int = 100,
        step: float = 5e-5,
        head: AdversarialHeadName = "logistic_regression",
        C: float = 1.0,
        gamma: float | Literal["auto", "scale"] = "scale",
        scaler: Scaler = "none",
        head_seed: int = 0,
        error_rate: float = 0.05,
        image_size: int | None = None,
        num_classes: int | None = 2,
    ) -> None:
        options = {"C": C, "gamma": gamma, "scaler": scaler, "seed": head_seed}
        super().__init__(
            backbone=head,
            backbone_kwargs=options,
            image_size=image_size,
            error_rate=error_rate,
            num_classes=num_classes,
        )
        self.victim = victim.requires_grad_(False).eval()
        self.features = VictimFeatures(features, layers, own_maximum, log1p, neighbours, references, step)
        self.collect_features()

    def build_backbone(self, name: str, image_size: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
        """The head, from features ``(B, K)`` to scores ``(B,)``."""
        self.fixed_image_size = None
        return AdversarialHead(cast(AdversarialHeadName, name), **kwargs)

    def train(self, mode: bool = True) -> AdversarialDetector:
        """As for any module, but the victim stays in eval mode: its answers are what is looked at."""
        super().train(mode)
        self.victim.eval()
        return self

    def guarded(self, x: Tensor) -> Guarded:
        """The victim's logits together with the detector's score and verdict, from one forward pass.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``; the verdict on an image with other values is "unsure".

        Raises:
            RuntimeError: before the fit.
            ValueError: if ``x`` is of another shape, or of whole numbers.
        """
        if not x.is_floating_point() or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Images must be floats in [0, 1] of shape (B, 3, H, W), got {x.dtype} {tuple(x.shape)}.")
        logits, features = self.features(self.victim, x)
        score = self.backbone(features)
        outside = ((x < -RANGE_SLACK) | (x > 1 + RANGE_SLACK)).flatten(1).any(dim=1)
        return Guarded(logits, score, self.calibration.verdict(score).masked_fill(outside, UNSURE))

    def embed(self, x: Tensor) -> Tensor:
        """Features ``(B, K)`` of images in [0, 1], shape ``(B, 3, H, W)``."""
        features: Tensor = self.features(self.victim, x)[1]
        return features

    def batch_features(self, batch: Batch) -> Tensor:
        """Features of a batch, ``(B, K)``; in training, where the batch says it, whether it was made with this victim.

        Raises:
            ValueError: if the victim gives most images other classes than the classifier that was attacked.
        """
        logits, features = self.features(self.victim, batch["image"])
        if "victim_class" in batch and self._trainer is not None and self.trainer.training:
            self.disagreed += float((logits.argmax(dim=1) != batch["victim_class"]).sum())
            self.compared += len(logits)
            if self.trainer.is_last_batch and self.disagreed > LARGEST_DISAGREEMENT * self.compared:
                raise ValueError(
                    f"model.victim gives {self.disagreed:.0f} of {self.compared} training images another class than "
                    "the classifier that was attacked: these pairs were made with another victim. Name that one, or "
                    "make pairs with this one (`studies.spectral_defense attack`)."
                )
        return features

    def on_train_epoch_start(self) -> None:
        """Start counting how often the victim disagrees with the pairs."""
        self.disagreed, self.compared = 0.0, 0

    def on_fit_start(self) -> None:
        """Let the baselines see clean images of the victim's training set.

        Raises:
            TypeError: if they need some and the datamodule has no ``reference_dataloader``.
        """
        if not self.features.needs_reference:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "reference_dataloader"):
            raise TypeError(
                f"model.features={self.features.name} needs clean images of the victim's training set: "
                f"{type(data).__name__} has no reference_dataloader(), which AdversarialDataModule has."
            )
        self.features.fit(self.victim, self._on_device(data.reference_dataloader()))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """As in :class:`ImageDetector`, with ``prediction`` ``(B,)``, the class that the victim gives each image."""
        guarded = self.guarded(batch["image"])
        judged = self.judge(batch["path"], guarded.score)
        return {**judged, "prediction": guarded.logits.argmax(dim=1)}

    def _on_device(self, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            yield batch["image"].to(self.device), batch["label"].to(self.device)
