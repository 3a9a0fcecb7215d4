"""Expected improvement against quadrature and finite differences, and the search in a box against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime, minimize
from scipy.stats import norm

from functional.box_search import maximise_in_box
from functional.expected_improvement import (
    expected_improvement,
    log_expected_improvement,
    log_probability_below,
)

CASES = [(0.3, 0.5), (-1.0, 0.2), (2.0, 0.7), (0.0, 1.0), (5.0, 1.0)]


@pytest.mark.parametrize(("mean", "deviation"), CASES)
def test_expected_improvement_is_the_mean_of_the_improvement(mean, deviation):
    best, xi = 0.1, 0.01
    expected, _ = (
        quad(lambda v: max(best - xi - v, 0) * norm.pdf(v, mean, deviation), mean - 9 * deviation, best - xi, limit=200)
        if best - xi > mean - 9 * deviation
        else (0.0, 0.0)
    )
    value = expected_improvement(np.array([mean]), np.array([deviation]), best, xi)[0][0]
    assert value == pytest.approx(expected, rel=1e-6)
    logarithm = log_expected_improvement(np.array([mean]), np.array([deviation]), best, xi)[0][0]
    assert logarithm == pytest.approx(np.log(expected), rel=1e-6)


@pytest.mark.parametrize("function", [expected_improvement, log_expected_improvement])
@pytest.mark.parametrize(("mean", "deviation"), [*CASES, (20.0, 1.0)])
def test_gradients_equal_finite_differences(function, mean, deviation):
    def value(point):
        return function(point[:1], point[1:], 0.1)[0][0]

    _, by_mean, by_deviation = function(np.array([mean]), np.array([deviation]), 0.1)
    numeric = approx_fprime(np.array([mean, deviation]), value, 1e-7)
    np.testing.assert_allclose([by_mean[0], by_deviation[0]], numeric, rtol=2e-4, atol=1e-6)


def test_gradient_of_the_probability_of_a_constraint():
    point = np.array([0.4, 0.3])
    value, by_mean, by_deviation = log_probability_below(point[:1], point[1:])
    assert value[0] == pytest.approx(norm.logcdf(0, 0.4, 0.3))
    numeric = approx_fprime(point, lambda p: log_probability_below(p[:1], p[1:])[0][0], 1e-7)
    np.testing.assert_allclose([by_mean[0], by_deviation[0]], numeric, rtol=1e-4)


def test_logarithm_is_finite_and_without_steps_far_from_the_best():
    z = -np.concatenate([np.linspace(0, 200, 4001), np.logspace(3, 8, 50)])
    value = log_expected_improvement(-z, np.ones_like(z), 0.0)[0]
    assert np.isfinite(value).all()
    assert (np.diff(value) < 0).all()
    for edge in (-1.0, -50.0):  # where one formula takes over from the next
        pair = log_expected_improvement(-np.array([edge - 1e-9, edge + 1e-9]), np.ones(2), 0.0)[0]
        assert pair[0] == pytest.approx(pair[1], rel=1e-9, abs=1e-7)


def test_no_deviation_leaves_the_certain_improvement():
    value = expected_improvement(np.array([0.0, 2.0]), np.zeros(2), 1.0)[0]
    np.testing.assert_allclose(value, [1.0, 0.0])


def test_search_finds_what_scipy_finds_from_each_start():
    rng = np.random.default_rng(0)
    centre = np.array([0.3, 1.4, 0.6, -0.2])  # two coordinates end at the wall
    shape = rng.normal(size=(4, 4))
    shape = shape @ shape.T + np.eye(4)
    calls = []

    def objective(x):
        calls.append(len(x))
        offset = x - centre
        return -np.einsum("bi,ij,bj->b", offset, shape, offset), -2 * offset @ shape

    starts = rng.random((6, 4))
    points, values = maximise_in_box(objective, starts, evaluations=100, tolerance=1e-9)
    reference = minimize(lambda p: -objective(p[None])[0][0], starts[0], bounds=[(0, 1)] * 4, tol=1e-12)
    np.testing.assert_allclose(values, -reference.fun, atol=1e-6)
    np.testing.assert_allclose(points, np.tile(reference.x, (6, 1)), atol=1e-3)


def test_search_leaves_fixed_coordinates_and_never_goes_down():
    def objective(x):
        return np.sin(9 * x).sum(axis=1), 9 * np.cos(9 * x)

    starts = np.random.default_rng(1).random((10, 3))
    points, values = maximise_in_box(objective, starts, movable=np.array([True, False, True]))
    assert np.array_equal(points[:, 1], starts[:, 1])
    assert (values >= objective(starts)[0]).all()
    assert ((points >= 0) & (points <= 1)).all()
    inner = (points[:, [0, 2]] > 0) & (points[:, [0, 2]] < 1)
    assert np.abs(np.cos(9 * points[:, [0, 2]])[inner]).max() < 1e-2
