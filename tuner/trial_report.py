"""What a trial tells the worker that launched it: the monitored metric, epoch by epoch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from tuner.trial_channel import CHANNEL

__all__ = ["TrialReport"]


class TrialReport(Callback):
    """Write the monitored metric to a file, and stop where the worker asks for that.

    Args:
        folder: ``reports.jsonl`` is written there, and ``stop`` looked for.
        monitor: name of the metric.
    """

    def __init__(self, folder: str, monitor: str) -> None:
        self.folder, self.monitor = Path(folder), monitor
        self.reported = False

    @classmethod
    def from_environment(cls) -> TrialReport:
        """As the worker wishes."""
        return cls(**json.loads(os.environ[CHANNEL]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what validation logged."""
        if not trainer.sanity_checking and self.monitor in trainer.callback_metrics:
            self._report(trainer)
            self.reported = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a metric of training."""
        if not self.reported and self.monitor in trainer.callback_metrics:
            self._report(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a metric that was never logged.

        Raises:
            ValueError: with the names of those that were.
        """
        reported = (self.folder / "reports.jsonl").exists()  # by an earlier part of a fit that was complete already
        if self.monitor not in trainer.callback_metrics and not reported:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ValueError(f"tune.monitor={self.monitor!r} was not logged; there are: {names}.")

    def _report(self, trainer: Trainer) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if trainer.is_global_zero:
            with (self.folder / "reports.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps([trainer.current_epoch, value]) + "\n")
        stop = trainer.strategy.broadcast((self.folder / "stop").exists())
        trainer.should_stop = trainer.should_stop or stop
