"""Image classification with any timm network."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from functional.consistency import jensen_shannon_divergence
from lightning_modules.networks import create_network, fixed_input_size, load_weights
from lightning_modules.schedules import optimization

__all__ = ["ImageClassifier", "Normalize"]

Batch = dict[str, Any]


class Normalize(nn.Module):
    """First layer of every network here: pixels in [0, 1] to zero mean and unit variance per channel.

    Args:
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images ``(B, C, H, W)``."""
        return ((x - self.mean) / self.std).to(self.std.dtype)  # the pixels stay float32 under bf16-true


class HighPass(nn.Module):
    """Difference of each pixel to the mean of its 3 x 3 neighbourhood, in which codec and sensor traces stand out."""

    def forward(self, x: Tensor) -> Tensor:
        """Residual of images ``(B, C, H, W)``, same shape."""
        return x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


class ImageClassifier(LightningModule):
    """Classifier over any network that ``timm.create_model`` knows, our own included.

    Subclasses override ``build_metrics``, ``scores``, ``loss`` or ``embed``; each is small.

    Args:
        backbone: timm model name, e.g. ``resnet50``, ``swin_tiny_patch4_window7_224``, ``cifar_resnet20``.
        num_classes: number of classes; the command line fills it in from the data.
        image_size: side of the square input; the command line fills it in from the data. Networks that are built for
            one size (transformers) need it.
        pretrained: download timm's weights (network access; off by default).
        weights: file to take the network's weights from: ``.safetensors``, a state dictionary, or a checkpoint of ours.
        backbone_kwargs: further arguments of ``timm.create_model``, e.g. ``{drop_path_rate: 0.2}``.
        mean: channel means that the first layer subtracts.
        std: channel deviations that the first layer divides by.
        high_pass: give the network the difference to a 3 x 3 mean instead of the pixels, so that content does not
            drown codec and up-sampling traces.
        label_smoothing: share of the target that is spread over all classes.
        mixup_alpha: Beta parameter of Mixup on training batches; 0 switches it off.
        cutmix_alpha: Beta parameter of CutMix; with both, each batch takes one of the two with equal chance.
        jsd_weight: weight of the Jensen-Shannon consistency between a clean image and its ``views``; needs a
            datamodule that adds ``views`` to its training batches.
        decay_norm_and_bias: apply weight decay to biases and normalisation weights too.
        optimizer: optimiser class, called with the parameters.
        lr_scheduler: scheduler class, called with the optimiser and stepped once per epoch; none by default.
        compile: compile the network with ``torch.compile``; checkpoints keep their keys.

    Raises:
        ValueError: if ``num_classes`` is missing or below 2.
    """

    monitor: tuple[str, str] = ("val/loss", "min")
    """Metric and direction by which the best checkpoint is chosen; a loss hardly ever ties, an AUROC of 1 does."""
    headline = "val/accuracy"
    """Validation metric that the progress bar shows."""
    not_hyperparameters: tuple[str, ...] = ("optimizer", "lr_scheduler")
    """Arguments that a checkpoint cannot keep as plain values."""

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int | None = None,
        image_size: int | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        high_pass: bool = False,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        jsd_weight: float = 0.0,
        decay_norm_and_bias: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=list(self.not_hyperparameters))
        if num_classes is None or num_classes < 2:
            raise ValueError(
                f"model.num_classes={num_classes}: a classifier needs at least 2 classes. Give your datamodule class "
                "a `num_classes` attribute, from which the command line fills it in."
            )
        self.num_classes = num_classes
        self.normalize: nn.Module = Normalize(mean, std)
        if high_pass:
            self.normalize = nn.Sequential(self.normalize, HighPass())
        self.backbone: Any = self.build_backbone(backbone, image_size, pretrained, backbone_kwargs or {})
        if weights is not None:
            load_weights(self.backbone, weights)
        self.label_smoothing = label_smoothing
        self.decay_norm_and_bias = decay_norm_and_bias
        self.optimizer_factory, self.scheduler_factory = optimizer, lr_scheduler
        self.jsd_weight = jsd_weight
        if jsd_weight and (mixup_alpha or cutmix_alpha):
            raise ValueError("model.jsd_weight compares views of one image; switch off mixup_alpha and cutmix_alpha.")
        mixers = [
            mixer(alpha=alpha, num_classes=num_classes)
            for mixer, alpha in ((v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha))
            if alpha > 0
        ]
        self.mixer = v2.RandomChoice(mixers) if mixers else None
        metrics = self.build_metrics()
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = nn.ModuleList([metrics.clone()])
        self.test_names = [""]
        if compile:
            self.backbone.compile()

    def build_backbone(self, name: str, image_size: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
        """Create the network; override to use one that timm does not know.

        Raises:
            ValueError: if timm has no such model.
        """
        self.fixed_image_size = image_size if fixed_input_size(name) else None
        return create_network(name, self.num_classes, image_size, pretrained, kwargs)

    def build_metrics(self) -> MetricCollection:
        """Metrics of validation and test, fed with :meth:`scores` and the labels."""
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(self.num_classes, average="micro"),
                "balanced_accuracy": MulticlassAccuracy(self.num_classes, average="macro"),
            }
        )

    def scores(self, logits: Tensor) -> Tensor:
        """What the metrics take: here class probabilities ``(B, num_classes)`` from logits of the same shape."""
        return logits.float().softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``.

        Returns:
            Shape ``(B, num_classes)``.

        Raises:
            ValueError: if the network is built for another image size.
        """
        self._check_size(x)
        return self.backbone(self.normalize(x))

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, shape ``(B, D)``, of images in [0, 1], shape ``(B, 3, H, W)``."""
        self._check_size(x)
        features = self.backbone.forward_features(self.normalize(x))
        return self.backbone.forward_head(features, pre_logits=True)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, D)`` as of :meth:`embed`, and logits ``(B, C)``, by one pass of the network."""
        features = self.embed(x)
        return features, self.backbone.get_classifier()(features)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy of logits ``(B, C)`` with labels ``(B,)`` or class probabilities ``(B, C)``."""
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def objective(self, batch: Batch) -> Tensor:
        """Loss on a batch as it is, without Mixup or views: what landscapes and Hessians look at."""
        return self.loss(self(batch["image"]), batch["label"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs ``train/loss_step`` and ``train/loss_epoch``."""
        images, target = batch["image"], batch["label"]
        if self.jsd_weight:
            loss = self._consistency_loss(batch)
        else:
            if self.mixer is not None:
                images, target = self.mixer(images, target)
            loss = self.loss(self(images), target)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics and log ``val/loss``."""
        logits = self(batch["image"])
        loss = F.cross_entropy(logits, batch["label"])
        self.log("val/loss", loss, batch_size=len(logits), on_epoch=True, sync_dist=True)
        self.update_validation(logits, batch["label"])

    def update_validation(self, logits: Tensor, labels: Tensor) -> None:
        """Collect what the end of the validation epoch needs from logits ``(B, C)`` and labels ``(B,)``."""
        self.val_metrics.update(self.scores(logits), labels)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        for name, value in self.val_metrics.compute().items():
            self.log(name, value, prog_bar=name == self.headline, sync_dist=True)
        self.val_metrics.reset()

    def on_test_start(self) -> None:
        """One set of metrics per test loader; a dictionary of loaders gives the names."""
        loaders = self.trainer.test_dataloaders
        count = len(loaders) if isinstance(loaders, dict | list) else 1
        self.test_names = [f"{name}/" for name in loaders] if isinstance(loaders, dict) else [""] * count
        if isinstance(loaders, list) and count > 1:
            self.test_names = [f"{index}/" for index in range(count)]
        metrics = self.build_metrics().to(self.device)
        self.test_metrics = nn.ModuleList([metrics.clone() for _ in range(count)])

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the loader that the batch came from."""
        cast(MetricCollection, self.test_metrics[dataloader_idx]).update(
            self.scores(self(batch["image"])), batch["label"]
        )

    def on_test_epoch_end(self) -> None:
        """Log ``test/<loader>/<metric>`` for each loader, and the plain mean over loaders as ``test/<metric>``.

        Among several loaders those named ``<name>@<condition>`` have a mean of their own,
        ``test@<condition>/<metric>``.
        """
        results = [cast(MetricCollection, metrics).compute() for metrics in self.test_metrics]
        means: dict[str, list[Tensor]] = {}
        for name, values in zip(self.test_names, results, strict=True):
            condition = name.rstrip("/").partition("@")[1:] if len(results) > 1 else ()
            for key, value in values.items():
                means.setdefault(f"test{''.join(condition)}/{key}", []).append(value.float())
                if len(results) > 1:
                    self.log(f"test/{name}{key}", value, sync_dist=True)
        for key, parts in means.items():
            self.log(key, torch.stack(parts).mean(), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, class probabilities ``(B, C)`` and the index of the likeliest class ``(B,)``."""
        probabilities = self(batch["image"]).float().softmax(dim=-1)
        return {"path": batch["path"], "probabilities": probabilities, "prediction": probabilities.argmax(dim=-1)}

    def configure_optimizers(self) -> Any:
        """Optimiser over two groups, with and without weight decay, and the scheduler if there is one."""
        parameters: Any = self.parameters()
        if not self.decay_norm_and_bias:
            exempt = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else set()
            named = [(name, p) for name, p in self.backbone.named_parameters() if p.requires_grad]
            decayed = [p for name, p in named if p.ndim > 1 and name not in exempt]
            plain = [p for name, p in named if p.ndim <= 1 or name in exempt]
            parameters = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return optimization(parameters, self.optimizer_factory, self.scheduler_factory)

    def _consistency_loss(self, batch: Batch) -> Tensor:
        if "views" not in batch:
            raise ValueError(
                "model.jsd_weight > 0 needs batches with `views`; set data.augmented_views (2 in the paper)."
            )
        images = torch.cat([batch["image"].unsqueeze(1), batch["views"]], dim=1)  # (B, 1 + V, 3, H, W), clean first
        logits = self(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        divergence = jensen_shannon_divergence(logits.transpose(0, 1))
        return self.loss(logits[:, 0], batch["label"]) + self.jsd_weight * divergence

    def _check_size(self, x: Tensor) -> None:
        size = self.fixed_image_size
        if size and x.shape[-2:] != (size, size):
            raise ValueError(
                f"Image size mismatch: the network is built for {size} x {size}, the batch has "
                f"{x.shape[-2]} x {x.shape[-1]}. Set data.image_size to {size}, or train with the new size."
            )
