"""Values on a logarithmic scale above the least one, where a Gaussian process explains them better so.

Losses often fall over many decades into a sharp bottom and have a heavy upper tail. On the scale of
``log(1 + (y - floor) / offset)`` the decades are equally wide, so the bottom is resolved. Whether the values or their
logarithms are nearer to a Gaussian process is asked of the marginal likelihood, the derivative of the warp included.

The idea of a fitted warp is that of Snelson et al. 2003, Warped Gaussian Processes; this one-parameter family is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from functional.gp_fit import Hyperparameters, fit_hyperparameters, log_posterior

__all__ = ["IDENTITY", "Warp", "fit_warped"]

Array = NDArray[np.float64]


class Warp(NamedTuple):
    """An increasing map of values, ``log1p((y - floor) / offset)`` above the floor and linear below it.

    Attributes:
        floor: the least value at the time of the fit; lower ones that come later go on with the slope at the floor.
        offset: distance from the floor over which the map is nearly linear; infinite: values stay as they are.
    """

    floor: float
    offset: float

    def apply(self, values: Array) -> Array:
        """Warped values, of the same shape."""
        if not np.isfinite(self.offset):
            return values
        scaled = (values - self.floor) / self.offset
        return np.where(scaled > 0, np.log1p(np.maximum(scaled, 0.0)), scaled)

    def invert(self, warped: Array) -> Array:
        """Values of warped ones, of the same shape."""
        if not np.isfinite(self.offset):
            return warped
        return self.floor + self.offset * np.where(warped > 0, np.expm1(np.maximum(warped, 0.0)), warped)

    def log_slope(self, values: Array) -> Array:
        """Logarithm of the derivative, of the same shape."""
        if not np.isfinite(self.offset):
            return np.zeros_like(values)
        return -np.log(self.offset) - np.log1p(np.maximum((values - self.floor) / self.offset, 0.0))


IDENTITY = Warp(0.0, float("inf"))


def fit_warped(x: Array, y: Array, start: Hyperparameters, isotropic: bool = False) -> tuple[Hyperparameters, Warp]:
    """Length scales and noise for the values and for their logarithms; the pair that is more probable.

    Args:
        x: points in the unit cube, shape ``(n, d)``.
        y: values, to be minimised, shape ``(n,)``.
        start: where to begin.
        isotropic: one length scale for all dimensions.

    Returns:
        The fit and the warp it is for: the identity unless a logarithm is more probable.
    """
    plain = fit_hyperparameters(x, y, start, isotropic)
    offsets = _offsets(y, x.shape[1])
    if not len(offsets):
        return plain, IDENTITY
    warps = [Warp(float(y.min()), float(offset)) for offset in offsets]
    first = max(warps, key=lambda warp: _evidence(x, y, plain, warp, isotropic))
    fitted = fit_hyperparameters(x, first.apply(y), plain, isotropic)
    warp = max(warps, key=lambda warp: _evidence(x, y, fitted, warp, isotropic))
    if _evidence(x, y, fitted, warp, isotropic) > _evidence(x, y, plain, IDENTITY, isotropic):
        return fitted, warp
    return plain, IDENTITY


def _offsets(y: Array, dimensions: int) -> Array:
    """Gaps from the least value to some quantiles: no narrower than what the d + 1 best values span.

    A narrower one would make a spike of the best value alone, which the likelihood rewards without bound.
    """
    order = np.sort(y)
    ranks = []
    rank = len(y) // 2
    while rank > dimensions:
        ranks.append(rank)
        rank //= 2
    gaps = order[ranks] - order[0] if ranks else np.empty(0)
    return np.unique(gaps[gaps > 0])


def _evidence(x: Array, y: Array, fitted: Hyperparameters, warp: Warp, isotropic: bool) -> float:
    """Log posterior density of the values themselves under a warp."""
    warped = warp.apply(y)
    spread = float(warped.std())
    if not spread > 0:
        return -np.inf
    scales = fitted.length_scales[:1] if isotropic else fitted.length_scales
    parameters = np.log(np.append(scales, fitted.noise))
    value, _ = log_posterior(x, (warped - warped.mean()) / spread, parameters)
    return value - len(y) * np.log(spread) + float(warp.log_slope(y).sum())
