"""Distances by features against SciPy and closed forms, and a judge that leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lightning_modules import ImageClassifier
from lightning_modules.generation_quality import Judge, JudgedFeatures, generation_quality


def judged(count, seed, shift=0.0, classes=10):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator) + shift
    labels = torch.arange(count) % classes
    return JudgedFeatures(features, 100.0 * torch.nn.functional.one_hot(labels, classes))


def test_distances_are_named_and_those_of_scipy():
    real, fake, other = judged(400, 0), judged(300, 1, shift=0.5), judged(350, 2)
    found = generation_quality("tiny", real, fake, other.features)
    names = {"FID", "KID", "IS", "precision", "recall", "density", "coverage", "FID_floor"}
    assert found.keys() == {f"{name}[tiny,300]" for name in names} | {"distance"}

    def frechet(a, b):
        a, b = a.double().numpy(), b.double().numpy()
        covariances = np.cov(a.T), np.cov(b.T)
        mixed = sqrtm(covariances[0] @ covariances[1]).real
        apart = np.square(a.mean(0) - b.mean(0)).sum()
        return apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(mixed)

    assert found["FID[tiny,300]"] == pytest.approx(frechet(real.features, fake.features), rel=1e-5)
    assert found["FID_floor[tiny,300]"] == pytest.approx(frechet(real.features, other.features), rel=1e-4)
    assert found["FID_floor[tiny,300]"] < 0.2 * found["FID[tiny,300]"]
    assert found["distance"] == found["FID[tiny,300]"]
    assert found["KID[tiny,300]"] > 0


def test_inception_score_of_balanced_and_of_collapsed_samples():
    balanced = generation_quality("t", judged(2000, 0), judged(2000, 1))
    assert balanced["IS[t,2000]"] == pytest.approx(10, rel=0.06)  # splits are not balanced
    collapsed = judged(500, 1)._replace(logits=torch.full((500, 10), -1e4).index_fill(1, torch.tensor([3]), 1e4))
    assert generation_quality("t", judged(500, 0), collapsed)["IS[t,500]"] == pytest.approx(1, abs=1e-3)


def test_results_do_not_touch_the_random_stream():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = generation_quality("t", judged(50, 0), judged(50, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert generation_quality("t", judged(50, 0), judged(50, 1)) == first


def test_judge_gives_the_features_and_logits_of_its_classifier():
    classifier = ImageClassifier("small_cnn", num_classes=10, backbone_kwargs={"width": 4})
    judge = Judge(classifier, "small_cnn")
    x = torch.rand(3, 3, 32, 32)
    features, logits = judge(x)
    assert torch.equal(logits, classifier(x))
    assert torch.equal(features, classifier.embed(x))
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(judge(x.bfloat16().float()).logits, judge(x.bfloat16()).logits)
    with pytest.raises(ValueError, match="judge_name is empty"):
        Judge(classifier, " ")
