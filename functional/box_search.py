"""Many maximisations in a box at once: projected BFGS, each start with its own steps, one call for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["maximise_in_box"]

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[Array, Array]]


def maximise_in_box(
    objective: Objective,
    starts: Array,
    movable: NDArray[np.bool_] | None = None,
    evaluations: int = 40,
    tolerance: float = 1e-5,
) -> tuple[Array, Array]:
    """Climb from several starts in [0, 1]^d.

    Args:
        objective: takes points ``(b, d)``, returns values ``(b,)`` and gradients ``(b, d)``.
        starts: shape ``(b, d)``, inside the box.
        movable: coordinates that may change, shape ``(d,)``; all by default.
        evaluations: most calls of the objective.
        tolerance: a start is done when its steps gain or its projected gradient is less.

    Returns:
        The highest point of each climb, ``(b, d)``, and their values ``(b,)``; never lower than at the start.
    """
    x = np.array(starts, dtype=np.float64)
    count, dimensions = x.shape
    movable = np.ones(dimensions, bool) if movable is None else movable
    value, gradient = objective(x)
    gradient = gradient * movable
    inverse = np.tile(np.eye(dimensions), (count, 1, 1))
    first = np.ones(count, bool)
    step = np.ones(count)
    running = np.ones(count, bool)
    for _ in range(evaluations - 1):
        free = ~(((x <= 0) & (gradient < 0)) | ((x >= 1) & (gradient > 0))) & movable
        slope = gradient * free
        running &= (np.abs(slope).max(axis=1, initial=0.0) > tolerance) & (step > 1e-6)
        rows = np.flatnonzero(running)
        if not len(rows):
            break
        direction = np.einsum("bij,bj->bi", inverse[rows], slope[rows]) * free[rows]
        uphill = (direction * slope[rows]).sum(axis=1) > 0
        direction[~uphill] = slope[rows[~uphill]]
        reach = np.abs(direction).max(axis=1)
        longest = np.where(first[rows], 0.03, 0.2)  # before the curvature is known, a careful step
        direction *= np.minimum(1.0, longest / np.maximum(reach, 1e-300))[:, None]
        moved = np.clip(x[rows] + step[rows, None] * direction, 0.0, 1.0)
        new_value, new_gradient = objective(moved)
        new_gradient = new_gradient * movable
        change = moved - x[rows]
        gain = new_value - value[rows]
        better = gain >= 1e-4 * (gradient[rows] * change).sum(axis=1)
        better &= gain >= 0
        step[rows[~better]] *= 0.3
        kept = rows[better]
        bend = (gradient[rows] - new_gradient)[better]
        inverse[kept] = _updated(inverse[kept], change[better], bend, first[kept])
        first[kept] = False
        x[kept], value[kept], gradient[kept], step[kept] = moved[better], new_value[better], new_gradient[better], 1.0
        running[kept] = gain[better] > tolerance * 1e-2
    return x, value


def _updated(inverse: Array, change: Array, bend: Array, first: NDArray[np.bool_]) -> Array:
    """Inverse Hessians (of the negative objective) after steps; where the curvature is not positive, as they were."""
    along = (change * bend).sum(axis=1)
    usable = along > 1e-14
    rho = np.where(usable, 1 / np.where(usable, along, 1.0), 0.0)[:, None, None]
    scale = np.where(usable & first, along / np.maximum((bend**2).sum(axis=1), 1e-300), 1.0)
    inverse = inverse * scale[:, None, None]
    identity = np.eye(change.shape[1])
    left = identity - rho * change[:, :, None] * bend[:, None, :]
    return left @ inverse @ left.swapaxes(1, 2) + rho * change[:, :, None] * change[:, None, :]
