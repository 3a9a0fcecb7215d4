"""Modules and data on which the callbacks of landscapes and spectra are tried."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Points(Dataset[dict[str, Any]]):
    """Two classes of noisy images of 3 x 8 x 8."""

    def __init__(self, count: int = 48) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 2
        self.images = torch.randn(count, 3, 8, 8, generator=generator) + self.labels[:, None, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index], "path": str(index)}


class Classifier(LightningModule):
    """A convolution with batch normalisation and dropout, and a linear layer."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            self.network = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 2)
            )
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)

    def objective(self, batch: dict[str, Any]) -> Tensor:
        return self.loss(self(batch["image"]), batch["label"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.objective(batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val/loss", self.objective(batch), batch_size=len(batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class TwoPlayers(LightningModule):
    """A linear generator against a quadratic critic: each player's loss has a known Hessian."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 3, bias=False)
        self.critic = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.generator.weight.copy_(torch.eye(3, 4))
            self.critic.weight.copy_(torch.tensor([[1.0, 2.0, 0.5]]))

    def objective(self, batch: dict[str, Any], player: str) -> Tensor:
        fake = self.generator(
            torch.randn(len(batch["label"]), 4, device=self.device, dtype=self.generator.weight.dtype)
        )
        score = self.critic(fake).squeeze(1)
        return (score - 1).square().mean() if player == "generator" else score.square().mean()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        for player, optimizer in zip(("generator", "critic"), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.objective(batch, player))
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.generator, self.critic)]


def loaders(count: int = 48) -> dict[str, DataLoader[Any]]:
    """A shuffled training loader and a validation loader, as ``Trainer.fit`` takes them."""
    points = Points(count)
    return {
        "train_dataloaders": DataLoader(dataset=points, batch_size=12, shuffle=True),
        "val_dataloaders": DataLoader(dataset=points, batch_size=12),
    }


def trainer(root: Any, *callbacks: Any, epochs: int = 2, **kwargs: Any) -> Trainer:
    """A quiet trainer on the CPU."""
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False} | kwargs
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        default_root_dir=root,
        callbacks=list(callbacks),
        enable_model_summary=False,
        **options,
    )
