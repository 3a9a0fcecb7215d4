"""Contour, surface and line plots of a loss landscape."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from callbacks.landscape_surface import Surface

__all__ = ["draw_contour", "draw_line", "draw_surface"]

Array = NDArray[np.float64]
_LOG_FROM = 20.0  # highest over lowest loss from which levels are logarithmic
_LEVELS = 24
_COLOURS = "viridis"


def draw_contour(surface: Surface) -> Figure:
    """Contours with the path or the other minima, the centre, and the shares that the axes explain.

    Levels are logarithmic where the loss spans more than a factor of twenty. What is not finite stays white.

    Args:
        surface: with two directions.

    Returns:
        A matplotlib figure.
    """
    figure = Figure(figsize=(7.2, 5.8), layout="constrained")
    axes = figure.subplots()
    values = np.ma.masked_invalid(surface.losses)
    levels, norm = _levels(values)
    extend = "min" if values.min() < levels[0] else "neither"
    filled = axes.contourf(surface.x, surface.y, values, levels=levels, norm=norm, cmap=_COLOURS, extend=extend)
    axes.contour(surface.x, surface.y, values, levels=levels, norm=norm, colors="white", linewidths=0.4, alpha=0.7)
    _mark_path(axes, surface)
    axes.plot(0, 0, marker="*", markersize=14, color="tab:red", markeredgecolor="white", zorder=5)
    axes.annotate(
        f"{surface.centre_loss:.3g}", (0, 0), (8, -12), textcoords="offset points", color="white", fontsize=9, zorder=6
    )
    _label(axes, surface)
    axes.set_title(surface.title)
    bar = figure.colorbar(filled, ax=axes, label="loss")
    _plain_ticks(bar, norm)
    return figure


def draw_surface(surface: Surface) -> Figure:
    """The landscape in three dimensions, the path at its true losses.

    Args:
        surface: with two directions.

    Returns:
        A matplotlib figure.
    """
    figure = Figure(figsize=(7.6, 5.8))
    axes: Any = figure.add_axes((0.02, 0.03, 0.9, 0.9), projection="3d", computed_zorder=False)
    finite = np.where(np.isfinite(surface.losses), surface.losses, np.nan)
    logarithmic = _is_logarithmic(np.ma.masked_invalid(finite))
    floor = _floor(surface)
    height = np.log10(np.maximum(finite, floor)) if logarithmic else finite
    x, y = np.meshgrid(surface.x, surface.y)
    norm = Normalize(np.nanmin(height), np.nanmax(height))
    faces = colormaps[_COLOURS](norm(np.nan_to_num(height, nan=np.nanmax(height))))
    axes.plot_surface(x, y, height, facecolors=faces, rstride=1, cstride=1, linewidth=0, antialiased=True, alpha=0.92)
    low = np.nanmin(height) - 0.18 * max(np.nanmax(height) - np.nanmin(height), 1e-12)
    axes.contour(x, y, height, levels=16, cmap=_COLOURS, offset=low, linewidths=0.7, zorder=0)
    if len(surface.path) and len(surface.path[0]) == 2:
        losses = np.log10(np.maximum(surface.path_losses, floor)) if logarithmic else surface.path_losses
        line = "-" if surface.connected else "none"
        axes.plot(
            *surface.path.T,
            losses,
            linestyle=line,
            marker="o",
            markersize=3.5,
            color="tab:red",
            linewidth=1.6,
            zorder=4,
        )
        axes.plot(
            *surface.path.T, low, linestyle=line, marker=".", markersize=3, color="tab:red", linewidth=0.8, zorder=1
        )
    centre = np.log10(max(surface.centre_loss, floor)) if logarithmic else surface.centre_loss
    axes.plot([0], [0], [centre], marker="*", markersize=13, color="tab:red", markeredgecolor="white", zorder=5)
    axes.set_zlim(low, np.nanmax(height))
    axes.set_xlabel(surface.axis_labels[0], labelpad=8)
    axes.set_ylabel(surface.axis_labels[1], labelpad=8)
    axes.set_zlabel("log10 loss" if logarithmic else "loss", labelpad=9)
    figure.suptitle(surface.title, y=0.97)
    axes.view_init(elev=32, azim=-58)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.pane.set_alpha(0.15)
    axes.set_box_aspect((1, 1, 0.72), zoom=0.93)
    return figure


def draw_line(surface: Surface) -> Figure:
    """Loss along one direction, the centre, and the other minima.

    Args:
        surface: with one direction.

    Returns:
        A matplotlib figure.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(surface.x, surface.losses[0], color="tab:blue", marker=".")
    axes.plot(0, surface.centre_loss, marker="*", markersize=14, color="tab:red", markeredgecolor="white", linestyle="")
    for place, loss, label in zip(surface.path, surface.path_losses, surface.path_labels, strict=True):
        axes.plot(place[0], loss, marker="o", color="tab:red", linestyle="")
        axes.annotate(label, (place[0], loss), (6, 6), textcoords="offset points", fontsize=9)
    if _is_logarithmic(np.ma.masked_invalid(surface.losses)):
        axes.set_yscale("log")
    axes.set_xlabel(surface.axis_labels[0])
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.set_title(surface.title)
    return figure


