"""JPEG arithmetic: the quantisation tables of the Independent JPEG Group (IJG) and the quality they encode."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["estimate_quality", "quantization_tables"]

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
