"""The point that promises most, by a Gaussian process: candidates, climbs from the best of them, discrete steps."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from functional.box_search import maximise_in_box
from functional.expected_improvement import (
    expected_improvement,
    log_expected_improvement,
    log_probability_below,
)
from functional.gaussian_process import GaussianProcess
from functional.matern import matern
from tuner.encoding import Encoding

__all__ = ["Acquisition", "AcquisitionSearch", "unseen"]

Array = NDArray[np.float64]
Acquisition = Literal["log_ei", "ei"]
_STARTS = 6
_SAME = 1e-9  # distance in the unit cube below which two points are one


class AcquisitionSearch:
    """Maximises what a process with one value, and constraints as further outputs, expects of a point.

    Args:
        encoding: of the search space.
        process: with its candidates, and running trials as pending rows.
        best: value that is to be improved upon; None while no point meets the constraints.
        margin: improvement that does not count, as a share of the deviation of the values.
        acquisition: ``log_ei`` or ``ei``.
    """

    def __init__(
        self,
        encoding: Encoding,
        process: GaussianProcess,
        best: float | None,
        margin: float = 0.0,
        acquisition: Acquisition = "log_ei",
    ) -> None:
        self.encoding, self.process, self.best, self.acquisition = encoding, process, best, acquisition
        self.trend = process.trend()
        self.weights = process.weights(self.trend)
        self.unit = float(np.sqrt(self.trend.amplitude[0]))
        self.margin = margin * self.unit

    def maximise(self, anchors: Array, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Local maxima, and then candidates, each the highest first.

        Args:
            anchors: points near which to look as well, shape ``(a, dimensions)``.
            rng: for the points near them.
            count: of local maxima that are wanted.

        Returns:
            Shapes ``(b, dimensions)`` and ``(m, dimensions)``.
        """
        near = self._near(anchors, rng)
        points = np.concatenate([self.process.candidates, near])
        at_candidates = self.score(*self.process.candidate_posterior(self.trend))[0]
        values = np.concatenate([at_candidates, self.value(near)])
        starts = self._spread(points, values, _STARTS if count == 1 else max(_STARTS, 3 * count))
        tops, heights = points[starts], values[starts]
        if self.encoding.movable.any():
            tops, heights = maximise_in_box(self.climb, tops, self.encoding.movable, tolerance=1e-3)
        if not self.encoding.movable.all():
            tops, heights = self._step_through_discrete(tops, heights)
        return tops[np.argsort(-heights, kind="stable")], points[np.argsort(-values, kind="stable")]

    def value(self, points: Array) -> Array:
        """Acquisition ``(b,)`` at points ``(b, dimensions)``."""
        return self.score(*self.process.predict(points, self.trend, self.weights))[0]

    def climb(self, points: Array) -> tuple[Array, Array]:
        """Acquisition ``(b,)`` at points ``(b, dimensions)``, and its gradient."""
        found = self.process.posterior(points, self.trend, self.weights)
        values, by_mean, by_deviation = self.score(found.mean, found.deviation)
        gradient = np.einsum("bp,bpd->bd", by_mean, found.mean_gradient)
        return values, gradient + np.einsum("bp,bpd->bd", by_deviation, found.deviation_gradient)

    def score(self, mean: Array, deviation: Array) -> tuple[Array, Array, Array]:
        """Acquisition ``(b,)`` and its derivatives by means and deviations, ``(b, p)``."""
        best, margin, unit = self.best, self.margin, self.unit
        by_mean, by_deviation = np.zeros_like(mean), np.zeros_like(deviation)
        value = np.zeros(len(mean))
        if best is not None and self.acquisition == "ei":
            value, by_mean[:, 0], by_deviation[:, 0] = expected_improvement(mean[:, 0], deviation[:, 0], best, margin)
            value, by_mean, by_deviation = value / unit, by_mean / unit, by_deviation / unit
        elif best is not None:
            value, by_mean[:, 0], by_deviation[:, 0] = log_expected_improvement(
                mean[:, 0], deviation[:, 0], best, margin
            )
        for column in range(1, mean.shape[1]):
            met = log_probability_below(mean[:, column], deviation[:, column])
            if best is not None and self.acquisition == "ei":
                chance = np.exp(met[0])
                by_mean, by_deviation = by_mean * chance[:, None], by_deviation * chance[:, None]
                value = value * chance
                met = (met[0], met[1] * value, met[2] * value)
            else:
                value = value + met[0]
            by_mean[:, column], by_deviation[:, column] = met[1], met[2]
        return value, by_mean, by_deviation

    def _near(self, anchors: Array, rng: np.random.Generator) -> Array:
        """The anchors, moved by shares of the length scales."""
        sizes = np.repeat([0.3, 0.1, 0.03], 4)[:, None] * np.minimum(self.process.length_scales, 1.0)
        moves = sizes * rng.standard_normal((len(anchors), *sizes.shape))
        points = np.clip(anchors[:, None] + moves, 0.0, 1.0).reshape(-1, self.encoding.dimensions)
        return self.encoding.snap(points)

    def _spread(self, points: Array, values: Array, count: int) -> list[int]:
        """Rows of high values that are not close to one another."""
        chosen: list[int] = []
        order = np.argsort(-values, kind="stable")
        for row in order[: 40 * count]:
            close = matern(points[row : row + 1], points[chosen], self.process.length_scales)
            if not (close > 0.9).any():
                chosen.append(int(row))
            if len(chosen) == count:
                break
        return chosen

    def _step_through_discrete(self, tops: Array, heights: Array) -> tuple[Array, Array]:
        """Change one discrete parameter at a time while that gains, then the continuous ones again."""
        for row in np.argsort(-heights, kind="stable")[:3]:
            for _ in range(10):
                around = self.encoding.neighbours(tops[row])
                if not len(around):
                    break
                found = self.value(around)
                if found.max() <= heights[row] + 1e-9:
                    break
                tops[row], heights[row] = around[found.argmax()], found.max()
        if self.encoding.movable.any():
            tops, heights = maximise_in_box(self.climb, tops, self.encoding.movable, evaluations=15)
        return tops, heights


def unseen(tops: Array, others: Array, taken: Array, count: int) -> list[Array]:
    """The first points that were not tried yet and are not being tried.

    Args:
        tops: local maxima, the best first, shape ``(b, d)``.
        others: to fall back upon where all of those are taken, shape ``(m, d)``.
        taken: points that were tried or are being tried, shape ``(n, d)``.
        count: most points to return.

    Returns:
        At least one point, the first of ``tops`` if everything is taken.
    """
    chosen: list[Array] = []
    for index, point in enumerate(np.concatenate([tops, others])):
        if len(chosen) == count or (chosen and index >= len(tops)):
            break
        known = np.concatenate([taken, np.array(chosen)]) if chosen else taken
        apart = _SAME if len(chosen) == 0 else 1e-2  # climbs that end on one summit are one local maximum
        if np.abs(known - point).max(axis=1).min() > _SAME and (
            not chosen or np.abs(np.array(chosen) - point).max(axis=1).min() > apart
        ):
            chosen.append(point)
    return chosen or [tops[0]]
