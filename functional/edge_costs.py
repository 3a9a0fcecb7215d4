"""From embeddings to the costs of a multicut: pairs, distances in shards, and the line that turns one into the other.

The cost of joining two samples at squared distance d is ``intercept + slope * d``: the log-odds of "same class" under a
logistic regression, or ``threshold - d``. Positive costs attract.

Source: Ho et al. 2020; costs by logistic regression as in Ho et al. 2020, arXiv 2002.01192.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

__all__ = [
    "CostLine",
    "complete_costs",
    "complete_energy",
    "distance_shards",
    "fit_cost_line",
    "nearest_neighbours",
    "random_pairs",
    "sparse_costs",
]


class CostLine(NamedTuple):
    """Cost of a pair as a line in its squared distance."""

    slope: float
    intercept: float

    @property
    def zero(self) -> float:
        """Distance at which joining and cutting cost the same; NaN for a flat line."""
        return -self.intercept / self.slope if self.slope else float("nan")

    @classmethod
    def threshold(cls, distance: float) -> CostLine:
        """Cost ``distance - d``."""
        return cls(-1.0, distance)


def random_pairs(
    labels: ArrayLike, count: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs of different samples, drawn with replacement.

    Args:
        labels: classes, shape ``(N,)``, N at least 2.
        count: number of pairs.
        seed: of the draw.

    Returns:
        Indices of both samples, and whether they are of one class, each ``(count,)``.

    Raises:
        ValueError: if there are fewer than two samples.
    """
    classes = np.asarray(labels)
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} samples have no pairs.")
    rng = np.random.default_rng(seed)
    first = rng.integers(len(classes), size=count)
    second = (first + rng.integers(1, len(classes), size=count)) % len(classes)
    return first, second, classes[first] == classes[second]