def _mark_path(axes: Axes, surface: Surface) -> None:
    if not len(surface.path):
        return
    x, y = surface.path.T
    inside = (x >= surface.x[0]) & (x <= surface.x[-1]) & (y >= surface.y[0]) & (y <= surface.y[-1])
    if surface.connected:
        axes.plot(x, y, color="black", linewidth=2.6, zorder=3)
        axes.plot(x, y, color="white", linewidth=1.4, marker="o", markersize=4, markeredgecolor="black", zorder=4)
        axes.set_xlim(surface.x[0], surface.x[-1])
        axes.set_ylim(surface.y[0], surface.y[-1])
        shown = [0, len(x) - 1] if len(x) > 1 else [0]
    else:
        axes.plot(x, y, linestyle="", marker="o", color="white", markeredgecolor="black", markersize=7, zorder=4)
        shown = list(range(len(x)))
    for index in shown:
        if inside[index] and (abs(x[index]) > 1e-9 or abs(y[index]) > 1e-9):
            text = f"{surface.path_labels[index]}: {surface.path_losses[index]:.3g}"
            right = x[index] > (surface.x[0] + surface.x[-1]) / 2
            axes.annotate(
                text,
                (x[index], y[index]),
                (-8 if right else 8, 8),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=9,
                color="white",
                zorder=6,
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.45, "linewidth": 0},
            )


def _label(axes: Axes, surface: Surface) -> None:
    axes.set_xlabel(surface.axis_labels[0])
    axes.set_ylabel(surface.axis_labels[1])


def _is_logarithmic(values: Any) -> bool:
    low, high = float(values.min()), float(values.max())
    return low >= 0 and high > _LOG_FROM * max(low, 1e-3 * high)


def _floor(surface: Surface) -> float:
    """Smallest loss that a logarithmic axis shows."""
    highest = float(np.nanmax(np.where(np.isfinite(surface.losses), surface.losses, np.nan)))
    positive = surface.losses[np.isfinite(surface.losses) & (surface.losses > 0)]
    lowest = float(positive.min()) if positive.size else 1e-12
    return max(lowest / 2, 1e-9 * highest, 1e-12)


def _levels(values: Any) -> tuple[Array, Normalize]:
    low, high = float(values.min()), float(values.max())
    if _is_logarithmic(values):
        low = max(low, 1e-9 * high, 1e-12)
        return np.geomspace(low, high * (1 + 1e-9), _LEVELS), LogNorm(low, high)
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    # Most of the plane is often steep: levels follow the square root, so that the valley has some too.
    levels = low + (high - low) * np.linspace(0, 1, _LEVELS) ** 2
    return levels, PowerNorm(0.5, low, high)


def _plain_ticks(bar: Any, norm: Normalize) -> None:
    """Few numbers in their plain form."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    if isinstance(norm, LogNorm):
        ticks = [tick for tick in LogLocator(subs=(1, 2, 5)).tick_values(low, high) if low <= tick <= high]
        ticks = (
            ticks if len(ticks) <= 9 else [tick for tick in LogLocator().tick_values(low, high) if low <= tick <= high]
        )
    else:
        ticks = [tick for tick in MaxNLocator(7).tick_values(low, high) if low <= tick <= high]
    bar.set_ticks(ticks, labels=[f"{tick:.4g}" for tick in ticks])
    bar.minorticks_off()
