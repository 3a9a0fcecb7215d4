"""Pictures of what a generator makes, with the same latents each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.outputs import log_figure
from callbacks.run_directory import run_directory, unused_path

__all__ = ["SampleGrid"]

Batch = dict[str, Any]


class SampleGrid(Callback):
    """Sheet of samples after validation and test, to the run's directory and the loggers.

    The first images of the first validation batch are kept, and noise is drawn from a seed, so that sheets of different
    epochs show the same conditions and latents. It needs a module with ``sample_sheet(batch, columns, seed)``: images
    in [0, 1], shape ``(B, 1 + columns, 3, H, W)``, the first column being the batch's own; an attribute
    ``sheet_headings`` names the columns. In ``predict`` each image gets a file of its own.

    Args:
        rows: images whose conditions are sampled.
        columns: samples per condition.
        every_n_epochs: during training, validations of other epochs draw nothing.
        seed: of the latents.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, rows: int = 8, columns: int = 8, every_n_epochs: int = 1, seed: int = 0) -> None:
        if min(rows, columns, every_n_epochs) < 1:
            raise ValueError(f"rows={rows}, columns={columns} and every_n_epochs={every_n_epochs} must be at least 1.")
        self.rows, self.columns, self.every_n_epochs, self.seed = rows, columns, every_n_epochs, seed
        self._batch: Batch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module can draw."""
        if not callable(getattr(pl_module, "sample_sheet", None)):
            raise TypeError(
                f"SampleGrid needs {type(pl_module).__name__}.sample_sheet(batch, columns), which it lacks."
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        if batch_idx == 0 and dataloader_idx == 0:
            self._batch = {key: value[: self.rows] for key, value in batch.items()}

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, during training in the epochs that are due."""
        due = trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and not trainer.sanity_checking:
            self._draw(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write ``samples/<name>.png`` for each image: samples of its condition side by side."""
        folder = Path(trainer.default_root_dir) / "samples"
        if getattr(trainer, "fast_dev_run", False):
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path, row in zip(batch["path"], _pixels(pl_module, batch, self.columns, self.seed), strict=True):
            file = unused_path(folder / f"{Path(path).stem}.png")
            Image.fromarray(np.concatenate(list(row[1:]), axis=1)).save(file)

    @torch.no_grad()
    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batch, self._batch = self._batch, None
        directory = run_directory(trainer)
        module: Any = pl_module
        ready = getattr(module, "ready_to_sample", True)
        if batch is None or not ready or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        pixels = _pixels(pl_module, batch, self.columns, self.seed)
        step = int(getattr(module, "generator_steps", trainer.global_step))
        headings = list(getattr(module, "sheet_headings", []))[: pixels.shape[1]]
        log_figure(trainer, directory, "samples", _figure(pixels, f"{step:,} generator steps", headings))
        (directory / "samples").mkdir(exist_ok=True)
        np.savez_compressed(directory / "samples" / f"{step:08d}.npz", images=pixels)


@torch.no_grad()
def _pixels(module: Any, batch: Batch, columns: int, seed: int) -> NDArray[np.uint8]:
    """Bytes of a sheet ``(R, 1 + columns, H, W, 3)``; the module is left in its mode."""
    training = module.training
    module.eval()
    sheet: Tensor = module.sample_sheet(batch, columns, seed)
    module.train(training)
    return (sheet.float().clamp(0, 1) * 255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()


def _figure(sheet: NDArray[np.uint8], title: str, headings: list[str]) -> Figure:
    """Rows of images ``(R, C, H, W, 3)``; the first column stands apart, and columns may have headings."""
    columns, border = sheet.shape[1], 2
    tiles = np.pad(sheet, ((0, 0), (0, 0), (border, border), (border, border), (0, 0)), constant_values=255)
    lines = [np.concatenate([*line[:1], np.full_like(line[0][:, :6], 255), *line[1:]], axis=1) for line in tiles]
    picture = np.concatenate(lines)
    width = 0.75 * (columns + 0.3)
    figure = Figure(figsize=(width, width * picture.shape[0] / picture.shape[1] + 0.45), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title if headings else f"{title}; left: the image that a row is conditioned on", fontsize=8, pad=16)
    side = tiles.shape[3]
    for index, heading in enumerate(headings):
        axes.text((index + 0.5) * side + 6 * (index > 0), -2, heading, ha="center", va="bottom", fontsize=5)
    return figure
