"""Bootstrap bands against the binomial law and against sets that are resampled one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from functional import bootstrap
from functional.bootstrap import detection_bands


def drawn_scores(conditions: int = 3, reals: int = 70, fakes: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores with ties, labels in random order."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], [reals, fakes]))
    return (rng.normal(labels - 0.5, 1, (conditions, len(labels))) * 4).round() / 4, labels


def test_values_are_those_of_scikit_learn():
    scores, labels = drawn_scores()
    bands = detection_bands(scores, labels, threshold=0.25, resamples=10)
    for index, row in enumerate(scores):
        assert bands["auroc"].value[index] == pytest.approx(roc_auc_score(labels, row), abs=1e-12)
        assert bands["tpr"].value[index] == np.mean(row[labels == 1] > 0.25)
        assert bands["tnr"].value[index] == pytest.approx(np.mean(row[labels == 0] <= 0.25), abs=1e-12)
        expected = balanced_accuracy_score(labels, row > 0.25)
        assert bands["balanced_accuracy"].value[index] == pytest.approx(expected, abs=1e-12)
    assert {name: band.images for name, band in bands.items()} == {
        "tpr": 50,
        "tnr": 70,
        "balanced_accuracy": 120,
        "auroc": 120,
    }


@pytest.mark.parametrize(("hits", "images"), [(90, 100), (7, 40), (150, 200)])
def test_band_of_a_rate_is_that_of_the_binomial_law(hits, images):
    """Resampling n images of which k are hits draws from Binomial(n, k / n), whose quantiles are known."""
    scores = np.where(np.arange(images) < hits, 1.0, -1.0)[None]
    band = detection_bands(scores, np.ones(images, np.int64), resamples=20000, confidence=0.9)["tpr"]
    rate, law = hits / images, stats.binom(images, hits / images)
    assert band.value[0] == rate
    for quantile, end in ((0.05, band.low[0]), (0.95, band.high[0])):
        # 20000 draws place the quantile within 0.005 (3 sigma) of its level.
        low, high = law.ppf([quantile - 0.005, quantile + 0.005]) / images
        assert low <= end <= high


def test_auroc_band_is_that_of_sets_resampled_one_by_one():
    scores, labels = drawn_scores(conditions=1)
    band = detection_bands(scores, labels, resamples=4000)["auroc"]
    rng = np.random.default_rng(1)
    reals, fakes = scores[0, labels == 0], scores[0, labels == 1]
    wins = (fakes[:, None] > reals) + 0.5 * (fakes[:, None] == reals)
    slow = [wins[rng.integers(50, size=50)][:, rng.integers(70, size=70)].mean() for _ in range(4000)]
    spread = np.std(slow)
    assert [band.low[0], band.high[0]] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.15 * spread)


def test_a_monotonic_change_of_scores_keeps_the_auroc_band():
    scores, labels = drawn_scores(conditions=1)
    band = detection_bands(np.concatenate([scores, np.exp(scores) + 9]), labels, resamples=50)["auroc"]
    assert band.low[0] == band.low[1]
    assert band.high[0] == band.high[1]


def test_chunks_are_seeded_and_cover_all_resamples(monkeypatch):
    scores, labels = drawn_scores()
    once, again = (detection_bands(scores, labels)["auroc"] for _ in range(2))
    np.testing.assert_array_equal([once.low, once.high], [again.low, again.high])
    monkeypatch.setattr(bootstrap, "_CHUNK", 70 * 70)  # seventy resamples at a time
    drawn: list[int] = []
    figures = bootstrap._figures
    monkeypatch.setattr(bootstrap, "_figures", lambda *a: drawn.append(a[-1].shape[1]) or figures(*a))
    chunked = detection_bands(scores, labels)["auroc"]
    assert sum(drawn[1:]) == 1000
    assert max(drawn) == 70
    np.testing.assert_allclose(chunked.low, once.low, atol=0.02)


def test_missing_class_and_nan_scores_give_nan():
    scores = np.array([[1.0, -1.0, 2.0], [1.0, np.nan, 2.0], [np.inf, -np.inf, 0.0]])
    bands = detection_bands(scores, np.array([1, 1, 1]), resamples=20)
    np.testing.assert_allclose(bands["tpr"].value, [2 / 3, np.nan, 1 / 3])
    assert np.isnan(bands["tpr"].low).tolist() == [False, True, False]
    for name in ("tnr", "auroc", "balanced_accuracy"):
        assert np.isnan([*bands[name].value, *bands[name].low]).all()
    infinite = detection_bands(scores, np.array([1, 0, 1]), resamples=20)
    np.testing.assert_array_equal(infinite["auroc"].value, [1, np.nan, 1])


def test_images_of_unknown_label_are_left_out():
    bands = detection_bands(np.array([[1.0, -1.0, 5.0]]), np.array([1, 0, -1]), resamples=5)
    assert [band.images for band in bands.values()] == [1, 1, 2, 2]


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        detection_bands(np.zeros(3), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="got 10 and 95"):
        detection_bands(np.zeros((1, 2)), np.array([0, 1]), resamples=10, confidence=95)
