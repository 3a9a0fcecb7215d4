"""Length scales and noise of a Gaussian process: the most probable ones given some observations.

Mean and amplitude are not searched for; for any length scales and noise the likeliest follow in closed form.

Source: the full kernel update that Ram et al. 2019, Sec. 3.2, make every l-th step; ARD, priors and the bounded
subsample are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.optimize import minimize

from functional.matern import matern_slope

__all__ = ["Hyperparameters", "fit_hyperparameters", "log_posterior", "prior_hyperparameters", "subsample"]

Array = NDArray[np.float64]
_LOG_SCALE_BOUNDS = (np.log(0.02), np.log(20.0))  # in sides of the unit cube
_LOG_NOISE_PRIOR = (np.log(1e-6), 2.0)  # mean and deviation: little noise unless the data say so
_SCALE_PRIOR = 0.1  # of `-(rho^2 + 1 / rho^2)`: no dimension is taken to be without effect from a few points


class Hyperparameters(NamedTuple):
    """Length scales ``(d,)`` and the noise as a share of the amplitude."""

    length_scales: Array
    noise: float


def prior_hyperparameters(dimensions: int, noise: float = 1e-5) -> Hyperparameters:
    """Length scales in the middle of the prior: they grow with the root of the dimension, as distances do."""
    return Hyperparameters(np.full(dimensions, 0.5 * np.sqrt(dimensions)), noise)


def subsample(values: Array, most: int, seed: int) -> NDArray[np.intp]:
    """Rows to fit on: the best half, and of the others as many at random, in ascending order.

    Args:
        values: shape ``(n,)``; less is better.
        most: number of rows.
        seed: of the random half.
    """
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    others = np.random.default_rng(seed).choice(order[most // 2 :], most - most // 2, replace=False)
    return np.sort(np.concatenate([order[: most // 2], others]))


def fit_hyperparameters(
    x: Array, y: Array, start: Hyperparameters, isotropic: bool = False, least_noise: float = 1e-6, quick: bool = False
) -> Hyperparameters:
    """Maximise the posterior of length scales and noise, from where they were and from the middle of the prior.

    The likelihood often has two peaks, one that explains scatter as noise and one that explains it by short length
    scales, so a start with much noise is among them.

    Args:
        x: points in the unit cube, shape ``(n, d)``.
        y: values, shape ``(n,)``.
        start: where to begin.
        isotropic: one length scale for all dimensions.
        least_noise: bound from below.
        quick: one search of few steps, from ``start`` only.

    Returns:
        The best of the searches; ``start`` if the values are all equal.
    """
    if len(y) < 2 or np.ptp(y) == 0:
        return start
    y = (y - y.mean()) / y.std()
    dimensions = x.shape[1]
    scales = 1 if isotropic else dimensions
    bounds = [_LOG_SCALE_BOUNDS] * scales + [(np.log(least_noise), 0.0)]

    def vector(point: Hyperparameters) -> Array:
        logs = np.log(point.length_scales)
        together = [logs.mean()] if isotropic else logs
        return np.clip(np.append(together, np.log(point.noise)), *np.transpose(bounds))

    def cost(parameters: Array) -> tuple[float, Array]:
        value, gradient = log_posterior(x, y, parameters)
        return -value, -gradient

    best, lowest = start, np.inf
    begins = (start, prior_hyperparameters(dimensions), prior_hyperparameters(dimensions, 0.03))
    options = {"maxiter": 15 if quick else 40}
    for begin in begins[:1] if quick else begins:
        found = minimize(cost, vector(begin), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        if found.fun < lowest:
            lowest = found.fun
            lengths = np.broadcast_to(np.exp(found.x[:-1]), (dimensions,)).copy()
            best = Hyperparameters(lengths, float(np.exp(found.x[-1])))
    return best


def log_posterior(x: Array, y: Array, parameters: Array) -> tuple[float, Array]:
    """Log posterior density and its gradient.

    Args:
        x: shape ``(n, d)``.
        y: shape ``(n,)``.
        parameters: logarithms of the length scales (d of them, or one for all), and of the noise.

    Returns:
        The log likelihood with the likeliest mean and amplitude, plus the log prior up to a constant; its gradient, of
        the shape of ``parameters``.
    """
    n, dimensions = x.shape
    scales = np.broadcast_to(np.exp(parameters[:-1]), (dimensions,))
    noise = float(np.exp(parameters[-1]))
    correlation, slope = matern_slope(x, x, scales)
    correlation[np.diag_indices(n)] += noise
    try:
        factor = cholesky(correlation, lower=True, check_finite=False)
    except LinAlgError:
        return -1e25, np.zeros_like(parameters)
    inverse = cho_solve((factor, True), np.eye(n), check_finite=False)
    ones = inverse.sum(axis=1)
    mean = float(ones @ y / ones.sum())
    weights = inverse @ (y - mean)
    amplitude = max(float((y - mean) @ weights) / n, 1e-300)
    value = -0.5 * n * np.log(amplitude) - np.log(np.diag(factor)).sum() - 0.5 * n * (1 + np.log(2 * np.pi))
    pull = np.outer(weights, weights) / amplitude - inverse
    weighted = pull * slope  # times squared distances by coordinate, summed without an (n, n, d) array
    squares = 2 * (weighted.sum(axis=1) @ x**2 - (x * (weighted @ x)).sum(axis=0))
    by_scale = 0.5 * squares / scales**2
    gradient = np.append(by_scale if len(parameters) == dimensions + 1 else by_scale.sum(), 0.0)
    gradient[-1] = 0.5 * noise * np.trace(pull)
    squared = np.exp(2 * parameters[:-1])
    gradient[:-1] -= 2 * _SCALE_PRIOR * (squared - 1 / squared)
    offset = (parameters[-1] - _LOG_NOISE_PRIOR[0]) / _LOG_NOISE_PRIOR[1]
    gradient[-1] -= offset / _LOG_NOISE_PRIOR[1]
    prior = -_SCALE_PRIOR * float((squared + 1 / squared).sum()) - 0.5 * offset**2
    return float(value + prior), gradient
