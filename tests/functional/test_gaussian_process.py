"""The growing Gaussian process against LAPACK, scikit-learn, finite differences and itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from functional.gaussian_process import GaussianProcess, Trend
from functional.gp_fit import (
    Hyperparameters,
    fit_hyperparameters,
    log_posterior,
    prior_hyperparameters,
    subsample,
)
from functional.growing_cholesky import GrowingCholesky
from functional.matern import matern

SCALES = np.array([0.3, 0.8, 0.5])


def data(n=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    return x, np.sin(5 * x[:, :1]) + x[:, 1:2] ** 2


def test_factor_equals_lapack_after_a_thousand_appends_with_everything_in_between():
    rng = np.random.default_rng(0)
    x = rng.random((1000, 4))
    x[rng.integers(0, 1000, 100)] = x[rng.integers(0, 1000, 100)]  # duplicates
    noise, factor = 1e-6, GrowingCholesky()
    scale = np.full(4, 0.4)

    def covariance(a, b):
        return matern(a, b, scale)

    while factor.size < 1000:
        n = factor.size
        if n in (300, 700):  # a refit: other length scales, all rows anew in one block
            scale = scale * 1.2
            factor = GrowingCholesky()
            factor.append_block(np.empty((0, n)), covariance(x[:n], x[:n]) + noise * np.eye(n))
        step = int(rng.choice([1, 1, 1, 7, 30]))
        new = x[n : n + step]
        if rng.random() < 0.2:  # pending rows, and back
            pending = rng.random((3, 4))
            factor.append_block(covariance(x[:n], pending), covariance(pending, pending) + noise * np.eye(3))
            factor.truncate(n)
        if len(new) == 1:
            factor.append(covariance(x[:n], new)[:, 0], 1 + noise)
        else:
            factor.append_block(covariance(x[:n], new), covariance(new, new) + noise * np.eye(len(new)))
    expected = np.linalg.cholesky(covariance(x, x) + noise * np.eye(1000))
    assert np.abs(factor.dense() - expected).max() / np.abs(expected).max() < 1e-10
    product = factor.dense() @ factor.dense().T
    np.testing.assert_allclose(product, covariance(x, x) + noise * np.eye(1000), rtol=1e-12, atol=1e-13)
    assert factor.log_determinant() == pytest.approx(2 * np.log(np.diag(expected)).sum(), rel=1e-9)
    for width in (1, 5, 40):  # each way of solving
        right = rng.random((1000, width))
        np.testing.assert_allclose(expected @ factor.solve_lower(right), right, atol=1e-8)
        np.testing.assert_allclose(expected.T @ factor.solve_upper(right), right, atol=1e-8)


def test_duplicates_without_noise_get_jitter_row_by_row_and_in_a_block():
    point = np.full((3, 2), 0.5)
    factor = GrowingCholesky(1)
    for n in range(3):
        factor.append(np.ones(n), 1.0)
    block = GrowingCholesky(1)
    block.append_block(np.empty((0, 3)), matern(point, point, np.ones(2)))
    for made in (factor, block):
        assert (made.diagonal() > 0).all()
        np.testing.assert_allclose(made.dense() @ made.dense().T, np.ones((3, 3)), atol=1e-11)


def test_bad_rows_are_refused():
    factor = GrowingCholesky()
    with pytest.raises(ValueError, match="has 0 rows"):
        factor.append(np.ones(2), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        factor.append(np.empty(0), np.nan)
    with pytest.raises(ValueError, match="size=1"):
        factor.truncate(1)
    with pytest.raises(ValueError, match="not finite"):
        GaussianProcess(SCALES, 1e-6).append(np.zeros((1, 3)), np.array([[np.nan]]))
    with pytest.raises(ValueError, match="must be positive"):
        GaussianProcess(SCALES, 0.0)


def test_posterior_and_likelihood_equal_scikit_learn():
    x, y = data()
    process = GaussianProcess(SCALES, 1e-6)
    process.append(x[:25], y[:25])
    for row in range(25, 40):
        process.append(x[row : row + 1], y[row : row + 1])
    reference = GaussianProcessRegressor(Matern(SCALES, nu=2.5), alpha=1e-6, optimizer=None).fit(x, y[:, 0])
    points = np.random.default_rng(1).random((50, 3))
    mean, deviation = reference.predict(points, return_std=True)
    plain = Trend(np.zeros(1), np.ones(1))
    ours = process.posterior(points, plain)
    np.testing.assert_allclose(ours.mean[:, 0], mean, atol=1e-8)
    np.testing.assert_allclose(ours.deviation[:, 0] ** 2, deviation**2, atol=1e-8)
    assert process.log_likelihood(plain)[0] == pytest.approx(reference.log_marginal_likelihood_value_, rel=1e-9)
    np.testing.assert_allclose(process.fitted(plain)[:, 0], reference.predict(x), atol=1e-8)


def test_mean_and_amplitude_are_the_likeliest():
    x, y = data()
    process = GaussianProcess(SCALES, 1e-4)
    process.append(x, y)
    trend = process.trend()
    top = process.log_likelihood(trend)[0]
    for change in (-1e-3, 1e-3):
        assert process.log_likelihood(Trend(trend.mean + change, trend.amplitude))[0] < top
        assert process.log_likelihood(Trend(trend.mean, trend.amplitude * (1 + change)))[0] < top


def test_candidates_follow_appends_pending_rows_and_new_targets():
    x, y = data()
    candidates = np.random.default_rng(2).random((30, 3))
    process = GaussianProcess(SCALES, 1e-5, candidates=candidates)
    process.append(x[:20], y[:20])
    for row in range(20, 40):
        process.append(x[row : row + 1], y[row : row + 1])
    before = process.candidate_posterior()
    for ours, expected in zip(before, process.predict(candidates), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-9)
    process.append_pending(np.array([[0.1, 0.2, 0.3], [0.9, 0.5, 0.5]]))
    for ours, expected in zip(process.candidate_posterior(), process.predict(candidates), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-9)
    np.testing.assert_allclose(process.candidate_posterior()[0], before[0], atol=1e-9)  # believed: the mean stays
    assert (process.candidate_posterior()[1] <= before[1] + 1e-12).all()
    assert len(process) == 42
    process.forget_pending()
    for ours, expected in zip(process.candidate_posterior(), before, strict=True):
        assert np.array_equal(ours, expected)
    process.replace_targets(2 * y + 3)
    np.testing.assert_allclose(process.candidate_posterior()[0], 2 * before[0] + 3, atol=1e-8)


def test_a_second_output_is_as_if_it_were_alone():
    x, y = data()
    both = GaussianProcess(SCALES, 1e-5, outputs=2)
    both.append(x, np.column_stack([y, np.cos(y)]))
    alone = GaussianProcess(SCALES, 1e-5)
    alone.append(x, np.cos(y))
    point = np.full((1, 3), 0.37)
    for ours, expected in zip(both.posterior(point), alone.posterior(point), strict=True):
        np.testing.assert_allclose(ours[:, 1:], expected, rtol=1e-9)


def test_gradients_of_the_posterior_equal_finite_differences():
    x, y = data()
    process = GaussianProcess(SCALES, 1e-5)
    process.append(x, y)
    point = np.array([0.31, 0.62, 0.48])
    found = process.posterior(point[None])
    for index, gradient in ((0, found.mean_gradient), (1, found.deviation_gradient)):
        numeric = approx_fprime(point, lambda p, i=index: process.predict(p[None])[i][0, 0], 1e-6)
        np.testing.assert_allclose(gradient[0, 0], numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_gradient_of_the_fit_equals_finite_differences_and_its_value_the_likelihood(count):
    x, y = data()
    parameters = np.log(np.array([*[0.4, 0.7, 0.3][:count], 1e-3]))
    value, gradient = log_posterior(x, y[:, 0], parameters)
    numeric = approx_fprime(parameters, lambda p: log_posterior(x, y[:, 0], p)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-3)
    process = GaussianProcess(np.broadcast_to(np.exp(parameters[:-1]), 3), 1e-3)
    process.append(x, y)
    squared = np.exp(2 * parameters[:-1])
    prior = -0.1 * (squared + 1 / squared).sum() - 0.5 * ((np.log(1e-3) - np.log(1e-6)) / 2) ** 2
    assert value - prior == pytest.approx(process.log_likelihood()[0], rel=1e-9)


def test_fit_tells_dimensions_that_matter_from_those_that_do_not():
    rng = np.random.default_rng(0)
    x = rng.random((80, 3))
    fitted = fit_hyperparameters(x, np.sin(8 * x[:, 0]), prior_hyperparameters(3))
    assert fitted.length_scales[0] < 0.5 * fitted.length_scales[1:].min()
    together = fit_hyperparameters(x, np.sin(8 * x[:, 0]), prior_hyperparameters(3), isotropic=True)
    assert np.ptp(together.length_scales) == 0
    noisy = fit_hyperparameters(x, np.sin(8 * x[:, 0]) + 0.3 * rng.normal(size=80), prior_hyperparameters(3))
    assert noisy.noise > 100 * fitted.noise
    start = Hyperparameters(np.full(3, 0.7), 1e-4)
    assert fit_hyperparameters(x, np.ones(80), start) is start


def test_subsample_holds_the_best_half_and_is_bounded():
    values = np.random.default_rng(0).random(500)
    rows = subsample(values, 100, seed=1)
    assert len(set(rows)) == 100
    assert set(np.argsort(values)[:50]) <= set(rows)
    assert np.array_equal(rows, subsample(values, 100, seed=1))
    assert np.array_equal(subsample(values[:80], 100, seed=1), np.arange(80))
