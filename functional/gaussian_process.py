"""A Gaussian process that takes in observations one by one and keeps everything that a suggestion needs up to date.

The kernel is ``a (matern(r) + noise)``. Length scales and noise stay until they are fitted anew (lazy); mean and
amplitude follow the data at every step, because the whitened targets ``L^-1 y`` and ``L^-1 1`` give them in O(n).

Source: Ram et al. 2019, Scaling Lazy Gaussian Processes, Sec. 3. Whitened targets, the block of candidates and pending
rows are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from functional.growing_cholesky import GrowingCholesky
from functional.matern import matern, matern_gradient, matern_slope

__all__ = ["GaussianProcess", "Posterior", "Trend"]

Array = NDArray[np.float64]


class Trend(NamedTuple):
    """Mean and amplitude (a variance) of each output, shape ``(p,)``."""

    mean: Array
    amplitude: Array


class Posterior(NamedTuple):
    """Mean and deviation of the noise-free value at some points, ``(b, p)``, and their gradients, ``(b, p, d)``."""

    mean: Array
    deviation: Array
    mean_gradient: Array
    deviation_gradient: Array


class GaussianProcess:
    """Posterior of one or several outputs that share a kernel, observed at the same points.

    Args:
        length_scales: shape ``(d,)``.
        noise: variance of the noise, as a share of the amplitude.
        outputs: number p of outputs.
        candidates: fixed points ``(m, d)`` whose posterior is kept up to date in O(n m) per observation.

    Raises:
        ValueError: if a length scale or the noise is not positive.
    """

    def __init__(self, length_scales: Array, noise: float, outputs: int = 1, candidates: Array | None = None) -> None:
        self.length_scales = np.asarray(length_scales, dtype=np.float64)
        if not (self.length_scales > 0).all() or not noise > 0:
            raise ValueError(f"length_scales={length_scales} and noise={noise} must be positive.")
        dimensions = len(self.length_scales)
        self.noise, self.outputs = noise, outputs
        self.candidates = np.empty((0, dimensions)) if candidates is None else candidates
        self.factor = GrowingCholesky()
        self.observed = 0  # rows beyond are pending
        self._x = np.empty((64, dimensions))
        self._y = np.empty((64, outputs))
        self._noise = np.empty(64)
        self._whitened = np.empty((64, 1 + outputs))  # L^-1 [1, y]
        self._solved = np.empty((64, len(self.candidates)))  # L^-1 k(x, candidates)
        self._projected = np.zeros((len(self.candidates), 1 + outputs))  # of the whitened targets on `_solved`
        self._explained = np.zeros(len(self.candidates))
        self._kept: tuple[Array, Array] | None = None

    def __len__(self) -> int:
        return self.factor.size

    @property
    def points(self) -> Array:
        """Observed points, shape ``(n, d)``."""
        return self._x[: self.observed]

    @property
    def targets(self) -> Array:
        """Observed values, shape ``(n, p)``."""
        return self._y[: self.observed]

    def append(self, x: Array, y: Array, extra_noise: Array | float = 0.0) -> None:
        """Take in observations; pending rows are forgotten first.

        Args:
            x: shape ``(t, d)``.
            y: shape ``(t, p)``.
            extra_noise: beyond the common noise, as a share of the amplitude, shape ``(t,)`` or one number.

        Raises:
            ValueError: if a number is not finite.
        """
        self.forget_pending()
        if not np.isfinite(y).all():
            raise ValueError("A target is not finite.")
        noise = np.broadcast_to(self.noise + np.asarray(extra_noise, np.float64), (len(x),))
        first = self._grow(x, noise)
        self._y[first : len(self)] = y
        self._whiten(first, np.column_stack([np.ones(len(x)), y]))
        self.observed = len(self)

    def append_pending(self, x: Array) -> None:
        """Take in points ``(t, d)`` whose values are not known yet: each as if its posterior mean had been observed.

        The mean stays as it is everywhere and the deviation shrinks (kriging believer).
        """
        if self._kept is None:
            self._kept = self._projected.copy(), self._explained.copy()
        mean = self.trend().mean
        first = self._grow(x, np.full(len(x), self.noise))
        for row in range(first, len(self)):
            weights, diagonal = self._row(row)
            one = (1 - weights @ self._whitened[:row, 0]) / diagonal
            self._whitened[row] = np.concatenate([[one], one * mean])  # the residual of the row is exactly 0
            self._advance_candidates(row, weights, diagonal)

    def forget_pending(self) -> None:
        """Drop pending rows; everything is as it was before, bit for bit."""
        self.factor.truncate(self.observed)
        if self._kept is not None:
            self._projected, self._explained = self._kept
            self._kept = None

    def replace_targets(self, y: Array) -> None:
        """Other values at the same points, shape ``(n, p)``, in O(n^2)."""
        self.forget_pending()
        self._y[: self.observed] = y
        self._whitened[: self.observed] = self.factor.solve_lower(np.column_stack([np.ones(len(y)), y]))
        self._projected = self._solved[: self.observed].T @ self._whitened[: self.observed]

    def trend(self) -> Trend:
        """Mean by generalised least squares and likeliest amplitude, in O(n)."""
        one, rest = self._whitened[: self.observed, :1], self._whitened[: self.observed, 1:]
        mean = (one * rest).sum(axis=0) / (one**2).sum()
        amplitude = ((rest - one * mean) ** 2).mean(axis=0)
        spread = np.ptp(self.targets, axis=0)
        least = np.where(spread > 0, 1e-12 * spread**2, 1e-12)  # equal values leave nothing to be explained
        return Trend(mean, np.maximum(amplitude, least))

    def log_likelihood(self, trend: Trend | None = None) -> Array:
        """Log marginal likelihood of each output, ``(p,)``, for a given mean and amplitude or the likeliest."""
        mean, amplitude = trend or self.trend()
        residual = self._residual(mean)[: self.observed]
        n = self.observed
        half = np.log(self.factor.diagonal()[:n]).sum()
        return -0.5 * (residual**2).sum(axis=0) / amplitude - half - 0.5 * n * np.log(2 * np.pi * amplitude)

    def fitted(self, trend: Trend | None = None) -> Array:
        """Posterior mean at the observed points, noise taken out, shape ``(n, p)``, from one solve."""
        weights = self.weights(trend)[: self.observed]
        return self.targets - self._noise[: self.observed, None] * weights

    def weights(self, trend: Trend | None = None) -> Array:
        """``K^-1 (y - mean)``, shape ``(n, p)`` with pending rows."""
        return self.factor.solve_upper(self._residual((trend or self.trend()).mean))

    def posterior(self, x: Array, trend: Trend | None = None, weights: Array | None = None) -> Posterior:
        """Posterior and gradients at points.

        Args:
            x: shape ``(b, d)``.
            trend: mean and amplitude; the likeliest by default.
            weights: from :meth:`weights`, where there are many calls.
        """
        trend = trend or self.trend()
        weights = self.weights(trend) if weights is None else weights
        known = self._x[: len(self)]
        covariance, slope = matern_slope(x, known, self.length_scales)
        solved = self.factor.solve_lower(covariance.T)
        variance = np.maximum(1 - (solved**2).sum(axis=0), 1e-14)
        back = self.factor.solve_upper(solved)
        mean = trend.mean + covariance @ weights
        arguments = (x, known, self.length_scales, slope)
        mean_gradient = np.stack([matern_gradient(*arguments, column) for column in weights.T], axis=1)
        root = np.sqrt(variance)
        root_gradient = -matern_gradient(*arguments, back.T) / root[:, None]
        scale = np.sqrt(trend.amplitude)
        return Posterior(mean, root[:, None] * scale, mean_gradient, root_gradient[:, None, :] * scale[:, None])

    def predict(self, x: Array, trend: Trend | None = None, weights: Array | None = None) -> tuple[Array, Array]:
        """Mean and deviation ``(b, p)`` at points, without gradients."""
        trend = trend or self.trend()
        weights = self.weights(trend) if weights is None else weights
        covariance = matern(x, self._x[: len(self)], self.length_scales)
        solved = self.factor.solve_lower(covariance.T)
        root = np.sqrt(np.maximum(1 - (solved**2).sum(axis=0), 1e-14))
        return trend.mean + covariance @ weights, root[:, None] * np.sqrt(trend.amplitude)

    def mean(self, x: Array, trend: Trend, weights: Array) -> Array:
        """Posterior mean ``(b, p)`` at points, in O(n) for each; arguments as for :meth:`posterior`."""
        return trend.mean + matern(x, self._x[: len(self)], self.length_scales) @ weights

    def candidate_posterior(self, trend: Trend | None = None) -> tuple[Array, Array]:
        """Mean and deviation ``(m, p)`` at the candidates, from running sums."""
        mean, amplitude = trend or self.trend()
        root = np.sqrt(np.maximum(1 - self._explained, 1e-14))
        return mean + self._projected[:, 1:] - self._projected[:, :1] * mean, root[:, None] * np.sqrt(amplitude)

    def _residual(self, mean: Array) -> Array:
        return self._whitened[: len(self), 1:] - self._whitened[: len(self), :1] * mean

    def _row(self, row: int) -> tuple[Array, float]:
        start = row * (row + 1) // 2
        values = self.factor.packed[start : start + row + 1]
        return values[:row], float(values[row])

    def _grow(self, x: Array, noise: Array) -> int:
        """Append rows of the factor; returns the number of those before."""
        first = len(self)
        self._reserve(first + len(x))
        covariances = matern(self._x[:first], x, self.length_scales)
        if len(x) == 1:
            self.factor.append(covariances[:, 0], 1 + float(noise[0]))
        elif len(x):
            self.factor.append_block(covariances, matern(x, x, self.length_scales) + np.diag(noise))
        self._x[first : first + len(x)] = x
        self._noise[first : first + len(x)] = noise
        return first

    def _whiten(self, first: int, targets: Array) -> None:
        """Whitened targets and candidate sums of new rows."""
        if first == 0 and len(targets) > 8:  # all at once, by matrix products
            n = len(targets)
            self._whitened[:n] = self.factor.solve_lower(targets)
            if len(self.candidates):
                self._solved[:n] = self.factor.solve_lower(matern(self._x[:n], self.candidates, self.length_scales))
                self._projected = self._solved[:n].T @ self._whitened[:n]
                self._explained = (self._solved[:n] ** 2).sum(axis=0)
            return
        for row, target in enumerate(targets, first):
            weights, diagonal = self._row(row)
            self._whitened[row] = (target - weights @ self._whitened[:row]) / diagonal
            self._advance_candidates(row, weights, diagonal)

    def _advance_candidates(self, row: int, weights: Array, diagonal: float) -> None:
        if not len(self.candidates):
            return
        covariance = matern(self._x[row : row + 1], self.candidates, self.length_scales)[0]
        solved = (covariance - weights @ self._solved[:row]) / diagonal
        self._solved[row] = solved
        self._projected = self._projected + solved[:, None] * self._whitened[row]
        self._explained = self._explained + solved**2

    def _reserve(self, size: int) -> None:
        if size > len(self._x):
            for name in ("_x", "_y", "_noise", "_whitened", "_solved"):
                old = getattr(self, name)
                grown = np.empty((max(size, 2 * len(old)), *old.shape[1:]))
                grown[: len(old)] = old
                setattr(self, name, grown)
