"""Every module, small, with data that it can learn from: what the table of docs/compatibility.md is made with."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lightning_modules as modules
from callbacks import SeedPerRank

SIZE = 32
ATTRIBUTES = ["smile", "moustache"]
CNN: dict[str, Any] = {"backbone": "small_cnn", "backbone_kwargs": {"width": 4}}
PLAIN: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SGD = partial(torch.optim.SGD, lr=0.01)


class Samples(Dataset[dict[str, Any]]):
    """Noisy squares of two strengths, with every key that a module of ours asks for."""

    def __init__(self, count: int = 16) -> None:
        draws = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 2
        strength = 0.3 + 0.4 * self.labels[:, None, None, None]
        self.images = 0.5 + (torch.rand(count, 3, SIZE, SIZE, generator=draws) - 0.5) * strength
        self.attributes = torch.randint(2, (count, 2), generator=draws).float()
        self.mask = torch.zeros(1, SIZE, SIZE)
        self.mask[:, 16:28, 8:24] = 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.images[index],
            "label": self.labels[index],
            "path": f"{index}.png",
            "attributes": self.attributes[index],
            "mask": self.mask,
            "box": torch.tensor([8.0, 16.0, 24.0, 28.0]),
            **self._episode(index),
        }

    def _episode(self, index: int) -> dict[str, Any]:
        """A few-shot task: two shots of one class, three sources of the other."""
        others = torch.arange(index + 1, index + 7, 2) % len(self)
        shots = torch.arange(index, index + 4, 2) % len(self)
        return {
            "support_image": self.images[shots],
            "source_image": self.images[others],
            "source_slot": torch.zeros(3, dtype=torch.int64),
            "query_image": self.images[others],
            "query_hair": self.mask.expand(3, 1, SIZE, SIZE),
            "support_hair": self.mask.expand(2, 1, SIZE, SIZE),
            "target": self.labels[index],
        }


def _detector() -> LightningModule:
    return modules.ImageDetector(**CNN, **PLAIN, optimizer=SGD)


def _adversarial() -> LightningModule:
    victim = modules.ImageClassifier("cifar_resnet8", num_classes=2, backbone_kwargs={"width": 4}, **PLAIN)
    return modules.AdversarialDetector(victim, "input_mfs")


def _latent() -> LightningModule:
    small = {"image_size": SIZE, "latent_size": 4, "generator_width": 4, "critic_width": 4}
    return modules.LatentConditionedGAN(condition="label", num_classes=2, **small)


def _inpainting() -> LightningModule:
    return modules.AttributeInpaintingGAN(ATTRIBUTES, width=4, critic_width=4, critic_depth=2, local_size=8)


def _few_shot() -> LightningModule:
    small = {"width": 4, "blocks": 1, "critic_width": 4, "inner_batch": 2, "inner_steps": 2, "adaptation_steps": [0, 1]}
    return modules.FewShotTranslationGAN(source_slots=1, image_size=SIZE, **small)


MODULES: dict[str, Callable[[], LightningModule]] = {
    "ImageDetector": _detector,
    "ImageClassifier": lambda: modules.ImageClassifier(**CNN, num_classes=2, **PLAIN, optimizer=SGD),
    "SpectrumDetector": lambda: modules.SpectrumDetector("logistic_regression"),
    "AdversarialDetector": _adversarial,
    "TripletEmbedding": lambda: modules.TripletEmbedding(**CNN, num_classes=2, embedding_size=8, optimizer=SGD),
    "ContrastiveEmbedding": lambda: modules.ContrastiveEmbedding(**CNN, num_classes=2, image_size=SIZE, optimizer=SGD),
    "AutoencoderEmbedding": lambda: modules.AutoencoderEmbedding(
        backbone_kwargs={"width": 4}, image_size=SIZE, code_size=8, decoder_width=4, optimizer=SGD
    ),
    "AttributeClassifier": lambda: modules.AttributeClassifier(ATTRIBUTES, **CNN, optimizer=SGD),
    "LatentConditionedGAN": _latent,
    "AttributeInpaintingGAN": _inpainting,
    "FewShotTranslationGAN": _few_shot,
}
FITTED = {"SpectrumDetector", "AdversarialDetector"}  # in one pass over the training images, without an optimiser
PLAYERS = {"LatentConditionedGAN", "AttributeInpaintingGAN", "FewShotTranslationGAN"}


def build(name: str) -> LightningModule:
    """The module, the same each time."""
    seed_everything(0, verbose=False)
    return MODULES[name]()


def loader() -> DataLoader[dict[str, Any]]:
    """Batches of eight."""
    return DataLoader(Samples(), batch_size=8)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet trainer for two epochs, whose last checkpoint is ``last.ckpt``."""
    kept = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "default_root_dir": folder,
        **quiet,
    }
    return Trainer(callbacks=[SeedPerRank(), *callbacks, kept], **settings | options)


def fit(name: str, folder: Path, *callbacks: Callback, resume: Path | None = None, **options: Any) -> LightningModule:
    """Train a module on the samples."""
    module = build(name)
    trainer(folder, *callbacks, **options).fit(module, loader(), loader(), ckpt_path=resume)
    return module


class Predictor(nn.Module):
    """What an exported file of a module answers: the tensors that ``predict`` is made of."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module, self.kind = module, type(module).__name__

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits, scores, embeddings or images."""
        if self.kind in ("ContrastiveEmbedding", "AutoencoderEmbedding"):
            return self.module.embed(*inputs)
        return self.module(*inputs)


def inputs(name: str) -> tuple[Tensor, ...]:
    """What the predictor of a module is given."""
    batch = next(iter(loader()))
    if name == "LatentConditionedGAN":
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.eye(2).repeat(4, 1)
    if name == "AttributeInpaintingGAN":
        return batch["image"], batch["mask"], batch["attributes"]
    return (batch["image"],)


def _one_thread() -> None:
    """Sums have the same order however many processes there are: Lightning would divide the cores among them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


class Killed(Callback):
    """Ends the process without a word in the second epoch."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """After the first epoch's checkpoint."""
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def be_killed(name: str, folder: Path) -> None:
    """Train in a process that dies."""
    _one_thread()
    fit(name, folder, Killed())


def one_of_two(rank: int, port: int, folder: Path, strategy: str, names: list[str]) -> None:
    """Train each module as one of two processes, and write its weights, or what went wrong."""
    _one_thread()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank)}
    for name in names:
        chosen = strategy if name not in PLAYERS or strategy != "ddp" else "ddp_find_unused_parameters_true"
        module = fit(name, folder / name, devices=2, strategy=chosen)
        torch.save(module.state_dict(), folder / f"{name}_{rank}.pt")


def command_line(rank: int, port: int, folder: Path, arguments: list[str], machines: int) -> None:
    """The command line as one of two processes: of one machine, or each alone on its own as ``torchrun`` starts it."""
    _one_thread()
    os.chdir(folder)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    if machines == 1:
        os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    else:
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "GROUP_RANK": str(rank)}
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    from train import main

    rank_zero_only.rank = rank  # which Lightning reads off the environment when it is imported
    main(arguments)
