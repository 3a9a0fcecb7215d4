"""Contrastive loss between two views of each image (Chen et al. 2020, SimCLR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["nt_xent"]


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross entropy: each view should be most like the other view of its image.

    Args:
        first: embeddings of one view of each image, shape ``(N, D)``; normalised here.
        second: embeddings of another view, same shape and order.
        temperature: divides the cosines, above 0.

    Returns:
        Scalar, mean over all 2N views, in nats; computed in float32 or float64.

    Raises:
        ValueError: if shapes differ or the temperature is not positive.

    Source: Chen et al. 2020, Eq. 1.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"Views have shapes {tuple(first.shape)} and {tuple(second.shape)}; needed are two of (N, D).")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0.")
    with torch.autocast(first.device.type, enabled=False):
        views = torch.cat([first, second])
        views = F.normalize(views if views.dtype == torch.float64 else views.float(), dim=1)
        alike = (views @ views.mT / temperature).fill_diagonal_(float("-inf"))
        count = len(first)
        partner = torch.arange(2 * count, device=views.device).roll(count)
        return F.cross_entropy(alike, partner)
