"""Robustness indicators: how well classes separate in the feature space of a trained network.

No corrupted image is needed: clean embeddings are clustered without labels, and the clusters and the distances within
and between classes are compared with the labels. Accuracy and purity of the clusters should rise with robustness, the
overlap of the two distributions of distances should fall.

Cost for N embeddings of dimension D: k-means O(N D K) per pass; overlap O(N^2 D) in shards of 1,024 rows, so 0.2 GB for
50,000; multicut O(n^2 log n) time and O(n^2) memory with n limited by ``most_nodes``.

Source: after Ho et al. 2021 (arXiv 2106.12303), of which only the idea could be read: the formulas are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from functional.clustering import clustering_accuracy, kmeans, multicut_dense, purity
from functional.edge_costs import complete_costs, distance_shards, fit_cost_line, random_pairs

__all__ = [
    "Clustering",
    "DistanceHistograms",
    "cosine_geometry",
    "distance_histograms",
    "indicator_intervals",
    "kmeans_clusters",
    "multicut_clusters",
    "robustness_indicators",
]

Clustering = Literal["kmeans", "multicut"]
Labels = NDArray[np.int64]
_PAIRS = 100_000
_ROWS = 1024


class DistanceHistograms(NamedTuple):
    """Distances of pairs of one class and of two, in common bins."""

    edges: NDArray[np.float64]  # (bins + 1,)
    within: NDArray[np.float64]  # shares of pairs of one class, (bins,)
    between: NDArray[np.float64]  # shares of pairs of two classes, (bins,)

    @property
    def overlap(self) -> float:
        """Common area, in [0, 1]: 1 less the total variation distance; 0 for classes that separate."""
        return float(np.minimum(self.within, self.between).sum())


def cosine_geometry(x: Tensor) -> Tensor:
    """Embeddings of length 1, whose squared distance is twice the cosine distance; a zero vector stays.

    Raises:
        ValueError: if they are not finite and of shape ``(N, D)``.
    """
    if x.ndim != 2 or not x.isfinite().all():
        raise ValueError(f"embeddings of shape {tuple(x.shape)}: needed are finite numbers of shape (N, D).")
    return F.normalize(x.float(), dim=1)


def distance_histograms(x: Tensor, labels: ArrayLike, bins: int = 100) -> DistanceHistograms:
    """Distributions of half the squared distance (the cosine distance, on the sphere) within and between classes.

    Args:
        x: embeddings ``(N, D)``.
        labels: classes ``(N,)``, at least two, one of them with two samples.
        bins: of equal width, from the smallest distance to the largest.

    Returns:
        Shares per bin, each unordered pair counted once.

    Raises:
        ValueError: if there are no pairs of one kind.
    """
    classes = _labels(x, labels)
    low, high, same_pairs, other_pairs = float("inf"), 0.0, 0, 0
    for same, distances in _pairs(x, classes):
        low, high = min(low, float(distances.min())), max(high, float(distances.max()))
        same_pairs, other_pairs = same_pairs + int(same.sum()), other_pairs + int((~same).sum())
    if not same_pairs or not other_pairs:
        raise ValueError("There are no pairs of one class, or none of two: give more samples of at least two classes.")
    width = max(high - low, 1e-12)
    counts = torch.zeros(2 * bins, dtype=torch.float64)
    for same, distances in _pairs(x, classes):
        bin_of = ((distances - low) * (bins / width)).long().clamp_(0, bins - 1)
        counts += torch.bincount(bin_of + bins * same, minlength=2 * bins).cpu()
    between, within = counts.view(2, bins).numpy()
    return DistanceHistograms(np.linspace(low, low + width, bins + 1), within / same_pairs, between / other_pairs)


def kmeans_clusters(x: Tensor, clusters: int, *, starts: int = 10, seed: int = 0, most: int = 10_000) -> Labels:
    """Clusters by k-means, fitted on at most ``most`` samples; the others go to their nearest centre.

    Args:
        x: embeddings ``(N, D)``.
        clusters: number of clusters.
        starts: k-means++ starts.
        seed: of the starts and of the choice.
        most: samples to fit on.

    Returns:
        Shape ``(N,)``.
    """
    chosen = np.random.default_rng(seed).permutation(len(x))[:most]
    fitted = x if len(x) <= most else x[torch.from_numpy(chosen).to(x.device)]
    found, centres = kmeans(fitted.float().cpu().numpy(), clusters, starts=starts, seed=seed)
    if fitted is x:
        return found
    anchors = torch.from_numpy(centres).to(x.device, torch.float32)
    nearest = [torch.cdist(part.float(), anchors).argmin(1).cpu() for part in x.split(_ROWS)]
    return torch.cat(nearest).numpy()


def multicut_clusters(
    x: Tensor, labels: ArrayLike, *, seed: int = 0, most_nodes: int = 1000
) -> tuple[NDArray[np.int64], Labels]:
    """Clusters by a multicut of one half, whose costs a logistic regression on the other half gives.

    Args:
        x: embeddings ``(N, D)``.
        labels: classes ``(N,)``; only those of the other half are looked at.
        seed: of the halves and of the pairs.
        most_nodes: samples to cluster.

    Returns:
        Indices of the clustered samples, and their clusters, each ``(n,)``.

    Raises:
        ValueError: if a half lacks pairs of one class or of two.
    """
    classes = _labels(x, labels).cpu().numpy()
    order = np.random.default_rng(seed).permutation(len(x))
    fitting, clustered = order[: len(x) // 2], np.sort(order[len(x) // 2 :][:most_nodes])
    first, second, same = random_pairs(classes[fitting], _PAIRS, seed)
    one, other = (x[torch.from_numpy(fitting[side]).to(x.device)] for side in (first, second))
    distances = torch.cat(
        [(a - b).double().square().sum(1) for a, b in zip(one.split(_ROWS), other.split(_ROWS), strict=True)]
    )
    line = fit_cost_line(distances.cpu().numpy(), same)
    costs = complete_costs(x[torch.from_numpy(clustered).to(x.device)], line)
    return clustered, multicut_dense(costs)


@torch.no_grad()
def robustness_indicators(
    embeddings: Tensor,
    labels: ArrayLike,
    clustering: Sequence[Clustering] = ("kmeans", "multicut"),
    *,
    normalize: bool = True,
    seed: int = 0,
    starts: int = 10,
    most_nodes: int = 1000,
) -> dict[str, float]:
    """All indicators of a set of embeddings.

    Args:
        embeddings: shape ``(N, D)``, on any device.
        labels: classes ``(N,)``.
        clustering: which clusterings to run.
        normalize: look at directions only (cosine distances).
        seed: of all draws.
        starts: of k-means.
        most_nodes: largest multicut.

    Returns:
        ``overlap``, and for each clustering ``<name>_accuracy``, ``<name>_purity`` and ``<name>_combined``, the
        accuracy times ``1 - overlap``; for the multicut also ``multicut_clusters`` per class. All but the last in
        [0, 1]; all but the overlap are better when higher.

    Raises:
        ValueError: if shapes do not fit, a clustering is unknown, or there are no pairs to compare.
    """
    unknown = [name for name in clustering if name not in get_args(Clustering)]
    if unknown:
        raise ValueError(f"clustering={unknown[0]!r} is not one of {', '.join(get_args(Clustering))}.")
    x = cosine_geometry(embeddings) if normalize else embeddings.float()
    classes = _labels(x, labels).cpu().numpy()
    count = len(np.unique(classes))
    overlap = distance_histograms(x, classes).overlap
    found = {"overlap": overlap}
    for name in clustering:
        if name == "kmeans":
            truth, clusters = classes, kmeans_clusters(x, count, starts=starts, seed=seed)
        else:
            rows, clusters = multicut_clusters(x, classes, seed=seed, most_nodes=most_nodes)
            truth = classes[rows]
            found["multicut_clusters"] = len(np.unique(clusters)) / count
        accuracy = clustering_accuracy(truth, clusters)
        found[f"{name}_accuracy"], found[f"{name}_purity"] = accuracy, purity(truth, clusters)
        found[f"{name}_combined"] = accuracy * (1 - overlap)
    return found


def indicator_intervals(
    embeddings: Tensor,
    labels: ArrayLike,
    clustering: Sequence[Clustering] = ("kmeans",),
    *,
    resamples: int = 50,
    confidence: float = 0.95,
    most: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals over resampled images, which are embedded once and clustered anew each time.

    An image that is drawn twice is kept once: a pair at distance 0 that no data set has would pull clusters together.

    Args:
        embeddings: shape ``(N, D)``.
        labels: classes ``(N,)``.
        clustering: as for :func:`robustness_indicators`.
        resamples: number of resampled sets, at least 2.
        confidence: share of them inside the interval, in (0, 1).
        most: images to resample from.
        seed: of all draws.

    Returns:
        Lower and upper end of each indicator.

    Raises:
        ValueError: if ``resamples`` or ``confidence`` is out of its range, or as :func:`robustness_indicators`.
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise ValueError(f"resamples={resamples} must be at least 2, and confidence={confidence} between 0 and 1.")
    rng = np.random.default_rng(seed)
    classes = _labels(embeddings, labels).cpu().numpy()
    pool = rng.permutation(len(classes))[:most]
    drawn = []
    for _ in range(resamples):
        rows = np.unique(rng.choice(pool, len(pool)))
        part = embeddings[torch.from_numpy(rows).to(embeddings.device)]
        drawn.append(robustness_indicators(part, classes[rows], clustering, seed=seed, starts=1))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = {name: np.quantile([found[name] for found in drawn], tails) for name in drawn[0]}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _labels(x: Tensor, labels: ArrayLike) -> Tensor:
    values = labels if isinstance(labels, Tensor) else torch.from_numpy(np.asarray(labels))
    if values.ndim != 1 or len(values) != len(x):
        raise ValueError(f"labels {tuple(values.shape)} and {len(x)} embeddings; needed is one label each.")
    return values.to(x.device, torch.int64)


def _pairs(x: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Whether of one class, and half the squared distance, of all pairs ``i < j``, some rows at a time."""
    column = torch.arange(len(x), device=x.device)
    for start, shard in distance_shards(x, _ROWS):
        later = column > column[start : start + len(shard), None]
        if later.any():
            yield (classes[start : start + len(shard), None] == classes)[later], shard[later] / 2
