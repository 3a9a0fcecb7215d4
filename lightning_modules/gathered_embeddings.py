"""Embeddings of all batches and processes."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["GatheredEmbeddings"]


class GatheredEmbeddings(Metric):
    """Embeddings and labels of all batches, gathered over processes, in the same order on each."""

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("embeddings", "labels"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep a batch: embeddings ``(B, D)`` and labels ``(B,)``."""
        self.embeddings.append(embeddings.detach().float())
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Embeddings ``(N, D)`` and labels ``(N,)``."""
        return dim_zero_cat(self.embeddings), dim_zero_cat(self.labels)
