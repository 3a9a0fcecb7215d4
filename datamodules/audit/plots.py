"""Pictures of an audit, as SVG text to stand in a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from datamodules.audit.leaks import LEAK, PROBES, Leakage
from datamodules.audit.view import PixelTraces

__all__ = ["draw_files", "draw_leaks", "draw_spectra"]

COLOURS = {0: "tab:green", 1: "tab:red"}
NAMES = {0: "real", 1: "fake"}


def draw_leaks(views: Mapping[str, Leakage]) -> str:
    """AUROC of each probe with its interval, one row per probe and one colour per view."""
    probes = [name for name in PROBES if any(name in leakage.leaks for leakage in views.values())]
    figure = Figure(figsize=(8, 0.9 + 0.28 * len(probes) * len(views)), layout="constrained")
    axes = figure.subplots()
    for offset, (view, leakage) in enumerate(views.items()):
        shown = [(row, leakage.leaks[name]) for row, name in enumerate(probes) if name in leakage.leaks]
        places = [row + 0.8 * (offset + 0.5) / len(views) - 0.4 for row, _ in shown]
        values = np.array([[leak.auroc, leak.auroc - leak.low, leak.high - leak.auroc] for _, leak in shown]).T
        axes.errorbar(values[0], places, xerr=values[1:].clip(0), fmt="o", capsize=3, label=view)
    axes.axvspan(LEAK, 1.02, color="tab:red", alpha=0.08)
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(probes)), probes)
    axes.invert_yaxis()
    axes.set_xlim(0.35, 1.02)
    axes.set_xlabel("AUROC, 0.5 is chance; what lies in the shaded part is a shortcut")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def draw_files(rows: pd.DataFrame, labels: NDArray[np.int64], traces: PixelTraces) -> str:
    """Histograms of size, aspect, quality, quality seen in the pixels, and bits per pixel."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(2, 3).flat
    width, height, size = (np.asarray(rows[column], dtype=np.float64) for column in ("width", "height", "bytes"))
    given = rows["label"].to_numpy(np.int64)
    quality = rows["quality"].astype("Float64").fillna(0).to_numpy(np.float64)
    for values, classes, title, log in (
        (np.minimum(width, height), given, "short side, pixels", True),
        (width / height, given, "width / height", True),
        (8 * size / (width * height), given, "bits per pixel", True),
        (quality, given, "JPEG quality of the file, 0: no JPEG", False),
        (traces.quality.astype(np.float64), labels, "JPEG quality in the pixels, 0: none", False),
        (traces.grid.astype(np.float64), labels, "JPEG grid in the pixels, 0: aligned", False),
    ):
        _histogram(next(panels), values, classes, title, log)
    return _svg(figure)


def draw_spectra(views: Mapping[str, tuple[NDArray[np.int64], PixelTraces]]) -> str:
    """Mean and spread of the spectra of both classes, one panel per view."""
    figure = Figure(figsize=(4.2 * len(views), 3.2), layout="constrained")
    for axes, (name, (labels, traces)) in zip(
        figure.subplots(1, len(views), squeeze=False).flat, views.items(), strict=True
    ):
        frequency = (np.arange(traces.spectrum.shape[1]) + 0.5) / traces.spectrum.shape[1] / 2
        for label, colour in COLOURS.items():
            spectra = traces.spectrum[labels == label]
            mean, deviation = spectra.mean(0), spectra.std(0)
            axes.plot(frequency, mean, color=colour, label=NAMES[label])
            axes.fill_between(frequency, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(name)
        axes.set_xlabel("cycles per pixel")
        axes.legend()
    figure.axes[0].set_ylabel("log-power less its mean, 20 ln")
    return _svg(figure)


def _histogram(axes: Axes, values: NDArray[Any], labels: NDArray[np.int64], title: str, log: bool) -> None:
    """Shares of both labels over common bins."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    log = log and low > 0 and high > 10 * low
    if high <= low * 1.0001:
        low, high = (low * 0.9, high * 1.1) if low > 0 else (low - 1, high + 1)
    edges = np.geomspace(low, high * 1.0001, 41) if log else np.linspace(low, high + 1e-9, 41)
    for label, colour in COLOURS.items():
        chosen = values[labels == label]
        weights = np.full(len(chosen), 100 / max(1, len(chosen)))
        axes.hist(chosen, edges.tolist(), weights=weights, color=colour, alpha=0.55, label=NAMES[label])
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("% of the class")
    axes.legend(fontsize=8)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "truelight"}):  # the same data give the same page
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
