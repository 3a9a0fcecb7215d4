"""Agreement of clusterings: fixed tables, scikit-learn, properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, pair_confusion_matrix

from functional.clustering import (
    agreement,
    clustering_accuracy,
    conditional_entropies,
    contingency,
    kmeans,
    pair_scores,
    purity,
    variation_of_information,
)

LABELS = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-2, 4), min_size=n, max_size=n) for _ in range(2)])
)


def test_fixed_table():
    truth, found = [0, 0, 1, 1], [0, 0, 0, 1]
    assert contingency(truth, found).tolist() == [[2, 0], [1, 1]]
    assert clustering_accuracy(truth, found) == purity(truth, found) == 0.75
    expected = 2 * entropy([0.5, 0.25, 0.25]) - entropy([0.5, 0.5]) - entropy([0.75, 0.25])
    assert variation_of_information(truth, found) == pytest.approx(expected)
    assert expected == pytest.approx(0.8240, abs=1e-4)
    over, under = conditional_entropies(truth, found)
    assert over == pytest.approx(0.5 * np.log(2))  # class 1 is split in halves
    assert under == pytest.approx(0.75 * entropy([2 / 3, 1 / 3]))
    # Pairs in one cluster: 3, of which 1 is of one class; pairs of one class: 2.
    assert pair_scores(truth, found) == pytest.approx((1 / 3, 1 / 2, 0.4))


def test_more_clusters_than_classes_count_as_errors():
    truth, found = [0] * 4 + [1] * 4, [0, 0, 0, 1, 2, 2, 3, 4]
    assert clustering_accuracy(truth, found) == 5 / 8
    assert purity(truth, found) == 1
    assert conditional_entropies(truth, found)[1] == 0
    assert clustering_accuracy(found, truth) == 5 / 8


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_figures_agree_with_definitions(labels):
    truth, found = map(np.array, labels)
    figures = agreement(truth, found)
    assert figures.ari == pytest.approx(adjusted_rand_score(truth, found))
    assert figures.nmi == pytest.approx(normalized_mutual_info_score(truth, found))
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(truth, found) // 2
    assert figures.pair_precision == pytest.approx(
        true_positive / (true_positive + false_positive) if true_positive + false_positive else 1
    )
    assert figures.pair_recall == pytest.approx(
        true_positive / (true_positive + false_negative) if true_positive + false_negative else 1
    )
    assert variation_of_information(truth, found) == pytest.approx(variation_of_information(found, truth))
    assert figures.vi == pytest.approx(figures.over_segmentation + figures.under_segmentation)
    classes, clusters = np.unique(truth), np.unique(found)
    assignments = itertools.permutations([*clusters, *[None] * len(classes)], len(classes))
    best = max(
        sum(((truth == i) & (found == j)).sum() for i, j in zip(classes, chosen, strict=True) if j is not None)
        for chosen in itertools.islice(assignments, 20_000)
    )
    assert figures.accuracy >= best / len(truth) - 1e-12
    if len(classes) + len(clusters) <= 7:  # all assignments were tried
        assert figures.accuracy == pytest.approx(best / len(truth))
    relabelled = agreement(3 - truth, np.array([7, 1, 5, 0, 9, 3, 2])[found + 2])
    assert relabelled == pytest.approx(figures)


def test_equal_partitions_are_perfect():
    figures = agreement([3, 3, 1, 2], [0, 0, 5, 6])
    assert figures == pytest.approx((1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 3))


def test_kmeans_finds_separate_clouds():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 25)
    x = np.eye(4)[truth] * 9 + rng.normal(size=(100, 4))
    labels, centres = kmeans(x, 4)
    assert clustering_accuracy(truth, labels) == 1
    np.testing.assert_allclose(centres, [x[labels == j].mean(0) for j in range(4)])
    assert len(kmeans(x[:3], 10)[1]) == 3


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="3 classes and 2 clusters"):
        purity([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match="0 classes and 0 clusters"):
        clustering_accuracy([], [])


def test_fractions_are_no_labels():
    with pytest.raises(ValueError, match=r"classes are whole numbers or names; 0\.5 is none"):
        clustering_accuracy([0.5, 1], [0, 1])
    assert clustering_accuracy(["a", "b"], [1.0, 0.0]) == 1
