"""What an inpainted region is composed with, trained by and measured with.

Masks are 1 where pixels are made anew and 0 where they are kept, shape ``(B, 1, H, W)``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["composite", "hidden", "masked_l1", "masked_psnr", "seam_error", "spatial_discount"]

_NEGLIGIBLE = 0.05  # weights of pixels further inside stay at this


def composite(image: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """Made pixels inside the mask, those of the image outside, bit by bit; all ``(B, C, H, W)``."""
    return torch.where(mask > 0.5, made.to(image.dtype), image)


def hidden(image: Tensor, mask: Tensor, fill: float = 0.5) -> Tensor:
    """The image with ``fill`` inside the mask: nothing of what was there is left, not even a NaN."""
    return torch.where(mask > 0.5, torch.full_like(image, fill), image)


def spatial_discount(mask: Tensor, gamma: float = 0.9) -> Tensor:
    """Weight of each pixel of a mask: ``gamma`` to the power of its distance to the nearest kept pixel.

    Deep inside, many fillings are right, and the reconstruction must not insist on one. Distances count steps in eight
    directions, the outermost pixels are at 1.

    Args:
        mask: shape ``(B, 1, H, W)``.
        gamma: in (0, 1]; 1 weighs all alike.

    Returns:
        Weights in [0, 1], 0 outside of the mask, shape ``(B, 1, H, W)``.

    Raises:
        ValueError: if gamma lies outside.

    Source: Yu et al. 2018, Sec. 3.2.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"spatial discount gamma={gamma} must lie in (0, 1].")
    layer = (mask > 0.5).float()
    weight = layer.clone()
    reach = math.ceil(math.log(_NEGLIGIBLE) / math.log(gamma)) if gamma < 1 else 0
    for _ in range(min(reach, max(mask.shape[-2:]))):
        weight = weight * torch.where(layer > 0, gamma, 1.0)
        layer = 1 - F.max_pool2d(1 - layer, 3, stride=1, padding=1)  # what lies one step further inside
    return weight


def masked_l1(first: Tensor, second: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference inside the mask, per sample.

    Args:
        first: images, shape ``(B, C, H, W)``.
        second: images of the same shape.
        mask: shape ``(B, 1, H, W)``; an empty one gives 0.
        weight: factor of each pixel, same shape; the sum is still divided by the mask's size.

    Returns:
        Shape ``(B,)``.
    """
    inside = (mask > 0.5).float()
    difference = (first.float() - second.float()).abs().mean(1, keepdim=True)
    difference = difference * (inside if weight is None else weight * inside)
    return difference.sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)


def masked_psnr(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio inside the mask, of images in [0, 1], in dB, shape ``(B,)``; at most 100."""
    inside = (mask > 0.5).float()
    squared = (first.float() - second.float()).square().mean(1, keepdim=True) * inside
    error = squared.sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)
    return -10 * error.clamp_min(1e-10).log10()


def seam_error(image: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute jump between neighbouring pixels of which one is inside the mask and the other is not.

    Args:
        image: shape ``(B, C, H, W)``.
        mask: shape ``(B, 1, H, W)``.

    Returns:
        Shape ``(B,)``; 0 where the mask has no border. Compare it with that of the real image under the same mask.
    """
    inside = (mask > 0.5).float()
    total, count = image.new_zeros(len(image)), image.new_zeros(len(image))
    for axis in (-1, -2):
        border = inside.diff(dim=axis).abs()
        total = total + (image.float().diff(dim=axis).abs().mean(1, keepdim=True) * border).sum((1, 2, 3))
        count = count + border.sum((1, 2, 3))
    return total / count.clamp_min(1)
