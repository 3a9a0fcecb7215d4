"""JPEG compression of crops: a worker cuts a window out of the image, the device compresses and crops it.

libjpeg works in units of 16 pixels and interpolates chroma one pixel beyond them, so a window that starts and ends on
that grid, or with the image, and reaches a pixel beyond the crop gives the crop the very pixels that compressing the
whole image would give. A crop of 224 pixels travels as a window of 256.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from functional.jpeg import jpeg_roundtrip

__all__ = ["Window", "compress_windows", "cut_window", "window_side"]

_UNIT = 16  # of 4:2:0, the coarsest of the chroma formats

Pixels = npt.NDArray[np.uint8]


class Window(NamedTuple):
    """Part of an image that holds a crop and all that the codec makes it of.

    Attributes:
        image: uint8, shape `(H, W, 3)`, at most :func:`window_side` on each side, less where the image ends.
        top: first row of the crop in the window.
        left: first column of the crop in the window.
    """

    image: Pixels
    top: int
    left: int


def window_side(size: int) -> int:
    """Side in which a window for a crop of `size` pixels fits, wherever it lies."""
    return -(-(size + _UNIT + 1) // _UNIT) * _UNIT


def cut_window(image: Pixels, size: int, top: int, left: int) -> Window:
    """Window of a crop.

    Args:
        image: RGB, uint8, shape `(H, W, 3)`.
        size: side of the crop.
        top: first row of the crop.
        left: first column of the crop.

    Returns:
        The window; it shares the image's memory.
    """
    side = window_side(size)
    first_row, first_column = ((max(at - 1, 0) // _UNIT) * _UNIT for at in (top, left))
    part = image[first_row : first_row + side, first_column : first_column + side]
    return Window(part, top - first_row, left - first_column)


def padded_sample(window: Window, size: int, quality: int) -> dict[str, Any]:
    """What a worker hands over: the window in a frame of fixed side, and what the device needs to know about it.

    Args:
        window: the window.
        size: side of the crop.
        quality: IJG quality in [1, 100]; 0 crops without compressing.

    Returns:
        ``image``, uint8 `(3, S, S)` with `S` of :func:`window_side`, and ``codec``, a dictionary of integers.
    """
    height, width = window.image.shape[:2]
    frame = torch.zeros(3, *[window_side(size)] * 2, dtype=torch.uint8)
    frame[:, :height, :width] = torch.from_numpy(window.image).permute(2, 0, 1)
    codec = {"quality": quality, "height": height, "width": width, "top": window.top, "left": window.left, "size": size}
    return {"image": frame, "codec": codec}


def compress_windows(images: Tensor, codec: dict[str, list[int]]) -> Tensor:
    """Compress the windows of a batch as JPEG 4:2:0 and crop them, on their own device.

    Args:
        images: windows, uint8, shape `(B, 3, S, S)`.
        codec: per image, as lists of length B: JPEG ``quality`` (0: none), true ``height`` and ``width`` of the
            window, ``top`` and ``left`` of the crop in it, and the crop's ``size``.

    Returns:
        Crops, uint8, shape `(B, 3, size, size)`.
    """
    chosen = [index for index, quality in enumerate(codec["quality"]) if quality]
    if chosen:
        sizes = torch.tensor([[codec["height"][i], codec["width"][i]] for i in chosen])
        index = torch.tensor(chosen, device=images.device)
        coded = jpeg_roundtrip(images[index], [codec["quality"][i] for i in chosen], sizes=sizes)
        images = images.index_copy(0, index, coded)
    size = codec["size"][0]
    places = zip(images, codec["top"], codec["left"], strict=True)
    return torch.stack([image[:, top : top + size, left : left + size] for image, top, left in places])
