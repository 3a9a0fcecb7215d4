"""The model behind one group of parameters: takes in trials, is refitted now and then, and says what to try next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import qmc

from functional.basins import has_stalled, searched, spread, uncrowded
from functional.gaussian_process import GaussianProcess
from functional.gp_fit import Hyperparameters, fit_hyperparameters, prior_hyperparameters, subsample
from functional.output_warp import IDENTITY, Warp, fit_warped
from tuner.acquisition_search import Acquisition, AcquisitionSearch, unseen
from tuner.encoding import Encoding

__all__ = ["Fit", "Lag", "Observation", "Purpose", "Surrogate"]

Array = NDArray[np.float64]
Lag = int | Literal["geometric", "never"]
Purpose = Literal["improve", "improve much", "elsewhere"]
_CANDIDATES = 1024
_FIT_ON = 256  # observations at most
_ELSEWHERE_ON = 128  # observations at most of the model without the basins that were searched
_MUCH = 0.1  # improvement, as a share of the deviation of the values


class Fit(NamedTuple):
    """What is fitted now and then: length scales and noise, and the scale on which values are modelled."""

    hyperparameters: Hyperparameters
    warp: Warp


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
        acquisition: Acquisition = "log_ei",
        xi: float = 0.0,
        isotropic: bool = False,
        seed: int = 0,
    ) -> None:
        self.encoding, self.lag, self.first_fit, self.seed = encoding, lag, first_fit, seed
        self.acquisition, self.xi, self.isotropic = acquisition, xi, isotropic
        self.hyperparameters, self.warp = Fit(prior_hyperparameters(encoding.dimensions), IDENTITY)
        self.process: GaussianProcess | None = None
        self.fitted_at = -1
        self.observations: list[Observation] = []
        self.values: Array = np.empty(0)  # of the observations, absurd ones brought near
        self.known: set[int] = set()
        self._coarse: tuple[int, Hyperparameters] = (-1, self.hyperparameters)

    def update(
        self,
        observations: Sequence[Observation],
        load: Callable[[int], Fit | None] = lambda size: None,
        save: Callable[[int, Fit], None] = lambda size, fitted: None,
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
        self.values = targets[:, 0].copy()
        build = self.process is None or due != self.fitted_at or targets.shape[1] != self.process.outputs
        if build:
            if due != self.fitted_at and self.lag != "never" and due >= self.first_fit:
                stored = load(due)
                self.hyperparameters, self.warp = stored or self._fit(due)
                if stored is None:
                    save(due, Fit(self.hyperparameters, self.warp))
            self.fitted_at = due
            self._build(targets.shape[1])
            new = self.observations
        targets[:, 0] = self.warp.apply(self.values)
        process = self.process
        assert process is not None
        if not build and not np.array_equal(process.targets, targets[: process.observed]):
            process.replace_targets(targets[: process.observed])  # the worst value has changed
        if new:
            process.append(np.array([item.point for item in new]), targets[-len(new) :])

    def suggest(
        self, pending: Array, rng: np.random.Generator, count: int = 1, purpose: Purpose = "improve"
    ) -> list[Array]:
        """Points to try, the most promising first.

        Args:
            pending: points that are being tried, shape ``(k, dimensions)``.
            rng: for starts of the search.
            count: most points to return: distinct local maxima, none of them penalised for the others.
            purpose: ``improve`` upon the best; ``improve much``, a tenth of the deviation of the values at least, so
                that the search goes some way; ``elsewhere``, improve upon the best outside of the basins that have been
                searched, if there are any.

        Returns:
            At least one point; it is one that was tried before only if there are no others left.
        """
        process = self.process
        assert process is not None
        process.forget_pending()
        usable = self._usable()
        other = self._elsewhere(pending, usable) if purpose == "elsewhere" else None
        if other is not None:
            process, usable = other
        elif len(pending):
            process.append_pending(pending)
        best, anchors = _best(process, usable)
        margin = self.xi + (_MUCH if purpose == "improve much" else 0.0)
        search = AcquisitionSearch(self.encoding, process, best, margin, self.acquisition)
        tops, others = search.maximise(anchors, rng, count)
        spare = self.encoding.snap(rng.random((256, self.encoding.dimensions)))
        taken = np.concatenate([np.array([item.point for item in self.observations]), pending])
        return unseen(tops, np.concatenate([others, spare]), taken, count)

    def stalled(self) -> bool:
        """Whether the last trials brought no improvement worth the name."""
        seen = self._seen(self._usable())
        return has_stalled(seen, self._patience(), spread(seen))

    def state(self) -> dict[str, Any]:
        """Size at the last fit, and what it gave, for reports."""
        lengths, noise = self.hyperparameters
        return {"fitted_at": self.fitted_at, "length_scales": lengths.tolist(), "noise": noise}

    def _patience(self) -> int:
        """Evaluations after which a basin without improvement is taken to be searched."""
        return max(10, 2 * self.encoding.dimensions)

    def _seen(self, usable: NDArray[np.bool_]) -> Array:
        """Values of the observations, those that are no use the worst, ``(n,)``."""
        return np.where(usable, self.values, self.values.max())

    def _usable(self) -> NDArray[np.bool_]:
        """Observations that did not fail and meet the constraints, ``(n,)``."""
        met = [all(value <= 0 for value in item.constraints) for item in self.observations]
        return np.array([item.value is not None for item in self.observations]) & np.array(met, bool)

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
        for row, item in enumerate(self.observations if count else ()):
            table[row, 1 : 1 + len(item.constraints)] = np.clip(item.constraints, -1e6, 1e6)
        for column in range(1, 1 + count):  # not told, e.g. of a failure: as bad as the worst that is
            told = table[~np.isnan(table[:, column]), column]
            table[np.isnan(table[:, column]), column] = told.max()
        return table

    def _fit(self, seed: int) -> Fit:
        kept = np.array([item.value is not None for item in self.observations])
        points, values = np.array([item.point for item in self.observations])[kept], self.values[kept]
        rows = subsample(values, _FIT_ON, self.seed + seed)
        return Fit(*fit_warped(points[rows], values[rows], self.hyperparameters, self.isotropic))

    def _build(self, outputs: int) -> None:
        """A process without observations, with candidates of its own."""
        seed = np.random.SeedSequence((self.seed, max(self.fitted_at, 0)))
        sobol = qmc.Sobol(self.encoding.dimensions, rng=np.random.default_rng(seed))
        candidates = self.encoding.snap(sobol.random(_CANDIDATES))
        lengths, noise = self.hyperparameters
        self.process = GaussianProcess(lengths, noise, outputs, np.unique(candidates, axis=0))

    def _elsewhere(self, pending: Array, usable: NDArray[np.bool_]) -> tuple[GaussianProcess, NDArray[np.bool_]] | None:
        """A model to which the searched basins are places where one has been, without what was found there.

        Its length scales are those of the other points: a basin tells which parameters matter in it, not elsewhere.

        Returns:
            The process and which of its points are usable; None if no basin has been searched, or all were.
        """
        process = self.process
        assert process is not None
        rows = uncrowded(process.points, np.where(usable, self.values, np.inf))
        rows = rows[subsample(np.arange(float(len(rows))), _ELSEWHERE_ON, self.seed + self.fitted_at)]
        points, values = process.points[rows], self.values[rows]
        whole = GaussianProcess(*self._coarse_fit())
        whole.append(points, values[:, None])
        trend = whole.trend()
        weights = whole.weights(trend)
        gone = searched(
            points,
            whole.fitted(trend)[:, 0],
            lambda at: whole.mean(at, trend, weights)[:, 0],
            self._seen(usable),
            cdist(process.points, points).argmin(axis=1),
            self._patience(),
        )
        left = rows[~gone]
        if not gone.any() or usable[left].sum() < 2:
            return None
        lengths, noise = self._quick_fit(process.points[left], self.values[left])
        other = GaussianProcess(lengths, noise, process.outputs, process.candidates[::2])
        other.append(process.points[left], np.column_stack([self.values[left], process.targets[left, 1:]]))
        other.append_pending(np.concatenate([points[gone], pending]))
        return other, usable[left]

    def _coarse_fit(self) -> Hyperparameters:
        """For what there was at the last fit, the crowds left out."""
        if self._coarse[0] != self.fitted_at:
            known = self.observations[: max(self.fitted_at, 2)]
            points, values = np.array([item.point for item in known]), self.values[: len(known)]
            rows = uncrowded(points, values)[:_ELSEWHERE_ON]
            self._coarse = self.fitted_at, self._quick_fit(points[rows], values[rows])
        return self._coarse[1]

    def _quick_fit(self, points: Array, values: Array) -> Hyperparameters:
        start = prior_hyperparameters(self.encoding.dimensions)
        if self.lag == "never":
            return start
        return fit_hyperparameters(points, values, start, self.isotropic, quick=True)


def _best(process: GaussianProcess, usable: NDArray[np.bool_]) -> tuple[float | None, Array]:
    """Least fitted value among the usable points, None if there is none, and the two points of least value."""
    fitted = process.fitted()[:, 0]
    anchors = process.points[np.argsort(process.targets[:, 0], kind="stable")[:2]]
    return (float(fitted[usable].min()) if usable.any() else None), anchors
