"""Trust in a score: the temperature that turns it into a probability, and the delivery paths it should survive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from functional.degradations import rescale
from functional.jpeg import jpeg_roundtrip

__all__ = [
    "DELIVERY_FACTORS",
    "DELIVERY_QUALITIES",
    "TEMPERATURE_BOUNDS",
    "cross_fitted_temperatures",
    "delivery_variants",
    "fit_temperature",
]

TEMPERATURE_BOUNDS = (1e-2, 1e2)
"""Smallest and largest temperature that a fit returns."""
DELIVERY_QUALITIES = (95, 85, 75, 65)
"""JPEG qualities at which :func:`delivery_variants` recompresses."""
DELIVERY_FACTORS = (0.5, 0.75, 1.5)
"""Factors by which :func:`delivery_variants` rescales."""


def fit_temperature(scores: Tensor, labels: Tensor) -> Tensor:
    """Temperature at which ``sigmoid(score / T)`` is likeliest to have drawn the labels.

    The mean negative log-likelihood is convex in ``1 / T``; the root of its derivative is bracketed and found in
    float64 on the CPU, so that the same data give the same number on every rank. Data without a minimum inside the
    bounds end at one of them: separable classes would drive T to 0 and get 0.01, scores that say nothing (or the
    contrary) would drive it to infinity and get 100. Scores that are all zero get 1.

    Args:
        scores: log-odds of label 1 up to a factor, finite, shape ``(N,)``.
        labels: 0 or 1, shape ``(N,)``; both occur.

    Returns:
        Scalar in [0.01, 100], float32 or the scores' wider type, on the scores' device.

    Raises:
        ValueError: if a score is not finite, a label is neither 0 nor 1, a class is missing or the shapes differ.

    Source: Guo et al. 2017, Sec. 4.2, for two classes.
    """
    values, truth = _checked(scores, labels)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return torch.tensor(_temperature(values, truth), dtype=dtype, device=scores.device)


def cross_fitted_temperatures(scores: Tensor, labels: Tensor) -> Tensor:
    """Temperature for each score, fitted without it: on the half of the data that it is not in.

    Figures on these temperatures judge temperature scaling without the optimism of fitting and judging on the same
    data. The halves hold equal shares of each class; they are drawn with a fixed seed from the sorted scores, so that
    they do not depend on the order in which ranks delivered them.

    Args:
        scores: as in :func:`fit_temperature`.
        labels: as in :func:`fit_temperature`.

    Returns:
        Shape ``(N,)``, type and device as in :func:`fit_temperature`; NaN if a class has fewer than two members.

    Raises:
        ValueError: as :func:`fit_temperature`.
    """
    values, truth = _checked(scores, labels)
    half = np.empty(len(values), dtype=np.int64)
    generator = np.random.default_rng(0)
    by_label_and_score = np.lexsort((values, truth))
    for label in (False, True):
        members = by_label_and_score[truth[by_label_and_score] == label]
        half[generator.permutation(members)] = np.arange(len(members)) % 2
    temperatures = np.full(len(values), np.nan)
    if min(truth.sum(), (~truth).sum()) >= 2:
        for fold in (0, 1):
            temperatures[half == fold] = _temperature(values[half != fold], truth[half != fold])
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return torch.tensor(temperatures, dtype=dtype, device=scores.device)


def delivery_variants(
    images: Tensor,
    qualities: Sequence[int] = DELIVERY_QUALITIES,
    factors: Sequence[float] = DELIVERY_FACTORS,
) -> Iterator[Tensor]:
    """The same pictures as other delivery paths would have handed them over, one path at a time.

    First saved as JPEG (4:2:0, exactly as libjpeg does) at each quality; then resized by each factor (bicubic with
    antialiasing, rounded to 8 bits) and brought back to their size without a second resizing, by a centre crop if they
    grew and by reflection at the borders if they shrank.

    Args:
        images: in [0, 1], floating, shape ``(B, 3, H, W)``.
        qualities: IJG qualities in [1, 100].
        factors: of the side lengths, positive.

    Yields:
        Images in [0, 1], multiples of 1/255, shape, type and device of ``images``; without gradient.

    Raises:
        ValueError: if a factor is not positive, or as :func:`functional.jpeg.jpeg_roundtrip`.
    """
    if min(factors, default=1) <= 0:
        raise ValueError(f"factors={tuple(factors)}: a picture is rescaled by a positive factor.")
    for quality in qualities:
        yield jpeg_roundtrip(images, quality)
    for factor in factors:
        yield rescale(images.detach(), factor)


def _checked(scores: Tensor, labels: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = scores.detach().cpu().double().numpy()
    truth = labels.detach().cpu().numpy()
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores and labels must have one shape (N,), got {values.shape} and {truth.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, {(~np.isfinite(values)).sum()} of {len(values)} are not.")
    found = np.unique(truth)
    if not np.array_equal(found, [0, 1]):
        raise ValueError(f"labels must contain 0 and 1 and nothing else, got {found[:5].tolist()}.")
    return values, truth == 1


def _temperature(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    margins = np.where(truth, values, -values)
    if not margins.any():
        return 1.0

    def slope(inverse: float) -> float:
        """Derivative of mean(log(1 + exp(-margin / T))) by 1 / T; it rises with 1 / T."""
        return float(-(margins * expit(-inverse * margins)).mean())

    smallest, largest = TEMPERATURE_BOUNDS
    if slope(1 / largest) >= 0:
        return largest
    if slope(1 / smallest) <= 0:
        return smallest
    return 1 / brentq(slope, 1 / largest, 1 / smallest, xtol=1e-12, rtol=1e-12)
