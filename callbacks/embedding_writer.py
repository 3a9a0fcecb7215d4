"""Embeddings and clusters of a folder of images, as files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.outputs import gather_objects, log_table
from callbacks.run_directory import run_directory

__all__ = ["EmbeddingWriter"]

Batch = dict[str, Any]


class EmbeddingWriter(Callback):
    """With ``predict``: write embeddings to ``embeddings.npz`` and clusters of all images to ``clusters.csv``.

    The arrays are ``path``, text ``(N,)``, ``embedding``, ``(N, D)``, and clusters by each method, ``(N,)``. It needs a
    module whose ``predict_step`` returns ``path`` and ``embedding``, and with ``cluster(embeddings)``: embeddings
    ``(N, D)`` to clusters ``(N,)`` by name of the method.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[list[str], Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module can cluster."""
        if not callable(getattr(pl_module, "cluster", None)):
            raise TypeError(f"EmbeddingWriter needs {type(pl_module).__name__}.cluster(embeddings), which it lacks.")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._kept = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        if not isinstance(outputs, dict) or not {"path", "embedding"} <= outputs.keys():
            name = type(pl_module).__name__
            raise TypeError(f"EmbeddingWriter needs {name}.predict_step to return `path` and `embedding`.")
        self._kept.append((list(outputs["path"]), outputs["embedding"].float().cpu()))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all ranks, cluster and write."""
        directory = run_directory(trainer)
        parts = gather_objects(trainer, self._kept)
        kept = [item for part in parts for item in part]
        self._kept = []
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or not kept:
            return
        paths = np.array([path for names, _ in kept for path in names])
        paths, order = np.unique(paths, return_index=True)
        embeddings = torch.cat([tensor for _, tensor in kept])[torch.from_numpy(order)]
        module: Any = pl_module
        clusters: dict[str, NDArray[np.int64]] = module.cluster(embeddings.to(pl_module.device))
        directory.mkdir(parents=True, exist_ok=True)
        np.savez(directory / "embeddings.npz", path=paths, embedding=embeddings.numpy(), **clusters)  # type: ignore[arg-type]
        written = log_table(trainer, directory, "clusters", pd.DataFrame({"path": paths, **clusters}), index=False)
        counts = ", ".join(f"{len(np.unique(found))} by {name}" for name, found in clusters.items())
        rank_zero_info(f"{len(paths)} images in clusters: {counts}; {written}, {directory / 'embeddings.npz'}")
