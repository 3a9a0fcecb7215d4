"""The luma that a decoder sees: for JPEG the file's own plane, before any conversion to RGB."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from datamodules.decoding import _UPRIGHT, FORMATS, decode_image, exif_orientation

__all__ = ["jpeg_luma", "luma_plane", "rgb_luma"]

Plane = npt.NDArray[np.uint8]


def luma_plane(path: str | Path) -> Plane:
    """Read an image file as upright luma.

    A JPEG stores luma and chroma; decoders of grey images (``cv2.imread(file, 0)``, Pillow's draft mode) hand out the
    stored luma, which is what published spectra are made of. Decoding to RGB and back rounds twice. All other files
    are decoded as by :func:`decode_image` and converted with Pillow's weights.

    Args:
        path: a file that :func:`decode_image` reads.

    Returns:
        uint8 in [0, 255], shape ``(H, W)``, contiguous and writable.

    Raises:
        ImageReadError: if the file cannot be decoded.
    """
    with suppress(Exception), Image.open(path, formats=FORMATS) as image:  # `decode_image` says what is wrong with it
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            image.draft("L", image.size)
            image.load()
            orientation = exif_orientation(image)
            return np.array(image.transpose(_UPRIGHT[orientation]) if orientation > 1 else image)
    return rgb_luma(decode_image(path))


def rgb_luma(image: npt.NDArray[np.uint8]) -> Plane:
    """Luma ``(H, W)`` of RGB pixels ``(H, W, 3)`` with Pillow's weights, rounded."""
    return np.array(Image.fromarray(image).convert("L"))


def jpeg_luma(image: npt.NDArray[np.uint8], quality: int) -> Plane:
    """Compress an image with libjpeg (Pillow), in memory, and read the luma plane of the result.

    Args:
        image: RGB, uint8, shape ``(H, W, 3)``.
        quality: IJG quality, 1 to 100.

    Returns:
        The stored luma after decompression, uint8, shape ``(H, W)``.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as compressed:
        compressed.draft("L", compressed.size)
        return np.array(compressed)
