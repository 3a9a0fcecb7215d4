"""Pictures and tables to the run's directory and to whichever loggers are active."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, distributed

__all__ = ["as_bytes", "gather_objects", "log_figure", "log_table"]


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images in [0, 1], ``(B, 3, H, W)``, as bytes ``(B, H, W, 3)`` on the CPU; what lies outside is clipped."""
    pixels: NDArray[np.uint8] = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def gather_objects(trainer: Trainer, part: Any) -> list[Any]:
    """What each process has, in the order of ranks; a collective call, for numpy arrays, tensors on the CPU and tables.

    Args:
        trainer: the running trainer.
        part: what this process has.
    """
    if trainer.world_size == 1:
        return [part]
    parts: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(parts, part)
    return parts


def log_figure(trainer: Trainer, directory: Path, name: str, figure: Figure, step: int | None = None) -> Path:
    """Write ``<directory>/<name>.png`` and send the picture to TensorBoard and Weights & Biases if they listen.

    Call it on rank zero only.

    Args:
        trainer: the running trainer.
        directory: folder of the file, created if need be.
        name: file stem and key of the picture.
        figure: matplotlib figure.
        step: step to log under; the trainer's own by default.

    Returns:
        Path of the file.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.png"
    figure.savefig(path, dpi=150)
    step = trainer.global_step if step is None else step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(key=name, images=[pixels], step=step)
    return path


def log_table(trainer: Trainer, directory: Path, name: str, table: pd.DataFrame, index: bool = True) -> Path:
    """Write ``<directory>/<name>.csv`` and send the table to Weights & Biases if it listens; rank zero only.

    Args:
        trainer: the running trainer.
        directory: folder of the file, created if need be.
        name: file stem and key of the table.
        table: what to write.
        index: whether the row names are part of it.

    Returns:
        Path of the file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.csv"
    table.to_csv(path, index=index, errors="surrogateescape")  # names of files need not be UTF-8
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key=name, dataframe=table.reset_index() if index else table)
    return path
