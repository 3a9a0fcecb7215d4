"""How well nuisances give a label away: AUROC of a probe's scores, with a confidence interval that respects groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "auroc", "auroc_interval"]


class Interval(NamedTuple):
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float


def auroc(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Chance that a fake scores higher than a real, ties counting half.

    Args:
        scores: shape `(N,)`.
        labels: 0 real, 1 fake, shape `(N,)`.
        weights: weight of each image, shape `(..., N)`; one for all by default.

    Returns:
        Shape `(...)`, in [0, 1]; NaN where a label has no weight.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    _, rank = np.unique(scores, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))  # of each run of ties
    fake, real = (
        np.add.reduceat((weights * (labels == label))[..., order], starts, axis=-1) for label in (1, 0)
    )  # weight of each run
    below = np.cumsum(real, axis=-1) - real / 2
    total = fake.sum(-1) * real.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((fake * below).sum(-1) / total)


def auroc_interval(
    scores: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """AUROC with a percentile bootstrap interval; whole groups are drawn.

    Args:
        scores: shape `(N,)`.
        labels: 0 real, 1 fake, shape `(N,)`.
        groups: number of each image's group, shape `(N,)`; every image for itself by default.
        level: confidence in (0, 1).
        resamples: bootstrap draws.
        seed: seed of the draws.

    Returns:
        The AUROC and its bounds. The bootstrap cannot widen an AUROC of 0 or 1, so a margin of `3 / n`, `n` the
        smaller number of groups of a label, is kept there (the rule of three).

    Raises:
        ValueError: if a label is missing.
    """
    labels = np.asarray(labels)
    if len(np.unique(labels)) != 2:
        raise ValueError("An AUROC needs images of both labels.")
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    # Groups are drawn within the labels they hold, so that no draw is without a label.
    kind = np.zeros(groups.max() + 1, dtype=np.int64)
    np.bitwise_or.at(kind, groups, 1 << labels.astype(np.int64))
    generator = np.random.default_rng(seed)
    draws = np.zeros((resamples, len(kind)))
    for value in np.unique(kind):
        members = np.flatnonzero(kind == value)
        draws[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    value = float(auroc(scores, labels))
    step = max(1, 2**22 // len(labels))  # images at a time
    drawn = [auroc(scores, labels, draws[start : start + step][:, groups]) for start in range(0, resamples, step)]
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    margin = 3 / min(len(np.unique(groups[labels == label])) for label in (0, 1))
    return Interval(
        value,
        float(min(low, max(0.0, value - margin)) if value >= 1 else low),
        float(max(high, min(1.0, value + margin)) if value <= 0 else high),
    )
