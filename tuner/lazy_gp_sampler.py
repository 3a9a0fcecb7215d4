"""Lazy Gaussian-process sampler for Optuna: its suggestions stay cheap at thousands of trials."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.stats import qmc
from threadpoolctl import ThreadpoolController

from functional.gp_fit import Hyperparameters
from functional.output_warp import IDENTITY, Warp
from tuner.acquisition_search import Acquisition
from tuner.encoding import Encoding
from tuner.surrogate import Fit, Lag, Observation, Purpose, Surrogate

__all__ = ["LOST", "LazyGPSampler"]

LOST = "lazy_gp:lost"
"""User attribute of a trial whose process vanished: it says nothing about its parameters."""
_PROPOSAL = "lazy_gp:proposal"
_CHUNK = 2000  # characters that a relational storage takes in one attribute
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_PURPOSES: tuple[Purpose, ...] = ("improve", "improve much", "elsewhere")  # in turn, once a search has stalled


class LazyGPSampler(BaseSampler):
    """Gaussian process whose Cholesky factor grows with the trials, and whose length scales are refitted rarely.

    Storage, distribution over processes and machines, resumption, pruning and constraints are Optuna's. Every process
    keeps a factor of its own in step with the storage; fits are kept in the study (user attributes ``lazy_gp:...``) so
    that all processes use the same. In one process with a seed, a suggestion depends on the seed, the number of the
    trial and the finished trials only, so an interrupted study goes on as it would have. Values are modelled on a
    logarithmic scale wherever that is likelier.

    Args:
        lag: trials after which length scales and noise are fitted anew (1: always, the naive method); ``geometric``:
            whenever there are a quarter more; ``never``.
        n_startup_trials: trials of a scrambled Sobol sequence at the beginning.
        acquisition: ``log_ei``, or ``ei`` as in the paper.
        xi: improvement that does not count, as a share of the deviation of the values.
        isotropic: one length scale for all parameters, as in the paper.
        local_maxima: t best local maxima of the acquisition are suggested from one search, as in the paper's parallel
            scheme; with 1 each suggestion has a search of its own that knows of the running trials.
        failed: take failed trials for the ``worst`` value seen, so that they are not repeated, or ``ignore`` them.
        pruned: take pruned trials for their ``last`` reported value, or ``ignore`` them.
        leave_basins: once the last trials have brought nothing, one in three looks for more than a small improvement,
            and one in three outside of the basins that have been searched; false as in the paper.
        seed: of all random draws; a fresh one if None.
        search_space: distributions by name, where they are known before the first trial; otherwise that one's
            parameters come from ``independent_sampler``.
        independent_sampler: for parameters whose distribution changes between trials; random by default.
        patience: seconds to wait for the parameters of a trial that another process has begun, so that parallel
            processes do not suggest the same.

    Raises:
        ValueError: if an option is out of its range.

    Source: Ram et al. 2019, Scaling Lazy Gaussian Processes.
    """

    def __init__(
        self,
        lag: Lag = "geometric",
        n_startup_trials: int = 10,
        acquisition: Acquisition = "log_ei",
        xi: float = 0.0,
        isotropic: bool = False,
        local_maxima: int = 1,
        failed: Literal["worst", "ignore"] = "worst",
        pruned: Literal["last", "ignore"] = "last",
        leave_basins: bool = True,
        seed: int | None = None,
        search_space: Mapping[str, BaseDistribution] | None = None,
        independent_sampler: BaseSampler | None = None,
        patience: float = 5.0,
    ) -> None:
        if lag not in ("geometric", "never") and not (isinstance(lag, int) and lag >= 1):
            raise ValueError(f"lag={lag!r} must be a number from 1, 'geometric' or 'never'.")
        if acquisition not in ("log_ei", "ei"):
            raise ValueError(f"acquisition={acquisition!r} must be 'log_ei' or 'ei'.")
        if n_startup_trials < 1 or local_maxima < 1 or xi < 0 or patience < 0:
            raise ValueError(
                f"n_startup_trials={n_startup_trials} and local_maxima={local_maxima} must be at least 1, xi={xi} and "
                f"patience={patience} not negative."
            )
        if failed not in ("worst", "ignore") or pruned not in ("last", "ignore"):
            raise ValueError(f"failed={failed!r} must be 'worst' or 'ignore', pruned={pruned!r} 'last' or 'ignore'.")
        self.lag, self.n_startup_trials, self.acquisition, self.xi = lag, n_startup_trials, acquisition, xi
        self.isotropic, self.local_maxima, self.failed, self.pruned = isotropic, local_maxima, failed, pruned
        self.leave_basins, self.search_space, self.patience = leave_basins, dict(search_space or {}), patience
        self._independent = independent_sampler or RandomSampler(seed=seed)
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._threads = ThreadpoolController()
        self._study: tuple[str, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._finished: dict[int, FrozenTrial] = {}
        self._name_sets: set[frozenset[str]] = set()
        self._distributions: dict[str, BaseDistribution] = {}
        self._changing: set[str] = set()
        self._surrogates: dict[tuple[str, ...], Surrogate] = {}
        self._queues: dict[tuple[str, ...], list[NDArray[np.float64]]] = {}
        self._given_up: set[int] = set()

    def reseed_rng(self) -> None:
        """Draw another seed; Optuna calls this in each of its threads."""
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters seen so far whose distribution does not change, in whatever branch they occur."""
        if len(study.directions) > 1:
            raise ValueError("LazyGPSampler takes one objective; this study has several.")
        if self._study != (key := (study.study_name, id(study._storage))):
            self._study = key
            self._forget()
        for finished in study.get_trials(deepcopy=False, states=_FINISHED):
            if finished.number not in self._finished:
                self._finished[finished.number] = finished
                self._note(finished.distributions)
        known = {**self._distributions, **self.search_space}
        usable = {name: known[name] for name in sorted(known) if name not in self._changing}
        return {name: distribution for name, distribution in usable.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest all parameters at once, a model for each group of those that always occur together."""
        if not search_space:
            return {}
        running = self._running(study, trial)
        parameters: dict[str, Any] = {}
        # More threads are slower at these sizes, and the training needs them.
        with self._threads.limit(limits=1):
            for names in self._groups(search_space):
                encoding = Encoding({name: search_space[name] for name in names})
                point = self._suggest(study, trial, names, encoding, running)
                parameters |= encoding.decode(point)
        self._publish(study, trial, parameters)
        return parameters

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """For parameters that no model knows yet."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing to keep: the next suggestion reads the storage."""

    def ask_batch(self, study: Study, count: int | None = None) -> list[Trial]:
        """Ask for several trials at once: the best local maxima where ``local_maxima`` is above 1."""
        return [study.ask(self.search_space) for _ in range(count or self.local_maxima)]

    def _note(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Take notice of the parameters of a trial."""
        self._name_sets.add(frozenset(distributions))
        for name, distribution in distributions.items():
            if self._distributions.setdefault(name, distribution) != distribution and name not in self._changing:
                self._changing.add(name)
                warnings.warn(
                    f"The range of {name!r} changes between trials; it is sampled by "
                    f"{type(self._independent).__name__}, without a model.",
                    stacklevel=2,
                )

    def _groups(self, search_space: Mapping[str, BaseDistribution]) -> list[tuple[str, ...]]:
        """Names that occur in the same trials, group by group."""
        occurrences: dict[tuple[int, ...], list[str]] = {}
        name_sets = sorted(self._name_sets, key=sorted)
        for name in search_space:
            occurs = tuple(index for index, names in enumerate(name_sets) if name in names)
            occurrences.setdefault(occurs, []).append(name)
        return [tuple(sorted(names)) for names in occurrences.values()]

    def _suggest(
        self,
        study: Study,
        trial: FrozenTrial,
        names: tuple[str, ...],
        encoding: Encoding,
        running: Sequence[Mapping[str, Any]],
    ) -> NDArray[np.float64]:
        surrogate = self._surrogates.get(names)
        if surrogate is None or surrogate.encoding.space != encoding.space:
            surrogate = self._surrogates[names] = Surrogate(
                encoding,
                self.lag,
                self.n_startup_trials,
                self.acquisition,
                self.xi,
                self.isotropic,
                self._seed,
            )
            self._queues[names] = []
        observations = self._observations(study, encoding, surrogate)
        seen = len(surrogate.known | {item.number for item in observations})
        successes = sum(item.value is not None for item in (*surrogate.observations, *observations))
        if seen < self.n_startup_trials or successes < 2:
            sobol = qmc.Sobol(encoding.dimensions, rng=np.random.default_rng([self._seed, 1]))
            with warnings.catch_warnings():  # its balance needs a power of two; a sequence in parts has none
                warnings.simplefilter("ignore")
                return encoding.snap(sobol.random(trial.number + 1)[-1:])[0]
        key = f"lazy_gp:{','.join(names)}"

        def load(size: int) -> Fit | None:
            stored = study.user_attrs.get(f"{key}:{size}")
            if not stored:
                return None
            scales = Hyperparameters(np.array(stored["length_scales"]), stored["noise"])
            return Fit(scales, Warp(*stored["warp"]) if stored.get("warp") else IDENTITY)

        def save(size: int, fitted: Fit) -> None:
            (scales, noise), warp = fitted
            logarithmic = None if warp == IDENTITY else list(warp)
            study.set_user_attr(
                f"{key}:{size}", {"length_scales": scales.tolist(), "noise": noise, "warp": logarithmic}
            )

        surrogate.update(observations, load, save)
        pending = [encoding.encode(values) for values in running if encoding.space.keys() <= values.keys()]
        pending_points = np.array(pending).reshape(-1, encoding.dimensions)
        queue = self._queues[names]
        while queue:
            point = queue.pop(0)
            if not len(pending_points) or np.abs(pending_points - point).max(axis=1).min() > 1e-9:
                return point
        rng = np.random.default_rng([self._seed, 2, trial.number])
        purpose = _PURPOSES[trial.number % 3] if self.leave_basins and surrogate.stalled() else "improve"
        found = surrogate.suggest(pending_points, rng, self.local_maxima, purpose)
        queue += found[1:]
        return found[0]

    def _observations(self, study: Study, encoding: Encoding, surrogate: Surrogate) -> list[Observation]:
        """Finished trials of a group that its model does not know yet, in the order of their numbers."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        found = []
        for number in sorted(self._finished.keys() - surrogate.known):
            trial = self._finished[number]
            if not encoding.space.keys() <= trial.params.keys() or LOST in trial.user_attrs:
                continue
            value: float | None = None
            if trial.state == TrialState.COMPLETE:
                value = sign * float(trial.values[0])
            elif trial.state == TrialState.PRUNED:
                reported = trial.intermediate_values
                if self.pruned == "ignore" or not reported:
                    continue
                value = sign * float(reported[max(reported)])
            elif self.failed == "ignore":
                continue
            value = None if value is not None and np.isnan(value) else value
            point = encoding.encode(trial.params)
            found.append(Observation(number, point, value, list(trial.constraints.values())))
        return found

    def _running(self, study: Study, trial: FrozenTrial) -> list[Mapping[str, Any]]:
        """Parameters of other running trials; waits for those of trials that began before this one."""
        deadline = time.monotonic() + self.patience
        while True:
            others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            others = [other for other in others if other.number != trial.number]
            proposals = {other.number: _proposal(other) or other.params for other in others}
            unknown = {n for n, values in proposals.items() if not values and n < trial.number} - self._given_up
            if not unknown or time.monotonic() > deadline:
                self._given_up |= unknown
                return [values for values in proposals.values() if values]
            time.sleep(0.01)

    def _publish(self, study: Study, trial: FrozenTrial, parameters: Mapping[str, Any]) -> None:
        """Tell other processes, before the objective asks for the parameters."""
        text = json.dumps(parameters)
        for first in range(0, len(text), _CHUNK):
            study._storage.set_trial_system_attr(
                trial._trial_id, f"{_PROPOSAL}:{first // _CHUNK:03d}", text[first : first + _CHUNK]
            )


def _proposal(trial: FrozenTrial) -> dict[str, Any]:
    chunks = sorted(key for key in trial.system_attrs if key.startswith(f"{_PROPOSAL}:"))
    return json.loads("".join(trial.system_attrs[key] for key in chunks)) if chunks else {}
