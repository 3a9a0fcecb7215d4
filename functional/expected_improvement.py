"""Expected improvement of a normally distributed value over the least seen, its logarithm, and their gradients.

``EI = s h(z)`` with ``h(z) = phi(z) + z Phi(z)`` and ``z = (best - xi - mean) / s``: values are minimised. Its log
stays informative where EI itself is 0 in floating point, far from everything that looks promising.

Source: Ram et al. 2019, Alg. 1 (there for maximisation); the logarithm after Ament et al. 2023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr, ndtr

__all__ = ["expected_improvement", "log_expected_improvement", "log_probability_below"]

Array = NDArray[np.float64]
_LOG_ROOT_TAU = 0.5 * np.log(2 * np.pi)
_FAR = -50.0  # beyond, the series loses fewer digits than the difference


def expected_improvement(mean: Array, deviation: Array, best: float, xi: float = 0.0) -> tuple[Array, Array, Array]:
    """Expected improvement and its derivatives.

    Args:
        mean: of the posterior, any shape.
        deviation: of the posterior, same shape, not negative.
        best: least value so far.
        xi: improvement that does not count.

    Returns:
        EI, its derivative by the mean, and its derivative by the deviation; where the deviation is 0, the improvement
        if there is one, else 0.
    """
    safe = np.maximum(deviation, 1e-150)
    z = (best - xi - mean) / safe
    density = np.exp(-0.5 * z**2 - _LOG_ROOT_TAU)
    below = ndtr(z)
    value = np.maximum(safe * density + (best - xi - mean) * below, 0.0)
    return value, -below, density


def log_expected_improvement(mean: Array, deviation: Array, best: float, xi: float = 0.0) -> tuple[Array, Array, Array]:
    """Logarithm of the expected improvement, and its derivatives by mean and deviation; arguments as above."""
    safe = np.maximum(deviation, 1e-150)
    z = (best - xi - mean) / safe
    log_h = _log_h(z)
    by_mean = -np.exp(log_ndtr(z) - log_h) / safe
    by_deviation = np.exp(-0.5 * z**2 - _LOG_ROOT_TAU - log_h) / safe
    return np.log(safe) + log_h, by_mean, by_deviation


def log_probability_below(mean: Array, deviation: Array, bound: float = 0.0) -> tuple[Array, Array, Array]:
    """Logarithm of the probability of a value below a bound, and its derivatives by mean and deviation.

    It is what a constraint adds to the logarithm of the expected improvement.
    """
    safe = np.maximum(deviation, 1e-150)
    z = (bound - mean) / safe
    value = log_ndtr(z)
    ratio = np.exp(-0.5 * z**2 - _LOG_ROOT_TAU - value)
    return value, -ratio / safe, -ratio * z / safe


def _log_h(z: Array) -> Array:
    """``log(phi(z) + z Phi(z))`` for any z."""
    result = np.empty_like(z)
    near = z > -1
    result[near] = np.log(np.exp(-0.5 * z[near] ** 2 - _LOG_ROOT_TAU) + z[near] * ndtr(z[near]))
    middle = (z <= -1) & (z > _FAR)
    t = -z[middle]
    mills = np.sqrt(np.pi / 2) * erfcx(t / np.sqrt(2))
    result[middle] = -0.5 * t**2 - _LOG_ROOT_TAU + np.log1p(-t * mills)
    far = z <= _FAR
    square = 1 / z[far] ** 2
    series = square * (1 - square * (3 - square * (15 - square * (105 - square * 945))))
    result[far] = -0.5 * z[far] ** 2 - _LOG_ROOT_TAU + np.log(series)
    return result
