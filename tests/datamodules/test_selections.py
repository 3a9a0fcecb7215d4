"""The published selections, on a manifest whose counts are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from datamodules.selections import (
    BalanceClasses,
    BalanceLabels,
    RealQuality,
    RealSize,
    SelectionError,
    named_selection,
    quality_histogram,
    select,
)


@pytest.fixture
def manifest() -> pd.DataFrame:
    """Reals: 30 of 500 px at quality 96, 20 of 500 px at 75, 10 of 300 px at 96, 5 PNG; 40 fakes. Classes 0 and 1."""
    rows = []
    for count, label, side, quality in ((30, 0, 500, 96), (20, 0, 500, 75), (10, 0, 300, 96), (5, 0, 500, None)):
        rows += [(label, side, side - 20, quality)] * count
    rows += [(1, 512, 512, None)] * 40
    table = pd.DataFrame(rows, columns=["label", "width", "height", "quality"])
    table["quality"] = table["quality"].astype("Int64")
    table["path"] = [f"{index:03d}.png" for index in range(len(table))]
    table["class"] = ["0" if index % 4 == 0 else "1" for index in range(len(table))]
    return table


def counts(table: pd.DataFrame) -> tuple[int, int]:
    return int((table["label"] == 0).sum()), int((table["label"] == 1).sum())


def test_filters_keep_what_they_say_and_are_counted(manifest):
    kept, report = select(manifest, [RealSize(450, 550), RealQuality(96), BalanceLabels(25)], seed=0)
    assert counts(kept) == (25, 25)
    assert report["real"].tolist() == [65, 55, 30, 25]
    assert report["fake"].tolist() == [40, 40, 40, 25]
    reals = kept[kept["label"] == 0]
    assert reals["quality"].eq(96).all()
    assert reals["width"].eq(500).all()


def test_balanced_classes_have_the_smaller_count_of_each(manifest):
    kept, _ = select(manifest, [BalanceClasses()], seed=0)
    table = pd.crosstab(kept["class"], kept["label"])
    before = pd.crosstab(manifest["class"], manifest["label"])
    assert (table[0] == table[1]).all()
    assert (table[0] == before.min(axis=1)).all()


def test_draws_are_seeded_and_ignore_the_order_of_rows(manifest):
    draw = [BalanceLabels(10)]
    first, _ = select(manifest, draw, seed=3)
    again, _ = select(manifest.sample(frac=1, random_state=0), draw, seed=3)
    other, _ = select(manifest, draw, seed=4)
    assert set(first["path"]) == set(again["path"])
    assert set(first["path"]) != set(other["path"])


def test_named_selections_are_those_of_the_paper():
    assert named_selection("raw").filters == ()
    assert named_selection("raw").fake_quality is None
    assert named_selection("jpeg96").fake_quality == 96
    assert named_selection("quality_matched").fake_quality == "matched"
    constrained = named_selection("constrained", 96, (450, 550))
    assert constrained.filters == (RealSize(450, 550), RealQuality(96), BalanceClasses())
    assert (constrained.fake_quality, constrained.all_reals) == (96, True)
    with pytest.raises(SelectionError, match="'fair' is none of raw, jpeg96"):
        named_selection("fair")


def test_empty_selection_shows_the_counts(manifest):
    with pytest.raises(SelectionError, match=r"widen data.size_window(?s:.*)RealSize\(low=600, high=700\)\s+0\s+40"):
        select(manifest, [RealSize(600, 700)], seed=0)


def test_balance_needs_classes(manifest):
    with pytest.raises(SelectionError, match="`class` column"):
        select(manifest.assign(**{"class": None}), [BalanceClasses()], seed=0)


def test_quality_histogram_is_that_of_the_real_jpegs(manifest):
    shares = quality_histogram(manifest)
    assert shares.shape == (101,)
    assert shares[96] == pytest.approx(40 / 60)
    assert shares[75] == pytest.approx(20 / 60)
    with pytest.raises(SelectionError, match="no real is a JPEG"):
        quality_histogram(manifest[manifest["quality"].isna()])
    assert np.isclose(shares.sum(), 1)