def fit_cost_line(distances: ArrayLike, same: ArrayLike, *, balanced: bool = True) -> CostLine:
    """Log-odds of "same class" by logistic regression (scikit-learn, C = 1).

    Args:
        distances: squared distances of pairs, shape ``(P,)``.
        same: whether a pair is of one class, shape ``(P,)``; both occur.
        balanced: give both kinds of pairs the same total weight; without it, that most pairs are of different classes
            pushes the costs down, and clusters fall apart.

    Returns:
        The line.

    Raises:
        ValueError: if one of the two kinds is missing, or a distance is not finite.
    """
    x, y = np.asarray(distances, np.float64).reshape(-1, 1), np.asarray(same, np.bool_)
    if not np.isfinite(x).all():
        raise ValueError("A distance is not finite: the embedding has diverged. Lower the learning rate.")
    if y.all() or not y.any():
        raise ValueError(
            f"All {len(y)} pairs are of {'one class' if y.all() else 'different classes'}; needed are both."
        )
    fitted = LogisticRegression(class_weight="balanced" if balanced else None, max_iter=1000).fit(x, y)
    return CostLine(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def distance_shards(x: Tensor, rows: int = 1024) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of all pairs, some rows at a time, on the device of ``x``.

    Args:
        x: shape ``(N, D)``.
        rows: rows per shard; a shard takes ``rows * N`` numbers.

    Yields:
        First row of a shard, and distances ``(rows, N)`` in float32 or float64; those of a sample to itself are 0.
    """
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    x = x - x.mean(0, keepdim=True)
    norms = x.square().sum(1)
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        shard = torch.addmm(norms[start : start + rows, None] + norms, block, x.mT, alpha=-2.0).clamp_min_(0)
        shard.diagonal(start).zero_()
        yield start, shard


def complete_costs(x: Tensor, line: CostLine, rows: int = 1024) -> NDArray[np.float64]:
    """Costs of all pairs, symmetric, shape ``(N, N)``: 0.8 GB for 10,000 samples."""
    costs = np.empty((len(x), len(x)))
    for start, shard in distance_shards(x, rows):
        costs[start : start + len(shard)] = shard.cpu().numpy()
    costs *= line.slope
    costs += line.intercept
    for start in range(0, len(x), rows):  # rounding differs between a pair's two shards
        costs[start:, start : start + rows] = costs[start : start + rows, start:].T
    for start in range(0, len(x), rows):
        block = costs[start : start + rows, start : start + rows]
        block[:] = (block + block.T) / 2
    return costs


def complete_energy(x: Tensor, line: CostLine, labels: ArrayLike, rows: int = 1024) -> float:
    """Energy of a clustering on the complete graph, in shards: compares solutions that left edges out.

    Args:
        x: shape ``(N, D)``.
        line: of the costs.
        labels: clusters, shape ``(N,)``.
        rows: rows per shard.
    """
    clusters = torch.as_tensor(np.asarray(labels), device=x.device)
    total = torch.zeros((), dtype=torch.float64)
    for start, shard in distance_shards(x, rows):
        cut = clusters[start : start + len(shard), None] != clusters
        total += (line.slope * shard[cut].double().sum() + line.intercept * cut.sum()).cpu()
    return float(total) / 2


def nearest_neighbours(x: Tensor, neighbours: int, rows: int = 1024) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Edges from each sample to its nearest ones, each edge once.

    Args:
        x: shape ``(N, D)``.
        neighbours: number of edges that each sample asks for, at least 1; all others where there are fewer.
        rows: rows per shard.

    Returns:
        Edges ``(E, 2)``, the smaller node first, in ascending order, and their squared distances ``(E,)``.

    Raises:
        ValueError: if ``neighbours`` is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours} must be at least 1.")
    count = len(x)
    if count < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    pairs, distances = [], []
    for start, shard in distance_shards(x, rows):
        shard.diagonal(start).fill_(float("inf"))
        nearest = shard.topk(min(neighbours, count - 1), dim=1, largest=False)
        source = torch.arange(start, start + len(shard), device=x.device)[:, None].expand_as(nearest.indices)
        pairs.append(torch.stack([source, nearest.indices], dim=-1).reshape(-1, 2).cpu())
        distances.append(nearest.values.reshape(-1).double().cpu())
    edges = torch.cat(pairs).sort(dim=1).values.numpy()
    _, first = np.unique(edges[:, 0] * count + edges[:, 1], return_index=True)
    return edges[first], torch.cat(distances).numpy()[first]


def sparse_costs(
    x: Tensor, line: CostLine, neighbours: int, others: int, *, seed: int = 0, rows: int = 1024
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A graph for a multicut of many samples: edges to nearest neighbours, and to some others that stand for the rest.

    Neighbours alone attract one another nearly everywhere, and all samples would end in one cluster. So pairs that are
    no neighbours are drawn at random, and their costs multiplied so that the energy of every partition is, on average
    over the draws, that of the complete graph.

    Args:
        x: shape ``(N, D)``.
        line: of the costs.
        neighbours: edges that each sample asks for, at least 1.
        others: random edges per sample, at least 1.
        seed: of the draw.
        rows: rows per shard.

    Returns:
        Edges ``(E, 2)``, the smaller node first, each once, and their costs ``(E,)``.

    Raises:
        ValueError: if ``neighbours`` or ``others`` is below 1.
    """
    if others < 1:
        raise ValueError(f"others={others} must be at least 1: neighbours alone hold no repulsion.")
    near, distances = nearest_neighbours(x, neighbours, rows)
    count = len(x)
    costs = line.slope * distances + line.intercept
    left_out = count * (count - 1) // 2 - len(near)
    if left_out == 0:
        return near, costs
    rng = np.random.default_rng(seed)
    # More than are wanted, for some will be neighbours or come twice.
    drawn = np.sort(np.stack([rng.integers(count, size=4 * others * count) for _ in range(2)], axis=1), axis=1)
    codes = np.setdiff1d(drawn[drawn[:, 0] < drawn[:, 1]] @ [count, 1], near @ [count, 1])
    codes = np.sort(rng.permutation(codes)[: others * count])
    if not len(codes):
        return near, costs
    far = np.stack(np.divmod(codes, count), axis=1)
    first, second = (torch.from_numpy(column).to(x.device) for column in far.T)
    apart = torch.cat(
        [(x[i] - x[j]).double().square().sum(1) for i, j in zip(first.split(65_536), second.split(65_536), strict=True)]
    )
    weighted = (line.slope * apart.cpu().numpy() + line.intercept) * (left_out / len(far))
    return np.concatenate([near, far]), np.concatenate([costs, weighted])
