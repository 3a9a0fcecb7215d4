"""From an image file to an RGB array, and the few array operations that loader workers do.

Everything here works on uint8 arrays of shape `(H, W, 3)` on the CPU with Pillow and numpy, so that a worker
process starts without torch. ICC profiles are not applied.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

__all__ = ["FORMATS", "ImageReadError", "crop", "decode_image", "jpeg_resave", "pad_to", "resize_short_side"]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Pillow formats that are opened; others (EPS would start a PostScript interpreter) count as no image."""

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

RGBArray = npt.NDArray[np.uint8]


class ImageReadError(ValueError):
    """An image file cannot be turned into pixels; the message names the file and the mend."""


def decode_image(path: str | Path) -> RGBArray:
    """Read an image file as upright 8-bit RGB.

    EXIF orientation is applied. Palette, grey, 1-bit and CMYK images are converted; transparency (an alpha
    channel, or a transparent palette entry or colour) is composited over white; 16-bit grey is scaled so that
    65535 becomes 255, rounded to the nearest step; of an animation the first frame is taken.

    Args:
        path: a JPEG, PNG, WebP, TIFF, BMP or GIF file.

    Returns:
        RGB pixels, uint8 in [0, 255], shape `(H, W, 3)`, contiguous and writable.

    Raises:
        ImageReadError: if the file is missing, no image, damaged, or of a mode without a defined range
            (floating point, or integers beyond 16 bits).
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()  # before the orientation is asked for: Pillow turns TIFF files itself while loading
            orientation = exif_orientation(image)
            return to_rgb(image.transpose(_UPRIGHT[orientation]) if orientation > 1 else image)
    except Exception as error:  # Pillow's plugins raise nearly any type on a damaged file
        reason = "not an image in a known format" if isinstance(error, UnidentifiedImageError) else error
        raise ImageReadError(
            f"{path}: cannot be decoded ({reason}); restore the file, or scan the folder again "
            "so that it is reported and left out"
        ) from error


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation of an open image, 1 to 8; 1 where it is absent, invalid or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError, IndexError):  # a damaged EXIF block
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def to_rgb(image: Image.Image) -> RGBArray:
    """Pixels of a loaded image of any mode as RGB, uint8 `(H, W, 3)`."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        return np.repeat(_to_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _to_eight_bits(grey: npt.NDArray[np.generic]) -> RGBArray:
    """Scale 16-bit grey values from [0, 65535] to [0, 255] with rounding (Pillow's own conversion clips)."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("integer pixels beyond 16 bits; save the image with 8 or 16 bits")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def jpeg_resave(image: RGBArray, quality: int, subsampling: str = "4:2:0") -> RGBArray:
    """Compress and decompress an image with libjpeg (Pillow), in memory.

    Args:
        image: RGB, uint8, shape `(H, W, 3)`.
        quality: IJG quality, 1 to 100.
        subsampling: chroma format, "4:4:4", "4:2:2" or "4:2:0".

    Returns:
        The decoded image, uint8, shape `(H, W, 3)`.

    Raises:
        ValueError: if `quality` or `subsampling` is none of the above.
    """
    if not 1 <= quality <= 100:  # Pillow would take 0 for its default of 75
        raise ValueError(f"JPEG quality must be from 1 to 100, got {quality}")
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(f"chroma subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {subsampling!r}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.array(Image.open(buffer))


def resize_short_side(image: RGBArray, size: int, resample: str = "bicubic") -> RGBArray:
    """Resize so that the short side becomes `size`, keeping the aspect ratio; antialiased when shrinking.

    Args:
        image: RGB, uint8, shape `(H, W, 3)`.
        size: wanted length of the short side, at least 1.
        resample: Pillow's name of the filter: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".

    Returns:
        The resized image, uint8; the long side is rounded to the nearest pixel. The same array if nothing changes.

    Raises:
        ValueError: if `size` is below 1 or the filter is unknown.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    filters = {member.name.lower(): member for member in Image.Resampling}
    if resample not in filters:
        raise ValueError(f"resample must be one of {', '.join(filters)}, got {resample!r}")
    height, width = image.shape[:2]
    short = min(height, width)
    if short == size:
        return image
    wanted = (max(1, round(width * size / short)), max(1, round(height * size / short)))
    return np.array(Image.fromarray(image).resize(wanted, filters[resample]))


def crop(image: RGBArray, size: int, top: int, left: int) -> RGBArray:
    """Cut out a square.

    Args:
        image: RGB, uint8, shape `(H, W, 3)`.
        size: side of the square.
        top: first row of the square.
        left: first column of the square.

    Returns:
        A contiguous copy (it does not keep the large image alive), shape `(size, size, 3)`.

    Raises:
        ValueError: if the square is empty or reaches beyond the image.
    """
    height, width = image.shape[:2]
    if size < 1 or top < 0 or left < 0 or top + size > height or left + size > width:
        raise ValueError(f"crop of {size} at ({top}, {left}) does not fit into an image of {height} x {width}; pad it")
    return np.ascontiguousarray(image[top : top + size, left : left + size]).copy()


def pad_to(image: RGBArray, size: int) -> RGBArray:
    """Pad an image by reflection to at least `size` on both sides; larger sides stay as they are.

    The padding is spread over both borders (an odd pixel goes to the bottom or right) and mirrors the image
    at its edges, edge pixels included, as often as needed. It never adds zeros: a black border would tell
    small images from large ones.

    Args:
        image: RGB, uint8, shape `(H, W, 3)` with H, W >= 1.
        size: least height and width.

    Returns:
        The padded image, uint8, shape `(max(H, size), max(W, size), 3)`; the same array if nothing is missing.
    """
    missing = [max(0, size - length) for length in image.shape[:2]]
    if not any(missing):
        return image
    return np.pad(image, [*((gap // 2, gap - gap // 2) for gap in missing), (0, 0)], mode="symmetric")
