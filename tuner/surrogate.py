"""The model behind one group of parameters: takes in trials, is refitted now and then, and says what to try next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from functional.box_search import maximise_in_box
from functional.expected_improvement import (
    expected_improvement,
    log_expected_improvement,
    log_probability_below,
)
from functional.gaussian_process import GaussianProcess, Trend
from functional.gp_fit import Hyperparameters, fit_hyperparameters, prior_hyperparameters, subsample
from functional.matern import matern
from tuner.encoding import Encoding

__all__ = ["Lag", "Observation", "Surrogate"]

Array = NDArray[np.float64]
Lag = int | Literal["geometric", "never"]
_CANDIDATES = 1024
_FIT_ON = 256  # observations at most
_STARTS = 6
_SAME = 1e-9  # distance in the unit cube below which two points are one


@dataclass
class Observation:
    """A finished trial.

    Attributes:
        number: of the trial.
        point: in the unit cube.
        value: to be minimised; None where the trial failed.
        constraints: at most 0 where they are met.
    """

    number: int
    point: Array
    value: float | None
    constraints: list[float] = field(default_factory=list)


class Surrogate:
    """Gaussian process over one search space, in step with the trials.

    Args:
        encoding: of the search space.
        lag: observations after which length scales and noise are fitted anew; ``geometric``: after a quarter more than
            there were; ``never``: they stay in the middle of their prior.
        first_fit: number of observations at the first fit.
        acquisition: ``log_ei`` or ``ei``.
        xi: improvement that does not count, as a share of the deviation of the values.
        isotropic: one length scale for all parameters.
        seed: of candidates and subsamples.
    """

    def __init__(
        self,
        encoding: Encoding,
        lag: Lag = "geometric",
        first_fit: int = 10,
        acquisition: Literal["log_ei", "ei"] = "log_ei",
        xi: float = 0.0,
        isotropic: bool = False,
        seed: int = 0,
    ) -> None:
        self.encoding, self.lag, self.first_fit, self.seed = encoding, lag, first_fit, seed
        self.acquisition, self.xi, self.isotropic = acquisition, xi, isotropic
        self.hyperparameters = prior_hyperparameters(encoding.dimensions)
        self.process: GaussianProcess | None = None
        self.fitted_at = -1
        self.observations: list[Observation] = []
        self.values: Array = np.empty(0)  # of the observations, as the model sees them
        self.known: set[int] = set()

    def update(
        self,
        observations: Sequence[Observation],
        load: Callable[[int], Hyperparameters | None] = lambda size: None,
        save: Callable[[int, Hyperparameters], None] = lambda size, fitted: None,
    ) -> None:
        """Take in what is new; refit if that is due.

        Args:
            observations: all of them, or at least those that are new.
            load: gives what another process fitted at a size of the schedule, if one did.
            save: is told what was fitted.
        """
        new = [item for item in observations if item.number not in self.known]
        self.observations += new
        self.known |= {item.number for item in new}
        due = self._due(len(self.observations))
        targets = self._targets()
        self.values, outputs = targets[:, 0], targets.shape[1]
        if self.process is None or due != self.fitted_at or outputs != self.process.outputs:
            if due != self.fitted_at and self.lag != "never" and due >= self.first_fit:
                stored = load(due)
                self.hyperparameters = stored or self._fit(targets[:, 0], due)
                if stored is None:
                    save(due, self.hyperparameters)
            self.fitted_at = due
            self._build(outputs)
            new = self.observations
        elif not np.array_equal(self.process.targets, targets[: len(self.process.targets)]):
            self.process.replace_targets(targets[: len(self.process.targets)])  # the worst value has changed
        process = self.process
        assert process is not None
        if new:
            process.append(np.array([item.point for item in new]), targets[-len(new) :])

    def suggest(self, pending: Array, rng: np.random.Generator, count: int = 1, explore: float = 0.0) -> list[Array]:
        """Points to try, the most promising first.

        Args:
            pending: points that are being tried, shape ``(k, dimensions)``.
            rng: for starts of the search.
            count: most points to return: distinct local maxima, none of them penalised for the others.
            explore: improvement that does not count, on top of ``xi``, as a share of the deviation of the values.

        Returns:
            At least one point; it is one that was tried before only if there are no others left.
        """
        process = self.process
        assert process is not None
        process.forget_pending()
        if len(pending):
            process.append_pending(pending)
        trend, weights = process.trend(), process.weights()
        best = self._best(process, trend)
        margin = (self.xi + explore) * float(np.sqrt(trend.amplitude[0]))

        def score(mean: Array, deviation: Array) -> tuple[Array, Array, Array]:
            return self._score(mean, deviation, best, margin, float(np.sqrt(trend.amplitude[0])))

        def value(points: Array) -> Array:
            return score(*process.predict(points, trend, weights))[0]

        def climb(points: Array) -> tuple[Array, Array]:
            found = process.posterior(points, trend, weights)
            values, by_mean, by_deviation = score(found.mean, found.deviation)
            gradient = np.einsum("bp,bpd->bd", by_mean, found.mean_gradient)
            return values, gradient + np.einsum("bp,bpd->bd", by_deviation, found.deviation_gradient)

        near = self._near_the_best(rng)
        points = np.concatenate([process.candidates, near])
        values = np.concatenate([score(*process.candidate_posterior(trend))[0], value(near)])
        starts = self._spread(points, values, _STARTS if count == 1 else max(_STARTS, 3 * count))
        tops, heights = points[starts], values[starts]
        if self.encoding.movable.any():
            tops, heights = maximise_in_box(climb, tops, self.encoding.movable)
        if not self.encoding.movable.all():
            tops, heights = self._step_through_discrete(tops, heights, value, climb)
        order = np.argsort(-heights, kind="stable")
        return self._unseen(tops[order], points[np.argsort(-values, kind="stable")], pending, count, rng)

    def _due(self, size: int) -> int:
        """Size of the schedule that is current for a number of observations; 0 before the first."""
        if self.lag == "never" or size < self.first_fit:
            return 0
        if isinstance(self.lag, int):
            return self.first_fit + (size - self.first_fit) // self.lag * self.lag
        current = self.first_fit
        while (following := max(current + 1, math.ceil(1.25 * current))) <= size:
            current = following
        return current

    def _targets(self) -> Array:
        """Values and constraints, ``(n, 1 + c)``: failures as the worst value, and absurd values brought near."""
        values = np.array([np.nan if item.value is None else item.value for item in self.observations])
        real = values[~np.isnan(values)]
        finite = real[np.isfinite(real)]
        worst = 0.0
        if len(finite):
            # Judged by the first ones, which fill the space: most of the later ones lie around the best.
            middle, least = float(np.median(finite[: self.first_fit])), float(finite.min())
            worst = min(float(finite.max()), middle + 100 * max(middle - least, 1e-3 * abs(middle)))
            values = np.clip(values, least, worst)
        values = np.where(np.isnan(values), worst, values)
        count = max((len(item.constraints) for item in self.observations), default=0)
        table = np.full((len(values), 1 + count), np.nan)
        table[:, 0] = values
        for row, item in enumerate(self.observations):
            table[row, 1 : 1 + len(item.constraints)] = np.clip(item.constraints, -1e6, 1e6)
        for column in range(1, 1 + count):  # not told, e.g. of a failure: as bad as the worst that is
            told = table[~np.isnan(table[:, column]), column]
            table[np.isnan(table[:, column]), column] = told.max()
        return table

    def _fit(self, values: Array, seed: int) -> Hyperparameters:
        kept = np.array([item.value is not None for item in self.observations])
        points = np.array([item.point for item in self.observations])[kept]
        rows = subsample(values[kept], _FIT_ON, self.seed + seed)
        return fit_hyperparameters(points[rows], values[kept][rows], self.hyperparameters, self.isotropic)

    def _build(self, outputs: int) -> None:
        """A process without observations, with candidates of its own."""
        seed = np.random.SeedSequence((self.seed, max(self.fitted_at, 0)))
        sobol = qmc.Sobol(self.encoding.dimensions, rng=np.random.default_rng(seed))
        candidates = self.encoding.snap(sobol.random(_CANDIDATES))
        lengths, noise = self.hyperparameters
        self.process = GaussianProcess(lengths, noise, outputs, np.unique(candidates, axis=0))

    def _best(self, process: GaussianProcess, trend: Trend) -> float | None:
        """Least fitted value that meets the constraints; None if none does."""
        fitted = process.fitted(trend)[:, 0]
        usable = np.array([item.value is not None for item in self.observations])
        usable &= (process.targets[:, 1:] <= 0).all(axis=1)
        return float(fitted[usable].min()) if usable.any() else None

    def _score(
        self, mean: Array, deviation: Array, best: float | None, margin: float, unit: float
    ) -> tuple[Array, Array, Array]:
        """Acquisition ``(b,)`` and its derivatives by means and deviations, ``(b, p)``."""
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

    def _near_the_best(self, rng: np.random.Generator) -> Array:
        """The two best points, moved by shares of the length scales."""
        best = np.argsort(self.values, kind="stable")[:2]
        anchors = np.array([self.observations[row].point for row in best])
        sizes = np.repeat([0.3, 0.1, 0.03], 4)[:, None] * np.minimum(self.hyperparameters.length_scales, 1.0)
        moves = sizes * rng.standard_normal((len(anchors), *sizes.shape))
        points = np.clip(anchors[:, None] + moves, 0.0, 1.0).reshape(-1, self.encoding.dimensions)
        return self.encoding.snap(points)

    def _spread(self, points: Array, values: Array, count: int) -> list[int]:
        """Rows of high values that are not close to one another."""
        chosen: list[int] = []
        order = np.argsort(-values, kind="stable")
        for row in order[: 40 * count]:
            close = matern(points[row : row + 1], points[chosen], self.hyperparameters.length_scales)
            if not (close > 0.9).any():
                chosen.append(int(row))
            if len(chosen) == count:
                break
        return chosen

    def _step_through_discrete(
        self,
        tops: Array,
        heights: Array,
        value: Callable[[Array], Array],
        climb: Callable[[Array], tuple[Array, Array]],
    ) -> tuple[Array, Array]:
        """Change one discrete parameter at a time while that gains, then the continuous ones again."""
        for row in np.argsort(-heights, kind="stable")[:3]:
            for _ in range(10):
                around = self.encoding.neighbours(tops[row])
                if not len(around):
                    break
                found = value(around)
                if found.max() <= heights[row] + 1e-9:
                    break
                tops[row], heights[row] = around[found.argmax()], found.max()
        if self.encoding.movable.any():
            tops, heights = maximise_in_box(climb, tops, self.encoding.movable, evaluations=15)
        return tops, heights

    def _unseen(self, tops: Array, others: Array, pending: Array, count: int, rng: np.random.Generator) -> list[Array]:
        """The first points that were not tried yet and are not being tried."""
        taken = np.concatenate([np.array([item.point for item in self.observations]), pending])
        chosen: list[Array] = []
        spare = self.encoding.snap(rng.random((256, self.encoding.dimensions)))
        for index, point in enumerate(np.concatenate([tops, others, spare])):
            if len(chosen) == count or (chosen and index >= len(tops)):
                break
            known = np.concatenate([taken, np.array(chosen)]) if chosen else taken
            apart = _SAME if len(chosen) == 0 else 1e-2  # climbs that end on one summit are one local maximum
            if np.abs(known - point).max(axis=1).min() > _SAME and (
                not chosen or np.abs(np.array(chosen) - point).max(axis=1).min() > apart
            ):
                chosen.append(point)
        return chosen or [tops[0]]  # a discrete space of which everything was tried

    def state(self) -> dict[str, Any]:
        """Size at the last fit, and what it gave, for reports."""
        lengths, noise = self.hyperparameters
        return {"fitted_at": self.fitted_at, "length_scales": lengths.tolist(), "noise": noise}
