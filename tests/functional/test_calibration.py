"""Temperatures against their definition and scikit-learn; delivery variants against Pillow and torchvision."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torchvision.transforms.functional import center_crop

from functional.calibration import (
    DELIVERY_FACTORS,
    DELIVERY_QUALITIES,
    cross_fitted_temperatures,
    delivery_variants,
    fit_temperature,
)


def drawn(count, temperature, seed=0):
    """Scores, and labels that ``sigmoid(score / temperature)`` draws."""
    generator = torch.Generator().manual_seed(seed)
    scores = 6 * torch.randn(count, generator=generator)
    labels = torch.rand(count, generator=generator) < torch.sigmoid(scores / temperature)
    return scores, labels.long()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 5.0])
def test_planted_temperature_is_recovered(temperature):
    assert fit_temperature(*drawn(200_000, temperature)) == pytest.approx(temperature, rel=0.02)


def test_it_is_logistic_regression_without_intercept():
    scores, labels = drawn(500, 3.0)
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(scores[:, None], labels)
    assert fit_temperature(scores.double(), labels) == pytest.approx(1 / reference.coef_.item(), rel=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(0, 1)), min_size=2, max_size=30))
def test_no_other_temperature_within_the_bounds_is_likelier(pairs):
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float64)
    labels = torch.tensor([0, 1, *(label for _, label in pairs[2:])])
    best = fit_temperature(scores, labels)
    assert 0.01 <= best <= 100

    def loss(temperature):
        return F.binary_cross_entropy_with_logits(scores / temperature, labels.double())

    others = torch.logspace(-2, 2, 81, dtype=torch.float64)
    assert loss(best) <= min(loss(other) for other in others) + 1e-9


def test_limits_and_types():
    labels = torch.tensor([0, 0, 1, 1])
    separable = torch.tensor([-3.0, -1, 2, 30])
    assert fit_temperature(separable, labels) == pytest.approx(0.01)
    assert fit_temperature(-separable, labels) == pytest.approx(100)
    assert fit_temperature(torch.zeros(4), labels) == 1
    assert fit_temperature(separable.bfloat16(), labels).dtype == torch.float32
    assert fit_temperature(separable.double(), labels.float()).dtype == torch.float64


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], r"must contain 0 and 1 and nothing else, got \[1\]"),
        ([1.0, 2.0, 3.0], [0, 1, 2], r"got \[0, 1, 2\]"),
        ([1.0, float("nan")], [0, 1], "1 of 2 are not"),
        ([1.0, 2.0], [0, 1, 1], r"got \(2,\) and \(3,\)"),
        ([], [], r"got \[\]"),
    ],
)
def test_bad_input_is_refused(scores, labels, message):
    for function in (fit_temperature, cross_fitted_temperatures):
        with pytest.raises(ValueError, match=message):
            function(torch.tensor(scores), torch.tensor(labels))


def test_cross_fitting_uses_the_other_half_only():
    scores, labels = drawn(301, 2.0)
    temperatures = cross_fitted_temperatures(scores, labels)
    first, second = temperatures.unique()
    for own, other in ((first, second), (second, first)):
        half = temperatures == own
        assert fit_temperature(scores[~half], labels[~half]) == own != other
        for label in (0, 1):  # equal shares of each class
            assert abs((half & (labels == label)).sum() - (labels == label).sum() / 2) <= 0.5
    # Halves that were neighbours in score would be copies of each other, and judge nothing.
    ordered = (temperatures == first)[scores.argsort()]
    assert 0.3 < (ordered[1:] == ordered[:-1]).double().mean() < 0.7


def test_the_order_of_the_scores_does_not_matter():
    scores, labels = drawn(400, 2.0)
    scores = scores.round()  # with ties within and between classes
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fit_temperature(scores[order], labels[order]), fit_temperature(scores, labels))
    for score in scores.unique():
        for label in (0, 1):
            same = (scores == score) & (labels == label)
            here = cross_fitted_temperatures(scores, labels)[same].sort().values
            there = cross_fitted_temperatures(scores[order], labels[order])[same[order]].sort().values
            torch.testing.assert_close(here, there)


def test_cross_fitting_needs_two_of_each_class():
    assert cross_fitted_temperatures(torch.tensor([1.0, 2, 3]), torch.tensor([0, 1, 1])).isnan().all()


def pictures(height=48, width=64):
    """Two smooth pictures of eight bits."""
    coarse = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).round() / 255


def test_recompressed_variants_are_those_of_pillow():
    images = pictures()
    for quality, variant in zip(DELIVERY_QUALITIES, delivery_variants(images, factors=()), strict=True):
        for image, got in zip(images, variant, strict=True):
            file = io.BytesIO()
            Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
            assert (np.asarray(Image.open(file)) == (got * 255).round().byte().permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("factor", DELIVERY_FACTORS)
def test_rescaled_variants_are_resized_once_and_cropped_or_reflected(factor):
    images = pictures()
    (variant,) = delivery_variants(images, qualities=(), factors=(factor,))
    size = round(48 * factor), round(64 * factor)
    resized = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    if factor > 1:
        expected = center_crop(resized, [48, 64])
    else:
        down, right = (48 - size[0]) // 2, (64 - size[1]) // 2
        expected = F.pad(resized, (right, 64 - size[1] - right, down, 48 - size[0] - down), mode="reflect")
    assert variant.shape == images.shape
    assert (variant - expected).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close(variant * 255, (variant * 255).round())


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 31)])
@pytest.mark.parametrize("factor", [0.05, 0.3, 1.0, 3.7])
def test_any_size_and_factor_comes_back(size, factor):
    images = pictures(*size)
    (variant,) = delivery_variants(images, qualities=(), factors=(factor,))
    assert variant.shape == images.shape
    if factor == 1:
        torch.testing.assert_close(variant, images)


def test_variants_keep_the_type_and_refuse_bad_factors():
    variants = list(delivery_variants(pictures().bfloat16()))
    assert len(variants) == len(DELIVERY_QUALITIES) + len(DELIVERY_FACTORS)
    assert {variant.dtype for variant in variants} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"factors=\(0,\): a picture is rescaled by a positive factor"):
        next(delivery_variants(pictures(), factors=(0,)))
