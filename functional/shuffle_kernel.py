"""Compiled loop of the glass blur; numba compiles it at first use and keeps the result on disk."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["shuffle"]


@njit(cache=True)
def shuffle(draws, reach):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Flat source of each pixel (B, H, W) after all turns of steps (B, turns, 2, H, W)."""
    count, iterations, _, height, width = draws.shape
    sources = np.empty((count, height, width), np.int64)
    for image in range(count):
        source = sources[image]
        for row in range(height):
            for column in range(width):
                source[row, column] = row * width + column
        for turn in range(iterations):
            for row in range(height - reach, reach, -1):
                for column in range(width - reach, reach, -1):
                    down, right = draws[image, turn, 0, row, column], draws[image, turn, 1, row, column]
                    source[row, column] = source[row + down, column + right]
    return sources
