"""How well a clustering agrees with the truth, k-means, and the multicut (see :mod:`functional.multicut`).

Labels are whole numbers, one per sample: the true classes first, then the clusters, in any numbering and any number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from functional.multicut import multicut, multicut_dense, multicut_energy, multicut_in_parts

__all__ = [
    "Agreement",
    "PairScores",
    "agreement",
    "clustering_accuracy",
    "conditional_entropies",
    "contingency",
    "kmeans",
    "multicut",
    "multicut_dense",
    "multicut_energy",
    "multicut_in_parts",
    "pair_scores",
    "purity",
    "variation_of_information",
]


class PairScores(NamedTuple):
    """Of pairs of samples: are they in one cluster because they are of one class?"""

    precision: float
    recall: float
    f1: float


class Agreement(NamedTuple):
    """All figures of a clustering."""

    accuracy: float
    purity: float
    nmi: float
    ari: float
    vi: float
    over_segmentation: float  # H(clusters | classes), nats: classes that were split
    under_segmentation: float  # H(classes | clusters), nats: classes that were mixed
    pair_precision: float
    pair_recall: float
    pair_f1: float
    clusters: int


def contingency(classes: ArrayLike, clusters: ArrayLike) -> NDArray[np.int64]:
    """How many samples of class i are in cluster j, shape ``(classes, clusters)``; only values that occur.

    Raises:
        ValueError: if there are no samples, or not equally many of both.
    """
    truth, found = np.asarray(classes).reshape(-1), np.asarray(clusters).reshape(-1)
    if len(truth) != len(found) or not len(truth):
        raise ValueError(f"{len(truth)} classes and {len(found)} clusters; needed is one of each per sample.")
    for name, values in (("classes", truth), ("clusters", found)):
        if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):
            raise ValueError(f"{name} are whole numbers or names; {values[values != np.floor(values)][0]} is none.")
    rows, columns = (np.unique(values, return_inverse=True)[1] for values in (truth, found))
    counts = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def clustering_accuracy(classes: ArrayLike, clusters: ArrayLike) -> float:
    """Share of samples that are right under the best one-to-one assignment of clusters to classes.

    Clusters that are left without a class count as errors, so it does not rise with their number.
    """
    counts = contingency(classes, clusters)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / counts.sum())


def purity(classes: ArrayLike, clusters: ArrayLike) -> float:
    """Share of samples in the majority of their cluster. It rises with the number of clusters: report both."""
    counts = contingency(classes, clusters)
    return float(counts.max(axis=0).sum() / counts.sum())


def conditional_entropies(classes: ArrayLike, clusters: ArrayLike) -> tuple[float, float]:
    """The two terms of the variation of information, in nats.

    Returns:
        H(clusters | classes), which over-segmentation raises, and H(classes | clusters), which mixing raises.
    """
    counts = contingency(classes, clusters)
    joint = _entropy(counts)
    over, under = joint - _entropy(counts.sum(axis=1)), joint - _entropy(counts.sum(axis=0))
    return max(over, 0.0), max(under, 0.0)


def variation_of_information(classes: ArrayLike, clusters: ArrayLike) -> float:
    """H(classes | clusters) + H(clusters | classes), in nats; 0 for equal partitions, lower is better."""
    return sum(conditional_entropies(classes, clusters))


def pair_scores(classes: ArrayLike, clusters: ArrayLike) -> PairScores:
    """Precision, recall and F1 of "same cluster" as a statement of "same class", over all pairs; 1 if none is made."""
    counts = contingency(classes, clusters)
    both, same_cluster, same_class = (_pairs(n) for n in (counts, counts.sum(axis=0), counts.sum(axis=1)))
    precision = both / same_cluster if same_cluster else 1.0
    recall = both / same_class if same_class else 1.0
    return PairScores(precision, recall, 2 * both / (same_cluster + same_class) if same_cluster + same_class else 1.0)


def agreement(classes: ArrayLike, clusters: ArrayLike) -> Agreement:
    """All of the above, and normalised mutual information (arithmetic mean) and adjusted Rand index of scikit-learn."""
    truth, found = np.asarray(classes).reshape(-1), np.asarray(clusters).reshape(-1)
    over, under = conditional_entropies(truth, found)
    return Agreement(
        accuracy=clustering_accuracy(truth, found),
        purity=purity(truth, found),
        nmi=float(normalized_mutual_info_score(truth, found)),
        ari=float(adjusted_rand_score(truth, found)),
        vi=over + under,
        over_segmentation=over,
        under_segmentation=under,
        pair_precision=(pairs := pair_scores(truth, found)).precision,
        pair_recall=pairs.recall,
        pair_f1=pairs.f1,
        clusters=len(np.unique(found)),
    )


def kmeans(
    x: ArrayLike, clusters: int, *, starts: int = 10, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """K-means with k-means++ starts, by scikit-learn.

    Args:
        x: shape ``(N, D)``.
        clusters: number of clusters; N where there are fewer samples.
        starts: number of starts, of which the best counts.
        seed: of the starts.

    Returns:
        Cluster of each sample ``(N,)``, and centres ``(clusters, D)``.
    """
    points = np.asarray(x, dtype=np.float64)
    fitted = KMeans(min(clusters, len(points)), n_init=starts, random_state=seed).fit(points)
    return fitted.labels_.astype(np.int64), fitted.cluster_centers_


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _pairs(counts: NDArray[np.int64]) -> int:
    return int((counts * (counts - 1) // 2).sum())
