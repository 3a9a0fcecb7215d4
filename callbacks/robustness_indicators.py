"""Watch over training how well classes separate in the feature space, as a hint at robustness."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.outputs import gather_objects, log_figure, log_table
from callbacks.robustness_plots import draw_distances, draw_history
from callbacks.run_directory import run_directory
from functional.robustness import Clustering, cosine_geometry, distance_histograms, robustness_indicators

__all__ = ["RobustnessIndicators"]


class RobustnessIndicators(Callback):
    """Robustness indicators of the first validation images, of all processes, after validation.

    Logs ``robustness/<indicator>``, and writes ``robustness_indicators.csv``, the indicators over epochs and the
    distances within and between classes as pictures. It needs a module with ``embed(x)``, images ``(B, 3, H, W)`` in
    [0, 1] to vectors ``(B, D)``, and batches with ``image`` and ``label``. It costs a forward pass over the images and
    the clustering.

    Args:
        every_n_epochs: epochs between two looks; the last epoch of the fit is always looked at.
        max_samples: most images to embed, over all processes.
        clustering: ``kmeans``, ``multicut`` or both; a multicut takes longer, and looks at half of the images.
        seed: of the clusterings.

    Raises:
        ValueError: if a number is out of its range or a clustering is unknown.
    """

    def __init__(
        self,
        every_n_epochs: int = 5,
        max_samples: int = 500,
        clustering: tuple[Clustering, ...] = ("kmeans",),
        seed: int = 0,
    ) -> None:
        if every_n_epochs < 1 or max_samples < 4:
            raise ValueError(
                f"RobustnessIndicators.every_n_epochs={every_n_epochs} must be at least 1, and "
                f"max_samples={max_samples} at least 4."
            )
        if unknown := set(clustering) - {"kmeans", "multicut"}:
            raise ValueError(f"RobustnessIndicators.clustering={sorted(unknown)[0]!r} is not one of kmeans, multicut.")
        self.every_n_epochs, self.max_samples = every_n_epochs, max_samples
        self.clustering, self.seed = tuple(clustering), seed
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was found so far, so that curves of a resumed run go on."""
        return {"history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._history = list(state_dict["history"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module has an embedding."""
        if not callable(getattr(pl_module, "embed", None)):
            raise TypeError(f"RobustnessIndicators needs {type(pl_module).__name__}.embed(x), which it lacks.")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last images."""
        self._kept = []

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed what is still wanted; the module is in evaluation mode here."""
        wanted = -(-self.max_samples // trainer.world_size) - sum(len(labels) for _, labels in self._kept)
        if dataloader_idx or wanted <= 0 or not self._due(trainer):
            return
        images, labels = batch["image"][:wanted], batch["label"][:wanted]
        module: Any = pl_module
        with (
            torch.random.fork_rng([images.device] if images.device.type == "cuda" else []),
            trainer.precision_plugin.val_step_context(),
        ):
            embeddings = module.embed(images)
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != len(images):
            raise TypeError(f"RobustnessIndicators needs {type(module).__name__}.embed(x) to return (B, D).")
        self._kept.append((embeddings.detach().float().clone(), labels.clone()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather, compute on rank zero, log on all."""
        if not self._due(trainer):
            return
        kept, self._kept = self._kept, []
        mine = [(embeddings.cpu(), labels.cpu()) for embeddings, labels in kept]
        parts = gather_objects(trainer, mine)
        directory = run_directory(trainer)
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            pairs = [pair for part in parts for pair in part]
            embeddings, labels = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
            known = labels >= 0
            embeddings, labels = embeddings[known].to(pl_module.device), labels[known]
            if len(labels.unique()) >= 2 and len(labels) > len(labels.unique()):
                found = robustness_indicators(embeddings, labels, self.clustering, seed=self.seed, starts=1)
                self._write(trainer, directory, found, embeddings, labels)
        found = trainer.strategy.broadcast(found)
        for name, value in found.items():
            pl_module.log(f"robustness/{name}", value, sync_dist=True)

    def _write(
        self, trainer: Trainer, directory: Any, found: dict[str, float], embeddings: Tensor, labels: Tensor
    ) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        self._history.append({"epoch": trainer.current_epoch, **found})
        table = pd.DataFrame(self._history)
        log_table(trainer, directory, "robustness_indicators", table, index=False)
        if trainer.state.fn != "fit" or self._last_epoch(trainer):  # drawing takes longer than computing
            histograms = distance_histograms(cosine_geometry(embeddings), labels)
            log_figure(trainer, directory, "robustness_distances", draw_distances(histograms))
            curves = table.drop(columns="multicut_clusters", errors="ignore")
            log_figure(trainer, directory, "robustness_indicators", draw_history(curves))

    def _due(self, trainer: Trainer) -> bool:
        """Whether this validation is one to look at."""
        if trainer.sanity_checking:
            return False
        regular = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return trainer.state.fn != "fit" or regular or self._last_epoch(trainer)

    @staticmethod
    def _last_epoch(trainer: Trainer) -> bool:
        return trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
