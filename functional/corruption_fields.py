"""What corruptions are made of: smoothing, motion, zoom, shuffled pixels, and random fields such as fog and frost.

Images are float32, shape ``(B, C, H, W)``; fields ``(B, H, W)``. Randomness comes in as fields that were drawn before.

Source: Hendrycks and Dietterich 2019, Sec. 3.1; parameters and borders of the authors' code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "box_matrix",
    "clipped_zoom",
    "disk_kernel",
    "frost_texture",
    "motion_blur",
    "plasma",
    "shuffled_pixels",
    "smooth",
    "warp",
]


def smooth(x: Tensor, sigma: float, truncate: float = 4.0, border: str = "nearest") -> Tensor:
    """Gaussian smoothing of the last two axes without rounding.

    Args:
        x: shape ``(..., H, W)``.
        sigma: standard deviation in pixels; 0 changes nothing.
        truncate: half width of the kernel in sigmas, rounded to whole pixels.
        border: ``nearest`` repeats the outermost pixels, ``reflect`` mirrors them included.

    Returns:
        Shape ``(..., H, W)``.
    """
    if sigma <= 0:
        return x
    reach = int(truncate * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps / sigma).double().square())
    matrices = []
    for side in x.shape[-2:]:
        positions = torch.arange(side)[:, None] + steps
        if border == "nearest":
            positions = positions.clamp(0, side - 1)
        else:
            positions = positions % (2 * side)
            positions = torch.minimum(positions, 2 * side - 1 - positions)
        matrix = torch.zeros(side, side, dtype=torch.float64)
        matrix.scatter_add_(1, positions, (weights / weights.sum()).expand(side, -1))
        matrices.append(matrix.to(x.device, x.dtype))
    return matrices[0] @ x @ matrices[1].T


def disk_kernel(radius: float, alias: float) -> Tensor:
    """Disk of a defocused point, sum 1 up to what smoothing its edge by ``alias`` pixels loses outside the frame.

    Args:
        radius: in pixels.
        alias: standard deviation of the smoothing, cut off at 3 x 3 (up to radius 8) or 5 x 5.

    Returns:
        Odd square, float32.
    """
    reach, cut = (8, 1) if radius <= 8 else (int(radius), 2)
    line = torch.arange(-reach, reach + 1).double()
    disk = (line[:, None].square() + line.square() <= radius**2).double()
    steps = torch.arange(-cut, cut + 1).double()
    weights = torch.exp(-0.5 * (steps / alias).square())
    weights = weights / weights.sum()
    disk = F.pad((disk / disk.sum())[None, None], (cut,) * 4, mode="reflect")
    return F.conv2d(disk, (weights[:, None] * weights)[None, None])[0, 0].float()


def motion_blur(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Blur along a line that starts at each pixel, with half a Gaussian as weights; outermost pixels are repeated.

    Args:
        x: shape ``(B, C, H, W)``.
        radius: the line has ``2 radius + 1`` taps, one pixel apart.
        sigma: of the Gaussian.
        degrees: direction for each image, shape ``(B,)``.

    Returns:
        Shape ``(B, C, H, W)``.
    """
    taps = 2 * radius + 1
    weights = torch.exp(-0.5 * (torch.arange(taps) / sigma).double().square())
    weights = (weights / weights.sum()).float()
    angle = degrees.double().cpu() * (math.pi / 180)
    steps = torch.arange(taps).double()
    down = torch.ceil(steps * angle.sin()[:, None] - 0.5).long().to(x.device)
    right = torch.ceil(steps * angle.cos()[:, None] - 0.5).long().to(x.device)
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) + down[..., None]).clamp(0, height - 1)  # (B, taps, H)
    columns = (torch.arange(width, device=x.device) + right[..., None]).clamp(0, width - 1)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    last = x.permute(0, 2, 3, 1)
    blurred = torch.zeros_like(last)
    for tap, weight in enumerate(weights.tolist()):
        blurred += weight * last[image, rows[:, tap, :, None], columns[:, tap, None, :]]
    return blurred.permute(0, 3, 1, 2)


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the centre by a factor, bilinearly from corner to corner, in the old frame; shape ``(B, C, H, W)``."""
    sides = [math.ceil(side / factor) for side in x.shape[-2:]]
    top, left = ((side - kept) // 2 for side, kept in zip(x.shape[-2:], sides, strict=True))
    size = [round(side * factor) for side in sides]
    centre = x[..., top : top + sides[0], left : left + sides[1]]
    zoomed = F.interpolate(centre, size, mode="bilinear", align_corners=True)
    top, left = ((new - old) // 2 for new, old in zip(size, x.shape[-2:], strict=True))
    return zoomed[..., top : top + x.shape[-2], left : left + x.shape[-1]]


def warp(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear look-up at positions in pixels; borders are mirrored.

    Args:
        x: shape ``(B, C, H, W)``.
        rows: row to read for each pixel, shape ``(B, H, W)``.
        columns: column to read, same shape.

    Returns:
        Shape ``(B, C, H, W)``.
    """
    height, width = x.shape[-2:]
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return F.grid_sample(x, grid.to(x.dtype), padding_mode="reflection", align_corners=False)


