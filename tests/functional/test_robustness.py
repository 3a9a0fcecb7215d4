"""Robustness indicators against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ncx2

from functional.robustness import (
    cosine_geometry,
    distance_histograms,
    indicator_intervals,
    kmeans_clusters,
    multicut_clusters,
    robustness_indicators,
)


def clusters(distance, count=400, dimension=2, seed=0):
    """Two Gaussians of unit variance whose means are ``distance`` apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(size=(count, dimension))
    x[:, 0] += distance * labels
    return torch.from_numpy(x).float(), labels


def separate(count=200, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return torch.from_numpy(np.eye(8)[labels] + 0.01 * rng.normal(size=(count, 8))).float(), labels


@pytest.mark.parametrize("distance", [0.0, 1.5, 3.0])
def test_overlap_of_gaussians_is_that_of_their_distances(distance):
    # Half the squared distance is chi2_2 within a class, and non-central with (distance^2) / 2 between two.
    x, labels = clusters(distance, count=3000)
    found = distance_histograms(x, labels)
    within = np.diff(ncx2.cdf(found.edges, 2, 0))
    between = np.diff(ncx2.cdf(found.edges, 2, max(distance**2 / 2, 1e-9)))
    assert found.overlap == pytest.approx(np.minimum(within, between).sum(), abs=0.02)
    assert found.within.sum() == pytest.approx(1)
    assert found.between.sum() == pytest.approx(1)


def test_histograms_are_those_of_numpy():
    x, labels = separate(60)
    x = cosine_geometry(x)
    full = 1 - x.double().numpy() @ x.double().numpy().T
    first, second = np.triu_indices(60, 1)
    distances, same = full[first, second], labels[first] == labels[second]
    found = distance_histograms(x, labels, bins=10)
    for part, shares in ((same, found.within), (~same, found.between)):
        counts = np.histogram(distances[part], found.edges)[0] / part.sum()
        assert np.abs(counts - shares).max() < 0.02


def test_ends_of_the_scale():
    good = robustness_indicators(*separate())
    assert good["overlap"] == 0
    assert all(good[f"{name}_{kind}"] == 1 for name in ("kmeans", "multicut") for kind in ("accuracy", "purity"))
    assert good["kmeans_combined"] == 1
    assert good["multicut_clusters"] == 1
    noise = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    bad = robustness_indicators(noise, np.arange(600) % 5)
    assert bad["overlap"] > 0.95
    assert bad["kmeans_accuracy"] < 0.3
    assert bad["kmeans_combined"] < 0.02


def test_kmeans_accuracy_is_that_of_the_best_line():
    x, labels = clusters(3.0, count=4000)
    found = robustness_indicators(x, labels, ("kmeans",), normalize=False)
    assert found["kmeans_accuracy"] == pytest.approx(0.9332, abs=0.015)  # Phi(1.5)


def test_invariances():
    x, labels = clusters(2.0, count=300, dimension=6)
    reference = robustness_indicators(x, labels, starts=3)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    for changed in (x @ turn, 3 * x):
        found = robustness_indicators(changed, labels, starts=3)
        assert all(found[name] == pytest.approx(reference[name], abs=0.02) for name in reference)
    renamed = robustness_indicators(x, 7 - labels, starts=3)
    assert all(renamed[name] == pytest.approx(reference[name], abs=1e-9) for name in reference)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    permuted = robustness_indicators(x[order], labels[order.numpy()], ("kmeans",), starts=10)
    assert permuted["overlap"] == pytest.approx(reference["overlap"], abs=1e-6)
    assert permuted["kmeans_accuracy"] == pytest.approx(reference["kmeans_accuracy"], abs=0.03)


def test_large_sets_are_fitted_on_a_part():
    x, labels = separate(300)
    found = kmeans_clusters(x, 5, most=100)
    assert len(found) == 300
    assert all(len(np.unique(found[labels == label])) == 1 for label in range(5))
    rows, cut = multicut_clusters(cosine_geometry(x), labels, most_nodes=50)
    assert len(rows) == len(cut) == 50
    assert len(np.unique(cut)) == 5


def test_intervals_hold_the_value_and_shrink():
    x, labels = clusters(2.0, count=400, dimension=6)
    few, many = (indicator_intervals(x[:n], labels[:n], resamples=20) for n in (60, 400))
    value = robustness_indicators(x, labels, ("kmeans",))["overlap"]
    assert many["overlap"][0] - 0.03 < value < many["overlap"][1] + 0.03
    assert many["overlap"][1] - many["overlap"][0] < few["overlap"][1] - few["overlap"][0]


def test_refusals():
    x, labels = separate(20)
    with pytest.raises(ValueError, match="one label each"):
        robustness_indicators(x, labels[:-1])
    with pytest.raises(ValueError, match="dbscan"):
        robustness_indicators(x, labels, ("dbscan",))
    with pytest.raises(ValueError, match="no pairs"):
        distance_histograms(x, np.zeros(20, int))
    with pytest.raises(ValueError, match="finite"):
        robustness_indicators(x * float("nan"), labels)
    with pytest.raises(ValueError, match="resamples=1"):
        indicator_intervals(x, labels, resamples=1)
