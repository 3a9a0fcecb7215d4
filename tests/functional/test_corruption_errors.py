"""mCE and correlations against written-out figures and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from functional.corruption_errors import (
    ALEXNET,
    association,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from functional.corruptions import BENCHMARK_CORRUPTIONS


def test_mce():
    errors = {"fog": [0.1, 0.3], "snow": [0.2, 0.6]}
    baseline = {"fog": [0.2, 0.6], "snow": [0.4, 0.4]}
    assert mean_corruption_error(errors) == pytest.approx(0.3)
    assert mean_corruption_error(errors, baseline) == pytest.approx((0.5 + 1.0) / 2)
    assert mean_corruption_error(baseline, baseline) == pytest.approx(1)
    assert relative_mean_corruption_error(errors, 0.1) == pytest.approx(0.2)
    found = relative_mean_corruption_error(errors, 0.1, baseline, 0.2)
    assert found == pytest.approx((0.1 / 0.2 + 0.3 / 0.2) / 2)


def test_alexnet_is_its_own_unit():
    assert set(ALEXNET) == set(BENCHMARK_CORRUPTIONS)
    assert mean_corruption_error({name: [error] for name, error in ALEXNET.items()}, ALEXNET) == pytest.approx(1)


def test_mce_refuses():
    with pytest.raises(ValueError, match="no errors"):
        mean_corruption_error({})
    with pytest.raises(ValueError, match="lacks snow"):
        mean_corruption_error({"snow": [0.1]}, {"fog": [0.2]})
    with pytest.raises(ValueError, match="loses nothing"):
        relative_mean_corruption_error({"fog": [0.1]}, 0.1, {"fog": [0.2]}, 0.2)


def test_association_is_scipys():
    rng = np.random.default_rng(0)
    control = rng.normal(size=20)
    x, y = control + rng.normal(size=20), control + rng.normal(size=20)
    found = association(x, y, control)
    assert found.pearson == pytest.approx(pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(spearmanr(x, y).statistic)
    assert found.r2 == pytest.approx(found.pearson**2)
    left = [values - np.polyval(np.polyfit(control, values, 1), control) for values in (x, y)]
    assert found.partial == pytest.approx(pearsonr(*left).statistic)
    assert found.r2_low < found.r2 < found.r2_high
    assert found.partial_low < found.partial < found.partial_high


def test_association_interval_covers():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(30):
        x = rng.normal(size=25)
        y = 0.7 * x + np.sqrt(1 - 0.49) * rng.normal(size=25)
        found = association(x, y, resamples=100, seed=seed)
        inside += found.r2_low <= 0.49 <= found.r2_high
    assert inside > 23


def test_association_refuses():
    with pytest.raises(ValueError, match="three models"):
        association([1, 2], [1, 2])
    with pytest.raises(ValueError, match="not finite"):
        association([1, 2, np.nan], [1, 2, 3])
    assert np.isnan(association([1, 1, 1], [1, 2, 3]).pearson)
