"""Spectra against NumPy; LID and Mahalanobis against loops and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance

from functional.adversarial_features import (
    ClassMoments,
    class_gaussians,
    class_moments,
    local_intrinsic_dimension,
    magnitude_spectrum,
    mahalanobis_score,
    phase_spectrum,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_spectra_equal_numpy(height, width, seed):
    maps = np.random.default_rng(seed).normal(size=(2, 3, height, width))
    expected = np.fft.fft2(maps)
    for spectrum, of in ((magnitude_spectrum, np.abs), (phase_spectrum, lambda f: np.abs(np.angle(f)))):
        values = spectrum(torch.from_numpy(maps))
        assert values.shape == (2, 3 * height * width)
        np.testing.assert_allclose(values.numpy(), of(expected).reshape(2, -1), atol=1e-9)


def test_single_precision_equals_numpy_to_five_digits():
    maps = np.random.default_rng(0).random((4, 3, 32, 32), np.float32)
    expected = np.fft.fft2(maps.astype(np.float64)).reshape(4, -1)
    magnitude = magnitude_spectrum(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(magnitude, np.abs(expected), rtol=1e-5, atol=1e-4)  # of values up to 500
    phase = phase_spectrum(torch.from_numpy(maps)).numpy()
    # An angle is as sharp as its vector is long.
    apart = np.abs(phase - np.abs(np.angle(expected))) * np.minimum(np.abs(expected), 1)
    assert apart.max() < 2e-5


def test_phase_of_nothing_is_zero_and_has_a_gradient():
    maps = torch.zeros(1, 2, 8, 8, requires_grad=True)
    phase = phase_spectrum(-maps)
    assert (phase == 0).all()
    phase.sum().backward()
    assert maps.grad.isfinite().all()
    magnitude_spectrum(maps).sum().backward()
    assert maps.grad.isfinite().all()


def test_spectra_are_differentiable():
    maps = torch.randn(1, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for spectrum in (magnitude_spectrum, phase_spectrum):
        assert torch.autograd.gradcheck(lambda x, f=spectrum: f(x, own_maximum=True), maps.requires_grad_())


def test_own_maximum_makes_the_largest_value_one():
    spectrum = magnitude_spectrum(torch.rand(3, 2, 8, 8) * torch.tensor([1.0, 5.0, 0.0])[:, None, None, None], True)
    assert spectrum.amax(dim=1).tolist() == [1, 1, 0]


def test_spectra_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(8, 8\)"):
        magnitude_spectrum(torch.zeros(8, 8))


def test_dimension_equals_a_direct_implementation():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(100, 3, 4))
    samples = np.concatenate([reference[:20], rng.normal(size=(10, 3, 4))])
    values = local_intrinsic_dimension(torch.from_numpy(samples), torch.from_numpy(reference), 20)
    for sample, value in zip(samples, values.tolist(), strict=True):
        distances = sorted(float(np.linalg.norm(sample - other)) for other in reference)[1:21]
        assert value == pytest.approx(-1 / np.mean([np.log(r / distances[-1]) for r in distances]), rel=1e-9)


def test_dimension_of_a_plane_is_two():
    generator = torch.Generator().manual_seed(0)
    plane = torch.rand(20_000, 2, generator=generator, dtype=torch.float64) @ torch.randn(
        2, 30, generator=generator, dtype=torch.float64
    )
    assert local_intrinsic_dimension(plane[:200], plane, 100).mean() == pytest.approx(2, abs=0.1)


def test_dimension_sees_a_source_as_close_as_an_attack_leaves_it():
    """The usual |x|^2 + |y|^2 - 2xy would lose the nearest distance in rounding."""
    generator = torch.Generator().manual_seed(0)
    reference = 10 + torch.rand(50, 16384, generator=generator)
    near = reference[:1] + 1e-5
    single = local_intrinsic_dimension(near, reference, 5, skip=0)
    double = local_intrinsic_dimension(near.double(), reference.double(), 5, skip=0)
    assert single.item() == pytest.approx(double.item(), rel=1e-3)


def test_dimension_stays_finite_where_activations_coincide():
    values = local_intrinsic_dimension(torch.zeros(2, 8), torch.zeros(30, 8), 5)
    assert values.tolist() == [1e4, 1e4]


def test_dimension_refuses_too_few_neighbours():
    with pytest.raises(ValueError, match="20 neighbours after the nearest 1 cannot be found among 20"):
        local_intrinsic_dimension(torch.zeros(1, 2), torch.zeros(20, 2), 20)


def test_gaussians_equal_scikit_learn():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(90, 5)) @ rng.normal(size=(5, 5)), np.arange(90) % 3
    moments = [
        class_moments(torch.from_numpy(features[part]), torch.from_numpy(labels[part]), 3)
        for part in (slice(0, 40), slice(40, 90))
    ]
    means, precision = class_gaussians(ClassMoments(*(a + b for a, b in zip(*moments, strict=True))))
    centres = np.stack([features[labels == label].mean(axis=0) for label in range(3)])
    reference = EmpiricalCovariance(assume_centered=True).fit(features - centres[labels])
    np.testing.assert_allclose(means, centres, atol=1e-12)
    np.testing.assert_allclose(precision, reference.precision_, rtol=1e-8, atol=1e-10)
    score = mahalanobis_score(torch.from_numpy(features), class_gaussians(moments[0]))
    single = class_gaussians(moments[0])
    for row, value in zip(features[:10], score.tolist(), strict=False):
        direct = [-0.5 * (row - mean) @ single.precision.numpy() @ (row - mean) for mean in single.means.numpy()]
        assert value == pytest.approx(max(direct), rel=1e-10)


def test_dead_channels_do_not_count():
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    dead = torch.cat([features, torch.zeros(50, 2)], dim=1)
    labels = torch.arange(50) % 2
    scores = [mahalanobis_score(x, class_gaussians(class_moments(x, labels, 2))) for x in (features, dead)]
    torch.testing.assert_close(scores[0], scores[1])


def test_gaussians_refuse_an_empty_class():
    with pytest.raises(ValueError, match="no samples of class 2"):
        class_gaussians(class_moments(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]), 3))


@pytest.mark.gpu
def test_features_on_a_gpu_equal_those_on_the_cpu():
    maps = torch.rand(4, 3, 16, 16)
    for spectrum in (magnitude_spectrum, phase_spectrum):
        torch.testing.assert_close(spectrum(maps.cuda()).cpu(), spectrum(maps), rtol=1e-4, atol=1e-3)


def test_empty_batches_and_mistakes():
    assert magnitude_spectrum(torch.zeros(0, 3, 6, 5)).shape == (0, 90)
    with pytest.raises(ValueError, match="skip=-1 must not be negative"):
        local_intrinsic_dimension(torch.zeros(1, 2), torch.zeros(9, 2), 3, skip=-1)
    with pytest.raises(ValueError, match="Labels lie between 0 and 3; with 3 classes they are 0 to 2"):
        class_moments(torch.zeros(4, 2), torch.arange(4), 3)
