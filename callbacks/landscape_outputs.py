"""Everything that a loss landscape is written as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.landscape_plots import draw_contour, draw_line, draw_surface
from callbacks.landscape_surface import Surface, write_surface
from callbacks.landscape_vtk import write_vti, write_vtp
from callbacks.outputs import log_figure

__all__ = ["landscape_page", "write_outputs"]

_PAGE = Path(__file__).with_name("landscape_page.html")


def write_outputs(trainer: Trainer, folder: Path, name: str, surface: Surface, directions: Tensor) -> Path:
    """Write arrays, pictures, page and ParaView files, and send pictures and page to the loggers; rank zero only.

    Args:
        trainer: the running trainer.
        folder: of the files.
        name: stem of their names.
        surface: what to write.
        directions: float64, shape ``(k, D)``; kept with the arrays in float32.

    Returns:
        Path of the ``.npz``.
    """
    file = write_surface(folder / f"{name}.npz", surface, directions=directions.numpy().astype(np.float32))
    if not np.isfinite(surface.losses).any():
        rank_zero_warn(f"LossLandscape: no loss is finite, so there is nothing to draw; {file} says where.")
        return file
    if surface.is_line:
        figures: dict[str, Figure] = {name: draw_line(surface)}
    else:
        figures = {name: draw_contour(surface), f"{name}_3d": draw_surface(surface)}
    for stem, figure in figures.items():
        log_figure(trainer, folder, stem, figure)
        figure.savefig(folder / f"{stem}.svg")
    if not surface.is_line:
        page = landscape_page(surface)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                logger.experiment.log({f"{name}_page": wandb.Html(page, inject=False)})
        write_vti(folder / f"{name}.vti", surface)
    if len(surface.path):
        write_vtp(folder / f"{name}_path.vtp", surface)
    return file


def landscape_page(surface: Surface) -> str:
    """A page of its own, without a network, on which the surface can be turned.

    Args:
        surface: with two directions.

    Returns:
        HTML.
    """
    losses = surface.losses
    positive = losses[np.isfinite(losses)]
    content: dict[str, Any] = {
        key: _plain(value) for key, value in surface._asdict().items() if key not in ("path_epochs",)
    }
    content["logarithmic"] = bool(positive.size and positive.max() > 20 * max(positive.min(), 1e-3 * positive.max()))
    text = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    return _PAGE.read_text(encoding="utf-8").replace("DATA_HERE", text)


def _plain(value: Any) -> Any:
    """Lists of numbers of six digits, None where they are not finite."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value] if value.ndim else _plain(value.item())
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
