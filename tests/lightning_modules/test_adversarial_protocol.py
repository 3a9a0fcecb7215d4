"""The experiments: metrics, no leak between parts, an attacker who knows the detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adversarial_data import striped_images, trained_victim
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from lightning_modules import AdversarialDetector
from lightning_modules.adversarial_protocol import (
    adaptive_rows,
    detection_metrics,
    fit_detector,
    pair_features,
    transfer_rows,
)
from lightning_modules.attacks import AdaptivePGD, Attack


@pytest.fixture(scope="module")
def victim():
    return trained_victim()


@pytest.fixture(scope="module")
def pairs(victim):
    """Images, those that FGSM has attacked, and classes."""
    images, labels = striped_images(130, 7)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
    return x, Attack("fgsm", 0.1).perturb(victim, x, y)[0], y


def parts(count, train=0.6):
    order = np.random.default_rng(0).permutation(count)
    first, second = int(train * count), int(0.8 * count)
    return {"train": order[:first], "val": order[first:second], "test": order[second:]}


def test_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.normal(size=200) + 0.3
    metrics = detection_metrics(torch.from_numpy(scores), torch.from_numpy(labels))
    assert metrics == pytest.approx(
        {
            "auroc": roc_auc_score(labels, scores),
            "accuracy": accuracy_score(labels, scores > 0),
            "tpr": recall_score(labels, scores > 0),
            "tnr": recall_score(labels, scores > 0, pos_label=0),
            "precision": precision_score(labels, scores > 0),
        }
    )
    nothing_found = detection_metrics(torch.tensor([-1.0, -2.0]), torch.tensor([0, 1]))
    assert np.isnan(nothing_found["precision"])


def test_features_of_pairs_do_not_depend_on_minibatches(victim, pairs):
    clean, attacked, _ = pairs
    detector = AdversarialDetector(victim, "layer_mfs").eval()
    features = pair_features(detector, clean, attacked)
    assert features.shape == (2, 130, detector.embed(clean[:1]).shape[1])
    with torch.no_grad():
        torch.testing.assert_close(features[1, 99:102], detector.embed(attacked[99:102]), rtol=1e-4, atol=1e-4)


def test_published_minibatch_is_made_of_the_clean_images(victim, pairs):
    """130 pairs make a minibatch of 100 and, filled up with images before it, another of 100."""
    clean, attacked, _ = pairs
    detector = AdversarialDetector(victim, "lid", neighbours=10).eval()
    published = pair_features(detector, clean, attacked, minibatch_reference=True)
    with torch.no_grad():
        first = detector.features(victim, attacked[:100], reference=clean[:100], skip=1)[1]
        last = detector.features(victim, attacked[100:], reference=clean[30:], skip=1)[1]
    torch.testing.assert_close(published[1], torch.cat([first, last]), rtol=1e-3, atol=1e-3)


def test_each_attack_is_trained_and_all_are_tested(victim, pairs):
    clean, attacked, _ = pairs
    detector = AdversarialDetector(victim, "input_mfs").eval()
    strong = pair_features(detector, clean, attacked)
    features = {"strong": strong, "none": torch.stack([strong[0], strong[0]])}
    rows = transfer_rows(detector, features, {name: parts(130) for name in features}, ["strong", "none"])
    assert [(row["trained_on"], row["tested_on"]) for row in rows] == [
        ("strong", "strong"),
        ("strong", "none"),
        ("none", "strong"),
        ("none", "none"),
    ]
    assert rows[0]["auroc"] > 0.95
    for row in (rows[1], rows[3]):
        assert row["auroc"] == pytest.approx(0.5), "the same images twice cannot be told apart"
    assert (rows[0]["trained"], rows[0]["tested"]) == (156, 52)


def test_informed_attacker_evades_more_often(victim, pairs):
    clean, attacked, labels = pairs
    detector = AdversarialDetector(victim, "input_mfs").eval()
    fit_detector(detector, pair_features(detector, clean, attacked), parts(130))
    assert detector.calibration.threshold != 0
    attack = AdaptivePGD(epsilon=0.1, steps=20)
    rows = adaptive_rows(detector, clean[:12], labels[:12], [0.0, 1.0], attack, batch_size=5)
    unaware, informed, best = rows
    assert informed["evaded"] > unaware["evaded"]
    assert best["success"] >= max(unaware["success"], informed["success"])
    again = adaptive_rows(detector, clean[:12], labels[:12], [1.0], attack, batch_size=5)
    assert again[0] == informed, "seeded"
