"""Optimiser and schedule of a module, and learning-rate schedules that torch does not have in one piece."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["WarmupCosine", "WarmupMultiStep", "optimization"]


def optimization(parameters: Any, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> Any:
    """What ``configure_optimizers`` returns: an optimiser, and its scheduler if there is one.

    Args:
        parameters: what is optimised, or groups of it.
        optimizer: optimiser class, called with the parameters.
        lr_scheduler: scheduler class, called with the optimiser and stepped once per epoch.
    """
    built = optimizer(parameters)
    if lr_scheduler is None:
        return built
    return {"optimizer": built, "lr_scheduler": {"scheduler": lr_scheduler(built)}}


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


class WarmupMultiStep(LambdaLR):
    """Warm-up, then a constant rate that drops at milestones; stepped once per epoch.

    Args:
        optimizer: optimiser whose learning rate is that after the warm-up.
        milestones: epochs before which the rate drops.
        gamma: factor of each drop.
        warmup_epochs: epochs at the mean rate of a linear rise from 0; the first of one epoch has half the rate.

    Raises:
        ValueError: if a milestone lies within the warm-up.
    """

    def __init__(self, optimizer: Optimizer, milestones: list[int], gamma: float = 0.1, warmup_epochs: int = 0) -> None:
        if any(milestone < warmup_epochs for milestone in milestones):
            raise ValueError(f"milestones={milestones}: none may lie within the first warmup_epochs={warmup_epochs}.")

        def relative(epoch: int) -> float:
            if epoch < warmup_epochs:
                return (epoch + 0.5) / warmup_epochs
            return gamma ** sum(epoch >= milestone for milestone in milestones)

        super().__init__(optimizer, relative)
