"""What JPEG compression an image has been through, read off its pixels.

Quantisation leaves the DCT coefficients of an image on multiples of the table's steps, blurred by the rounding of
pixels. For each quality of the IJG tables the likelihood of the coefficients under such a lattice is compared with
that under none. The ratio does not depend on what the picture shows: coefficients near zero, which content alone
decides, are left out, and between two points of a lattice all images look alike.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from functional.jpeg import quantization_tables

__all__ = ["EVIDENCE", "JpegHistory", "jpeg_history"]

_BLUR = 0.4  # deviation of a coefficient from its lattice point, mostly from rounding RGB to 8 bits
_OUTLIERS = 0.02  # share of coefficients that clipping moved anywhere
_LEAST = 1.2  # magnitude from which a coefficient counts
_BINS_PER_UNIT = 8
_MOST = 256  # larger magnitudes are left out
_SEARCHED, _MOST_SEARCHED = slice(20), 128  # frequencies and magnitudes of the quick look at all grids
EVIDENCE = 12.0
"""Log-likelihood ratio, in nats, from which a lattice counts as found; chance does not reach it on 64 grids."""


class JpegHistory(NamedTuple):
    """Last JPEG compression of each image.

    Attributes:
        quality: IJG quality in [1, 100], 0 where no lattice was found, int64, shape `(B,)`.
        row: first row of the 8 x 8 grid, in [0, 7], int64, shape `(B,)`; 0 where there is none.
        column: first column of the grid.
        evidence: log-likelihood ratio of each quality from 1 to 100 on that grid against no compression, in nats,
            float32, shape `(B, 100)`. A hypothesis (none counts zero) within some 12 nats of the best cannot be ruled
            out: small or flat images leave many.
    """

    quality: Tensor
    row: Tensor
    column: Tensor
    evidence: Tensor


def jpeg_history(
    gray: Tensor, all_grids: bool = False, blocks: int = 1024, clipped: Tensor | None = None
) -> JpegHistory:
    """Estimate the quality of the last JPEG compression from pixels alone.

    It finds standard tables at any quality on photographs of some 100 blocks or more, as long as the image was not
    resized or filtered since; what was compressed several times on one grid counts as the coarsest of them. Tables of
    other makers come out as the nearest quality, or as none.

    Args:
        gray: luma in [0, 255], floating, shape `(B, H, W)`, both sides at least 16 (see `functional.spectrum.luma`).
        all_grids: also look for grids that do not start at the first pixel, as in images that were cropped after
            compression; only where the grid at the first pixel shows nothing.
        blocks: most 8 x 8 blocks to look at, evenly spread.
        clipped: pixels a channel of which is 0 or 255, bool, shape `(B, H, W)`. Decoding may have cut them off, which
            moves all coefficients of their block; such blocks are left out. By default none is.

    Returns:
        Quality, grid and evidence for each image.

    Raises:
        ValueError: if `gray` has another shape.
    """
    if gray.ndim != 3 or min(gray.shape[1:]) < 16:
        raise ValueError(f"gray must have shape (B, H, W) with sides of at least 16, got {tuple(gray.shape)}")
    if clipped is None:
        clipped = torch.zeros_like(gray, dtype=torch.bool)
    evidence = _evidence(gray, clipped, blocks)
    best = evidence.amax(1)
    row, column = torch.zeros_like(best, dtype=torch.long), torch.zeros_like(best, dtype=torch.long)
    if all_grids:
        unknown = (best <= EVIDENCE).nonzero()[:, 0]
        grids = _likeliest_grids(gray[unknown], clipped[unknown], blocks)
        for index, grid in zip(unknown.tolist(), grids, strict=True):
            shifted = (slice(index, index + 1), slice(grid // 8, None), slice(grid % 8, None))
            found = _evidence(gray[shifted], clipped[shifted], blocks)[0]
            if found.amax() > EVIDENCE:
                evidence[index], best[index] = found, found.amax()
                row[index], column[index] = grid // 8, grid % 8
    quality = torch.where(best > EVIDENCE, evidence.argmax(1) + 1, 0)
    return JpegHistory(quality, row, column, evidence)


def _likeliest_grids(gray: Tensor, clipped: Tensor, blocks: int) -> list[int]:
    """For each image the grid, row times eight plus column, that a quick look at low frequencies favours."""
    if not len(gray):
        return []
    shifts = [(slice(None), slice(grid // 8, None), slice(grid % 8, None)) for grid in range(1, 64)]
    looks = [
        _evidence(gray[shift], clipped[shift], min(blocks, 256), _SEARCHED, _MOST_SEARCHED).amax(1) for shift in shifts
    ]
    return (torch.stack(looks).argmax(0) + 1).tolist()


def _evidence(
    gray: Tensor, clipped: Tensor, blocks: int, frequencies: slice = slice(None), most: int = _MOST
) -> Tensor:
    """Log-likelihood ratio of each quality on the grid at the first pixel, `(B, 100)`.

    Args:
        gray: as in :func:`jpeg_history`.
        clipped: as in :func:`jpeg_history`.
        blocks: most blocks to look at.
        frequencies: which, counted from low to high.
        most: magnitudes from there on are left out.
    """
    order = _order()[frequencies].to(gray.device)
    counts = _histograms(gray, clipped, blocks, order, most)  # (B, F, bins)
    ratios = counts @ _log_ratios()[: counts.shape[-1]].to(counts)  # (B, F, 255)
    steps = _steps().to(counts.device)[:, order]  # (100, F)
    return ratios.gather(2, (steps.T - 1).expand(len(gray), -1, -1)).sum(1)


def _histograms(gray: Tensor, clipped: Tensor, blocks: int, frequencies: Tensor, most: int) -> Tensor:
    """How often each magnitude occurs at each frequency, float32, shape `(B, F, bins)`."""
    tiles, cut = _tiles(gray, blocks), _tiles(clipped, blocks)  # (B, n, 8, 8)
    basis = _basis().to(device=gray.device)
    coefficients = (basis @ (tiles.float() - 128) @ basis.T).flatten(2)[..., frequencies].abs()  # (B, n, F)
    bins = most * _BINS_PER_UNIT
    index = (coefficients * _BINS_PER_UNIT).long().transpose(1, 2)  # (B, F, n)
    kept = (coefficients >= _LEAST).transpose(1, 2) & (index < bins) & ~cut.flatten(2).any(2).unsqueeze(1)
    counts = torch.zeros(len(gray), len(frequencies), bins, device=gray.device)
    return counts.scatter_add_(2, index.clamp(max=bins - 1), kept.float())


def _tiles(planes: Tensor, blocks: int) -> Tensor:
    """Whole 8 x 8 blocks of planes `(B, H, W)`, at most so many, evenly spread, shape `(B, n, 8, 8)`."""
    height, width = (side // 8 * 8 for side in planes.shape[1:])
    tiles = planes[:, :height, :width].unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2)
    if tiles.shape[1] > blocks:
        tiles = tiles[:, torch.linspace(0, tiles.shape[1] - 1, blocks, device=planes.device).long()]
    return tiles


@cache
def _order() -> Tensor:
    """Frequencies but the mean, row times eight plus column, from low to high, int64, shape `(63,)`."""
    row, column = np.divmod(np.arange(1, 64), 8)
    return torch.from_numpy(np.argsort(row + column, kind="stable") + 1)


@cache
def _basis() -> Tensor:
    """Orthonormal DCT-II of eight samples, shape `(8, 8)`."""
    position = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * position + 1) * position[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis.float()


@cache
def _steps() -> Tensor:
    """Luma steps of the qualities 1 to 100 at each frequency, int64, shape `(100, 64)`."""
    return torch.from_numpy(np.stack([quantization_tables(quality)[0] for quality in range(1, 101)]))


@cache
def _log_ratios() -> Tensor:
    """Log-likelihood ratio of a magnitude under each step from 1 to 255, shape `(bins, 255)`.

    Within a cell around each multiple of the step the density is a normal one, wrapped around the cell, against a
    uniform one.
    """
    magnitude = (torch.arange(_MOST * _BINS_PER_UNIT, dtype=torch.float64)[:, None] + 0.5) / _BINS_PER_UNIT
    step = torch.arange(1, 256, dtype=torch.float64)
    offset = magnitude - step * torch.round(magnitude / step)
    turns = torch.arange(-2, 3, dtype=torch.float64)[:, None, None] * step
    density = torch.exp(-0.5 * ((offset + turns) / _BLUR) ** 2).sum(0) / (_BLUR * math.sqrt(2 * math.pi))
    return torch.log((1 - _OUTLIERS) * step * density + _OUTLIERS).float()
