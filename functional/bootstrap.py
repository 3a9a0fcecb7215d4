"""Rates of a detector with bootstrap bands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Band", "detection_bands"]

Floats = NDArray[np.float64]

_CHUNK = 1 << 22  # entries of a table of resampled counts: some tens of megabytes


class Band(NamedTuple):
    """A figure under each of C conditions, with its bootstrap band.

    Attributes:
        value: on the images themselves, shape ``(C,)``.
        low: lower end of the band, shape ``(C,)``.
        high: upper end of the band, shape ``(C,)``.
        images: how many images the figure is over.
    """

    value: Floats
    low: Floats
    high: Floats
    images: int


def detection_bands(
    scores: Floats,
    labels: NDArray[np.int64],
    threshold: float = 0.0,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Band]:
    """TPR, TNR, balanced accuracy and AUROC under several conditions, with percentile bands over resampled images.

    Images are resampled within their class, so that the counts of the classes stay, and the same resamples serve all
    conditions. A figure is NaN where its class has no image or a score of the condition is NaN.

    Args:
        scores: higher means more likely fake, shape ``(C, N)``, one row per condition.
        labels: 0 real, 1 fake, shape ``(N,)``; images of other labels are left out.
        threshold: "fake" is ``score > threshold``.
        resamples: number of resampled sets.
        confidence: share of them inside the band, in (0, 1).
        seed: of the resampling.

    Returns:
        Bands named ``tpr``, ``tnr``, ``balanced_accuracy`` and ``auroc``, in [0, 1].

    Raises:
        ValueError: if the shapes do not fit, ``resamples`` is below 1 or ``confidence`` is outside (0, 1).

    Source: Efron 1979; the band is that of percentiles.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[1:]:
        raise ValueError(f"Scores (C, N) and labels (N,) do not fit: {scores.shape} and {labels.shape}.")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"Need resamples >= 1 and 0 < confidence < 1, got {resamples} and {confidence}.")
    reals, fakes = np.ascontiguousarray(scores[:, labels == 0]), np.ascontiguousarray(scores[:, labels == 1])
    whole = _figures(reals, fakes, threshold, np.ones((reals.shape[1], 1)), np.ones((fakes.shape[1], 1)))
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // max(1, reals.shape[1], fakes.shape[1]))
    drawn = []
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        counts = [_counts(part.shape[1], count, generator) for part in (reals, fakes)]
        drawn.append(_figures(reals, fakes, threshold, *counts))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    images = {"tpr": fakes.shape[1], "tnr": reals.shape[1]}
    bands = {}
    for name, value in whole.items():
        low, high = np.quantile(np.concatenate([figures[name] for figures in drawn], axis=1), tails, axis=1)
        bands[name] = Band(value[:, 0], low, high, images.get(name, reals.shape[1] + fakes.shape[1]))
    return bands


def _counts(images: int, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each image is drawn into each resampled set, shape ``(images, resamples)``."""
    drawn = generator.integers(images, size=(images, resamples)) if images else np.zeros((0, resamples), np.int64)
    cells = drawn * resamples + np.arange(resamples)
    return np.bincount(cells.ravel(), minlength=images * resamples).reshape(images, resamples).astype(np.float64)


def _figures(
    reals: Floats, fakes: Floats, threshold: float, real_counts: Floats, fake_counts: Floats
) -> dict[str, Floats]:
    """Figures of each condition in each resampled set, ``(C, R)``, from scores ``(C, n)`` and counts ``(n, R)``."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a class without images
        tpr = _above(fakes, threshold) @ fake_counts / np.float64(fakes.shape[1])
        tnr = (1 - _above(reals, threshold)) @ real_counts / np.float64(reals.shape[1])
        auroc = np.stack([_auroc(*pair, real_counts, fake_counts) for pair in zip(reals, fakes, strict=True)])
    return {"tpr": tpr, "tnr": tnr, "balanced_accuracy": (tpr + tnr) / 2, "auroc": auroc}


def _above(scores: Floats, threshold: float) -> Floats:
    """1 above the threshold, 0 below, NaN for NaN."""
    return np.where(np.isnan(scores), np.nan, scores > threshold)


def _auroc(reals: Floats, fakes: Floats, real_counts: Floats, fake_counts: Floats) -> Floats:
    """Share of pairs in which the fake scores higher, ties counted half, in each resampled set, shape ``(R,)``."""
    if np.isnan(reals).any() or np.isnan(fakes).any():
        return np.full(real_counts.shape[1], np.nan)
    order = np.argsort(reals)
    below = np.concatenate([np.zeros((1, real_counts.shape[1])), np.cumsum(real_counts[order], axis=0)])
    less, less_or_equal = (np.searchsorted(reals[order], fakes, side) for side in ("left", "right"))
    won = np.einsum("nr,nr->r", fake_counts, below[less] + below[less_or_equal]) / 2
    return won / np.float64(len(reals) * len(fakes))
