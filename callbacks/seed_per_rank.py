"""Random numbers that depend on seed, rank, epoch and batch only, so that ranks differ and resumed runs do not."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["SeedPerRank"]


class SeedPerRank(Callback):
    """Seed every generator at each training batch from (seed, epoch, batch, rank).

    Lightning seeds all ranks alike, so they would draw the same noise; and its checkpoints hold no generator state.
    A stream that is a function of the position needs none: the position is in the checkpoint, and so is the seed,
    so a run that resumes repeats the draws of one that was never interrupted, on any number of data workers.

    The seed is that of ``seed_everything``; a resumed run keeps the seed of its checkpoint.
    """

    def __init__(self) -> None:
        self.seed: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the seed of ``seed_everything``."""
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**32))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed what a module draws at the start of an epoch."""
        self._reseed(trainer, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed what a training step draws."""
        self._reseed(trainer, batch_idx + 1)

    def _reseed(self, trainer: Trainer, position: int) -> None:
        words = np.random.SeedSequence((self.seed or 0, trainer.current_epoch, position, trainer.global_rank))
        seed = int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  libraries such as timm draw from the global generator
        random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The seed of the run."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the streams of the run that wrote the checkpoint."""
        self.seed = state_dict["seed"]
        os.environ["PL_GLOBAL_SEED"] = str(self.seed)  # from which samplers take theirs
