"""Random changes of what a critic sees, through which gradients reach the generator.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training": translation and brightness.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["augment_alike"]


def augment_alike(images: Tensor, mask: Tensor, draws: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Images and masks shifted alike, and images brightened.

    Args:
        images: in [0, 1], shape ``(B, C, H, W)``.
        mask: shape ``(B, 1, H, W)``.
        draws: uniform in [0, 1): shift to the right, shift down, brightness; shape ``(B, 3)``.
        strength: largest shift in units of the sides, and largest change of brightness.

    Returns:
        Images, same shape, not clipped, and masks; what comes in at a border repeats it.
    """
    change = strength * (2 * draws.float() - 1)
    count = len(images)
    grid = F.affine_grid(torch.eye(2, 3, device=images.device).expand(count, 2, 3), list(images.shape), False)
    grid = grid - 2 * change[:, None, None, :2]
    moved = F.grid_sample(torch.cat([images.float(), mask.float()], dim=1), grid, "bilinear", "border", False)
    return moved[:, :-1] + change[:, 2, None, None, None], moved[:, -1:]
