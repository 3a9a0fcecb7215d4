"""Pictures of robustness: distances within and between classes, indicators over training, indicators against errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from functional.robustness import DistanceHistograms

__all__ = ["draw_association", "draw_corruptions", "draw_distances", "draw_history"]


def draw_distances(histograms: DistanceHistograms) -> Figure:
    """The two distributions of cosine distances, and what they have in common."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for values, name, colour in (
        (histograms.within, "same class", "tab:blue"),
        (histograms.between, "different classes", "tab:orange"),
    ):
        axes.stairs(values, histograms.edges, color=colour, label=name)
    common = np.minimum(histograms.within, histograms.between)
    label = f"overlap {histograms.overlap:.2f}"
    axes.stairs(common, histograms.edges, fill=True, color="0.8", label=label)
    axes.set_xlabel("cosine distance")
    axes.set_ylabel("share of pairs")
    axes.legend(frameon=False)
    return figure


def draw_history(table: pd.DataFrame) -> Figure:
    """Curves of all indicators over epochs: column ``epoch`` and one column per indicator in [0, 1]."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for name in table.columns.drop("epoch"):
        axes.plot(table["epoch"], table[name], marker="o", markersize=3, label=name.replace("_", " "))
    axes.set_xlabel("epoch")
    axes.set_ylabel("indicator")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_corruptions(table: pd.DataFrame) -> Figure:
    """Error of each corruption over severities 0 (clean) to 5: columns ``corruption, severity, error``."""
    clean = float(table.loc[table["corruption"] == "clean", "error"].iloc[0])
    names = [name for name in table["corruption"].unique() if name != "clean"]
    rows = -(-len(names) // 5)
    figure = Figure(figsize=(11, 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, 5, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        part = table[table["corruption"] == name].sort_values("severity")
        axes.plot([0, *part["severity"]], [clean, *part["error"]], marker="o", markersize=3)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.set_ylim(0, 1)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("severity (0: clean)")
    figure.supylabel("error")
    return figure


def draw_association(
    table: pd.DataFrame, indicators: Sequence[str], target: str, titles: Mapping[str, str], group: str = "family"
) -> Figure:
    """One panel per indicator: each model a point, the straight line through all.

    Args:
        table: one row per model, with the columns ``indicators``, ``target`` and ``group``.
        indicators: columns for the x axes.
        target: column for the y axes.
        titles: text above each panel.
        group: models of one value share marker and colour.
    """
    columns = min(4, len(indicators))
    rows = -(-len(indicators) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.1 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, indicators, strict=False):
        for value, part in table.groupby(group, sort=False):
            axes.scatter(part[name], part[target], s=22, label=str(value))
        if table[name].nunique() > 1:
            slope, level = np.polyfit(table[name], table[target], 1)
            ends = np.array([table[name].min(), table[name].max()])
            axes.plot(ends, slope * ends + level, color="0.5", linewidth=1, zorder=0)
        axes.set_xlabel(name.replace("_", " "))
        axes.set_title(titles.get(name, ""), fontsize=9)
    for axes in grid.flat[len(indicators) :]:
        axes.set_axis_off()
    figure.supylabel(target.replace("_", " "))
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 10), frameon=False, fontsize=8)
    return figure
