"""Test a classifier under common corruptions."""

from __future__ import annotations

import zlib
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.outputs import log_figure, log_table
from callbacks.robustness_plots import draw_corruptions
from callbacks.run_directory import run_directory
from functional.corruption_errors import ALEXNET, mean_corruption_error, relative_mean_corruption_error
from functional.corruptions import BENCHMARK_CORRUPTIONS, EXTRA_CORRUPTIONS, Variant, corrupt

__all__ = ["CorruptionBenchmark"]

_ALEXNET_CLEAN = 0.4348
"""Top-1 error of AlexNet on clean ImageNet."""


class CorruptionBenchmark(Callback):
    """With ``test``: errors under the corruptions of ImageNet-C or CIFAR-10-C, made on the device of the images.

    Each batch of the first test loader is scored as it is and under every corruption and severity: 75 further passes,
    95 with the extra corruptions. Writes ``corruption_errors.csv`` and ``.png``, and logs ``corruption/clean``,
    ``corruption/mce``, ``corruption/relative_mce`` and the mean error of each corruption. An image's corruption follows
    from its path, so it is the same on any rank. It needs a module with ``forward(x)``, images to logits, and batches
    with ``image``, ``label`` and ``path``.

    Args:
        corruptions: names; the 15 of the benchmark by default.
        variant: strengths for large images (``imagenet``) or for 32 x 32 pixels (``cifar``).
        extra: also measure the four extra corruptions, which do not count in the mCE.
        baseline: ``alexnet``, or errors by corruption together with ``clean``, by which the mCE is divided; none by
            default, as is usual for CIFAR.
        seed: changes all random draws.

    Raises:
        ValueError: if a name is unknown or the baseline is incomplete.
    """

    def __init__(
        self,
        corruptions: tuple[str, ...] = BENCHMARK_CORRUPTIONS,
        variant: Variant = "imagenet",
        extra: bool = False,
        baseline: dict[str, float] | str | None = None,
        seed: int = 0,
    ) -> None:
        unknown = set(corruptions) - set(BENCHMARK_CORRUPTIONS)
        if unknown or not corruptions:
            raise ValueError(
                f"CorruptionBenchmark.corruptions={list(corruptions)}: name some of {', '.join(BENCHMARK_CORRUPTIONS)}."
            )
        if isinstance(baseline, str):
            if baseline != "alexnet":
                raise ValueError(f"CorruptionBenchmark.baseline={baseline!r} is neither alexnet nor a table of errors.")
            baseline = {**ALEXNET, "clean": _ALEXNET_CLEAN}
        if baseline is not None and (missing := {"clean", *corruptions} - set(baseline)):
            raise ValueError(f"CorruptionBenchmark.baseline lacks {', '.join(sorted(missing))}.")
        self.counted, self.variant, self.baseline, self.seed = tuple(corruptions), variant, baseline, seed
        names = (*corruptions, *(EXTRA_CORRUPTIONS if extra else ()))
        self.conditions = [(name, severity) for name in names for severity in range(1, 6)]
        self._wrong = torch.zeros(0)
        self._table = pd.DataFrame()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module classifies."""
        if stage == "test" and type(pl_module).forward is LightningModule.forward:
            raise TypeError(f"CorruptionBenchmark needs {type(pl_module).__name__}.forward(x), which it lacks.")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count: errors as they are and under each condition, and images."""
        self._wrong = torch.zeros(len(self.conditions) + 2, dtype=torch.int64, device=pl_module.device)

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
        if dataloader_idx:
            return
        images, labels = batch["image"], batch["label"]
        seeds = [zlib.crc32(path.encode()) + (self.seed << 32) for path in batch["path"]]
        counts = [self._errors(trainer, pl_module, images, labels)]
        for name, severity in self.conditions:
            changed = corrupt(images, name, severity, seeds, self.variant)
            counts.append(self._errors(trainer, pl_module, changed, labels))
        counts.append(torch.full_like(counts[0], len(labels)))
        self._wrong += torch.stack(counts)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up over ranks and log."""
        total = trainer.strategy.reduce(self._wrong, reduce_op="sum")
        counts = total.cpu().double() if isinstance(total, Tensor) else torch.zeros(len(self.conditions) + 2)
        clean, *errors = (counts[:-1] / counts[-1].clamp_min(1)).tolist()
        rows = [("clean", 0, clean), *((*pair, error) for pair, error in zip(self.conditions, errors, strict=True))]
        self._table = pd.DataFrame(rows, columns=["corruption", "severity", "error"])
        by_name = {str(name): part.tolist() for name, part in self._table.groupby("corruption", sort=False)["error"]}
        counted = {name: by_name[name] for name in self.counted}
        reference = None if self.baseline is None else {name: [self.baseline[name]] for name in self.counted}
        reference_clean = self.baseline["clean"] if self.baseline else 0.0
        found = {
            "clean": clean,
            "mce": mean_corruption_error(counted, reference),
            "relative_mce": relative_mean_corruption_error(counted, clean, reference, reference_clean),
            **{name: sum(values) / len(values) for name, values in by_name.items() if name != "clean"},
        }
        for name, value in found.items():
            pl_module.log(f"corruption/{name}", value, sync_dist=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write table and picture."""
        directory = run_directory(trainer)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        written = log_table(trainer, directory, "corruption_errors", self._table, index=False)
        drawn = log_figure(trainer, directory, "corruption_errors", draw_corruptions(self._table))
        rank_zero_info(f"CorruptionBenchmark: {written}, {drawn}")

    @staticmethod
    def _errors(trainer: Trainer, module: Any, images: Tensor, labels: Tensor) -> Tensor:
        with trainer.precision_plugin.test_step_context():
            logits = module(images)
        return (logits.argmax(1) != labels).sum()