def box_matrix(length: int, size: int) -> Tensor:
    """Matrix ``(size, length)`` that resamples a line by means over whole pixels, as Pillow's box filter does."""
    scale = length / size
    stretch = max(scale, 1.0)
    centres = (torch.arange(size).double() + 0.5) * scale
    distance = (torch.arange(length) + 0.5 - centres[:, None]) / stretch
    weights = ((distance > -0.5) & (distance <= 0.5)).double()
    return (weights / weights.sum(1, keepdim=True)).float()


def plasma(noise: Tensor, decay: float) -> Tensor:
    """Cloud-like field by diamonds and squares on a torus.

    Args:
        noise: uniform in [-1, 1], shape ``(B, M, M)``, M a power of two; each point takes its own value.
        decay: the noise of each finer level is divided by it.

    Returns:
        Each field stretched to [0, 1], shape ``(B, M, M)``.

    Raises:
        ValueError: if M is no power of two from 2.
    """
    side = noise.shape[-1]
    if side < 2 or side & (side - 1) or noise.shape[-2] != side:
        raise ValueError(f"noise has shape {tuple(noise.shape)}; needed is a square whose side is a power of two.")
    field = torch.zeros_like(noise)
    step, strength = side, 100.0
    while step >= 2:
        half = step // 2
        here, there = slice(0, None, step), slice(half, None, step)
        corners = field[:, here, here]
        total = corners + corners.roll(-1, 1)
        total = total + total.roll(-1, 2)
        field[:, there, there] = total / 4 + strength**2 * noise[:, there, there]
        centres = field[:, there, there]
        across = (centres + centres.roll(1, 1)) + (corners + corners.roll(-1, 2))
        field[:, here, there] = across / 4 + strength**2 * noise[:, here, there]
        along = (centres + centres.roll(1, 2)) + (corners + corners.roll(-1, 1))
        field[:, there, here] = along / 4 + strength**2 * noise[:, there, here]
        step, strength = half, strength / decay
    field = field - field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True).clamp_min(1e-12)


def frost_texture(noise: Tensor, height: int, width: int) -> Tensor:
    """A drawn stand-in for photographs of frost: bright bluish ridges between darker panes.

    The published corruption blends in six photographs, which are not ours to ship. Strength and colour follow theirs
    roughly; their shapes do not.

    Args:
        noise: uniform in [-1, 1], shape ``(B, 2, M, M)``, M a power of two and at least both sides.
        height: rows to return.
        width: columns to return.

    Returns:
        Colours in [0, 1], shape ``(B, 3, height, width)``.
    """
    cloud, veins = plasma(noise[:, 0], 1.7), plasma(noise[:, 1], 1.4)
    ridges = (1 - (2 * veins - 1).abs()).pow(4)
    level = (0.15 + 0.5 * cloud + 0.5 * ridges).clamp(0, 1)[:, None, :height, :width]
    tint = level.new_tensor([0.82, 0.92, 1.0]).view(1, 3, 1, 1)
    return level * (tint + (1 - tint) * level)


def shuffled_pixels(draws: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Where each pixel of a picture behind bumpy glass is read from.

    From the last row to the first each pixel takes over what is then at a place nearby. The authors' code means to swap
    the two; the way it is written, it copies, and so does this.

    Args:
        draws: steps down and right, in ``[-reach, reach)``, shape ``(B, iterations, 2, H, W)``.
        reach: pixels that stay out of it at each border.

    Returns:
        Flat index of the source of each pixel, shape ``(B, H * W)``.
    """
    # Importing numba takes half a second, which nobody should wait for who does not look through glass.
    from functional import shuffle_kernel

    kernel: Any = shuffle_kernel.shuffle
    sources: NDArray[np.int64] = kernel(np.ascontiguousarray(draws), reach)
    return sources.reshape(len(draws), -1)
