"""Parameters of a search space as points of the unit cube, and back.

A float or integer is one coordinate, logarithmic where the parameter is; a categorical parameter with k choices is k
coordinates, one of them at 1 (scaled so that two different choices are one side of the cube apart).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

__all__ = ["Encoding"]

Array = NDArray[np.float64]
_APART = np.sqrt(0.5)  # one-hot vectors of this length are at distance 1


class Encoding:
    """Between the parameters of a search space and the unit cube.

    Args:
        space: distributions by name; their order does not matter.

    Attributes:
        dimensions: coordinates in all.
        movable: coordinates that may take any value, bool, shape ``(dimensions,)``.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = {name: space[name] for name in sorted(space)}
        self.columns: dict[str, slice] = {}
        first = 0
        movable: list[bool] = []
        for name, distribution in self.space.items():
            width = len(distribution.choices) if isinstance(distribution, CategoricalDistribution) else 1
            self.columns[name] = slice(first, first + width)
            first += width
            movable += [isinstance(distribution, FloatDistribution) and distribution.step is None] * width
        self.dimensions = first
        self.movable = np.array(movable, bool)

    def encode(self, parameters: Mapping[str, Any]) -> Array:
        """Point of the unit cube, shape ``(dimensions,)``.

        Raises:
            KeyError: if a parameter is missing.
        """
        point = np.zeros(self.dimensions)
        for name, distribution in self.space.items():
            columns = self.columns[name]
            if isinstance(distribution, CategoricalDistribution):
                point[columns.start + int(distribution.to_internal_repr(parameters[name]))] = _APART
            else:
                low, high, log = _range(distribution)
                value = float(parameters[name])
                value = np.log(value) if log else value
                point[columns.start] = np.clip((value - low) / (high - low), 0.0, 1.0)
        return point

    def decode(self, point: Array) -> dict[str, Any]:
        """Parameters of a point, rounded to what the distributions allow."""
        parameters: dict[str, Any] = {}
        for name, distribution in self.space.items():
            columns = self.columns[name]
            if isinstance(distribution, CategoricalDistribution):
                parameters[name] = distribution.choices[int(point[columns].argmax())]
                continue
            low, high, log = _range(distribution)
            value = low + float(point[columns.start]) * (high - low)
            value = float(np.exp(value)) if log else value
            start, end, step = distribution.low, distribution.high, distribution.step  # type: ignore[attr-defined]
            if step is not None:
                value = start + round((value - start) / step) * step
            value = min(max(value, start), end)
            parameters[name] = round(value) if isinstance(distribution, IntDistribution) else value
        return parameters

    def snap(self, points: Array) -> Array:
        """The nearest points that stand for parameters, ``(b, dimensions)``."""
        points = np.array(points)
        for name, distribution in self.space.items():
            columns = self.columns[name]
            if isinstance(distribution, CategoricalDistribution):
                chosen = points[:, columns].argmax(axis=1)
                points[:, columns] = _APART * np.eye(columns.stop - columns.start)[chosen]
            elif distribution.step is not None:  # type: ignore[attr-defined]
                low, high, log = _range(distribution)
                start, end, step = distribution.low, distribution.high, distribution.step  # type: ignore[attr-defined]
                value = low + points[:, columns.start] * (high - low)
                value = np.exp(value) if log else value
                value = np.clip(start + np.round((value - start) / step) * step, start, end)
                value = np.log(value) if log else value
                points[:, columns.start] = np.clip((value - low) / (high - low), 0.0, 1.0)
        return points

    def neighbours(self, point: Array) -> Array:
        """Points that differ in one discrete parameter: the next values below and above, or any other choice.

        Args:
            point: one that stands for parameters, shape ``(dimensions,)``.

        Returns:
            Shape ``(k, dimensions)``; none where all parameters are continuous.
        """
        found: list[Array] = []
        parameters = self.decode(point)
        for name, distribution in self.space.items():
            columns = self.columns[name]
            if self.movable[columns].all():
                continue
            values: Sequence[Any]
            if isinstance(distribution, CategoricalDistribution):
                values = [choice for choice in distribution.choices if choice is not parameters[name]]
            else:
                step = distribution.step  # type: ignore[attr-defined]
                low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
                values = [parameters[name] + sign * step for sign in (-1, 1)]
                values = [value for value in values if low <= value <= high]
            for value in values:
                moved = point.copy()
                moved[columns] = self.encode({**parameters, name: value})[columns]
                found.append(moved)
        return np.array(found) if found else np.empty((0, self.dimensions))


def _range(distribution: BaseDistribution) -> tuple[float, float, bool]:
    """Ends of the scale on which a number is one coordinate; half a step beyond the ends of a discrete one."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"{type(distribution).__name__} is not a float, int or categorical distribution.")
    low, high = float(distribution.low), float(distribution.high)
    if isinstance(distribution, IntDistribution) or distribution.step is not None:
        half = 0.5 * float(distribution.step or 1)
        low, high = low - half, high + half
    if distribution.log:
        low, high = float(np.log(low)), float(np.log(high))
    return (low, high, distribution.log) if high > low else (low, low + 1.0, distribution.log)
