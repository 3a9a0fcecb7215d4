"""The path that training takes through parameter space."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.analysis_parts import buffers_of, parameters_of
from callbacks.run_directory import run_directory
from callbacks.snapshots import SnapshotFolder, States

__all__ = ["TrajectoryRecorder"]


class TrajectoryRecorder(Callback):
    """Record parameters and running statistics at the start and after epochs or steps, one row of numbers each.

    Written by rank zero to ``<run>/trajectory/``, mapped into memory when read, four bytes per parameter and snapshot.
    :class:`LossLandscape` draws the path; a resumed run goes on in the same files. It works with any module.

    Args:
        every_n_epochs: epochs between snapshots; the last epoch is always recorded.
        every_n_steps: optimiser steps between snapshots instead.
        player: record the parameters of this submodule only, for modules of several players.

    Raises:
        ValueError: if an interval is below 1.
    """

    def __init__(self, every_n_epochs: int = 1, every_n_steps: int | None = None, player: str | None = None) -> None:
        if every_n_epochs < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise ValueError(
                f"TrajectoryRecorder.every_n_epochs={every_n_epochs}, every_n_steps={every_n_steps}: at least 1."
            )
        self.every_n_epochs, self.every_n_steps, self.player = every_n_epochs, every_n_steps, player
        self._folder: SnapshotFolder | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the folder."""
        parameters_of(pl_module, self.player)
        name = f"trajectory_{self.player}" if self.player else "trajectory"
        self._folder = SnapshotFolder(run_directory(trainer) / name)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training starts."""
        self._record(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record, if steps count."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._record(trainer, pl_module, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record, if epochs count."""
        if self.every_n_steps is None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._record(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training ends."""
        self._record(trainer, pl_module, trainer.current_epoch)

    def states(self, module: LightningModule) -> States:
        """The path so far; every process reads rank zero's files."""
        if self._folder is None:
            raise RuntimeError("TrajectoryRecorder has recorded nothing yet: fit first.")
        return self._folder.read(parameters_of(module, self.player), buffers_of(module, self.player))

    @rank_zero_only
    def _record(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        if self._folder is None or getattr(trainer, "fast_dev_run", False):
            return
        if not self._folder.exists or trainer.global_step != self._folder.last_step():
            self._folder.append(
                parameters_of(module, self.player), buffers_of(module, self.player), epoch, trainer.global_step
            )
