"""Edited images of a folder: a file for each, and a sheet of all above what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from callbacks.outputs import as_bytes, gather_objects, log_figure, log_table
from callbacks.run_directory import run_directory, unused_path

__all__ = ["EditWriter"]

Pictures = NDArray[np.uint8]


class EditWriter(Callback):
    """Write what ``predict`` edits or translates: ``edits/<name>.png``, and ``edits.png``, a sheet to look at.

    ``edits.csv`` says which file was made from which image, for images of one name in several folders.
    The sheet shows images above their edits, as they entered and left the network, and on top the shots that an edit
    was learnt from, the batch's ``support_image``, where it has some. It needs a module whose ``predict_step`` returns
    ``path`` and ``edited``, images ``(B, 3, H, W)`` in [0, 1].

    Args:
        side_by_side: write each edit to the right of the image before it.
        sheet: most images on the sheet; 0 draws none.
        columns: of the sheet.

    Raises:
        ValueError: if a number makes no sense.
    """

    def __init__(self, side_by_side: bool = False, sheet: int = 24, columns: int = 8) -> None:
        if sheet < 0 or columns < 1:
            raise ValueError(f"sheet={sheet} must not be negative, columns={columns} at least 1.")
        self.side_by_side, self.sheet, self.columns = side_by_side, sheet, columns
        self._folder = Path()
        self._written: list[tuple[str, str]] = []
        self._shots: Pictures | None = None
        self._kept: dict[str, tuple[Pictures, Pictures]] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._folder, self._written = run_directory(trainer) / "edits", []
        self._shots, self._kept = None, {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of a batch; each process writes its own.

        Raises:
            TypeError: if the module returns no edits.
        """
        if not isinstance(outputs, dict) or not {"path", "edited"} <= outputs.keys():
            raise TypeError(
                f"EditWriter needs {type(pl_module).__name__}.predict_step to return `path` and `edited`; it is for "
                "modules that edit images, such as AttributeInpaintingGAN and FewShotTranslationGAN."
            )
        if getattr(trainer, "fast_dev_run", False):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._shots is None and "support_image" in batch:
            self._shots = as_bytes(batch["support_image"])
        for path, before, after in zip(
            outputs["path"], as_bytes(batch["image"]), as_bytes(outputs["edited"]), strict=True
        ):
            picture = np.concatenate([before, after], axis=1) if self.side_by_side else after
            self._written.append((path, _saved(picture, self._folder / f"{Path(path).stem}.png")))
            if len(self._kept) < self.sheet:
                self._kept[path] = before, after

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, draw the sheet, and say where everything is."""
        parts = gather_objects(trainer, (self._written, self._kept))
        written = sorted(row for rows, _ in parts for row in rows)
        if not trainer.is_global_zero or not written:
            return
        directory = self._folder.parent  # asking the trainer again would wait for the other processes
        table = log_table(trainer, directory, "edits", pd.DataFrame(written, columns=["path", "edit"]), index=False)
        message = f"{len(written)} edited images: {self._folder}; which is which: {table}"
        kept = {path: pair for _, pairs in parts for path, pair in pairs.items()}
        pairs = [kept[path] for path in sorted(kept)[: self.sheet]]
        if pairs:
            figure = _sheet(pairs, self._shots, min(self.columns, len(pairs)))
            message += f"\nSheet: {log_figure(trainer, directory, 'edits', figure)}"
        rank_zero_info(message)


def _saved(picture: Pictures, wanted: Path) -> str:
    """Name of the file, a new one also if another process writes one of the same name at this moment."""
    while True:
        path = unused_path(wanted)
        try:
            with path.open("xb") as file:
                Image.fromarray(picture).save(file, "PNG")
            return path.name
        except FileExistsError:
            continue


def _sheet(pairs: list[tuple[Pictures, Pictures]], shots: Pictures | None, columns: int) -> Figure:
    """Shots, then rows of images above rows of their edits."""
    rows: list[tuple[str, list[Pictures]]] = []
    shown = [] if shots is None else list(shots)
    rows += [("shots", shown[start : start + columns]) for start in range(0, len(shown), columns)]
    for start in range(0, len(pairs), columns):
        part = pairs[start : start + columns]
        rows += [("before", [before for before, _ in part]), ("after", [after for _, after in part])]
    figure = Figure(figsize=(1.1 * columns + 0.6, 1.15 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pictures) in zip(grid, rows, strict=True):
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        for axes, picture in zip(line, pictures, strict=False):
            axes.imshow(picture, interpolation="nearest")
        line[0].set_ylabel(name, fontsize=9)
    return figure
