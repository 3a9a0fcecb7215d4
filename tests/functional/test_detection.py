"""Thresholds against their definition; cross-generator means against the published tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from functional.detection import cross_generator_summary, threshold_at_fpr, unsure_band

TRAINED = ["SD1.5", "SD1.4", "Wukong"]
TESTED = ["MJ", "SD1.5", "SD1.4", "Wukong", "VQDM", "ADM", "GLIDE", "BigGAN"]
# Grommelt et al. 2024: constrained minus raw, in points.
RESNET50 = [
    [9.53, -1.79, -1.91, -5.99, 18.31, 23.89, 10.62, 41.29],
    [11.75, -1.95, -2.12, -6.77, 15.76, 24.50, 15.15, 40.58],
    [8.31, -1.92, -1.96, -2.47, 11.21, 15.02, 11.58, 34.82],
]
SWIN_T = [
    [13.53, -2.38, -2.11, -1.58, 16.33, 27.78, 15.47, 27.01],
    [10.92, -1.84, -1.78, -3.58, 16.57, 30.78, 10.42, 33.47],
    [13.76, -2.15, -1.94, -2.29, 10.88, 25.93, 15.63, 32.91],
]


@pytest.mark.parametrize(
    ("gains", "mean", "without_own", "rows"),
    [(RESNET50, 11.06, 12.94, [11.74, 12.11, 9.32]), (SWIN_T, 11.74, 13.72, [11.76, 11.87, 11.59])],
)
def test_gains_of_the_paper(gains, mean, without_own, rows):
    summary = cross_generator_summary(np.array(gains), TRAINED, TESTED)
    assert summary.mean == pytest.approx(mean, abs=0.005)
    assert summary.mean_without_own == pytest.approx(without_own, abs=0.006)
    assert summary.row_means == pytest.approx(rows, abs=0.006)


def test_unmeasured_cells_are_left_out():
    summary = cross_generator_summary(np.array([[1.0, np.nan], [3.0, 5.0]]), ["a", "b"], ["a", "b"])
    assert summary.mean == 3.0
    assert summary.mean_without_own == 3.0
    assert np.isnan(cross_generator_summary(np.array([[1.0]]), ["a"], ["a"]).mean_without_own)
    with pytest.raises(ValueError, match="does not fit"):
        cross_generator_summary(np.zeros((2, 2)), ["a"], ["a", "b"])


scores = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(scores, st.floats(0, 0.99))
def test_threshold_holds_the_rate_and_is_the_smallest(values, fpr):
    real = torch.tensor(values)
    threshold = threshold_at_fpr(real, fpr)
    assert (real > threshold).float().mean() <= fpr + 1e-6
    lower = real[real < threshold]
    if len(lower):  # the next lower score as a threshold would break the rate
        assert (real > lower.max()).double().mean() > fpr - 1e-6


@settings(max_examples=200, deadline=None)
@given(scores, scores, st.floats(0, 0.5))
def test_outside_the_band_both_error_rates_hold(reals, fakes, rate):
    values = torch.tensor(reals + fakes)
    labels = torch.tensor([0] * len(reals) + [1] * len(fakes))
    lower, upper = unsure_band(values, labels, rate)
    assert lower <= upper
    assert (torch.tensor(reals) > upper).double().mean() <= rate + 1e-6
    assert (torch.tensor(fakes) < lower).double().mean() <= rate + 1e-6


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one real"):
        threshold_at_fpr(torch.tensor([]), 0.1)
    with pytest.raises(ValueError, match="0 <= fpr < 1"):
        threshold_at_fpr(torch.tensor([1.0]), 1.0)
