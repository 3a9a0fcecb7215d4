"""JPEG arithmetic: the tables of the Independent JPEG Group (IJG), the quality they encode, and a round trip.

The round trip (:func:`jpeg_roundtrip`) equals libjpeg's default path bit for bit; its arithmetic is in `jpeg_codec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from functional.jpeg_codec import SAMPLING_FACTORS, code_gray, code_rgb, smooth_rgb

__all__ = ["estimate_quality", "jpeg_roundtrip", "jpeg_roundtrip_ste", "jpeg_smooth", "quantization_tables"]

# Pixels worked on at a time: one image of 256 x 256 stays in a core's cache; a GPU is filled.
_CHUNK_CPU = 1 << 16
_CHUNK_GPU = 1 << 24

# ITU-T T.81 (1992), tables K.1 (luminance) and K.2 (chrominance), in natural (row-major) order.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def quantization_tables(quality: int) -> npt.NDArray[np.int64]:
    """Quantisation tables that libjpeg writes for a quality setting (8-bit baseline).

    Args:
        quality: IJG quality, an integer from 1 to 100.

    Returns:
        Luma (row 0) and chroma (row 1) steps in natural, row-major order, int64 in [1, 255], shape `(2, 64)`.

    Raises:
        ValueError: if `quality` is not an integer from 1 to 100.

    Source: the scaling rule of libjpeg's ``jpeg_quality_scaling`` on tables K.1 and K.2 of ITU-T T.81.

    Example:
        >>> quantization_tables(50)[0, :4]
        array([16, 11, 10, 16])
    """
    if not 1 <= quality <= 100 or quality != int(quality):
        raise ValueError(f"JPEG quality must be an integer from 1 to 100, got {quality!r}")
    quality = int(quality)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = np.array((_LUMA, _CHROMA), dtype=np.int64).reshape(2, 64)
    return np.clip((base * scale + 50) // 100, 1, 255)


@cache
def _all_tables() -> npt.NDArray[np.int64]:
    """Tables of the qualities 1 to 100, shape `(100, 2, 64)`."""
    return np.stack([quantization_tables(quality) for quality in range(1, 101)])


def estimate_quality(tables: npt.ArrayLike) -> tuple[int, bool]:
    """Quality of the IJG tables nearest to the given ones, and whether they are those tables exactly.

    All 100 qualities are compared (the distance is not monotonic for tables of other makers, so a search
    that stops at the first increase can go astray), by the mean squared difference over every table given.

    Args:
        tables: quantisation steps in natural order, shape `(64,)` or `(n, 64)`: luma first, then any chroma
            tables (one usually; an encoder may use a table of its own for each chroma plane).

    Returns:
        The nearest quality in [1, 100] (the lowest of equally near ones), and True if every table given equals
        the IJG table of that quality ("standard" tables).

    Raises:
        ValueError: if `tables` is empty or its rows do not hold 64 steps.

    Example:
        >>> estimate_quality(quantization_tables(96))
        (96, True)
    """
    given = np.atleast_2d(np.asarray(tables, dtype=np.int64))
    if given.ndim != 2 or given.shape[0] == 0 or given.shape[1] != 64:
        raise ValueError(f"quantisation tables must have shape (64,) or (n, 64), got {np.shape(tables)}")
    kind = np.minimum(np.arange(len(given)), 1)  # row 0 against luma, every further row against chroma
    distances = np.square(_all_tables()[:, kind] - given).mean(axis=(1, 2))
    nearest = int(distances.argmin())
    return nearest + 1, bool(distances[nearest] == 0)


def jpeg_roundtrip(
    images: Tensor,
    quality: int | Sequence[int] | npt.NDArray[Any] | Tensor,
    subsampling: str = "4:2:0",
    sizes: Tensor | None = None,
) -> Tensor:
    """Encode images as JPEG and decode them, on their own device, exactly as libjpeg(-turbo) does by default.

    Integer DCT ("islow"), IJG tables, averaged chroma and triangle ("fancy") up-sampling; the pixels equal those that
    Pillow gives after `save(quality=..., subsampling=...)` and `open`, at any size. Work is done in chunks of whole
    images, so that memory does not grow with the batch.

    Args:
        images: uint8, or floating in [0, 1] (rounded to 8 bits, values outside are clamped), shape `(B, 3, H, W)`, or
            `(B, 1, H, W)` for grey images.
        quality: IJG quality in [1, 100], one for all or one per image, shape `(B,)`; or quantisation steps in
            [1, 255] in natural order, luma and chroma, shape `(2, 64)` or `(B, 2, 64)`. Keep tensors of them on the
            CPU: their range is checked, for which a GPU would have to be waited for.
        subsampling: of chroma, `"4:4:4"`, `"4:2:2"` or `"4:2:0"`; without effect on grey images.
        sizes: height and width of each image, integers on the CPU, shape `(B, 2)`, where images of several sizes were
            padded at the bottom and on the right to share a batch. Each is compressed as if it were alone; what is
            returned beyond its size has no meaning.

    Returns:
        Decoded images with the shape, dtype and device of `images`; floating ones are multiples of 1/255. No gradient
        flows: see :func:`jpeg_roundtrip_ste`.

    Raises:
        ValueError: if `images` are of another shape or dtype, `quality` is of another shape, out of range or not
            whole, or `subsampling` is unknown.

    Source: libjpeg 6b and libjpeg-turbo (jccolor, jcsample, jfdctint, jcdctmgr, jidctint, jdsample, jdcolor).

    Example:
        >>> jpeg_roundtrip(torch.full((1, 3, 8, 8), 200, dtype=torch.uint8), 75)[0, 0, 0, :3]
        tensor([200, 200, 200], dtype=torch.uint8)
    """
    _check_images(images, subsampling)
    tables = _tables_for(quality, len(images))
    sizes = None if sizes is None else _checked_sizes(sizes, images)
    if images.device.type == "mps":  # has no float64
        return jpeg_roundtrip(images.cpu(), quality, subsampling, sizes).to(images.device)
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    if not images.numel():
        return result
    narrow: list[tuple[int, int, int]] = []
    if sizes is not None:
        least = 2 * SAMPLING_FACTORS[subsampling][1]
        narrow = [(index, *size) for index, size in enumerate(sizes.tolist()) if size[1] <= least]
        sizes = sizes.to(images.device)
    tables = tables.to(images.device)
    limit = _CHUNK_CPU if images.device.type == "cpu" else _CHUNK_GPU
    size = max(1, limit // (images.shape[-2] * images.shape[-1]))
    with torch.no_grad():
        for start in range(0, len(images), size):
            chunk = slice(start, start + size)
            pixels = _to_eight_bits(images[chunk].contiguous())
            steps = tables[chunk] if len(tables) > 1 else tables
            true = None if sizes is None else sizes[chunk]
            is_gray = pixels.shape[1] == 1
            coded = code_gray(pixels, steps, true) if is_gray else code_rgb(pixels, steps, subsampling, true)
            if images.is_floating_point():
                result[chunk].copy_(coded.floor_()).div_(255)
            else:
                result[chunk].copy_(coded.short())  # torch truncates to 16 bits and then to 8 faster than at once
    for index, height, width in narrow:  # libjpeg repeats chroma samples in these instead of interpolating them
        one = images[index : index + 1, :, :height, :width]
        steps = tables[min(index, len(tables) - 1)].flatten(1).long().cpu()
        result[index, :, :height, :width] = jpeg_roundtrip(one, steps, subsampling)[0]
    return result


def jpeg_roundtrip_ste(
    images: Tensor, quality: int | Sequence[int] | npt.NDArray[Any] | Tensor, subsampling: str = "4:2:0"
) -> Tensor:
    """:func:`jpeg_roundtrip` that lets gradients through (straight-through estimator).

    The value is the exact one; the gradient is that of :func:`jpeg_smooth`, whatever the quality.

    Args:
        images: floating in [0, 1], shape `(B, 3, H, W)` or `(B, 1, H, W)`.
        quality: as in :func:`jpeg_roundtrip`.
        subsampling: as in :func:`jpeg_roundtrip`.

    Returns:
        Decoded images, shape and dtype of `images`.

    Raises:
        ValueError: as :func:`jpeg_roundtrip`, and if `images` are not floating.
    """
    return _StraightThrough.apply(
        jpeg_smooth(images, subsampling), jpeg_roundtrip(images.detach(), quality, subsampling)
    )


def jpeg_smooth(images: Tensor, subsampling: str = "4:2:0") -> Tensor:
    """The JPEG round trip in real numbers: every rounding the identity, the last clamping kept.

    Quantisation does nothing without rounding, so there is no quality: luma passes, chroma is averaged and
    interpolated. Values are clamped half a grey level outside [0, 1], where rounding would still lead inside, so that
    black and white pixels keep their gradient.

    Args:
        images: floating in [0, 1], shape `(B, 3, H, W)` or `(B, 1, H, W)`.
        subsampling: `"4:4:4"`, `"4:2:2"` or `"4:2:0"`.

    Returns:
        Images in [-0.5 / 255, 1 + 0.5 / 255], shape and dtype of `images`; computed in float32 at least.

    Raises:
        ValueError: if `images` are of another shape or not floating, or `subsampling` is unknown.
    """
    _check_images(images, subsampling)
    if not images.is_floating_point():
        raise ValueError(f"gradients need floating images in [0, 1], got {images.dtype}")
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    coded = smooth_rgb(wide, subsampling) if images.shape[1] == 3 else wide
    return coded.clamp(-0.5 / 255, 1 + 0.5 / 255).to(images.dtype)


class _StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, hard: Tensor) -> Tensor:
        return hard

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _check_images(images: Tensor, subsampling: str) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape (B, 3, H, W) or (B, 1, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8 or floating, got {images.dtype}")
    if subsampling not in SAMPLING_FACTORS:
        raise ValueError(f"subsampling must be one of {', '.join(SAMPLING_FACTORS)}, got {subsampling!r}")


def _checked_sizes(sizes: Tensor, images: Tensor) -> Tensor | None:
    """The sizes as int64 on the CPU; None if every image fills its frame."""
    frame = torch.tensor(images.shape[-2:])
    given = sizes.detach().cpu()
    if given.shape != (len(images), 2) or given.is_floating_point() or ((given < 1) | (given > frame)).any():
        raise ValueError(
            f"sizes must be height and width of each image, integers from 1 to {tuple(frame.tolist())}, shape "
            f"({len(images)}, 2), got {tuple(given.shape)} of {given.dtype}"
        )
    return None if (given == frame).all() else given.long()


def _to_eight_bits(images: Tensor) -> Tensor:
    """Whole numbers in [0, 255], float32, of uint8 images or of floating ones in [0, 1]."""
    if not images.is_floating_point():
        return images.float()
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return (wide * 255).round_().clamp_(0, 255).float()


def _tables_for(quality: int | Sequence[int] | npt.NDArray[Any] | Tensor, batch: int) -> Tensor:
    """Quantisation steps of `batch` images, on the CPU, float64, shape `(batch, 2, 8, 8)` or `(1, 2, 8, 8)`."""
    given = quality.detach().cpu().numpy() if isinstance(quality, Tensor) else np.asarray(quality)
    if given.shape not in ((), (batch,), (2, 64), (batch, 2, 64)):
        raise ValueError(
            f"quality must be one number, one for each of the {batch} images, or tables of shape (2, 64) or "
            f"({batch}, 2, 64), got shape {given.shape}"
        )
    highest, what = (100, "JPEG quality") if given.ndim < 2 else (255, "quantisation steps")
    if given.dtype.kind not in "iu" or (given.size and not 1 <= given.min() <= given.max() <= highest):
        raise ValueError(f"{what} must be integers from 1 to {highest}, got {quality!r}")
    tables = _all_tables()[given.astype(np.int64) - 1] if given.ndim < 2 else given
    return torch.from_numpy(tables.astype(np.float64)).view(-1, 2, 8, 8)
