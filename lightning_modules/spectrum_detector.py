"""Detector of generated images by one number per frequency (Durall et al. 2019)."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.utilities import dim_zero_cat

from functional.spectrum import RadialSpectrum
from lightning_modules.image_detector import ImageDetector
from lightning_modules.spectrum_heads import FITTED_HEADS, FeatureRange, FittedHead, SpectrumMLP

__all__ = ["HeadName", "SpectrumDetector"]

Batch = dict[str, Any]
HeadName = Literal["svm_rbf", "svm_linear", "svm_poly", "logistic_regression", "kmeans", "mlp"]
UNSURE = 2


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


class SpectrumDetector(ImageDetector):
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
            self.seen = TrainingFeatures()
            # Lightning counts steps of an optimiser, and DDP asks for a parameter with a gradient. This is both.
            self.counter = nn.Parameter(torch.zeros(()))

    def build_backbone(self, name: str, image_size: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
        """The head, from features ``(B, K)`` to scores ``(B,)``."""
        self.fixed_image_size = None
        if name == "mlp":
            return SpectrumMLP(**kwargs)
        if name not in FITTED_HEADS:
            raise ValueError(f"model.head={name!r} is not one of {', '.join((*FITTED_HEADS, 'mlp'))}.")
        return FittedHead(cast(Any, name), **kwargs)

    @property
    def fitted(self) -> bool:
        """Whether the head can predict."""
        return not isinstance(self.backbone, FittedHead) or self.backbone.fitted

    def features(self, batch: Batch) -> Tensor:
        """Ready-made or freshly computed features of a batch, ``(B, K)``."""
        return batch["spectrum"] if "spectrum" in batch else self.spectrum(batch["image"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``, or features, shape ``(B, K)``.

        Returns:
            Minus and plus half the head's score, shape ``(B, 2)``, so that the logit difference is the score.
        """
        score = self.backbone(x if x.ndim == 2 else self.spectrum(x))
        return torch.stack([-score / 2, score / 2], dim=1)

    def score(self, logits: Tensor) -> Tensor:
        """The head's score, shape ``(B,)``, above 0 for "fake"; in float64 for the fitted heads."""
        return logits[:, 1] - logits[:, 0]

    def embed(self, x: Tensor) -> Tensor:
        """Features ``(B, K)`` of images in [0, 1], shape ``(B, 3, H, W)``."""
        return self.spectrum(x)

    def objective(self, batch: Batch) -> Tensor:
        """Cross entropy on a batch as it is."""
        return super().objective(self._with_features(batch))

    def on_train_start(self) -> None:
        """Warn where a loader leaves out training images that a fit in one epoch would miss."""
        loader: Any = self.trainer.train_dataloader
        left = len(loader.sampler) % loader.batch_size if getattr(loader, "drop_last", False) else 0
        if left and isinstance(self.backbone, FittedHead):
            rank_zero_warn(
                f"The training loader drops its last incomplete batch, so {left} images per process are not fitted on; "
                "give a data.batch_size that divides their number, or take SpectrumDataModule, which drops none."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Collect features, and fit with the last batch; a gradient step for the ``mlp``."""
        batch = self._with_features(batch)
        if not isinstance(self.backbone, FittedHead):
            self.range.update(batch["image"])
            return super().training_step(batch, batch_idx)
        self.seen.update(batch["image"], batch["label"], batch["path"])
        if self.trainer.is_last_batch:
            if len(self.seen.features) != batch_idx + 1:
                raise RuntimeError(
                    f"Only {len(self.seen.features)} of {batch_idx + 1} training batches were seen: the run was "
                    "resumed within the epoch, and features are not in the checkpoint. Start again without --ckpt_path."
                )
            self._fit()
        return 0 * self.counter

    def on_validation_epoch_start(self) -> None:
        """Bring the range of features together, which each process has seen a part of."""
        if not isinstance(self.backbone, FittedHead) and self.trainer.world_size > 1 and self.range.lowest.numel():
            for name, reduce in (("lowest", torch.amin), ("highest", torch.amax)):
                gathered = cast(Tensor, self.all_gather(getattr(self.range, name)))
                self.range._buffers[name] = reduce(gathered, dim=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """As in :class:`ImageDetector`; Lightning's check before training has nothing to look at yet."""
        if self.fitted or not self.trainer.sanity_checking:
            super().validation_step(self._with_features(batch), batch_idx)

    def on_validation_epoch_end(self) -> None:
        """As in :class:`ImageDetector`, once there is something to validate."""
        if self.fitted:
            super().on_validation_epoch_end()

    def on_test_start(self) -> None:
        """Start counting images outside the range of training."""
        super().on_test_start()
        self.outside.reset()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the loader that the batch came from."""
        batch = self._with_features(batch)
        self.outside.update(self._is_outside(batch["image"]).float())
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

    def configure_optimizers(self) -> Any:
        """The optimiser of the ``mlp``; for a fitted head one that changes nothing."""
        if isinstance(self.backbone, FittedHead):
            return torch.optim.SGD([self.counter], lr=0.0)
        return super().configure_optimizers()

    def _with_features(self, batch: Batch) -> Batch:
        """The batch with its features where the base class looks for images."""
        return {**batch, "image": self.features(batch)}

    def _fit(self) -> None:
        features, labels = self.seen.compute()
        self.seen.reset()
        self.backbone.fit(features, labels)
        self.range = FeatureRange().to(self.device)
        self.range.update(features)
        loss = F.cross_entropy(self(features), labels)
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))
        self.trainer.should_stop = True  # further epochs would fit the same again

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
