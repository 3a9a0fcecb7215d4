"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ExponentialAverage"]


class ExponentialAverage(nn.Module):
    """Copy of a network whose weights follow those of the original slowly; kept in the checkpoint.

    Parameters and floating-point buffers (running statistics) are averaged, other buffers copied. The copy is in eval
    mode and not trained.

    Args:
        network: the original, before it is compiled.
        decay: share of the old average that stays at each update, in [0, 1); 0 copies.

    Raises:
        ValueError: if the decay lies outside.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay={decay} must lie in [0, 1).")
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ExponentialAverage:
        """The copy stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take a step towards the original."""
        averaged: list[Tensor] = []
        followed: list[Tensor] = []
        for mine, theirs in zip(_tensors(self.network), _tensors(network), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                followed.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, followed, 1 - self.decay)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the copy."""
        return self.network(*args, **kwargs)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
