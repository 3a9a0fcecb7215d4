"""Decisions and tables of real/fake detection: thresholds at a fixed error rate, cross-generator matrices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CrossGeneratorSummary", "cross_generator_summary", "threshold_at_fpr", "unsure_band"]


def threshold_at_fpr(real_scores: Tensor, fpr: float) -> Tensor:
    """Smallest threshold at which at most a share ``fpr`` of the reals scores above it.

    Args:
        real_scores: scores of real images, higher means more likely fake, shape ``(N,)``, N >= 1.
        fpr: tolerated false positive rate in [0, 1).

    Returns:
        Scalar threshold ``t``; "fake" is ``score > t``.

    Raises:
        ValueError: if there are no scores or ``fpr`` is outside [0, 1).
    """
    if real_scores.numel() == 0 or not 0 <= fpr < 1:
        raise ValueError(f"Need scores of at least one real image and 0 <= fpr < 1, got {real_scores.numel()}, {fpr}.")
    ordered = real_scores.flatten().sort(descending=True).values
    return ordered[int(fpr * ordered.numel() + 1e-9)]


def unsure_band(scores: Tensor, labels: Tensor, error_rate: float) -> tuple[Tensor, Tensor]:
    """Scores between which neither verdict holds its error rate.

    Above the upper bound at most ``error_rate`` of the reals are found, below the lower bound at most ``error_rate``
    of the fakes. Where the classes are so far apart that the bounds cross, the gap between them is the band.

    Args:
        scores: higher means more likely fake, shape ``(N,)``.
        labels: 0 real, 1 fake, shape ``(N,)``.
        error_rate: tolerated false positive and false negative rate in [0, 1).

    Returns:
        Lower and upper bound, scalars; "real" is ``score < lower``, "fake" is ``score > upper``.

    Raises:
        ValueError: if a class is missing.
    """
    above = threshold_at_fpr(scores[labels == 0], error_rate)
    below = -threshold_at_fpr(-scores[labels == 1], error_rate)
    return torch.minimum(above, below), torch.maximum(above, below)


class CrossGeneratorSummary(NamedTuple):
    """Means of a cross-generator matrix, all in the unit of its cells.

    Attributes:
        mean: plain mean of all cells.
        mean_without_own: mean of the cells whose test generator is not the training generator; NaN if there is none.
        row_means: mean of each row, shape ``(R,)``.
    """

    mean: float
    mean_without_own: float
    row_means: NDArray[np.float64]


def cross_generator_summary(
    matrix: NDArray[np.float64], trained_on: list[str], tested_on: list[str]
) -> CrossGeneratorSummary:
    """Means of a matrix with one row per trained model and one column per test generator.

    Args:
        matrix: cells, shape ``(R, C)``; NaN marks a cell that was not measured and is left out.
        trained_on: training generator of each row, length R.
        tested_on: generator of each column, length C.

    Returns:
        The means with and without the own cells (Grommelt et al. 2024 average over all cells, the own included).

    Raises:
        ValueError: if the names do not fit the matrix.
    """
    if matrix.shape != (len(trained_on), len(tested_on)):
        raise ValueError(f"Matrix {matrix.shape} does not fit {len(trained_on)} rows and {len(tested_on)} columns.")
    own = np.array([[row == column for column in tested_on] for row in trained_on])
    others = matrix[~own & ~np.isnan(matrix)]
    return CrossGeneratorSummary(
        mean=float(np.nanmean(matrix)),
        mean_without_own=float(others.mean()) if others.size else float("nan"),
        row_means=np.nanmean(matrix, axis=1),
    )
