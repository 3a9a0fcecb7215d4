"""Hair in another colour, and what colour hair has: tasks for few-shot translation, and their score.

Images are RGB in [0, 1], masks the share of each pixel that is hair.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["face_oval", "hair_band", "mean_colour", "nearest_colour", "recolour", "region_l1"]

_LUMA = (0.299, 0.587, 0.114)
_MOST_CONTRAST = 2.0


def mean_colour(images: Tensor, mask: Tensor) -> Tensor:
    """Mean colour inside a mask.

    Args:
        images: shape ``(B, 3, H, W)``.
        mask: weights, shape ``(B, 1, H, W)``.

    Returns:
        Shape ``(B, 3)``; 0 where the mask is empty.
    """
    return (images * mask).sum((2, 3)) / mask.sum((2, 3)).clamp_min(1e-8)


def nearest_colour(colours: Tensor, palette: Tensor) -> Tensor:
    """Index ``(B,)`` of the palette's colour, ``(P, 3)``, that is nearest to each colour, ``(B, 3)``."""
    return torch.cdist(colours, palette.to(colours)).argmin(1)


def region_l1(images: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference inside a mask.

    Args:
        images: shape ``(B, 3, H, W)``.
        others: same shape.
        mask: weights, shape ``(B, 1, H, W)``.

    Returns:
        Shape ``(B,)``; 0 where the mask is empty.
    """
    return mean_colour((images - others).abs(), mask).mean(1)


def recolour(images: Tensor, mask: Tensor, colours: Tensor) -> Tensor:
    """Paint what the mask covers, with the light and shade that is there.

    Inside the mask a pixel gets the colour times its own luma over the mean luma of the masked part, so that strands
    and shadows stay; the ratio ends at 2.

    Args:
        images: shape ``(B, 3, H, W)``.
        mask: shape ``(B, 1, H, W)``, soft edges allowed.
        colours: wanted mean colours, shape ``(B, 3)``.

    Returns:
        Shape ``(B, 3, H, W)``, in [0, 1]; where the mask is 0 the image itself.
    """
    luma = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    mean = mean_colour(luma, mask)[..., None, None].clamp_min(0.02)
    painted = (colours[..., None, None] * (luma / mean).clamp(0, _MOST_CONTRAST)).clamp(0, 1)
    return images + mask * (painted - images)


def face_oval(landmarks: Tensor, height: int, width: int, grown: float = 1.0) -> Tensor:
    """Soft ellipse around eyes, nose and mouth.

    Args:
        landmarks: eyes, nose and corners of the mouth, x and y in pixels, shape ``(B, 5, 2)``.
        height: H of the mask.
        width: W of the mask.
        grown: factor of both half axes; 1 covers brows to chin.

    Returns:
        Shape ``(B, 1, H, W)``, in [0, 1].
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    reach = (mouth - eyes).norm(dim=1).clamp_min(1e-3)  # all lengths in this unit
    centre = eyes + 0.55 * (mouth - eyes)
    y = torch.arange(height, device=landmarks.device)[None, :, None] + 0.5
    x = torch.arange(width, device=landmarks.device)[None, None, :] + 0.5
    across = (x - centre[:, 0, None, None]) / (1.05 * grown * reach)[:, None, None]
    down = (y - centre[:, 1, None, None]) / (1.35 * grown * reach)[:, None, None]
    radius = (across.square() + down.square() + 1e-8).sqrt()
    return torch.sigmoid((1 - radius) * 1.2 * grown * reach[:, None, None])[:, None]


def hair_band(images: Tensor, landmarks: Tensor, spread: float = 0.25) -> Tensor:
    """Where hair probably is, without a segmentation: around the face, above the mouth, in the band's own colour.

    A guess, good enough to make synthetic tasks from photographs and too rough to score anything by.

    Args:
        images: shape ``(B, 3, H, W)``.
        landmarks: as for :func:`face_oval`.
        spread: how far a colour may lie from that of the hairline, in units of the range.

    Returns:
        Shape ``(B, 1, H, W)``, in [0, 1].
    """
    height, width = images.shape[-2:]
    inner, outer = (face_oval(landmarks, height, width, grown) for grown in (1.0, 1.6))
    above = torch.arange(height, device=images.device)[None, :, None] < landmarks[:, 2, 1, None, None]
    band = outer * (1 - inner) * above[:, None].float()
    top = torch.arange(height, device=images.device)[None, :, None] < landmarks[:, :2, 1].mean(1)[:, None, None]
    hairline = mean_colour(images, band * top[:, None].float())
    distance = (images - hairline[..., None, None]).square().mean(1, keepdim=True)
    return band * torch.exp(-distance / (2 * spread**2))
