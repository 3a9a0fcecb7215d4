"""Verdicts on a folder of images: a table, and a sheet of pictures to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.outputs import gather_objects, log_figure, log_table
from callbacks.run_directory import run_directory

__all__ = ["PredictionWriter"]

_COLOURS = {"real": "tab:green", "fake": "tab:red", "unsure": "tab:orange"}


class PredictionWriter(Callback):
    """Write what ``predict`` returns to ``predictions.csv`` and the images to ``predictions.png``.

    It needs a module whose ``predict_step`` returns a dictionary with ``path`` and tensors of one row per image;
    ``verdict`` and ``verdict_names``, where present, become words and colours. If the module's ``predict_attribution``
    is true, its ``attribution(x)``, maps ``(B, H, W)`` in [0, 1] of images ``(B, 3, H, W)``, is laid over the images of
    the sheet in ``attributions.png``.

    Args:
        sheet: most images on the contact sheet; those nearest to the unsure band come first. 0 draws none.
    """

    def __init__(self, sheet: int = 48) -> None:
        self.sheet = sheet
        self._rows: list[pd.DataFrame] = []
        self._shown = pd.DataFrame()
        self._pictures: dict[str, np.ndarray] = {}
        self._maps: dict[str, np.ndarray] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run, and refuse a module that promises maps and has none."""
        if getattr(pl_module, "predict_attribution", False) and not hasattr(pl_module, "attribution"):
            raise TypeError(
                f"PredictionWriter needs {type(pl_module).__name__}.attribution(x) to draw maps, which it lacks. Set "
                "model.predict_attribution to false."
            )
        self._rows, self._shown, self._pictures, self._maps = [], pd.DataFrame(), {}, {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows and the pictures that may end up on the sheet."""
        if not isinstance(outputs, dict) or "path" not in outputs:
            raise TypeError(f"PredictionWriter needs {type(pl_module).__name__}.predict_step to return a `path`.")
        rows = _table(outputs)
        self._rows.append(rows)
        self._shown = _least_certain(pd.concat([self._shown, rows]), self.sheet)
        shown = set(self._shown["path"])
        missing = shown - self._pictures.keys()
        new = [index for index, path in enumerate(batch["path"]) if path in missing]
        if new:
            images = batch["image"][new]
            self._pictures |= _by_path(batch["path"], new, images.permute(0, 2, 3, 1))
            module: Any = pl_module
            if getattr(module, "predict_attribution", False):  # of these only: it costs another pass
                self._maps |= _by_path(batch["path"], new, module.attribution(images))
        self._pictures = {path: image for path, image in self._pictures.items() if path in shown}
        self._maps = {path: image for path, image in self._maps.items() if path in shown}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all ranks and write."""
        directory = run_directory(trainer)
        parts = gather_objects(trainer, (self._rows, self._pictures, self._maps))
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        pictures = {path: image for _, images, _ in parts for path, image in images.items()}
        maps = {path: image for *_, images in parts for path, image in images.items()}
        table = pd.concat([rows for frames, *_ in parts for rows in frames], ignore_index=True)
        table = table.drop_duplicates("path").sort_values("path")
        if list(table.columns) == ["path"]:  # nothing was judged; images are for other callbacks
            return
        written = log_table(trainer, directory, "predictions", table, index=False)
        message = f"{len(table)} images judged; table: {written}"
        if "verdict" in table:
            counts = table["verdict"].value_counts()
            message += "\n" + ", ".join(f"{count} {name}" for name, count in counts.items())
        shown = _least_certain(table[table["path"].isin(pictures.keys())], self.sheet)
        if self.sheet and len(shown):
            figure = _contact_sheet(shown, pictures)
            message += f"\nPictures: {log_figure(trainer, directory, 'predictions', figure)}"
        if maps and len(shown):
            figure = _contact_sheet(shown, pictures, maps)
            figure.suptitle('Where the network saw "fake":\nhint, not evidence', fontsize=9)  # fits one column
            message += f"\nAttributions: {log_figure(trainer, directory, 'attributions', figure)}"
        rank_zero_info(message)


def _table(outputs: dict[str, Any]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    names = outputs.get("verdict_names")
    for key, value in outputs.items():
        if not isinstance(value, Tensor):
            if key == "path":
                columns[key] = list(value)
            continue
        if value.ndim > 2:  # images and maps are for other callbacks
            continue
        array = value.detach().float().cpu().numpy()
        if key == "verdict" and names is not None:
            columns[key] = [names[int(index)] for index in array]
        elif array.ndim == 2:
            columns.update({f"{key}_{index}": array[:, index] for index in range(array.shape[1])})
        else:
            columns[key] = array.astype(int) if not value.is_floating_point() else array
    return pd.DataFrame(columns)


def _least_certain(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows nearest to the middle of the unsure band; the first ones where there is none."""
    if {"score", "unsure_below", "unsure_above"} <= set(table.columns):
        margin = (table["score"] - (table["unsure_below"] + table["unsure_above"]) / 2).abs()
        table = table.iloc[np.lexsort((table["path"], margin))]
    return table.head(count)


def _by_path(paths: list[str], indices: list[int], values: Tensor) -> dict[str, np.ndarray]:
    """Bytes of values in [0, 1], under the paths at the given indices of a batch."""
    pixels = (values * 255).round().byte().cpu().numpy()
    return {paths[index]: image for index, image in zip(indices, pixels, strict=True)}


def _contact_sheet(
    table: pd.DataFrame, pictures: dict[str, np.ndarray], maps: dict[str, np.ndarray] | None = None, columns: int = 8
) -> Figure:
    columns = min(columns, len(table))
    rows = -(-len(table) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, row in zip(grid, table.to_dict("records"), strict=False):
        axes.imshow(pictures[row["path"]])
        if maps:
            strength = maps[row["path"]] / 255
            axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * strength)
        verdict = str(row.get("verdict", row.get("prediction", "")))
        share = f" {row['probability']:.2f}" if "probability" in row else ""
        axes.set_title(verdict + share, color=_COLOURS.get(verdict, "black"), fontsize=9)
        axes.set_xlabel(Path(row["path"]).name[-24:], fontsize=6)
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
        if not axes.images:
            axes.set_axis_off()
    return figure
