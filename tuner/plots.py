"""One picture of a study: its history, which parameters matter, and a slice for each."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

__all__ = ["draw_study"]


def draw_study(study: optuna.Study, monitor: str) -> Figure:
    """Draw finished trials.

    Args:
        study: with at least one complete trial.
        monitor: name of the metric.

    Returns:
        A matplotlib figure, not shown.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for trial in trials for name in trial.params})
    panels = 2 + len(names)
    columns = min(4, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    numbers = np.array([trial.number for trial in trials])
    values = np.array([trial.values[0] for trial in trials])
    better = np.minimum if study.direction == StudyDirection.MINIMIZE else np.maximum
    axes[0].plot(numbers, values, ".", color="0.6", label="trial")
    axes[0].step(numbers, better.accumulate(values), where="post", color="C0", label="best so far")
    axes[0].set(title="history", xlabel="trial", ylabel=monitor)
    low, high = _window(values)
    axes[0].set_ylim(low, high)
    axes[0].legend(fontsize=7)
    importances = _importances(study)
    axes[1].barh([name.rpartition(".")[2] for name in importances], list(importances.values()), color="C0")
    axes[1].set(title="importance (fANOVA)", xlabel="share of the variance", xlim=(0, 1))
    axes[1].invert_yaxis()
    for panel, name in zip(axes[2:], names, strict=False):
        having = [trial for trial in trials if name in trial.params]
        distribution = having[0].distributions[name]
        shown = [t.params[name] for t in having]
        if isinstance(distribution, CategoricalDistribution):
            shown = [str(value) for value in shown]
        height = [t.values[0] for t in having]
        panel.scatter(shown, height, c=[t.number for t in having], cmap="viridis", s=12)
        if getattr(distribution, "log", False):
            panel.set_xscale("log")
        panel.set(title=name.rpartition(".")[2], ylabel=monitor, ylim=(low, high))
        panel.tick_params(axis="x", labelsize=7)
    for panel in axes[panels:]:
        panel.set_axis_off()
    return figure


def _window(values: np.ndarray) -> tuple[float, float]:
    """Limits that show all but absurd values."""
    finite = values[np.isfinite(values)]
    low, middle, high = np.quantile(finite, [0, 0.5, 1])
    quartiles = np.quantile(finite, [0.25, 0.75])
    reach = 10 * max(quartiles[1] - quartiles[0], 1e-12)
    low, high = max(low, middle - reach), min(high, middle + reach)
    margin = 0.05 * max(high - low, 1e-9)
    return low - margin, high + margin


def _importances(study: optuna.Study) -> dict[str, float]:
    """Empty where there is too little to tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(
                optuna.importance.get_param_importances(
                    study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
                )
            )
    except (RuntimeError, ValueError):
        return {}
