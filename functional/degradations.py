"""What happens to a picture on its way to a detector: resizing, blur, noise, and a shift of its 8 x 8 grid.

All take floating images in [0, 1], shape ``(B, C, H, W)``, keep shape, type and device, and give multiples of 1/255, as
a file of 8 bits would; a level at which nothing happens returns the very tensor. JPEG is in :mod:`functional.jpeg`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["add_noise", "gaussian_blur", "rescale", "seeded_noise", "shift_to_phase"]


def rescale(images: Tensor, factor: float) -> Tensor:
    """Resize by a factor (bicubic with antialiasing) and come back to the old frame without a second resizing.

    What grew is cropped at its centre, what shrank is continued by reflection at its borders.

    Args:
        images: in [0, 1], shape ``(B, C, H, W)``.
        factor: of the side lengths, positive.

    Returns:
        Images in [0, 1], shape ``(B, C, H, W)``.

    Raises:
        ValueError: if the factor is not positive.
    """
    if not factor > 0:
        raise ValueError(f"factor={factor}: a picture is resized by a positive factor.")
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
    rows, columns = (
        _reflected(torch.arange(new, device=images.device) - (new - old) // 2, old)
        for old, new in zip(size, (height, width), strict=True)
    )
    return _eight_bits(resized[..., rows[:, None], columns], images.dtype)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at four sigmas, with reflection at the borders.

    Args:
        images: in [0, 1], shape ``(B, C, H, W)``.
        sigma: standard deviation in pixels, at least 0.

    Returns:
        Images in [0, 1], shape ``(B, C, H, W)``.

    Raises:
        ValueError: if sigma is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma={sigma}: the width of a blur is not negative.")
    if sigma == 0:
        return images
    down, across = (_blur_matrix(side, sigma, images.device) for side in images.shape[-2:])
    return _eight_bits(down @ images.float() @ across.T, images.dtype)


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise in which each image's part depends on its own seed alone.

    The same seed gives the same noise in any batch and on any rank, as long as the kind of device is the same. The
    default generators are left alone.

    Args:
        seeds: one per image, in [0, 2**63).
        shape: of one image, ``(C, H, W)``.
        device: where to draw.

    Returns:
        Float32, shape ``(B, C, H, W)``.
    """
    generator = torch.Generator(device)
    fields = torch.empty(len(seeds), *shape, device=device)
    for field, seed in zip(fields, seeds, strict=True):
        field.normal_(generator=generator.manual_seed(seed))
    return fields


def add_noise(images: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """Add noise of a standard deviation in grey levels.

    Args:
        images: in [0, 1], shape ``(B, C, H, W)``.
        sigma: standard deviation in grey levels of 255, at least 0.
        noise: standard normal, same shape.

    Returns:
        Images in [0, 1], shape ``(B, C, H, W)``.

    Raises:
        ValueError: if sigma is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma={sigma}: the strength of noise is not negative.")
    return images if sigma == 0 else _eight_bits(images.float() + noise * (sigma / 255), images.dtype)


def shift_to_phase(images: Tensor, phase: int, offsets: Tensor | None = None) -> Tensor:
    """Move the crop window right and down until its corner lies ``phase`` pixels off the 8 x 8 grid of its file.

    The window moves by ``(phase - offset) mod 8`` pixels in each direction; the up to seven rows and columns that it
    would need from outside the crop are reflected.

    Args:
        images: crops, shape ``(B, C, H, W)``.
        phase: distance of the window's corner to the grid, 0 to 7, both down and right.
        offsets: top and left of each crop in its image, shape ``(B, 2)``; negative ones are unknown and count as 0.
            None: all unknown.

    Returns:
        Shifted images, shape ``(B, C, H, W)``.

    Raises:
        ValueError: if the phase is not one of 0 to 7.
    """
    if phase not in range(8):
        raise ValueError(f"phase={phase}: the grid has the phases 0 to 7.")
    if offsets is None:
        offsets = torch.zeros(len(images), 2, dtype=torch.int64)
    shifts = (phase - offsets.to(images.device).clamp_min(0)) % 8
    rows, columns = (
        _reflected(torch.arange(side, device=images.device) + shift[:, None], side)
        for side, shift in zip(images.shape[-2:], shifts.unbind(1), strict=True)
    )
    taken = images.gather(2, rows[:, None, :, None].expand(images.shape))
    return taken.gather(3, columns[:, None, None, :].expand(images.shape))


def _reflected(positions: Tensor, length: int) -> Tensor:
    """Positions on a line of any extent, folded back into ``length`` pixels without repeating the outermost ones."""
    folded = positions % max(1, 2 * (length - 1))
    return torch.minimum(folded, 2 * (length - 1) - folded)


def _blur_matrix(length: int, sigma: float, device: torch.device) -> Tensor:
    """Matrix that blurs a line of ``length`` pixels, its reflected borders included."""
    steps = torch.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    weights = torch.exp(-0.5 * (steps / sigma).double().square())
    sources = _reflected(torch.arange(length)[:, None] + steps, length)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(length, -1))
    return matrix.float().to(device)


def _eight_bits(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to multiples of 1/255 in [0, 1]; the argument is overwritten."""
    return images.mul_(255).round_().clamp_(0, 255).div_(255).to(dtype)
