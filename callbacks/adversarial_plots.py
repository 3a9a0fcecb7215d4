"""Pictures of attacks and of how they are detected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["AttackedExample", "draw_attacks", "draw_transfer"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class AttackedExample:
    """One attacked image.

    Attributes:
        image: before the attack, RGB in [0, 1], shape ``(3, H, W)``.
        attacked: after it.
        classes: class before and after.
        scores: detector's score before and after, above 0 for "attacked".
    """

    image: Pixels
    attacked: Pixels
    classes: tuple[str, str]
    scores: tuple[float, float]


def draw_attacks(examples: Mapping[str, AttackedExample], detector: str) -> Figure:
    """A row for each attack: image, attacked image, their difference, that of their spectra, and both scores.

    Args:
        examples: by the name of the attack.
        detector: name of the features behind the scores.
    """
    figure = Figure(figsize=(12, 2.2 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), 5, squeeze=False)
    widest = max(abs(value) for example in examples.values() for value in example.scores)
    for row, (name, example) in zip(grid, examples.items(), strict=True):
        change = example.attacked - example.image
        largest = float(np.abs(change).max())
        row[0].imshow(example.image.transpose(1, 2, 0))
        row[0].set_title(f"clean: {example.classes[0]}")
        row[0].set_ylabel(name)
        row[1].imshow(example.attacked.transpose(1, 2, 0).clip(0, 1))
        row[1].set_title(f"attacked: {example.classes[1]}")
        row[2].imshow((0.5 + 0.5 * change / (largest or 1)).transpose(1, 2, 0))
        row[2].set_title(f"change, at most {largest:.3f}")
        difference = _log_spectrum(example.attacked) - _log_spectrum(example.image)
        limit = float(np.abs(difference).max()) or 1.0
        drawn = row[3].imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
        row[3].set_title("change of log |F|")
        figure.colorbar(drawn, ax=row[3])
        row[4].barh([1, 0], example.scores, color=["tab:blue", "tab:red"])
        row[4].set_yticks([1, 0], ["clean", "attacked"])
        row[4].set_xlim(-1.05 * widest, 1.05 * widest)
        row[4].axvline(0, color="black", linewidth=0.8)
        row[4].set_title(f"score of {detector}")
        for axes in row[:4]:
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def draw_transfer(table: pd.DataFrame, metric: str = "auroc") -> Figure:
    """A matrix for each kind of features: trained on the rows' attack, tested on the columns', mean over seeds.

    Args:
        table: with ``features``, ``trained_on``, ``tested_on`` and the metric.
        metric: column to draw, in [0, 1].
    """
    names = list(table["features"].unique())
    rows, columns = list(table["trained_on"].unique()), list(table["tested_on"].unique())
    wide = min(3, len(names))
    high = -(-len(names) // wide)
    size = (wide * (1.6 + 0.5 * len(columns)), high * (1.2 + 0.45 * len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(high, wide, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        mean = table[table["features"] == name].pivot_table(index="trained_on", columns="tested_on", values=metric)
        cells = mean.reindex(index=rows, columns=columns).to_numpy()
        axes.imshow(cells, vmin=0, vmax=1, cmap="viridis")
        for (y, x), value in np.ndenumerate(cells):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black", size=7)
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", size=7)
        axes.set_yticks(range(len(rows)), rows, size=7)
        axes.set_title(f"{name}: {metric}", size=9)
    return figure


def _log_spectrum(image: Pixels) -> NDArray[np.float64]:
    """Mean over channels of ``log |F|``, zero frequency in the middle."""
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(image.astype(np.float64)), axes=(-2, -1)))
    return np.log(magnitude + 1e-6).mean(axis=0)
