"""Learning-rate schedules that torch does not have in one piece."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["WarmupCosine"]


class WarmupCosine(LambdaLR):
    """Linear warm-up, cosine decay, then a constant cool-down; stepped once per epoch.

    Args:
        optimizer: optimiser whose learning rate is the peak.
        total_epochs: epochs of the run, cool-down included.
        warmup_epochs: epochs over which the rate rises linearly to the peak.
        warmup_lr: rate of the first warm-up epoch.
        min_lr: rate at the end of the cosine and during the cool-down.
        cooldown_epochs: last epochs at ``min_lr``.

    Raises:
        ValueError: if warm-up and cool-down leave no epoch between them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_epochs: int,
        warmup_epochs: int = 0,
        warmup_lr: float = 0.0,
        min_lr: float = 0.0,
        cooldown_epochs: int = 0,
    ) -> None:
        cosine_end = total_epochs - cooldown_epochs
        if cosine_end < warmup_epochs or total_epochs < 1:
            raise ValueError(
                f"total_epochs={total_epochs} leaves no room for warmup_epochs={warmup_epochs} "
                f"and cooldown_epochs={cooldown_epochs}; raise trainer.max_epochs or shorten them."
            )

        def relative(epoch: int, peak: float) -> float:
            if epoch < warmup_epochs:
                return (warmup_lr + (peak - warmup_lr) * epoch / warmup_epochs) / peak
            if epoch >= cosine_end:
                return min_lr / peak
            return (min_lr + (peak - min_lr) * (1 + math.cos(math.pi * epoch / cosine_end)) / 2) / peak

        peaks = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer, [partial(relative, peak=peak) for peak in peaks])
