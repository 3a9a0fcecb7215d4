"""Curves of a bias probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from callbacks.bias_probe_report import CLEAN, POOLED, pooled

__all__ = ["draw_probe"]

_PANELS = {  # title, name of the axis
    "jpeg": ("JPEG", "quality"),
    "webp": ("WebP", "quality"),
    "resize": ("resizing", "factor"),
    "blur": ("Gaussian blur", "sigma in pixels"),
    "noise": ("Gaussian noise", "sigma in grey levels"),
    "crop_phase": ("crop against the 8 x 8 grid", "phase in pixels"),
    "native_size": ("native size", "short side in pixels"),
    "file_format": ("file format", ""),
}
_IDENTITY = {"resize": 1.0, "blur": 0.0, "noise": 0.0}
_CODECS = ("jpeg", "webp")
_LEGEND = (
    "fakes found (TPR)",
    "reals cleared (TNR)",
    "TPR as they are",
    "TNR as they are",
    "TPR of each generator",
)
_RATES = {  # colour, marker and its size, labels; the larger blue one shows where both lie on each other
    "tpr": ("tab:red", "o", 3.0, _LEGEND[0], _LEGEND[2]),
    "tnr": ("tab:blue", "s", 4.5, _LEGEND[1], _LEGEND[3]),
}


def draw_probe(table: pd.DataFrame, title: str) -> Figure:
    """One panel per degradation: TPR and TNR of all images together with their bands, and each loader's TPR.

    Dashed lines, and for codecs a point of its own, are the rates on images as they are.

    Args:
        table: as :func:`callbacks.bias_probe_report.probe_table` returns it.
        title: written above.

    Returns:
        A matplotlib figure.
    """
    names = [name for name in _PANELS if (table["degradation"] == name).any()]
    columns = min(4, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(0.6 + 3.2 * max(2, columns), 1.4 + 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_panel(axes, table, name)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("judged rightly in %")
    figure.suptitle(title)
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    lines = {label: line for pair in drawn for line, label in zip(*pair, strict=True)}
    labels = [label for label in _LEGEND if label in lines]
    style: dict[str, Any] = {"ncols": len(labels) if columns == 4 else 2, "frameon": False, "fontsize": 9}
    figure.legend([lines[label] for label in labels], labels, loc="outside lower center", **style)
    return figure


def _draw_panel(axes: Axes, table: pd.DataFrame, name: str) -> None:
    title, label = _PANELS[name]
    levels = table.loc[table["degradation"] == name, "level"].drop_duplicates().tolist()
    is_number = name not in ("native_size", "file_format")
    places = {level: float(level) if is_number else float(index) for index, level in enumerate(levels)}
    ticks = {place: level for level, place in places.items()}
    if name in _IDENTITY and _IDENTITY[name] not in ticks:
        places[CLEAN] = _IDENTITY[name]  # the images as they are belong to the curve
        ticks[_IDENTITY[name]] = f"{_IDENTITY[name]:g}"
    loaders = table.loc[table["loader"] != POOLED, "loader"].unique()
    for loader in loaders if len(loaders) > 1 and name != "file_format" else ():
        rates = _curve(table, name, "tpr", loader, places)
        axes.plot(rates["x"], rates["value"], color=_RATES["tpr"][0], alpha=0.4, linewidth=0.8, label=_LEGEND[4])
    for metric, (colour, marker, size, what, as_is) in reversed(_RATES.items()):
        rates = _curve(table, name, metric, POOLED, places)
        clean = 100 * pooled(table, CLEAN).set_index("metric")["value"][metric]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": size}
        axes.axhline(clean, color=colour, linestyle="--", linewidth=0.9, label=as_is)
        if name == "file_format":
            # The bootstrap of few images need not hold the value itself.
            reach = [(rates["value"] - rates["low"]).clip(lower=0), (rates["high"] - rates["value"]).clip(lower=0)]
            axes.errorbar(rates["x"], rates["value"], reach, linestyle="", capsize=4, **style)
        else:
            axes.fill_between(rates["x"], rates["low"], rates["high"], color=colour, alpha=0.2, linewidth=0)
            axes.plot(rates["x"], rates["value"], linewidth=1.6, label=what, **style)
        if name in _CODECS:
            beyond = max(places.values()) + 0.12 * max(1.0, max(places.values()) - min(places.values()))
            axes.plot(beyond, clean, markerfacecolor="white", linestyle="", **style)
            ticks[beyond] = "none"
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label)
    axes.set_ylim(-4, 104)
    axes.grid(alpha=0.25)
    if name == "resize":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    if not is_number:
        axes.set_xlim(-0.5, len(levels) - 0.5)
    shown = _apart(sorted(ticks), np.log2 if name == "resize" else float) if is_number else list(ticks)
    axes.set_xticks(shown, [ticks[place] for place in shown], fontsize=8)


def _curve(table: pd.DataFrame, name: str, metric: str, loader: str, places: dict[str, float]) -> pd.DataFrame:
    """Rates of a loader in %, with their place ``x``, from left to right."""
    rows = table[(table["metric"] == metric) & (table["loader"] == loader) & table["degradation"].isin([name, CLEAN])]
    x = rows["level"].where(rows["degradation"] == name, CLEAN).map(places)
    return rows[["value", "low", "high"]].mul(100).assign(x=x).dropna().sort_values("x")


def _apart(places: list[float], scale: Callable[[float], float]) -> list[float]:
    """Ascending places without those that are too near to the one before to be labelled; the last one stays."""
    least = 0.06 * (scale(places[-1]) - scale(places[0]))
    kept = places[-1:]
    for place in reversed(places[:-1]):
        if scale(kept[-1]) - scale(place) >= least:
            kept.append(place)
    return kept[::-1]
