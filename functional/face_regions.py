"""Boxes around regions of a face, from five landmarks, and masks and crops of them.

Landmarks are left eye, right eye, tip of the nose, left and right corner of the mouth as the viewer sees them; boxes
are left, top, right, bottom; both in pixels from the top left corner of the image.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MEAN_LANDMARKS", "Region", "box_masks", "crop_boxes", "jitter_boxes", "mask_boxes", "region_boxes"]

Region = Literal["mouth", "eyes", "nose"]

MEAN_LANDMARKS = torch.tensor([[69.4, 111.2], [107.6, 111.2], [88.2, 131.5], [71.2, 152.0], [105.3, 152.0]])
"""Where aligned CelebA images of 178 x 218 pixels have them on average; alignment moves all faces near to it."""

# Where the four sides lie: (from which landmark's coordinate, how far in units of the distance named).
_MARGINS: dict[str, tuple[float, float, float, float]] = {
    "mouth": (0.35, 0.15, 0.35, 0.75),
    "eyes": (0.55, 0.55, 0.55, 0.40),
    "nose": (0.45, 0.10, 0.45, 0.30),
}


def region_boxes(landmarks: Tensor, region: Region) -> Tensor:
    """Box of a region.

    ``mouth`` reaches from under the nose to the chin, ``eyes`` takes in the brows, ``nose`` begins below the eyes.

    Args:
        landmarks: x and y, shape ``(B, 5, 2)``.
        region: which.

    Returns:
        Shape ``(B, 4)``.

    Raises:
        ValueError: if there is no such region.
    """
    if region not in get_args(Region):
        raise ValueError(f"region={region!r} is not one of {', '.join(get_args(Region))}.")
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks.unbind(1)
    eye_gap = (right_eye - left_eye).norm(dim=1)
    eye_height, mouth_height = (left_eye + right_eye)[:, 1] / 2, (left_mouth + right_mouth)[:, 1] / 2
    first, above, second, below = _MARGINS[region]
    if region == "mouth":
        width = (right_mouth - left_mouth).norm(dim=1)
        sides = (
            left_mouth[:, 0] - first * width,
            nose[:, 1] + above * eye_gap,
            right_mouth[:, 0] + second * width,
            mouth_height + below * width,
        )
    elif region == "eyes":
        sides = (
            left_eye[:, 0] - first * eye_gap,
            eye_height - above * eye_gap,
            right_eye[:, 0] + second * eye_gap,
            eye_height + below * eye_gap,
        )
    else:
        sides = (
            nose[:, 0] - first * eye_gap,
            eye_height + above * eye_gap,
            nose[:, 0] + second * eye_gap,
            nose[:, 1] + below * eye_gap,
        )
    return torch.stack(sides, dim=1)


def jitter_boxes(boxes: Tensor, shift: float, scale: float, generator: torch.Generator) -> Tensor:
    """Boxes moved and resized at random, so that a network does not learn one outline by heart.

    Args:
        boxes: shape ``(B, 4)``.
        shift: largest move of the centre in each direction, in pixels.
        scale: largest relative change of width and of height.
        generator: source of randomness, on the CPU.

    Returns:
        Shape ``(B, 4)``.
    """
    draws = (2 * torch.rand(len(boxes), 4, generator=generator) - 1).to(boxes)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + shift * draws[:, :2]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (1 + scale * draws[:, 2:])
    return torch.cat([centre - half, centre + half], dim=1)


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """1 at pixels whose centre lies in the box, 0 elsewhere, float32 ``(B, 1, height, width)``.

    A box without any pixel centre gets the pixel next to its centre.

    Args:
        boxes: shape ``(B, 4)``.
        height: of the masks.
        width: of the masks.
    """
    rows = _covered(boxes[:, 1], boxes[:, 3], height)
    columns = _covered(boxes[:, 0], boxes[:, 2], width)
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def mask_boxes(masks: Tensor) -> Tensor:
    """Smallest boxes around masks; the whole image where a mask is empty.

    Args:
        masks: shape ``(B, 1, H, W)``, above 0.5 inside.

    Returns:
        Shape ``(B, 4)``.
    """
    inside = masks[:, 0] > 0.5
    sides = []
    for used in (inside.any(1), inside.any(2)):  # columns, rows
        place = torch.arange(used.shape[1], device=masks.device).expand_as(used)
        empty = ~used.any(1)
        first = torch.where(used, place, used.shape[1]).amin(1).masked_fill(empty, 0)
        last = torch.where(used, place + 1, 0).amax(1).masked_fill(empty, used.shape[1])
        sides.append((first, last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1).float()


def crop_boxes(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Boxes cut out and resized, bilinear; differentiable in the images.

    Args:
        images: shape ``(B, C, H, W)``.
        boxes: shape ``(B, 4)``; beyond the image its border is repeated.
        size: side of the crops.

    Returns:
        Shape ``(B, C, size, size)``.
    """
    height, width = images.shape[-2:]
    scale = torch.tensor([2 / width, 2 / height], device=images.device)
    low, high = boxes[:, :2].float() * scale - 1, boxes[:, 2:].float() * scale - 1
    share = (torch.arange(size, device=images.device) + 0.5) / size
    x = low[:, :1] + share * (high - low)[:, :1]
    y = low[:, 1:] + share * (high - low)[:, 1:]
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _covered(low: Tensor, high: Tensor, length: int) -> Tensor:
    centres = torch.arange(length, device=low.device) + 0.5
    covered = (centres >= low[:, None]) & (centres < high[:, None])
    middle = ((low + high) / 2).floor().clamp(0, length - 1)
    alone = torch.arange(length, device=low.device) == middle[:, None]
    return torch.where(covered.any(1, keepdim=True), covered, alone)
