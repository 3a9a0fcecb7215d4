"""Which generators a detector finds, and what that owes to the one it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from callbacks.outputs import log_figure, log_table
from callbacks.run_directory import run_directory
from functional.detection import cross_generator_summary

_STEM = "cross_generator"

__all__ = ["CrossGeneratorMatrix", "draw_matrix", "read_matrix"]


class CrossGeneratorMatrix(Callback):
    """Collect one row per trained model, one column per test generator (Grommelt et al. 2024, Table 2).

    After each test the model's row is added to the matrix file, so that several runs fill one matrix, and the
    matrix, its means with and without the own cells, and its difference to a base matrix are written as CSV and heat
    map and sent to the loggers. Loaders named ``<generator>@<condition>`` fill a matrix of their own per condition.
    It needs named test loaders and a module that logs ``test/<name>/<metric>``.

    Args:
        trained_on: generator that the model was trained on; names the row and its own cell.
        metric: metric of the cells, e.g. ``accuracy``, ``balanced_accuracy`` or ``tpr``.
        folder: folder whose ``cross_generator.csv`` the row is added to; the run's own directory by default.
        base: folder of the matrix to subtract, e.g. that of the detectors trained on raw data.
    """

    def __init__(
        self, trained_on: str, metric: str = "accuracy", folder: str | None = None, base: str | None = None
    ) -> None:
        if base is not None and not (Path(base) / f"{_STEM}.csv").is_file():
            raise FileNotFoundError(f"CrossGeneratorMatrix.base={base} holds no {_STEM}.csv; test the base runs first.")
        self.trained_on, self.metric = trained_on, metric
        self.folder = Path(folder) if folder else None
        self.base = Path(base) if base else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module can be tested."""
        if stage == "test" and not hasattr(pl_module, "test_step"):
            raise TypeError(f"CrossGeneratorMatrix needs {type(pl_module).__name__}.test_step, which it lacks.")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the matrix, the means and the pictures."""
        directory = run_directory(trainer)
        loaders = trainer.test_dataloaders
        if not isinstance(loaders, dict) or getattr(trainer, "fast_dev_run", False):
            return
        metrics = trainer.callback_metrics
        keys = {name: f"test/{name}/{self.metric}" if len(loaders) > 1 else f"test/{self.metric}" for name in loaders}
        missing = [key for key in keys.values() if key not in metrics]
        if missing:
            raise KeyError(f"CrossGeneratorMatrix.metric={self.metric!r}: the module does not log {missing[0]!r}.")
        if not trainer.is_global_zero:
            return
        cells = {name: 100 * float(metrics[key]) for name, key in keys.items()}
        for condition in dict.fromkeys(name.partition("@")[2] for name in cells):
            row = {name.partition("@")[0]: v for name, v in cells.items() if name.partition("@")[2] == condition}
            self._report(trainer, directory, condition, pd.Series(row, name=self.trained_on))

    def _report(self, trainer: Trainer, directory: Path, condition: str, row: pd.Series) -> None:
        stem = f"{_STEM}_{condition}" if condition else _STEM
        folder = self.folder or directory
        matrix = _add_row(folder / f"{stem}.csv", row)
        title = f"{self.metric.replace('_', ' ')} in %" + (f", fakes as {condition}" if condition else "")
        log_table(trainer, folder, stem, matrix)
        log_figure(trainer, folder, stem, draw_matrix(matrix, f"{folder.name}: {title}" if self.folder else title))
        lines = [f"Cross-generator {title}:\n{matrix.round(1).to_string()}", _means(matrix)]
        base = self.base / f"{stem}.csv" if self.base else None
        if base is not None and base.is_file():
            difference = matrix - read_matrix(base).reindex(index=matrix.index, columns=matrix.columns)
            log_table(trainer, folder, f"{stem}_difference", difference)
            if difference.notna().any(axis=None):
                picture = draw_matrix(difference, f"difference to {base.parent.name}: {title}", signed=True)
                log_figure(trainer, folder, f"{stem}_difference", picture)
                lines += [f"Difference to {self.base}:\n{difference.round(1).to_string()}", _means(difference)]
        rank_zero_info("\n".join(lines))


def read_matrix(file: Path) -> pd.DataFrame:
    """Matrix of a CSV file, training generators as rows, test generators as columns, cells in %.

    Raises:
        ValueError: if a cell is no number.
    """
    matrix = pd.read_csv(file, index_col=0)
    matrix.index = matrix.index.astype(str)
    try:
        return matrix.astype(float)
    except ValueError as error:
        raise ValueError(f"{file} is no cross-generator matrix: {error}") from error


def draw_matrix(matrix: pd.DataFrame, title: str, signed: bool = False) -> Figure:
    """Heat map with the value written into each cell.

    Args:
        matrix: cells in %, one row per trained model.
        title: written above.
        signed: centre the colours at zero, for differences.

    Returns:
        A matplotlib figure.
    """
    rows, columns = matrix.shape
    figure = Figure(figsize=(2.2 + 1.05 * columns, 1.6 + 0.6 * rows), layout="constrained")
    axes = figure.subplots()
    reach = max(1.0, float(np.nanmax(np.abs(matrix.to_numpy()))) if matrix.notna().any(axis=None) else 1.0)
    low, high, colours = (-reach, reach, "RdBu") if signed else (0, 100, "viridis")
    picture = axes.imshow(matrix, vmin=low, vmax=high, cmap=colours, aspect="auto")
    axes.set_xticks(range(columns), list(matrix.columns), rotation=30, ha="right")
    axes.set_yticks(range(rows), list(matrix.index))
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    axes.set_title(title)
    for (row, column), value in np.ndenumerate(matrix.to_numpy()):
        if not np.isnan(value):
            bright = abs(value) < 0.6 * reach if signed else value > 60
            text = f"{value:+.1f}" if signed else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    figure.colorbar(picture, ax=axes)
    return figure


def _add_row(file: Path, row: pd.Series) -> pd.DataFrame:
    """Matrix of the file with the row added, or put in place of an earlier one of that name; written back."""
    matrix = read_matrix(file) if file.is_file() else pd.DataFrame(columns=row.index, dtype=float)
    matrix = matrix.reindex(columns=list(dict.fromkeys([*matrix.columns, *row.index])))
    matrix.loc[str(row.name)] = row
    matrix = matrix.astype(float).rename_axis("trained_on")
    file.parent.mkdir(parents=True, exist_ok=True)
    matrix.to_csv(file)
    return matrix


def _means(matrix: pd.DataFrame) -> str:
    summary = cross_generator_summary(matrix.to_numpy(), list(matrix.index), [str(c) for c in matrix.columns])
    return f"Mean {summary.mean:.2f}, without own cells {summary.mean_without_own:.2f}."
