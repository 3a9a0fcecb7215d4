"""AUROC and its interval: against scikit-learn and the sampling distribution."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from functional.leakage import auroc, auroc_interval


def test_equals_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 8, 60).astype(float), rng.integers(0, 2, 60)
        weights = rng.integers(0, 4, (3, 60)).astype(float)
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
        expected = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
        np.testing.assert_allclose(auroc(scores, labels, weights), expected)


def test_a_label_without_weight_has_no_auroc():
    assert np.isnan(auroc(np.arange(4.0), np.array([0, 0, 1, 1]), np.array([1.0, 1, 0, 0])))


def test_interval_covers_the_truth_as_often_as_it_says():
    """Two normals one deviation apart have an AUROC of Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    hits = 0
    for trial in range(200):
        interval = auroc_interval(rng.normal(size=120) + labels, labels, resamples=200, seed=trial)
        hits += interval.low <= 0.7602 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_groups_widen_the_interval():
    rng = np.random.default_rng(2)
    labels = np.tile(np.repeat([0, 1], 10), 8)
    groups = np.repeat(np.arange(16), 10)
    scores = labels + rng.normal(size=16)[groups]  # images of a group are alike
    alone, grouped = auroc_interval(scores, labels), auroc_interval(scores, labels, groups)
    assert alone.value == grouped.value
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_certainty_keeps_a_margin():
    labels = np.repeat([0, 1], 30)
    assert auroc_interval(labels.astype(float), labels) == (1.0, 0.9, 1.0)
    assert auroc_interval(1.0 - labels, labels) == (0.0, 0.0, 0.1)
    assert auroc_interval(np.ones(60), labels) == (0.5, 0.5, 0.5)


def test_one_label_is_refused():
    with pytest.raises(ValueError, match="both labels"):
        auroc_interval(np.ones(4), np.ones(4, dtype=int))
