"""Exponential moving average of the weights of any module, for validation, test and checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

__all__ = ["WeightAverage"]

_KEY = "weight_average"


class WeightAverage(Callback):
    """Validate, test and save an exponential moving average of the weights, and train on as without it.

    After every batch the average moves by ``1 - decay`` of the way to the weights (Polyak and Juditsky 1992).
    Parameters and running statistics of normalisation layers are averaged; thresholds, counters and whatever else a
    module keeps in buffers are its own. Checkpoints hold the average in the module's place, so that ``predict`` and
    ``load_weights`` take it without knowing of this callback, and beside it the weights that training goes on from. The
    watched run trains exactly as an unwatched one. Works with any number of optimisers, since batches are counted.

    Modules that average by themselves (GANs: ``model.ema_decay``) and modules that are fitted instead of trained are
    refused.

    Args:
        decay: share of the old average that stays at each batch, in (0, 1).
        start_step: batches during which the average is the weights themselves.

    Raises:
        ValueError: if a number lies outside.
    """

    def __init__(self, decay: float = 0.999, start_step: int = 0) -> None:
        if not 0 < decay < 1 or start_step < 0:
            raise ValueError(
                f"WeightAverage.decay={decay} must lie between 0 and 1, start_step={start_step} be at least 0."
            )
        self.decay, self.start_step, self.step = decay, start_step, 0
        self._average: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] | None = None  # weights of the training, while the average is in their place
        self._resumed: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules without weights to average.

        Raises:
            TypeError: for such a module.
        """
        name = type(pl_module).__name__
        if getattr(pl_module, "average", None) is not None and hasattr(pl_module, "ema_decay"):
            raise TypeError(f"{name} averages its generator itself: leave WeightAverage out and set model.ema_decay.")
        trained = any(parameter.requires_grad for parameter in pl_module.parameters())
        if not trained or getattr(pl_module, "fits_once", False):
            raise TypeError(f"WeightAverage needs {name}.parameters() that are trained by gradient descent.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights, or go on from those of the checkpoint."""
        self._kept = None
        named = _averaged(pl_module)
        self._average = {name: tensor.clone() for name, tensor in named.items()}
        if self._resumed is not None:  # the module was given the average
            _write(named, self._resumed)
            self._resumed = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average."""
        self.step += 1
        decay = 0.0 if self.step <= self.start_step else self.decay
        followed = _averaged(pl_module)
        torch._foreach_lerp_([self._average[name] for name in followed], list(followed.values()), 1 - decay)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in place; outside of ``fit`` it is there already."""
        if trainer.state.fn == "fit":
            self._exchange(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        if self._kept is not None and trainer.state.fn == "fit":
            _write(_averaged(pl_module), self._kept)
            self._kept = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back if a validation was interrupted."""
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average as the result of the training."""
        self._exchange(pl_module)  # a checkpoint may still be written

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Exchange weights and average."""
        if not self._average or "state_dict" not in checkpoint:
            return
        named = self._kept or _averaged(pl_module)
        checkpoint[_KEY] = {"step": self.step, "weights": {name: tensor.clone() for name, tensor in named.items()}}
        checkpoint["state_dict"] |= {name: tensor.clone() for name, tensor in self._average.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over weights and count of a run that is resumed.

        Raises:
            ValueError: if it was trained without this callback.
        """
        if _KEY not in checkpoint:
            raise ValueError("The checkpoint holds no average: it was trained without WeightAverage. Leave it out.")
        self.step, self._resumed = checkpoint[_KEY]["step"], checkpoint[_KEY]["weights"]

    def _exchange(self, module: LightningModule) -> None:
        named = _averaged(module)
        self._kept = {name: tensor.clone() for name, tensor in named.items()}
        _write(named, self._average)


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, and running statistics of normalisation layers, by their names in the state dictionary."""
    named = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    for prefix, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            buffers = layer.named_buffers(prefix, recurse=False)
            named |= {name: value for name, value in buffers if value.is_floating_point()}
    return named


@torch.no_grad()
def _write(named: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, tensor in named.items():
        tensor.copy_(values[name])
