"""Which points lie in a basin that has been searched, on functions whose basins are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functional.basins import has_stalled, is_separated, searched, spread, uncrowded

GRID = np.linspace(0, 0.95, 20)[:, None]


def two_valleys(x):
    """Bottoms at 0.25 (value 0) and 0.75 (value 0.5), a hill at 0.5 (value 1)."""
    return (1 - np.where(x < 0.5, 1.0, 0.5) * np.sin(2 * np.pi * x) ** 2)[:, 0]


def gone(values, places=None, patience=5):
    """Searched points of the grid, with one evaluation each where nothing else is said."""
    order = np.argsort(two_valleys(GRID), kind="stable")
    points = GRID[order]
    places = np.arange(len(points)) if places is None else places
    found = searched(points, two_valleys(points), two_valleys, values, places, patience)
    return points[found, 0]


def test_stalled_means_no_improvement_worth_the_name():
    falling = np.linspace(1, 0, 30)
    assert not has_stalled(falling, 10, spread(falling))
    flat = np.append(falling, np.full(10, 0.4))
    assert has_stalled(flat, 10, spread(flat))
    assert not has_stalled(flat, 11, spread(flat))
    assert not has_stalled(np.zeros(10), 10, 0.0)
    assert has_stalled(np.zeros(11), 10, 0.0)
    digits = np.append(falling, -1e-5 * np.arange(10))  # better, but by nothing
    assert has_stalled(digits, 10, spread(digits))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 1000))
def test_uncrowded_points_are_apart_and_whoever_is_dropped_has_a_better_one_close_by(n, d, seed):
    rng = np.random.default_rng(seed)
    points = np.clip(0.5 + 0.05 * rng.standard_normal((n, d)), 0, 1)
    values = rng.random(n)
    rows = uncrowded(points, values)
    assert rows[0] == values.argmin()
    assert (np.diff(values[rows]) >= 0).all()
    reach = 0.02 * np.sqrt(d)
    distances = np.linalg.norm(points[:, None] - points[rows], axis=-1)
    assert (distances[rows] + np.eye(len(rows)) >= reach).all()
    for row in set(range(n)) - set(rows.tolist()):
        assert ((distances[row] < reach) & (values[rows] <= values[row])).any()


def test_a_hill_separates_and_a_slope_does_not():
    heights = two_valleys(GRID)
    apart = is_separated(two_valleys, GRID, np.array([0.25]), heights, 1e-3)
    np.testing.assert_array_equal(apart, GRID[:, 0] > 0.51)


def test_a_searched_basin_is_set_aside_and_the_next_is_left():
    values = np.concatenate([two_valleys(GRID), np.zeros(6)])  # six more at the first bottom, none of them better
    order = np.argsort(two_valleys(GRID), kind="stable")
    places = np.append(np.argsort(order), np.zeros(6, int))
    left = gone(values, places)
    np.testing.assert_allclose(left.max(), 0.5)
    assert len(left) == 11
    assert len(gone(values, places, patience=40)) == 0  # that was not enough
    second = int(np.flatnonzero(np.isclose(GRID[order, 0], 0.75))[0])
    both = np.append(values, np.full(12, 0.5)), np.append(places, np.full(12, second))
    assert len(gone(*both, patience=5)) == len(GRID)  # both searched


def test_a_basin_that_still_improves_is_not_set_aside():
    order = np.argsort(two_valleys(GRID), kind="stable")
    places = np.append(np.argsort(order), np.zeros(6, int))
    values = np.concatenate([two_valleys(GRID) + 0.5, np.linspace(0.4, 0, 6)])
    assert len(gone(values, places)) == 0


@pytest.mark.parametrize("patience", [1, 3])
def test_equal_values_end(patience):
    points = np.random.default_rng(0).random((12, 2))
    found = searched(points, np.zeros(12), lambda at: np.zeros(len(at)), np.zeros(12), np.arange(12), patience)
    assert found.all()  # one flat basin
