"""Plots of Hessian spectra: the density at one moment, and how it moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from functional.spectral_density import Quadrature, spectral_density

__all__ = ["draw_spectrum", "draw_spectrum_over_time"]

Array = NDArray[np.float64]


def draw_spectrum(record: dict[str, Any], title: str = "Hessian spectrum") -> Figure:
    """Density of the eigenvalues on a logarithmic axis, and the outermost eigenvalues as ticks.

    Args:
        record: arrays of one record of :class:`HessianSpectrum`.
        title: above.

    Returns:
        A matplotlib figure; the smoothing is stated in it.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    density = spectral_density(Quadrature(record["nodes"], record["weights"]))
    highest = density.density.max()
    floor = _density_of_one(record, density.sigma) / 10
    axes.fill_between(density.at, density.density, floor, color="tab:blue", alpha=0.25, linewidth=0)
    axes.plot(density.at, density.density, color="tab:blue", label=f"density, sigma = {density.sigma:.3g}")
    for values, colour, name in ((record["top"], "tab:red", "largest"), (record["bottom"], "tab:purple", "smallest")):
        for index, value in enumerate(values):
            label = f"{name}: " + ", ".join(f"{number:.4g}" for number in values) if index == 0 else None
            axes.plot([value, value], [floor, 5 * floor], color=colour, linewidth=2, label=label)
    axes.axvline(0, color="grey", linewidth=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_ylim(floor, 3 * highest)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("density")
    below = f"{float(record['negative_mass']):.1%} below {-float(record['negative_threshold']):.2g}"
    axes.set_title(f"{title}, {below}")
    axes.legend(loc="upper right")
    return figure


def draw_spectrum_over_time(records: Sequence[dict[str, Any]], title: str = "Hessian spectrum") -> Figure:
    """Density against epochs as colours, with the outermost eigenvalues; loss, and trace or gradient norm, below.

    Spectra before and after the first steps differ by orders of magnitude, so the axis of eigenvalues is linear around
    zero and logarithmic further out, and the density is that per unit of this axis.

    Args:
        records: of :class:`HessianSpectrum`, in order.
        title: above.

    Returns:
        A matplotlib figure; one smoothing for all columns, stated in it.
    """
    figure = Figure(figsize=(7.6, 6.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[2.2, 1], sharex=True)
    epochs = np.array([float(record["epoch"]) for record in records])
    unit = 0.01 * float(np.median([np.abs(record["nodes"]).max() for record in records])) or 1.0
    bent = [np.arcsinh(record["nodes"] / unit) for record in records]
    low, high = min(part.min() for part in bent), max(part.max() for part in bent)
    sigma = (high - low) / 100 or 0.01
    at = np.linspace(low - 5 * sigma, high + 5 * sigma, 500)
    columns = [
        spectral_density(Quadrature(nodes, record["weights"]), sigma=sigma, at=at).density
        for nodes, record in zip(bent, records, strict=True)
    ]
    image = np.stack(columns, axis=1)
    norm = LogNorm(_density_of_one(records[0], sigma) / 3, image.max())
    picture = upper.pcolormesh(
        _edges(epochs), _edges(at), np.maximum(image, norm.vmin or 0), norm=norm, cmap="magma", rasterized=True
    )
    figure.colorbar(picture, ax=upper, label=f"density per unit of axis (sigma = {sigma:.3g})")
    for key, colour, label in (("top", "tab:cyan", "largest"), ("bottom", "tab:green", "smallest")):
        values = [record[key] for record in records]
        for index in range(min(map(len, values))):
            line = np.arcsinh(np.array([part[index] for part in values]) / unit)
            upper.plot(epochs, line, ".-", color=colour, linewidth=1.2, label=label if index == 0 else None)
    _eigenvalue_ticks(upper, unit, at)
    upper.legend(loc="upper right", framealpha=0.8)
    upper.set_title(title)
    _draw_loss(lower, records, epochs)
    return figure


def _eigenvalue_ticks(axes: Axes, unit: float, at: Array) -> None:
    """Zero and powers of ten on the bent axis."""
    axes.set_ylim(at[0], at[-1])
    reach = unit * float(np.sinh(np.abs(at).max()))
    first, last = int(np.floor(np.log10(unit))) + 1, int(np.floor(np.log10(reach)))
    powers = [float(10.0**power) for power in range(first, last + 1, max(1, (last - first) // 4))]
    ticks = [
        tick for tick in (*(-power for power in powers), 0.0, *powers) if at[0] <= np.arcsinh(tick / unit) <= at[-1]
    ]
    axes.set_yticks(np.arcsinh(np.array(ticks) / unit), [f"{tick:g}" for tick in ticks])
    axes.set_ylabel("eigenvalue")


def _draw_loss(axes: Axes, records: Sequence[dict[str, Any]], epochs: Array) -> None:
    """Loss, and beside it the trace with its error, or the gradient norm where no probes told the trace."""
    loss = np.array([float(record["loss"]) for record in records])
    axes.plot(epochs, loss, ".-", color="black")
    if (loss > 0).all() and loss.max() > 10 * loss.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("loss")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    other = axes.twinx()
    errors = np.array([float(record.get("trace_error", np.nan)) for record in records])
    if np.isfinite(errors).all():
        traces = [float(record["trace"]) for record in records]
        other.errorbar(epochs, traces, errors, fmt=".--", color="tab:orange", capsize=3)
        other.set_ylabel("trace", color="tab:orange")
    else:
        other.semilogy(epochs, [float(record["gradient_norm"]) for record in records], ".--", color="tab:orange")
        other.set_ylabel("gradient norm", color="tab:orange")


def _density_of_one(record: dict[str, Any], sigma: float) -> float:
    """Height of the density where there is a single eigenvalue."""
    return 1 / (float(record["parameters"]) * sigma * np.sqrt(2 * np.pi))


def _edges(centres: Array) -> Array:
    """Borders of columns around their centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.r_[centres[0] - (middle[0] - centres[0]), middle, centres[-1] + (centres[-1] - middle[-1])]
