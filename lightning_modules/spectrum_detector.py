"""Detector of generated images by one number per frequency (Durall et al. 2019)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from functional.spectrum import RadialSpectrum
from lightning_modules.fitted_detector import FittedDetector
from lightning_modules.fitted_heads import FITTED_HEADS, FeatureRange, FittedHead, SpectrumMLP

__all__ = ["HeadName", "SpectrumDetector"]

Batch = dict[str, Any]
HeadName = Literal["svm_rbf", "svm_linear", "svm_poly", "logistic_regression", "kmeans", "mlp"]
UNSURE = 2


class SpectrumDetector(FittedDetector):
    """Detector whose features are the radial log-spectrum and whose head is fitted once, in a single epoch.

    Batches bring ``image``, whose spectra are computed on the device, or ``spectrum``, ready-made features: those of
    ``SpectrumDataModule`` are taken by the loader's workers from files at their own size and, for JPEG, from the file's
    own luma plane, as published; those of ``FeatureTableDataModule`` come from a table. Augmented images are features
    of augmented images; the published protocol has none.

    All heads but ``mlp`` are fitted by scikit-learn when the last training batch has been seen, on the features of all
    processes, and are then plain tensors of the checkpoint. ``score`` is their decision function; temperature and
    thresholds are chosen on validation images as in :class:`ImageDetector`. The range of each feature in training is
    kept too: an image that lies outside is "unsure" for ``predict``, with a warning.

    Args:
        head: ``svm_rbf``, ``svm_linear``, ``svm_poly``, ``logistic_regression``, ``kmeans`` (two clusters, labels only
            name them), or ``mlp``, trained by gradient descent with ``optimizer``.
        spectrum: how spectra of ``image`` batches are taken; the paper's 80 features by default.
        C: inverse strength of the regularisation; published values by default.
        gamma: kernel width, a number, ``auto`` or ``scale``; published values by default.
        standardize: standardise features before the fit (not in the paper); wanted where they are not ``relative``.
        hidden: width of the ``mlp``.
        head_seed: seed of k-means' starts and of liblinear.
        range_margin: how far outside its range in training a feature may lie, in widths of that range, before an image
            counts as unlike all training images.
        image_size: side of the square input; the command line fills it in from the data.
        error_rate: tolerated share of wrong verdicts per class on validation data, in [0, 0.5).
        num_classes: 2, real and fake.
        optimizer: optimiser class of the ``mlp``.
        lr_scheduler: scheduler class of the ``mlp``, stepped once per epoch.

    Source: Durall et al. 2019, Unmasking DeepFakes with simple Features, Sec. 3 and 4.
    """

    def __init__(
        self,
        head: HeadName = "svm_rbf",
        spectrum: RadialSpectrum | None = None,
        C: float | None = None,
        gamma: float | Literal["auto", "scale"] | None = None,
        standardize: bool = False,
        hidden: int = 64,
        head_seed: int = 0,
        range_margin: float = 0.5,
        image_size: int | None = None,
        error_rate: float = 0.05,
        num_classes: int | None = 2,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if isinstance(spectrum, dict):  # from a checkpoint, which holds plain values only
            spectrum = RadialSpectrum(**spectrum)
        settings = spectrum or RadialSpectrum(features=80, relative=True)
        options: dict[str, Any] = {"C": C, "gamma": gamma, "standardize": standardize, "seed": head_seed}
        if head == "mlp":
            channels = 3 if settings.colour == "rgb" else 1
            options = {"hidden": hidden, "features": channels * _length(settings, image_size)}
        super().__init__(
            backbone=head,
            backbone_kwargs=options,
            image_size=image_size,
            error_rate=error_rate,
            num_classes=num_classes,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.hparams["spectrum"] = asdict(settings)
        self.spectrum, self.range_margin = settings, range_margin
        self.range = FeatureRange()
        self.outside = MeanMetric()
        if head != "mlp":
            self.collect_features()

    def build_backbone(self, name: str, image_size: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
        """The head, from features ``(B, K)`` to scores ``(B,)``."""
        self.fixed_image_size = None
        if name == "mlp":
            return SpectrumMLP(**kwargs)
        if name not in FITTED_HEADS:
            raise ValueError(f"model.head={name!r} is not one of {', '.join((*FITTED_HEADS, 'mlp'))}.")
        return FittedHead(cast(Any, name), **kwargs)

    def batch_features(self, batch: Batch) -> Tensor:
        """Ready-made or freshly computed features of a batch, ``(B, K)``."""
        return batch["spectrum"] if "spectrum" in batch else self.spectrum(batch["image"])

    def embed(self, x: Tensor) -> Tensor:
        """Features ``(B, K)`` of images in [0, 1], shape ``(B, 3, H, W)``."""
        return self.spectrum(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As in :class:`FittedDetector`; the ``mlp`` learns the range of features batch by batch."""
        if not self.fits_once:
            self.range.update(self.batch_features(batch))
        return super().training_step(batch, batch_idx)

    def fit_head(self, features: Tensor, labels: Tensor) -> None:
        """Fit, and keep the range of each feature."""
        super().fit_head(features, labels)
        self.range = FeatureRange().to(self.device)
        self.range.update(features)

    def on_validation_epoch_start(self) -> None:
        """Bring the range of features together, which each process has seen a part of."""
        if not self.fits_once and self.trainer.world_size > 1 and self.range.lowest.numel():
            for name, reduce in (("lowest", torch.amin), ("highest", torch.amax)):
                gathered = cast(Tensor, self.all_gather(getattr(self.range, name)))
                self.range._buffers[name] = reduce(gathered, dim=0)

    def on_test_start(self) -> None:
        """Start counting images outside the range of training."""
        super().on_test_start()
        self.outside.reset()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the loader that the batch came from."""
        batch = {**batch, "spectrum": self.batch_features(batch)}
        self.outside.update(self._is_outside(batch["spectrum"]).float())
        super().test_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the metrics, and the share of images outside the range of training as ``test/out_of_range``."""
        super().on_test_epoch_end()
        self._report_outside()
        self.log("test/out_of_range", self.outside.compute(), sync_dist=True)

    def on_predict_start(self) -> None:
        """Start counting images outside the range of training."""
        self.outside.reset()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """As in :class:`ImageDetector`, with ``out_of_range`` ``(B,)``, 1 for images whose verdict is no verdict."""
        batch = self._with_features(batch)
        result = super().predict_step(batch, batch_idx, dataloader_idx)
        outside = self._is_outside(batch["image"])
        self.outside.update(outside.float())
        result["verdict"] = result["verdict"].masked_fill(outside, UNSURE)
        return {**result, "out_of_range": outside.long()}

    def on_predict_epoch_end(self) -> None:
        """Warn of images outside the range of training."""
        self._report_outside()

    def _is_outside(self, features: Tensor) -> Tensor:
        return self.range.excess(features) > self.range_margin

    def _report_outside(self) -> None:
        share = float(self.outside.compute())
        if share > 0:
            rank_zero_warn(
                f"The spectra of {100 * share:.1f} % of the images lie outside the range seen in training, by more "
                f"than {self.range_margin} of its width: other sizes, codecs or filters than the training images have? "
                "Their scores mean little; `predict` calls them unsure."
            )


def _length(spectrum: RadialSpectrum, image_size: int | None) -> int:
    """Number of features per channel.

    Raises:
        ValueError: if neither the settings nor the image size tell.
    """
    if spectrum.features is None and image_size is None and spectrum.axis == "rings":
        raise ValueError("model.spectrum.features is needed for the head mlp where data.image_size is not given.")
    size = image_size or 256  # of no consequence where the number of features is fixed
    return len(spectrum.frequencies(size, size))
