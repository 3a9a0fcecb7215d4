"""The Matern-5/2 correlation with one length scale or one for each dimension, and its derivatives.

``k(r) = (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r)`` with ``r`` the distance of points divided by their length scales.

Source: Ram et al. 2019, Eq. 3, where the minus sign in the exponent was lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ["matern", "matern_gradient", "matern_slope"]

Array = NDArray[np.float64]
_ROOT = np.sqrt(5.0)


def matern(x: Array, y: Array, length_scales: Array) -> Array:
    """Correlations of points.

    Args:
        x: shape ``(a, d)``.
        y: shape ``(b, d)``.
        length_scales: shape ``(d,)``, or one number.

    Returns:
        Shape ``(a, b)``, in (0, 1].
    """
    scaled = _ROOT * cdist(x / length_scales, y / length_scales)
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def matern_slope(x: Array, y: Array, length_scales: Array) -> tuple[Array, Array]:
    """Correlations, and ``g = 5/3 (1 + sqrt(5) r) exp(-sqrt(5) r)``, both of shape ``(a, b)``.

    The derivative of a correlation by coordinate a of ``x`` is ``-g (x_a - y_a) / rho_a^2``, that by the logarithm of a
    length scale ``g (x_a - y_a)^2 / rho_a^2``: nothing is divided by r, which may be 0.
    """
    scaled = _ROOT * cdist(x / length_scales, y / length_scales)
    decay = np.exp(-scaled)
    return (1 + scaled + scaled**2 / 3) * decay, 5 / 3 * (1 + scaled) * decay


def matern_gradient(x: Array, y: Array, length_scales: Array, slope: Array, weights: Array) -> Array:
    """Gradient by ``x`` of weighted sums of correlations.

    Args:
        x: shape ``(a, d)``.
        y: shape ``(b, d)``.
        length_scales: shape ``(d,)``, or one number.
        slope: from :func:`matern_slope`, shape ``(a, b)``.
        weights: of each correlation, shape ``(a, b)`` or ``(b,)``.

    Returns:
        Shape ``(a, d)``.
    """
    weighted = slope * weights
    return (weighted @ y - x * weighted.sum(axis=1, keepdims=True)) / length_scales**2
