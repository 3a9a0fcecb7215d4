"""Errors under corruption in one number, and how well something else predicts it over several networks.

Source: Hendrycks and Dietterich 2019, Sec. 3.2 (mCE and relative mCE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

__all__ = ["ALEXNET", "Association", "association", "mean_corruption_error", "relative_mean_corruption_error"]

Floats = NDArray[np.float64]

ALEXNET = {
    "gaussian_noise": 0.886,
    "shot_noise": 0.895,
    "impulse_noise": 0.923,
    "defocus_blur": 0.820,
    "glass_blur": 0.826,
    "motion_blur": 0.786,
    "zoom_blur": 0.798,
    "snow": 0.867,
    "frost": 0.827,
    "fog": 0.819,
    "brightness": 0.565,
    "contrast": 0.853,
    "elastic_transform": 0.646,
    "pixelate": 0.718,
    "jpeg_compression": 0.607,
}
"""Top-1 error of AlexNet on ImageNet-C, mean over severities: the published baseline of the mCE. None for CIFAR."""


class Association(NamedTuple):
    """How well x predicts y over models; intervals are percentiles over resampled models."""

    pearson: float
    spearman: float
    r2: float  # of the straight line
    r2_low: float
    r2_high: float
    spearman_low: float
    spearman_high: float
    partial: float  # Pearson correlation of what the control leaves unexplained; NaN without a control
    partial_low: float
    partial_high: float


def mean_corruption_error(errors: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike] | None = None) -> float:
    """mCE: mean over corruptions of the error summed over severities, in units of the baseline's.

    Args:
        errors: error at each severity, ``(S,)``, by corruption.
        baseline: the same for the baseline, or its mean over severities as one number; None for the plain mean error,
            as is usual for CIFAR.

    Raises:
        ValueError: if there are no errors, or the baseline lacks a corruption or makes no errors.
    """
    return _mean_ratio(_means(errors), baseline, 0.0, 0.0)


def relative_mean_corruption_error(
    errors: Mapping[str, ArrayLike],
    clean: float,
    baseline: Mapping[str, ArrayLike] | None = None,
    baseline_clean: float = 0.0,
) -> float:
    """Relative mCE: as the mCE, of what corruption adds to the error on clean images.

    Args:
        errors: as for :func:`mean_corruption_error`.
        clean: error on clean images.
        baseline: as there.
        baseline_clean: the baseline's error on clean images.

    Raises:
        ValueError: as there.
    """
    return _mean_ratio(_means(errors), baseline, clean, baseline_clean)


def association(
    x: ArrayLike,
    y: ArrayLike,
    control: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Association:
    """Correlations over models with bootstrap intervals.

    Args:
        x: an indicator, one value per model, shape ``(M,)``, M at least 3.
        y: what it should predict, same shape.
        control: what is to be held constant in the partial correlation, same shape.
        resamples: resampled sets of models; those in which nothing varies are left out.
        confidence: share inside the intervals.
        seed: of the resampling.

    Raises:
        ValueError: if there are fewer than three models, shapes differ or a value is not finite.
    """
    columns = [np.asarray(values, np.float64) for values in (x, y, *(() if control is None else (control,)))]
    if columns[0].ndim != 1 or len(columns[0]) < 3 or any(values.shape != columns[0].shape for values in columns):
        shapes = ", ".join(str(values.shape) for values in columns)
        raise ValueError(f"values of shapes {shapes}: needed is one of each for at least three models.")
    table = np.stack(columns)
    if not np.isfinite(table).all():
        raise ValueError("A value is not finite; leave that model out.")
    rows = np.random.default_rng(seed).integers(table.shape[1], size=(resamples, table.shape[1]))
    drawn = np.array([_figures(table[:, row]) for row in rows])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = np.full((4, 2), np.nan)
    for index in range(4):
        kept = drawn[:, index][np.isfinite(drawn[:, index])]
        if len(kept):
            ends[index] = np.quantile(kept, tails)
    pearson, spearman, r2, partial = _figures(table)
    (spearman_low, spearman_high), (r2_low, r2_high), (partial_low, partial_high) = ends[1:].tolist()
    return Association(
        pearson, spearman, r2, r2_low, r2_high, spearman_low, spearman_high, partial, partial_low, partial_high
    )


def _figures(table: Floats) -> tuple[float, float, float, float]:
    x, y = table[:2]
    pearson = _pearson(x, y)
    partial = float("nan")
    if len(table) == 3:
        with_x, with_y = _pearson(x, table[2]), _pearson(y, table[2])
        left = (1 - with_x**2) * (1 - with_y**2)
        partial = float((pearson - with_x * with_y) / np.sqrt(left)) if left > 1e-12 else float("nan")
    return pearson, _pearson(rankdata(x), rankdata(y)), pearson**2, partial


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / scale, -1, 1)) if scale > 1e-24 else float("nan")


def _means(errors: Mapping[str, ArrayLike]) -> dict[str, float]:
    return {name: float(np.asarray(values, np.float64).mean()) for name, values in errors.items()}


def _mean_ratio(
    errors: Mapping[str, float], baseline: Mapping[str, ArrayLike] | None, clean: float, baseline_clean: float
) -> float:
    if not errors:
        raise ValueError("There are no errors to average.")
    if baseline is None:
        return float(np.mean([error - clean for error in errors.values()]))
    missing = set(errors) - set(baseline)
    if missing:
        raise ValueError(f"The baseline lacks {', '.join(sorted(missing))}.")
    units = {name: mean - baseline_clean for name, mean in _means(baseline).items() if name in errors}
    if min(units.values()) <= 0:
        name = min(units, key=lambda key: units[key])
        raise ValueError(f"The baseline loses nothing under {name}: choose another baseline.")
    return float(np.mean([(error - clean) / units[name] for name, error in errors.items()]))
