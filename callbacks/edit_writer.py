"""Edited images of a folder, each beside the image that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from callbacks.outputs import as_bytes
from callbacks.run_directory import run_directory, unused_path

__all__ = ["EditWriter"]


class EditWriter(Callback):
    """Write what ``predict`` edits: ``edits/<name>.png``, before and after side by side, as they entered the network.

    It needs a module whose ``predict_step`` returns ``path`` and ``edited``, images ``(B, 3, H, W)`` in [0, 1].

    Args:
        alone: write the edited image without the one before it.
    """

    def __init__(self, alone: bool = False) -> None:
        self.alone = alone
        self._folder = Path()
        self._count = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._folder, self._count = run_directory(trainer) / "edits", 0

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
                "modules that edit images, such as AttributeInpaintingGAN."
            )
        if getattr(trainer, "fast_dev_run", False):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = zip(outputs["path"], as_bytes(batch["image"]), as_bytes(outputs["edited"]), strict=True)
        for path, before, after in rows:
            picture = after if self.alone else np.concatenate([before, after], axis=1)
            Image.fromarray(picture).save(unused_path(self._folder / f"{Path(path).stem}.png"))
            self._count += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where they are."""
        if self._count:
            rank_zero_info(f"{self._count} edited images: {self._folder}")
