"""Pictures of what a spectrum detector sees and uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from callbacks.outputs import gather_objects, log_figure
from callbacks.run_directory import run_directory

__all__ = ["SpectrumPlots", "draw_few_samples", "draw_importance", "draw_spectra"]

Array = NDArray[np.float64]
_CLASSES = ((0, "real", "tab:blue"), (1, "fake", "tab:red"))


class SpectrumPlots(Callback):
    """Mean and spread of each class's spectrum, and the weight of each frequency in the score.

    Taken from the validation images of the last validation of a fit, or of ``validate``; written to
    ``spectrum_classes.png``, ``spectrum_importance.png`` and ``spectrum.npz`` and sent to the loggers. The importance
    of a feature is the mean size of the score's gradient times the feature's deviation: how far it moves the score.

    It needs a module with ``batch_features(batch)``, ``score(logits)``, and a ``forward`` that takes features.
    """

    def __init__(self) -> None:
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._frequencies: Array | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module works on features."""
        for method in ("batch_features", "score"):
            if not callable(getattr(pl_module, method, None)):
                raise TypeError(f"SpectrumPlots needs {type(pl_module).__name__}.{method}, which it lacks.")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier epoch."""
        self._features, self._labels = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep features and labels."""
        if trainer.sanity_checking:
            return
        features: Any = pl_module.batch_features
        self._features.append(features(batch).detach().cpu())
        self._labels.append(batch["label"].cpu())
        settings: Any = getattr(getattr(trainer, "datamodule", None), "spectrum", getattr(pl_module, "spectrum", None))
        if settings is None:
            return
        if "spectrum" not in batch:
            self._frequencies = settings.frequencies(*batch["image"].shape[-2:])
        elif settings.axis == "cycles":  # which does not depend on the size
            self._frequencies = settings.frequencies(256, 256)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, where the validation is not part of a fit."""
        if trainer.state.fn == "validate":
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = run_directory(trainer)
        parts = gather_objects(trainer, (self._features, self._labels))
        features = [tensor for part, _ in parts for tensor in part]
        labels = [tensor for _, part in parts for tensor in part]
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or not features:
            return
        x, y = torch.cat(features), torch.cat(labels)
        importance = feature_importance(pl_module, x)
        values, truth = x.double().numpy(), y.numpy()
        frequencies = self._frequencies
        if frequencies is not None and len(frequencies) != x.shape[1]:  # a spectrum per colour, one after the other
            frequencies = None
        arrays: dict[str, Any] = {"importance": importance}
        for label, name, _ in _CLASSES:
            if (truth == label).any():
                arrays[f"mean_{name}"] = values[truth == label].mean(axis=0)
                arrays[f"deviation_{name}"] = values[truth == label].std(axis=0)
        if frequencies is not None:
            arrays["cycles_per_pixel"] = frequencies
        directory.mkdir(parents=True, exist_ok=True)
        np.savez(directory / "spectrum.npz", **arrays)
        log_figure(trainer, directory, "spectrum_classes", draw_spectra(values, truth, frequencies))
        written = log_figure(trainer, directory, "spectrum_importance", draw_importance(importance, frequencies))
        rank_zero_info(f"Spectra of {len(truth)} validation images: {written.parent}/spectrum_*.png")


def feature_importance(module: Any, features: Tensor) -> Array:
    """Share of each feature in how far the features move the score.

    Args:
        module: maps features to logits, and with ``score`` logits to scores.
        features: of some images, on any device, shape ``(N, K)``.

    Returns:
        Mean absolute gradient times standard deviation, summing to 1, shape ``(K,)``.
    """
    parameters: Any = module.parameters()
    device = next(iter(parameters)).device
    was_training = module.training
    module.eval()
    with torch.inference_mode(False), torch.enable_grad():
        x = features.detach().clone().to(device).requires_grad_()
        (gradient,) = torch.autograd.grad(module.score(module(x)).sum(), x)
    module.train(was_training)
    moved = gradient.abs().mean(dim=0) * x.detach().std(dim=0)
    return (moved / moved.sum().clamp_min(1e-30)).double().cpu().numpy()


def draw_spectra(features: Array, labels: NDArray[np.int64], frequencies: Array | None = None) -> Figure:
    """Mean and standard deviation of the features of each class.

    Args:
        features: shape ``(N, K)``.
        labels: 0 real, 1 fake, shape ``(N,)``.
        frequencies: of the features in cycles per pixel, shape ``(K,)``; their numbers are drawn without them.

    Returns:
        A matplotlib figure.
    """
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    x = np.arange(features.shape[1]) if frequencies is None else frequencies
    for label, name, colour in _CLASSES:
        chosen = features[labels == label]
        if len(chosen):
            mean, deviation = chosen.mean(axis=0), chosen.std(axis=0)
            axes.plot(x, mean, color=colour, label=f"{name} ({len(chosen)})")
            axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    axes.set_ylabel("log-spectrum")
    axes.set_title("Mean and standard deviation of the spectrum")
    axes.legend()
    _label_frequencies(axes, frequencies)
    return figure


def draw_importance(importance: Array, frequencies: Array | None = None) -> Figure:
    """Bars of the share of each feature.

    Args:
        importance: shape ``(K,)``.
        frequencies: as for :func:`draw_spectra`.

    Returns:
        A matplotlib figure.
    """
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    axes = figure.subplots()
    x = np.arange(len(importance)) if frequencies is None else frequencies
    axes.bar(x, 100 * importance, width=0.9 * np.gradient(x), color="tab:purple")
    axes.set_ylabel("share of the score in %")
    axes.set_title("Which frequencies the verdict hangs on")
    _label_frequencies(axes, frequencies)
    return figure


def draw_few_samples(table: pd.DataFrame, metric: str = "accuracy") -> Figure:
    """Mean and standard deviation over draws against the number of training images, a line per head.

    Args:
        table: rows with ``head``, ``n``, ``seed`` and the metric in [0, 1].
        metric: column to draw.

    Returns:
        A matplotlib figure.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for head, rows in table.groupby("head", sort=False):
        spread = rows.groupby("n")[metric].agg(["mean", "std"]).fillna(0.0) * 100
        (line,) = axes.plot(spread.index, spread["mean"], marker="o", label=str(head))
        low, high = spread["mean"] - spread["std"], (spread["mean"] + spread["std"]).clip(upper=100)
        axes.fill_between(spread.index, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    sizes = sorted(table["n"].unique())
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel(f"{metric.replace('_', ' ')} in %")
    axes.set_title(f"Few labelled images, {table['seed'].nunique()} draws")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _label_frequencies(axes: Any, frequencies: Array | None) -> None:
    if frequencies is None:
        axes.set_xlabel("feature, from low to high frequency")
        return
    axes.set_xlabel("cycles per pixel")
    if frequencies[-1] > 0.5:
        axes.axvline(0.5, color="gray", linestyle=":", linewidth=1)
        axes.text(0.5, 0.02, " corners only", transform=axes.get_xaxis_transform(), color="gray", fontsize=8)
