"""Embeddings to be clustered, trained with triplet losses (Ho et al. 2020)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from numpy.typing import NDArray
from torch import Tensor, nn

from functional.clustering import agreement, kmeans, multicut, multicut_dense, multicut_in_parts
from functional.edge_costs import (
    CostLine,
    complete_costs,
    complete_energy,
    fit_cost_line,
    random_pairs,
    sparse_costs,
)
from functional.triplet import Mining, bounded_triplet_loss, flip_pairs, same_class, triplet_loss, two_margin_loss
from lightning_modules.gathered_embeddings import GatheredEmbeddings
from lightning_modules.image_classifier import Normalize
from lightning_modules.networks import create_network, load_weights
from lightning_modules.schedules import optimization

__all__ = ["TripletEmbedding"]

Batch = dict[str, Any]
Labels = NDArray[np.int64]
_MARGINS = {"triplet": (1.0, 0.0), "bounded": (1.0, 0.5), "two_margin": (3.0, 1.0)}
_PAIRS = 20_000


class StoredLine(nn.Module):
    """Slope and intercept of a multicut's costs, kept in the checkpoint, in float32 whatever the network's type is.

    Args:
        line: what they are until the first fit.
    """

    values: Tensor

    def __init__(self, line: CostLine) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(line, dtype=torch.float32))

    def store(self, line: CostLine) -> None:
        """Replace the line."""
        self.values.copy_(torch.tensor(line, dtype=torch.float32))

    def line(self, bias: float = 0.0) -> CostLine:
        """The line, with a bias added to its intercept."""
        slope, intercept = self.values.tolist()
        return CostLine(slope, intercept + bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredLine:
        """Follow to other devices, but keep the type: in bfloat16 a number has three digits."""
        before = self.values
        super()._apply(fn, recurse)
        if self.values.dtype != before.dtype:
            self.values = before.to(self.values.device)
        return self


class TripletEmbedding(LightningModule):
    """Embedding by any timm network, judged by k-means and by correlation clustering.

    Validation and test embed their images and cluster them with k-means and with a minimum-cost multicut, which finds
    the number of clusters itself; both are compared with the labels. The multicut's costs come from pairs of training
    images and their (perhaps wrong) labels, embedded with the network as it is then; they stay in the checkpoint.

    Args:
        backbone: timm model name, e.g. ``small_cnn``, ``small_resnet18``, ``resnet18``.
        embedding_size: dimensions of the embedding; it is not normalised, or no distance could exceed ``alpha``.
        loss: ``triplet`` (FaceNet), ``bounded`` (with a bound on distances within a class) or ``two_margin`` (the
            paper's own).
        alpha: margin; 1, 1 and 3 for the three losses by default.
        beta: bound within a class; 0.5 for ``bounded`` and 1 for ``two_margin`` by default.
        form: of the ``bounded`` loss.
        bound_weight: of the bound in the ``bounded`` loss.
        squared: losses compare squared distances.
        mining: triplets of a batch that count; ``all`` is the exact mean.
        false_negatives: share of a batch's pairs of one class that are taken for different ones (noise on pairs).
        false_positives: share of a batch's pairs of different classes that are taken for the same.
        costs: ``logit`` (logistic regression on training pairs) or ``threshold``.
        balanced: give pairs of one class and of different ones the same weight in the regression.
        threshold: squared distance at which joining costs nothing; halfway between the margins by default.
        bias: added to every cost; positive makes fewer clusters.
        cluster_images: most images that validation clusters; test clusters all.
        graph: ``complete``, or ``sparse``, for many images: edges to the nearest and to some random images only.
        neighbours: edges from each image to the nearest ones in the ``sparse`` graph.
        others: random edges of each image in the ``sparse`` graph, which stand for all that are left out.
        parts: solve the multicut in so many random parts, then contract and solve again; 1 solves it at once.
        calibration_images: last training images of the epoch that the regression is fitted on.
        seed: of random triplets and pairs, and of k-means.
        num_classes: clusters of k-means; the command line fills it in from the data.
        image_size: side of the square input; the command line fills it in from the data.
        pretrained: download timm's weights (network access; off by default).
        weights: file to take the network's weights from.
        backbone_kwargs: further arguments of ``timm.create_model``.
        mean: channel means that the first layer subtracts.
        std: channel deviations that the first layer divides by.
        optimizer: optimiser class, called with the parameters.
        lr_scheduler: scheduler class, stepped once per epoch; none by default.
        compile: compile the network with ``torch.compile``; checkpoints keep their keys.

    Raises:
        ValueError: if ``num_classes`` is missing, or margins or names do not fit.
    """

    monitor: tuple[str, str] = ("val/kmeans_nmi", "max")
    """Metric and direction by which the best checkpoint is chosen."""

    centres: Tensor

    def __init__(
        self,
        backbone: str = "small_resnet18",
        embedding_size: int = 64,
        loss: Literal["triplet", "bounded", "two_margin"] = "two_margin",
        alpha: float | None = None,
        beta: float | None = None,
        form: Literal["sum", "nested"] = "sum",
        bound_weight: float = 1.0,
        squared: bool = True,
        mining: Mining = "all",
        false_negatives: float = 0.0,
        false_positives: float = 0.0,
        costs: Literal["logit", "threshold"] = "logit",
        balanced: bool = True,
        threshold: float | None = None,
        bias: float = 0.0,
        cluster_images: int = 2000,
        graph: Literal["complete", "sparse"] = "complete",
        neighbours: int = 50,
        others: int = 50,
        parts: int = 1,
        calibration_images: int = 1000,
        seed: int = 0,
        num_classes: int | None = None,
        image_size: int | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["optimizer", "lr_scheduler"])
        if num_classes is None or num_classes < 2:
            raise ValueError(
                f"model.num_classes={num_classes}: k-means needs at least 2 clusters. Give your datamodule class a "
                "`num_classes` attribute, from which the command line fills it in."
            )
        if loss not in _MARGINS:
            raise ValueError(f"model.loss={loss!r} is not one of {', '.join(_MARGINS)}.")
        if min(cluster_images, calibration_images, parts, neighbours, others) < 1 or calibration_images < 2:
            raise ValueError(
                f"model.cluster_images={cluster_images}, parts={parts}, neighbours={neighbours}, "
                f"others={others} must be at least 1, calibration_images={calibration_images} at least 2."
            )
        self.num_classes, self.loss_name = num_classes, loss
        self.alpha = _MARGINS[loss][0] if alpha is None else alpha
        self.beta = _MARGINS[loss][1] if beta is None else beta
        self.normalize = Normalize(mean, std)
        self.backbone: Any = self.build_backbone(
            backbone, embedding_size, image_size, pretrained, backbone_kwargs or {}
        )
        if weights is not None:
            load_weights(self.backbone, weights)
        self.optimizer_factory, self.scheduler_factory = optimizer, lr_scheduler
        line = CostLine.threshold((self.alpha + self.beta) / 2 if threshold is None else threshold)
        self.costs = StoredLine(line)
        self.register_buffer("centres", torch.zeros(num_classes, embedding_size))
        self.recent: deque[tuple[Tensor, Tensor]] = deque()
        self.val_embeddings = GatheredEmbeddings()
        self.test_embeddings = nn.ModuleList()
        self.test_names: list[str] = []
        self.loss_on_batch(torch.zeros(2, embedding_size), torch.tensor([0, 1]))  # refuses wrong margins at once
        flip_pairs(torch.eye(2, dtype=torch.bool), false_negatives, false_positives)
        if compile:
            self.backbone.compile()

    def build_backbone(
        self, name: str, embedding_size: int, image_size: int | None, pretrained: bool, kwargs: dict[str, Any]
    ) -> nn.Module:
        """Create the network; its last linear layer gives the embedding. Override for one that timm does not know.

        Raises:
            ValueError: if timm has no such model.
        """
        return create_network(name, embedding_size, image_size, pretrained, kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings ``(B, embedding_size)`` of images in [0, 1], shape ``(B, 3, H, W)``."""
        return self.backbone(self.normalize(x))

    def embed(self, x: Tensor) -> Tensor:
        """The same as ``forward``: what callbacks ask for."""
        return self(x)

    def loss_on_batch(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Loss of embeddings ``(B, D)`` with classes ``(B,)``, or with bool ``(B, B)``: the pairs of one class."""
        options: dict[str, Any] = {"squared": self.hparams["squared"], "mining": self.hparams["mining"]}
        options["generator"] = generator
        if self.loss_name == "triplet":
            return triplet_loss(embeddings, labels, self.alpha, **options)
        if self.loss_name == "two_margin":
            return two_margin_loss(embeddings, labels, self.alpha, self.beta, **options)
        options |= {"weight": self.hparams["bound_weight"], "form": self.hparams["form"]}
        return bounded_triplet_loss(embeddings, labels, self.alpha, self.beta, **options)

    def objective(self, batch: Batch) -> Tensor:
        """Loss on a batch as it is, without noise on pairs: what landscapes and Hessians look at."""
        return self.loss_on_batch(self(batch["image"]), batch["label"], torch.Generator().manual_seed(0))

    def on_train_epoch_start(self) -> None:
        """Forget the images of the last epoch: each counts once, and a run that is resumed here has seen no others."""
        self.recent.clear()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs ``train/loss_step`` and ``train/loss_epoch``."""
        images, labels = batch["image"], batch["label"]
        self._remember(images, labels)
        embeddings = self(images)
        # A function of the step and the rank: a resumed run draws what an uninterrupted one draws.
        generator = torch.Generator().manual_seed(hash((self.hparams["seed"], self.global_step, self.global_rank)))
        pair_noise = self.hparams["false_negatives"], self.hparams["false_positives"]
        if any(pair_noise):
            labels = flip_pairs(same_class(embeddings, labels), *pair_noise, generator)
        loss = self.loss_on_batch(embeddings, labels, generator)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the embeddings of the first ``cluster_images`` images of all processes."""
        share = -(-self.hparams["cluster_images"] // self.trainer.world_size)
        kept = share - sum(map(len, self.val_embeddings.labels))
        if kept > 0:
            self.val_embeddings.update(self(batch["image"][:kept]), batch["label"][:kept])

    def on_validation_epoch_end(self) -> None:
        """Fit the costs, cluster, and log loss and agreement."""
        self._calibrate()
        embeddings, labels = self.val_embeddings.compute()
        self.val_embeddings.reset()
        loss = self.loss_on_batch(embeddings, labels, torch.Generator().manual_seed(0))
        self.log("val/loss", loss, sync_dist=True)
        centres = torch.from_numpy(kmeans(embeddings.cpu(), self.num_classes, seed=self.hparams["seed"])[1])
        self.centres[: len(centres)] = centres
        for name, value in self._judge(embeddings, labels).items():
            self.log(f"val/{name}", value, prog_bar=name.endswith("accuracy"), sync_dist=True)

    def on_test_start(self) -> None:
        """One store per test loader; a dictionary of loaders gives the names."""
        loaders = self.trainer.test_dataloaders
        names = list(loaders) if isinstance(loaders, dict) else [""]
        if isinstance(loaders, list):
            names = [str(index) for index in range(len(loaders))]
        self.test_names = [f"{name}/" for name in names] if len(names) > 1 else [""]
        self.test_embeddings = nn.ModuleList([GatheredEmbeddings() for _ in names]).to(self.device)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the embeddings."""
        self.test_embeddings[dataloader_idx].update(self(batch["image"]), batch["label"])  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        """Cluster and log agreement and energies, for each loader."""
        for name, store in zip(self.test_names, self.test_embeddings, strict=True):
            for key, value in self._judge(*store.compute()).items():  # type: ignore[operator]
                self.log(f"test/{name}{key}", value, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Paths, embeddings ``(B, D)`` and the nearest of the k-means centres of the last validation ``(B,)``."""
        embeddings = self(batch["image"]).float()
        cluster = (embeddings[:, None] - self.centres).square().sum(-1).argmin(1)
        return {"path": batch["path"], "embedding": embeddings, "cluster": cluster}

    @property
    def cost_line(self) -> CostLine:
        """Cost of a pair as a line in its squared distance, bias included."""
        return self.costs.line(self.hparams["bias"])

    def cluster(self, embeddings: Tensor) -> dict[str, Labels]:
        """Clusters by ``kmeans`` and by ``multicut``, each ``(N,)``, of embeddings ``(N, D)``."""
        line, parts = self.cost_line, min(self.hparams["parts"], len(embeddings))
        found = {"kmeans": kmeans(embeddings.cpu(), self.num_classes, seed=self.hparams["seed"])[0]}
        if self.hparams["graph"] == "complete" and parts == 1:
            found["multicut"] = multicut_dense(complete_costs(embeddings, line))
            return found
        count, seed = len(embeddings), self.hparams["seed"]
        if self.hparams["graph"] == "complete":
            edges = np.stack(np.triu_indices(count, 1), axis=1)
            costs = complete_costs(embeddings, line)[edges[:, 0], edges[:, 1]]
        else:
            edges, costs = sparse_costs(embeddings, line, self.hparams["neighbours"], self.hparams["others"], seed=seed)
        if parts == 1:
            found["multicut"] = multicut(count, edges, costs)
        else:
            found["multicut"] = multicut_in_parts(count, edges, costs, parts, seed=seed).labels
        return found

    def configure_optimizers(self) -> Any:
        """Optimiser over all parameters, and the scheduler if there is one."""
        return optimization(self.parameters(), self.optimizer_factory, self.scheduler_factory)

    def _remember(self, images: Tensor, labels: Tensor) -> None:
        """Keep this process's share of the last training images, as bytes."""
        if self.hparams["costs"] == "threshold":
            return
        self.recent.append(((images.detach() * 255).round().byte(), labels))
        share = -(-self.hparams["calibration_images"] // self.trainer.world_size)
        while sum(len(kept) for _, kept in self.recent) - len(self.recent[0][1]) >= share:
            self.recent.popleft()

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Fit the line of the costs on the training images that were kept, where there are any."""
        if not self.recent:
            return
        store = GatheredEmbeddings().to(self.device)
        for images, labels in self.recent:
            store.update(self(images.float() / 255), labels)
        embeddings, labels = store.compute()
        first, second, same = random_pairs(labels.cpu(), _PAIRS, self.hparams["seed"])
        if same.all() or not same.any():  # the first steps of a run whose batches hold one class
            return
        points = embeddings.cpu().double()
        distances = (points[first] - points[second]).square().sum(1)
        self.costs.store(fit_cost_line(distances, same, balanced=self.hparams["balanced"]))

    def _judge(self, embeddings: Tensor, labels: Tensor) -> dict[str, float]:
        """Agreement of both clusterings with the labels, and the energies on the complete graph."""
        truth, line = labels.cpu().numpy(), self.cost_line
        figures: dict[str, float] = {"zero_crossing": line.zero}
        found = self.cluster(embeddings)
        for method, clusters in found.items():
            figures |= {f"{method}_{key}": float(value) for key, value in agreement(truth, clusters)._asdict().items()}
        figures["multicut_energy"] = complete_energy(embeddings, line, found["multicut"])
        figures["classes_energy"] = complete_energy(embeddings, line, truth)
        return figures
