"""What a trained detector owes to codec, size and other traces of a file's way to it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL import features
from torch import Tensor

from callbacks.bias_probe_conditions import Degradations
from callbacks.bias_probe_plots import draw_probe
from callbacks.bias_probe_report import Bands, probe_table, summary, worst_losses
from callbacks.outputs import gather_objects, log_figure, log_table
from callbacks.run_directory import run_directory

__all__ = ["BiasProbe"]

Part = tuple[str, list[str], Tensor, Tensor, Tensor]  # loader, paths, labels (B,), short sides (B,), scores (B, 1 + C)


class BiasProbe(Callback):
    """Test a detector also on degraded versions of each test batch, and tell what its rates lose.

    Files are decoded once: each batch is scored as it is and then under one condition after the other, on its device
    (WebP alone is written by Pillow). ``bias_probe.csv`` holds TPR of fakes, TNR of reals, balanced accuracy and AUROC
    with bootstrap bands, for each test loader and for all files together; ``bias_probe.png`` the curves; a line per
    degradation names the level at which most is lost, and ``probe/<degradation>/worst_drop`` logs that loss of TPR or
    TNR. Without further passes it also compares files of several native sizes (where batches have ``native_size``) and
    of lossless and lossy formats by the suffix of their paths: the accuracy on real-PNG and fake-PNG files of
    Grommelt et al. 2024.

    It needs a module with ``forward(x)`` and ``score(logits)``, one number per image that is positive for "fake", and
    batches with ``image``, ``label`` and ``path``; paths tell images apart.

    Args:
        jpeg: IJG qualities at which images are saved, 4:2:0, with the pixels that libjpeg gives.
        resize: factors of the sides, bicubic with antialiasing; then a centre crop, or reflection, to the old frame.
        blur: standard deviations of a Gaussian blur in pixels.
        noise: standard deviations of Gaussian noise in grey levels; an image's noise follows from its path.
        webp: qualities of lossy WebP.
        crop_phase: distances of the crop's corner to the file's 8 x 8 grid. The window moves down and right by up to
            seven pixels, and what it would need from outside is reflected. Where ``crop_offset`` is missing or
            negative, because the image was resized after its file, the crop counts as cut on the grid.
        native_size: number of windows of the file's short side with equally many images, or the sides at which the
            next window begins; 0 for none.
        loaders: names of the test loaders to probe (numbers, if they have no names); by default those without "@",
            which are not the same files under a condition already.
        use_stored_threshold: call "fake" what scores above the module's ``calibration.threshold`` instead of zero.
        resamples: resampled sets of images behind each band.
        confidence: share of them inside the band.
        seed: of the resampling.

    Raises:
        ValueError: if a level is out of its range.
    """

    def __init__(
        self,
        jpeg: tuple[int, ...] = (40, 50, 60, 70, 75, 80, 85, 90, 96, 98, 100),
        resize: tuple[float, ...] = (0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0),
        blur: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0),
        noise: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0),
        webp: tuple[int, ...] = (40, 60, 75, 85, 95),
        crop_phase: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7),
        native_size: int | tuple[int, ...] = 4,
        loaders: list[str] | None = None,
        use_stored_threshold: bool = False,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        if resamples < 1 or not 0 < confidence < 1:
            raise ValueError(
                f"BiasProbe.resamples={resamples} must be at least 1, and confidence={confidence} between 0 and 1."
            )
        self.degradations = Degradations(
            jpeg=jpeg, resize=resize, blur=blur, noise=noise, crop_phase=crop_phase, webp=webp
        )
        self.native_size, self.loaders = native_size, loaders
        self.use_stored_threshold = use_stored_threshold
        self.bands = Bands(0.0, resamples, confidence, seed)
        self._names: list[str] = []
        self._probed: set[str] = set()
        self._parts: list[Part] = []
        self._table = pd.DataFrame()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that cannot be probed."""
        if stage != "test":
            return
        name = type(pl_module).__name__
        if type(pl_module).forward is LightningModule.forward:
            raise TypeError(f"BiasProbe needs {name}.forward(x), which it lacks.")
        if not callable(getattr(pl_module, "score", None)):
            raise TypeError(f"BiasProbe needs {name}.score(logits), one number per image, which it lacks.")
        if self.use_stored_threshold and not isinstance(_stored_threshold(pl_module), Tensor):
            raise TypeError(f"BiasProbe.use_stored_threshold needs {name}.calibration.threshold, which it lacks.")
        if self.degradations.webp and not features.check("webp"):
            raise RuntimeError("BiasProbe.webp: this Pillow was built without WebP; set it to [].")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the loaders and say what each batch will go through."""
        loaders = trainer.test_dataloaders
        if not isinstance(loaders, dict):
            several = loaders if isinstance(loaders, list | tuple) else [loaders]
            loaders = {str(index): loader for index, loader in enumerate(several)}
        self._names = list(loaders)
        chosen = self.loaders if self.loaders is not None else [name for name in self._names if "@" not in name]
        if not chosen or not set(chosen) <= set(self._names):
            raise ValueError(
                f"BiasProbe.loaders={self.loaders}: name one or more of the test loaders {', '.join(self._names)}."
            )
        self._probed, self._parts, self._table = set(chosen), [], pd.DataFrame()
        threshold = float(_stored_threshold(pl_module)) if self.use_stored_threshold else 0.0
        self.bands = self.bands._replace(threshold=threshold)
        counts = Counter(name for name, _ in self.degradations.conditions)
        listed = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
        rank_zero_info(
            f"BiasProbe: each batch of {', '.join(chosen)} is also scored as it is and under {counts.total()} "
            f"conditions ({listed})."
        )

    @torch.no_grad()
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the batch under every condition."""
        loader = self._names[dataloader_idx]
        if loader not in self._probed:
            return
        missing = [key for key in ("image", "label", "path") if not isinstance(batch, dict) or key not in batch]
        if missing:
            raise TypeError(f"BiasProbe needs batches that are dictionaries with `{missing[0]}`.")
        images: Tensor = batch["image"]
        with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
            clean = self._scores(trainer, pl_module, images)
            degraded = (
                clean if changed is images else self._scores(trainer, pl_module, changed)
                for changed in self.degradations.batches(batch)
            )
            scores = torch.stack([clean, *degraded], dim=1)
        sizes = batch.get("native_size")
        sides = torch.full_like(batch["label"], -1) if sizes is None else sizes.amin(dim=1)
        self._parts.append((loader, list(batch["path"]), batch["label"], sides, scores))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the scores of all ranks and log the worst loss of each degradation."""
        conditions = self.degradations.conditions
        gathered = gather_objects(trainer, _on_cpu(self._parts, 1 + len(conditions)))
        losses: dict[str, float] = {}
        if trainer.is_global_zero:
            images = pd.concat([rows for rows, _ in gathered if len(rows)], ignore_index=True)
            if trainer.world_size > 1:  # a sampler that pads its shards repeats images
                images = images.drop_duplicates(["loader", "path"])
            scores = np.concatenate([scores for _, scores in gathered])
            self._table = probe_table(images, scores, conditions, self.native_size, self.bands)
            losses = {str(name): float(loss) for name, loss in worst_losses(self._table)["loss"].items()}
        for name, loss in trainer.strategy.broadcast(losses).items():
            pl_module.log(f"probe/{name}/worst_drop", loss, sync_dist=True)
        self._parts = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write table and curves, and say what was found."""
        directory = run_directory(trainer)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        lines = summary(self._table)
        share = f"{100 * self.bands.confidence:g} % bands of {self.bands.resamples} resamples"
        written = log_table(trainer, directory, "bias_probe", self._table, index=False)
        title = f"{type(pl_module).__name__}: rates by what happened to the file, {share}"
        drawn = log_figure(trainer, directory, "bias_probe", draw_probe(self._table, title))
        rank_zero_info("\n  ".join(["BiasProbe:", *lines, f"Table: {written}", f"Curves: {drawn}"]))

    def _scores(self, trainer: Trainer, module: Any, images: Tensor) -> Tensor:
        """Scores of images, shape ``(B,)``, in the precision of the test step."""
        with trainer.precision_plugin.test_step_context():
            scores = module.score(module(images))
        if not isinstance(scores, Tensor) or scores.shape != (len(images),):
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(
                f"BiasProbe needs {type(module).__name__}.score(logits) to return one number per image, shape "
                f"({len(images)},), got {shape}."
            )
        return scores.detach().float()


def _stored_threshold(module: LightningModule) -> Any:
    return getattr(getattr(module, "calibration", None), "threshold", None)


def _on_cpu(parts: list[Part], conditions: int) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """One row per image, and the scores ``(N, conditions)``; waits for the device once."""
    columns = ["loader", "path", "label", "short_side"]
    if not parts:  # this rank's share is empty
        return pd.DataFrame(columns=columns), np.empty((0, conditions))
    loaders, paths, *tensors = zip(*parts, strict=True)
    labels, sides, scores = (torch.cat(part).cpu() for part in tensors)
    names = [(loader, path) for loader, group in zip(loaders, paths, strict=True) for path in group]
    rows = pd.DataFrame(names, columns=columns[:2]).assign(label=labels.numpy(), short_side=sides.numpy())
    return rows, scores.double().numpy()
