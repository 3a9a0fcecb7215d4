"""Basins among evaluated points: which points lie in one that has been searched to its bottom.

A search that counts improvement from a bottom it has reached sees none in basins where it has not been to the bottom.
So, once the best basin yields nothing more, its points are set aside, then those of the next best, until there is one
that is still worth a search.

Source: the look for a hill between two points is Ursem's (1999, Multinational evolutionary algorithms), here with a
surrogate's mean in place of the function; the rest is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ["has_stalled", "is_separated", "searched", "spread", "uncrowded"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_NEGLIGIBLE = 1e-3  # improvement, as a share of the spread of the values
_FRACTIONS = np.linspace(0, 1, 10)[1:-1]  # of the way between two points, where a hill is looked for
_CROWDED = 0.02  # of the diagonal of the unit cube


def spread(values: Array) -> float:
    """Distance from the least value to the median, not negative; values have shape ``(n,)``."""
    return max(float(np.median(values) - values.min()), 0.0)


def has_stalled(values: Array, patience: int, scale: float) -> bool:
    """Whether the last ``patience`` values brought no improvement worth the name.

    Args:
        values: to be minimised, in the order of evaluation, shape ``(n,)``; as many as ``patience`` have not stalled.
        patience: number of evaluations.
        scale: an improvement of less than 1e-3 of it is nothing.
    """
    if len(values) <= patience:
        return False
    return float(values[:-patience].min() - values.min()) <= _NEGLIGIBLE * scale


def uncrowded(points: Array, values: Array) -> NDArray[np.intp]:
    """Rows left when those are dropped that have a better one close by, the best first.

    A search piles up points at a bottom. There any smooth function is smoother than the kernel of a surrogate: they say
    nothing about the distances at which it matters, but outvote the others.

    Args:
        points: in the unit cube, shape ``(n, d)``.
        values: shape ``(n,)``; less is better, infinite is worst.
    """
    order = np.argsort(values, kind="stable")
    close = cdist(points[order], points[order]) < _CROWDED * np.sqrt(points.shape[1])
    kept = np.zeros(len(points), bool)
    for place in range(len(points)):
        kept[place] = not (close[place, :place] & kept[:place]).any()
    return order[kept]


def is_separated(
    mean: Callable[[Array], Array], points: Array, bottom: Array, heights: Array, tolerance: float
) -> Mask:
    """Whether a surrogate sees a hill between points and a lower one.

    Args:
        mean: of the surrogate, takes ``(m, d)`` and returns ``(m,)``.
        points: shape ``(k, d)``.
        bottom: the lower point, shape ``(d,)``.
        heights: of the surrogate at the points, shape ``(k,)``.
        tolerance: by which the hill must be higher than the point.

    Returns:
        Shape ``(k,)``: somewhere on the straight line it is higher than at the point.
    """
    between = points[:, None] + _FRACTIONS[:, None] * (bottom - points)[:, None]
    ridge: Array = mean(between.reshape(-1, points.shape[1])).reshape(len(points), -1).max(axis=1)
    return ridge > heights + tolerance


def searched(
    points: Array,
    heights: Array,
    mean: Callable[[Array], Array],
    values: Array,
    places: NDArray[np.intp],
    patience: int,
) -> Mask:
    """Points in basins that were searched, from the best basin on.

    Args:
        points: the best first, shape ``(k, d)``.
        heights: of the surrogate at the points, shape ``(k,)``.
        mean: of the surrogate, takes ``(m, d)`` and returns ``(m,)``.
        values: of all evaluations, in their order, shape ``(n,)``.
        places: row of the point next to each evaluation, shape ``(n,)``.
        patience: evaluations in a basin without improvement after which it is searched.

    Returns:
        Shape ``(k,)``. The best of the others is the bottom of the first basin that has not been searched.
    """
    scale = spread(values)
    left = np.ones(len(points), bool)
    while left.any():
        bottom, rows = int(left.argmax()), np.flatnonzero(left)
        apart = is_separated(mean, points[rows], points[bottom], heights[rows], _NEGLIGIBLE * scale)
        inside = np.zeros(len(points), bool)
        inside[rows[~apart]] = inside[bottom] = True
        if not has_stalled(values[inside[places]], patience, scale):
            break
        left &= ~inside
    return ~left
