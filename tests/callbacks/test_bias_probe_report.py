"""The table's windows and formats, the worst level, the summary's words, and what the curves show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from callbacks.bias_probe_plots import draw_probe
from callbacks.bias_probe_report import Bands, pooled, probe_table, summary, worst_losses

BANDS = Bands(threshold=0.0, resamples=50, confidence=0.95, seed=0)


def images(count: int = 40, loader: str = "adm") -> tuple[pd.DataFrame, np.ndarray]:
    """Half fakes, found but for the last; sides 100 to 139; fakes and a quarter of the reals are PNG."""
    labels = np.arange(count) % 2
    names = [f"{index:03d}.{'png' if index % 2 or index % 8 == 0 else 'JPG'}" for index in range(count)]
    rows = pd.DataFrame({"loader": loader, "path": names, "label": labels, "short_side": 100 + np.arange(count)})
    scores = np.where(labels == 1, 1.0, -1.0)
    scores[-1] = -1.0
    return rows, scores[:, None]


def levels(table: pd.DataFrame, degradation: str, metric: str, column: str = "value") -> dict[str, float]:
    """A metric of all images by level."""
    rows = pooled(table, degradation)
    return rows[rows["metric"] == metric].set_index("level")[column].to_dict()


def test_native_sizes_fall_into_windows():
    rows, scores = images()
    equal = probe_table(rows, scores, [], 4, BANDS)
    assert levels(equal, "native_size", "balanced_accuracy", "n") == {
        "100-109": 10,
        "110-119": 10,
        "120-129": 10,
        "130-139": 10,
    }
    assert levels(equal, "native_size", "tpr") == {"100-109": 1, "110-119": 1, "120-129": 1, "130-139": 0.8}
    given = probe_table(rows, scores, [], (64, 110, 128, 512), BANDS)
    assert levels(given, "native_size", "auroc", "n") == {"100-109": 10, "110-127": 18, "128-139": 12}


@pytest.mark.parametrize(
    ("sides", "windows"), [(-1, 0), (256, 0), ([256] * 39 + [-1], 0), ([256] * 28 + [300] * 12, 2)]
)
def test_unknown_and_equal_sizes_make_no_window(sides, windows):
    rows, scores = images()
    table = probe_table(rows.assign(short_side=sides), scores, [], 4, BANDS)
    assert pooled(table, "native_size")["level"].nunique() == windows
    assert pooled(probe_table(rows, scores, [], 0, BANDS), "native_size").empty


def test_file_formats_go_by_suffix():
    rows, scores = images()
    rows.loc[1, "path"] = "001.svg"  # neither
    table = probe_table(rows, scores, [], 0, BANDS)
    assert levels(table, "file_format", "tnr", "n") == {"lossless": 5, "lossy": 15}
    assert levels(table, "file_format", "tpr", "n") == {"lossless": 19, "lossy": 0}
    assert levels(table, "file_format", "tpr")["lossless"] == pytest.approx(18 / 19)
    assert np.isnan(levels(table, "file_format", "tpr")["lossy"])
    lines = summary(table)
    assert lines[0] == "as they are: TPR 95.0 % of 20 fakes, TNR 100.0 % of 20 reals"
    assert lines[-2:] == [
        "lossless files: TPR 94.7 % of 19 fakes, TNR 100.0 % of 5 reals",
        "lossy files: TNR 100.0 % of 15 reals",
    ]


def degraded() -> pd.DataFrame:
    """JPEG loses fakes from 90 down, resizing loses reals, blur loses nothing; two loaders share the reals."""
    rows, scores = images()
    wrong = {("jpeg", 60): (1, 8), ("jpeg", 90): (1, 8), ("jpeg", 98): (1, 3), ("resize", 0.25): (0, 5)}
    wrong |= {("resize", 2.0): (0, 5), ("blur", 1.0): (0, 0), ("noise", 4.0): (0, 1)}
    columns = [scores[:, 0]]
    for label, count in wrong.values():
        changed = scores[:, 0].copy()
        changed[np.flatnonzero(rows["label"] == label)[:count]] *= -1
        columns.append(changed)
    table = np.stack(columns, axis=1)
    second = rows.assign(loader="sd", path=np.where(rows["label"] == 1, "sd/" + rows["path"], rows["path"]))
    return probe_table(pd.concat([rows, second], ignore_index=True), np.concatenate([table] * 2), list(wrong), 4, BANDS)


def test_worst_level_is_the_mildest_of_those_that_lose_most():
    worst = worst_losses(degraded())
    assert list(worst.index) == ["jpeg", "resize", "blur", "noise", "native_size", "file_format"]
    assert worst["level"][["jpeg", "resize", "noise"]].tolist() == ["90", "2", "4"]
    assert worst["metric"][["jpeg", "resize"]].tolist() == ["tpr", "tnr"]
    assert worst["loss"][["jpeg", "resize", "blur"]].tolist() == pytest.approx([0.4, 0.25, 0])
    assert worst["low"]["jpeg"] < worst["value"]["jpeg"] < worst["high"]["jpeg"]


def test_summary_says_what_is_lost_and_where():
    lines = summary(degraded())
    assert lines[0] == "as they are: TPR 95.0 % of 40 fakes, TNR 100.0 % of 20 reals"
    assert lines[1].startswith("jpeg: loses 40.0 points of TPR at JPEG quality 90 (95.0 to 55.0 %, band ")
    assert lines[2].startswith("resize: loses 25.0 points of TNR resized by 2 (100.0 to 75.0 %, band ")
    assert lines[3] == "blur: loses nothing"
    assert lines[4].startswith("noise: loses 5.0 points of TNR under noise of 4 grey levels")
    assert lines[5].startswith("native_size: loses 15.0 points of TPR on files with a short side of 130-139 pixels")


def test_bands_do_not_depend_on_the_order_of_images():
    rows, scores = images()
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = rows.iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        probe_table(rows, scores, [], 4, BANDS), probe_table(mixed, scores[order], [], 4, BANDS)
    )


def test_curves_show_what_the_table_says():
    figure = draw_probe(degraded(), "title")
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == ["JPEG", "resizing", "Gaussian blur", "Gaussian noise", "native size", "file format"]
    lines = {line.get_label(): line for line in panels["JPEG"].get_lines()}
    assert lines["fakes found (TPR)"].get_xydata() == pytest.approx(np.array([[60, 55], [90, 55], [98, 80]]))
    assert lines["TPR as they are"].get_ydata()[0] == pytest.approx(95)
    assert lines["TPR of each generator"].get_ydata() == pytest.approx([55, 55, 80])
    assert [text.get_text() for text in panels["JPEG"].get_xticklabels()] == ["60", "90", "98", "none"]
    resizing = {line.get_label(): line for line in panels["resizing"].get_lines()}  # has the clean images at 1
    assert resizing["reals cleared (TNR)"].get_xydata() == pytest.approx(np.array([[0.25, 75], [1, 100], [2, 75]]))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["fakes found (TPR)", "reals cleared (TNR)"]
    assert len(labels) == len(set(labels)) == 5


def test_a_probe_of_nothing_draws_an_empty_sheet():
    rows, scores = images()
    table = probe_table(rows.assign(path="x"), scores, [], 0, BANDS)
    assert draw_probe(table, "title").axes[0].get_title() == ""
