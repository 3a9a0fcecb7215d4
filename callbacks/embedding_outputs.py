"""What an embedding looks like: a map of it, and the nearest neighbours of some images."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from callbacks.embedding_plots import draw_embedding, draw_neighbours, flatten_embedding
from callbacks.outputs import gather_objects, log_figure
from callbacks.run_directory import run_directory

__all__ = ["EmbeddingMap", "NeighbourSheet"]

Array = NDArray[np.float64]
Batch = dict[str, Any]


class EmbeddingWatcher(Callback):
    """Keeps embeddings, labels and small pictures of the first validation or test images, of all processes.

    It needs a module with ``embed(x)``: images ``(B, 3, H, W)`` in [0, 1] to vectors ``(B, D)``.

    Args:
        images: most images to look at.
    """

    pictures_wanted = False

    def __init__(self, images: int = 1000) -> None:
        if images < 2:
            raise ValueError(f"images={images}: a picture of an embedding needs at least 2.")
        self.images = images
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module has an embedding."""
        if not callable(getattr(pl_module, "embed", None)):
            raise TypeError(f"{type(self).__name__} needs {type(pl_module).__name__}.embed(x), which it lacks.")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._kept = []

    on_test_epoch_start = on_validation_epoch_start

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed what is still wanted; the module is in evaluation mode here."""
        wanted = -(-self.images // trainer.world_size) - sum(len(labels) for _, labels, _ in self._kept)
        if trainer.sanity_checking or dataloader_idx or wanted <= 0:
            return
        images, labels = batch["image"][:wanted], batch["label"][:wanted]
        module: Any = pl_module
        pictures = (images * 255).round().byte() if self.pictures_wanted else images[:, :0]
        self._kept.append((module.embed(images).float().cpu(), labels.cpu(), pictures.cpu()))

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation images."""
        if not trainer.sanity_checking:
            self._finish(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test images."""
        self._finish(trainer)

    def draw(self, embeddings: Array, labels: NDArray[np.int64], pictures: NDArray[np.uint8]) -> Figure:
        """The figure, from embeddings ``(N, D)``, labels ``(N,)`` and pictures ``(N, 3, H, W)``."""
        raise TypeError(f"{type(self).__name__} must say how it draws.")

    def name(self) -> str:
        """File stem of the figure."""
        return type(self).__name__

    def _finish(self, trainer: Trainer) -> None:
        directory = run_directory(trainer)
        parts = gather_objects(trainer, self._kept)
        kept = [item for part in parts for item in part]
        self._kept = []
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or not kept:
            return
        embeddings, labels, pictures = (torch.cat(tensors) for tensors in zip(*kept, strict=True))
        if len(labels) < 3:
            return
        figure = self.draw(embeddings.double().numpy(), labels.numpy(), pictures.numpy())
        log_figure(trainer, directory, self.name(), figure)


class EmbeddingMap(EmbeddingWatcher):
    """Map of the embedding, a colour per class: principal components or t-SNE, as ``embedding_<method>.png``.

    Drawn after each validation and test, from images of all processes. It needs a module with ``embed(x)``.

    Args:
        images: most images on the map.
        method: ``pca`` keeps distances honest, ``tsne`` shows neighbourhoods and distorts sizes and gaps.
    """

    def __init__(self, images: int = 1000, method: Literal["pca", "tsne"] = "pca") -> None:
        super().__init__(images)
        if method not in ("pca", "tsne"):
            raise ValueError(f"method={method!r} is not one of pca, tsne.")
        self.method: Literal["pca", "tsne"] = method

    def name(self) -> str:
        """File stem of the figure."""
        return f"embedding_{self.method}"

    def draw(self, embeddings: Array, labels: NDArray[np.int64], pictures: NDArray[np.uint8]) -> Figure:
        """The map."""
        return draw_embedding(flatten_embedding(embeddings, self.method), labels, self.method)


class NeighbourSheet(EmbeddingWatcher):
    """Some images, each with those that are nearest in the embedding, framed by whether the class is the same.

    Drawn after each validation and test as ``neighbours.png``. It needs a module with ``embed(x)``.

    Args:
        images: images among which neighbours are sought.
        queries: rows of the sheet, spread over the classes.
        neighbours: images beside each query.
    """

    pictures_wanted = True

    def __init__(self, images: int = 1000, queries: int = 10, neighbours: int = 8) -> None:
        super().__init__(images)
        if min(queries, neighbours) < 1:
            raise ValueError(f"queries={queries} and neighbours={neighbours} must be at least 1.")
        self.queries, self.neighbours = queries, neighbours

    def name(self) -> str:
        """File stem of the figure."""
        return "neighbours"

    def draw(self, embeddings: Array, labels: NDArray[np.int64], pictures: NDArray[np.uint8]) -> Figure:
        """The sheet."""
        return draw_neighbours(embeddings, labels, pictures, self.queries, self.neighbours)
