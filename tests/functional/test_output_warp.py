"""The logarithmic scale of values: an increasing map with an inverse, chosen where the likelihood asks for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from functional.gp_fit import prior_hyperparameters
from functional.matern import matern
from functional.output_warp import IDENTITY, Warp, fit_warped


def gaussian(seed, n=50, d=2):
    """Points, and values drawn from a Gaussian process with known length scales."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    covariance = matern(x, x, np.full(d, 0.4)) + 1e-6 * np.eye(n)
    return x, np.linalg.cholesky(covariance) @ rng.standard_normal(n)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_likelihood_keeps_gaussian_values_and_takes_the_logarithm_of_their_exponentials(seed):
    x, y = gaussian(seed)
    start = prior_hyperparameters(2)
    fitted, warp = fit_warped(x, y, start)
    assert warp == IDENTITY
    logarithmic, warp = fit_warped(x, np.exp(3 * y), start)
    assert np.isfinite(warp.offset)
    assert warp.floor == np.exp(3 * y).min()
    ratio = logarithmic.length_scales / fitted.length_scales  # those of what was drawn
    assert ((ratio > 0.4) & (ratio < 2.5)).all()


def test_scale_and_shift_of_the_values_change_nothing():
    x, y = gaussian(0)
    one, warp = fit_warped(x, np.exp(3 * y), prior_hyperparameters(2))
    two, other = fit_warped(x, 1000 * np.exp(3 * y) - 7, prior_hyperparameters(2))
    np.testing.assert_allclose(two.length_scales, one.length_scales, rtol=1e-2)
    assert other.offset == pytest.approx(1000 * warp.offset)
    assert other.floor == pytest.approx(1000 * warp.floor - 7)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.floats(-10, 10),
    st.floats(1e-3, 1e3) | st.just(float("inf")),
)
def test_it_is_increasing_and_has_an_inverse_also_below_its_floor(values, floor, offset):
    warp = Warp(floor, offset)
    ordered = np.unique(np.round(values, 3))
    warped = warp.apply(ordered)
    assert (np.diff(warped) > 0).all()
    assert warped.argmin() == ordered.argmin()  # the best stays the best
    np.testing.assert_allclose(warp.invert(warped), ordered, rtol=1e-6, atol=1e-6 * max(1.0, abs(floor)))


def test_the_slope_is_the_derivative_and_continuous_at_the_floor():
    warp = Warp(2.0, 0.3)
    for value in (0.0, 1.9, 2.1, 40.0):
        numeric = approx_fprime(np.array([value]), lambda v: warp.apply(v)[0], 1e-7)[0]
        assert np.exp(warp.log_slope(np.array([value])))[0] == pytest.approx(numeric, rel=1e-5)
    below, above = np.exp(warp.log_slope(np.array([2 - 1e-9, 2 + 1e-9])))
    assert below == pytest.approx(above)


def test_few_or_equal_values_are_left_as_they_are():
    x = np.random.default_rng(0).random((6, 2))
    start = prior_hyperparameters(2)
    assert fit_warped(x, np.ones(6), start) == (start, IDENTITY)
    assert fit_warped(x[:3], np.array([1.0, 2.0, 9.0]), start)[1] == IDENTITY
