"""Train on attacked images instead of clean ones."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

__all__ = ["AdversarialTraining"]


class AdversarialTraining(Callback):
    """Replace each training image by one that a single signed-gradient step from a random start has made harder.

    It needs a module with ``objective(batch)``, the mean loss of a batch, and batches with ``image`` in [0, 1]. The
    gradient is that of the network in evaluation mode, so that running statistics see attacked images once only. Costs
    one further forward and backward pass per step.

    Args:
        epsilon: largest change of a pixel, in (0, 1].
        step: size of the signed step, by default 1.25 epsilon.
        seed: of the random starts, together with step and rank.

    Raises:
        ValueError: if ``epsilon`` or ``step`` is out of its range.

    Source: Wong et al. 2020, Fast is better than free, Alg. 3 (fast adversarial training).
    """

    def __init__(self, epsilon: float = 8 / 255, step: float | None = None, seed: int = 0) -> None:
        if not 0 < epsilon <= 1:
            raise ValueError(f"AdversarialTraining.epsilon={epsilon} is no change of pixels in (0, 1].")
        if step is not None and not step > 0:
            raise ValueError(f"AdversarialTraining.step={step} must be positive.")
        self.epsilon, self.step, self.seed = epsilon, 1.25 * epsilon if step is None else step, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module has a loss to raise."""
        if not callable(getattr(pl_module, "objective", None)):
            raise TypeError(f"AdversarialTraining needs {type(pl_module).__name__}.objective(batch), which it lacks.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Attack the batch in place, before the training step sees it."""
        images: Tensor = batch["image"]
        number = (self.seed * 1_000_003 + trainer.global_step) * trainer.world_size + trainer.global_rank
        generator = torch.Generator(images.device).manual_seed(number)
        noise = torch.empty_like(images).uniform_(-self.epsilon, self.epsilon, generator=generator)
        start = (images + noise).clamp(0, 1).requires_grad_(True)
        module: Any = pl_module
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with torch.enable_grad(), trainer.precision_plugin.train_step_context():
                loss = module.objective({**batch, "image": start})
            (gradient,) = torch.autograd.grad(loss, start)
        finally:
            for part, mode in modes:
                part.training = mode
        moved = start.detach() + self.step * gradient.sign()
        batch["image"] = torch.clamp(moved, images - self.epsilon, images + self.epsilon).clamp(0, 1)
