"""Look at a finished run with a callback that is made for training."""

from __future__ import annotations

from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["AfterValidation", "Examiner"]


class Examiner(Protocol):
    """A callback that can also look at a module once."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what it cannot look at."""
        ...

    def examine(self, trainer: Trainer, module: LightningModule) -> Any:
        """Look at the module and write what was found."""
        ...


class AfterValidation(Callback):
    """Let an examiner look at a checkpoint, once ``validate`` has loaded it and brought it to its device.

    Args:
        examiner: :class:`LossLandscape` or :class:`HessianSpectrum`.
    """

    def __init__(self, examiner: Examiner) -> None:
        self.examiner = examiner

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let it refuse the module before anything is computed."""
        self.examiner.setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it look."""
        self.examiner.examine(trainer, pl_module)
