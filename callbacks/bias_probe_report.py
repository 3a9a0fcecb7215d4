"""What a bias probe found: a long table of rates with bands, and one line per degradation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from functional.bootstrap import detection_bands

__all__ = ["CLEAN", "POOLED", "Bands", "pooled", "probe_table", "summary", "worst_losses"]

CLEAN = "clean"
POOLED = "pooled"

_FORMATS = {"lossless": (".png", ".bmp", ".tif", ".tiff", ".gif"), "lossy": (".jpg", ".jpeg", ".jfif", ".webp")}
_WHERE = {
    "jpeg": "at JPEG quality {}",
    "webp": "at WebP quality {}",
    "resize": "resized by {}",
    "blur": "blurred with a sigma of {} pixels",
    "noise": "under noise of {} grey levels",
    "crop_phase": "at crop phase {}",
    "native_size": "on files with a short side of {} pixels",
    "file_format": "on {} files",
}


class Bands(NamedTuple):
    """How bands are computed; see :func:`functional.bootstrap.detection_bands`.

    Attributes:
        threshold: "fake" is a score above it.
        resamples: number of resampled sets.
        confidence: share of them inside the band.
        seed: of the resampling.
    """

    threshold: float
    resamples: int
    confidence: float
    seed: int


def probe_table(
    images: pd.DataFrame,
    scores: NDArray[np.float64],
    conditions: Sequence[tuple[str, float]],
    native_size: int | Sequence[int],
    bands: Bands,
) -> pd.DataFrame:
    """Rates of each loader, and of all loaders' images together, under each condition.

    The windows of native sizes and the file formats are figures of the clean images, on a part of them each.

    Args:
        images: one row per score with ``loader``, ``path``, ``label`` and ``short_side`` (-1 if unknown).
        scores: shape ``(N, 1 + C)``, those of the clean images first.
        conditions: degradation and level of the other C columns.
        native_size: number of windows with equally many images, or the sides at which the next window begins.
        bands: how bands are computed.

    Returns:
        Columns ``degradation`` (``clean`` for the images as they are), ``level``, ``loader`` (``pooled`` for all
        together, where each file counts once), ``metric``, ``value``, ``low``, ``high`` in [0, 1], and ``n``, the
        number of images that the figure is over.
    """
    names = [(CLEAN, ""), *((name, f"{level:g}") for name, level in conditions)]
    windows = _window_bounds(images["short_side"].to_numpy(), native_size)
    rows: list[tuple[Any, ...]] = []

    def measure(loader: str, group: pd.DataFrame, columns: slice, names: Sequence[tuple[str, str]]) -> None:
        chosen, labels = scores[group.index, columns].T, group["label"].to_numpy()
        for metric, band in detection_bands(chosen, labels, *bands).items():
            figures = zip(names, band.value, band.low, band.high, strict=True)
            rows.extend((*name, loader, metric, *map(float, ends), band.images) for name, *ends in figures)

    loaders = {str(name): group for name, group in images.groupby("loader", sort=False)}
    for loader, group in [*loaders.items(), (POOLED, images.drop_duplicates(["path", "label"]))]:
        group = group.sort_values("path", kind="stable")  # so that the bands do not depend on batches and ranks
        measure(loader, group, slice(None), names)
        sides, suffixes = group["short_side"], group["path"].map(lambda path: PurePath(path).suffix.lower())
        parts = {("native_size", _window_name(*window)): sides.between(*window) for window in windows}
        parts |= {("file_format", name): suffixes.isin(known) for name, known in _FORMATS.items()}
        for name, inside in parts.items():
            if inside.any():
                measure(loader, group[inside], slice(1), [name])
    return pd.DataFrame(rows, columns=["degradation", "level", "loader", "metric", "value", "low", "high", "n"])


def summary(table: pd.DataFrame) -> list[str]:
    """One line for each degradation: the worst loss of TPR or TNR over its levels, on all images together.

    Args:
        table: as :func:`probe_table` returns it.

    Returns:
        Lines such as ``jpeg: loses 43.0 points of TPR at JPEG quality 90 (98.0 to 55.0 %, band 50.1 to 59.8 %)``.
    """
    lines = [f"as they are: {_rates(pooled(table, CLEAN))}"]
    for name, row in worst_losses(table).iterrows():
        what = "loses nothing"
        if row["loss"] > 0:
            where = _WHERE[str(name)].format(row["level"])
            clean, value, low, high = (f"{100 * row[key]:.1f}" for key in ("clean", "value", "low", "high"))
            what = f"loses {100 * row['loss']:.1f} points of {row['metric'].upper()} {where}"
            what += f" ({clean} to {value} %, band {low} to {high} %)"
        lines.append(f"{name}: {what}")
    formats = pooled(table, "file_format").groupby("level")
    return [*lines, *(f"{level} files: {_rates(part)}" for level, part in formats)]


def worst_losses(table: pd.DataFrame) -> pd.DataFrame:
    """The level of each degradation at which most of TPR or TNR is lost, on all images together.

    Among levels that lose the same, the mildest is named: a detector that fails at JPEG quality 100 fails at 40 too.

    Args:
        table: as :func:`probe_table` returns it.

    Returns:
        Indexed by degradation: ``level``, ``metric``, ``clean``, ``value``, ``low``, ``high``, and ``loss``, the
        difference between the clean rate and the value, negative if nothing is lost. Degradations without any rate
        are left out.
    """
    rates = pooled(table).query("metric in ('tpr', 'tnr')").dropna(subset="value")
    clean = rates[rates["degradation"] == CLEAN].set_index("metric")["value"]
    changed = rates[rates["degradation"] != CLEAN]
    changed = changed.assign(clean=changed["metric"].map(clean))
    changed["loss"] = changed["clean"] - changed["value"]
    changed["harm"] = list(map(_harm, changed["degradation"], changed["level"]))
    worst = changed.sort_values(["loss", "harm"], ascending=[False, True], kind="stable").drop_duplicates("degradation")
    columns = ["level", "metric", "clean", "value", "low", "high", "loss"]
    return worst.set_index("degradation").reindex(changed["degradation"].unique())[columns]


def pooled(table: pd.DataFrame, degradation: str | None = None) -> pd.DataFrame:
    """Rows on all images together, of one degradation if named."""
    rows = table[table["loader"] == POOLED]
    return rows if degradation is None else rows[rows["degradation"] == degradation]


def _harm(degradation: str, level: str) -> float:
    """Grows with what a level does to an image; 0 where levels have no such order."""
    if degradation in ("native_size", "file_format", "crop_phase"):
        return 0.0
    if degradation == "resize":
        return abs(math.log(float(level)))
    return -float(level) if degradation in ("jpeg", "webp") else float(level)


def _rates(rows: pd.DataFrame) -> str:
    """TPR and TNR of rows of one condition and loader, as far as there are images for them."""
    rows = rows[rows["metric"].isin(["tpr", "tnr"]) & (rows["n"] > 0)]
    figures = zip(rows["metric"], rows["value"], rows["n"], strict=True)
    of = {"tpr": "fakes", "tnr": "reals"}
    return ", ".join(f"{metric.upper()} {100 * value:.1f} % of {n} {of[metric]}" for metric, value, n in figures)


def _window_name(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _window_bounds(sides: NDArray[np.int64], native_size: int | Sequence[int]) -> list[tuple[int, int]]:
    """Smallest and largest side of each window, ascending; together they hold all known sides."""
    known = sides[sides > 0]
    if not native_size or not len(known):
        return []
    begins: Sequence[int] | NDArray[np.int64]
    if isinstance(native_size, int):
        begins = np.quantile(known, np.arange(1, native_size) / native_size, method="higher").astype(int)
    else:
        begins = native_size
    least, most = int(known.min()), int(known.max())
    lows = sorted({least, *(int(side) for side in begins if least < side <= most)})
    if len(lows) == 1:  # a window of all images says nothing
        return []
    return [(low, high - 1) for low, high in zip(lows, [*lows[1:], most + 1], strict=True)]
