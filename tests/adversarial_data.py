"""Small stand-ins for CIFAR-10, a victim's weights and attacked images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from datamodules.adversarial_pairs import PairFolder, Pairs, save_reference
from lightning_modules import ImageClassifier

LABELS = 10


def striped_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy stripes, uint8 ``(N, 32, 32, 3)``, whose period is their class, ``(N,)``."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % LABELS
    rows = np.arange(32)[None, :, None, None]
    wave = np.cos(2 * np.pi * rows * (labels + 1)[:, None, None, None] / 32)
    images = 128 + 60 * wave + 15 * rng.normal(size=(count, 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8), labels


def write_cifar(file: Path, train: int = 200, test: int = 60) -> Path:
    """An ``.npz`` as :class:`Cifar10DataModule` reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (x_train, y_train), (x_test, y_test) = striped_images(train, 1), striped_images(test, 2)
    np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return file


def random_victim(backbone: str = "cifar_resnet20", classes: int = LABELS, **options: object) -> ImageClassifier:
    """A classifier that has not learnt anything, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageClassifier(backbone, num_classes=classes, **options)


def write_weights(file: Path, backbone: str = "cifar_resnet20") -> Path:
    """Random weights of a network: safetensors as the public ones, or a checkpoint of ours (``.ckpt``)."""
    return save_victim(random_victim(backbone), file)


def save_victim(victim: ImageClassifier, file: Path) -> Path:
    """Weights of a victim."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".ckpt":
        torch.save({"state_dict": victim.state_dict()}, file)
        return file
    save_file({key: value for key, value in victim.backbone.state_dict().items() if "num_batches" not in key}, file)
    return file


def write_spectral_defense(root: Path) -> Path:
    """What the configs of SpectralDefense look for below ``$DATA_ROOT``; torchvision's CIFAR files are not among it."""
    write_cifar(root / "cifar10" / "cifar10_jpegq75.npz")
    scales = (
        {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
        {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)},
    )
    victims = {
        "cifar10_resnet20": random_victim(),
        "cifar10_vgg16": random_victim("cifar_vgg16_bn", **scales[0]),
        "cifar100_vgg16": random_victim("cifar_vgg16_bn", 100, **scales[1], backbone_kwargs={"hidden": 4096}),
    }
    save_victim(victims["cifar10_resnet20"], root / "weights_cifar10" / "resnet20.safetensors")
    for name, victim in victims.items():
        write_pairs(root / "adversarial" / name, ("fgsm", "deepfool"), victim=victim)
        save_victim(victim, root / "adversarial" / name / "victim.ckpt")
    return root


@torch.no_grad()
def write_pairs(
    root: Path, attacks: tuple[str, ...] = ("fgsm", "bim"), count: int = 60, victim: ImageClassifier | None = None
) -> Path:
    """Pairs whose attacked images carry a checkerboard, stronger for later attacks; and reference images.

    The classes are those that a victim gives, if there is one, whether the checkerboard deceived it or not.
    """
    images, labels = striped_images(count)
    clean = np.float32(images.transpose(0, 3, 1, 2) / 255)
    board = np.float32(np.indices((32, 32)).sum(axis=0) % 2 * 2 - 1)
    for strength, attack in enumerate(attacks, start=2):
        attacked = (clean + 0.02 * strength * board).clip(0, 1).astype(np.float32)
        seen, taken = labels, (labels + 1) % LABELS
        if victim is not None:
            seen, taken = (victim.eval()(torch.from_numpy(x)).argmax(1).numpy() for x in (clean, attacked))
        pairs = Pairs(clean, attacked, seen, taken, np.arange(count))
        PairFolder(root / attack, {"name": attack}).write(0, pairs, count)
    reference, classes = striped_images(120, 3)
    save_reference(root, reference.transpose(0, 3, 1, 2), classes)
    return root


def trained_victim(steps: int = 30) -> ImageClassifier:
    """A small classifier of the striped images, far better than chance."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = ImageClassifier("cifar_resnet8", num_classes=LABELS, backbone_kwargs={"width": 8})
        images, labels = striped_images(200, 1)
        x, y = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
        optimizer = torch.optim.AdamW(victim.parameters(), lr=1e-2)
        for step in range(steps):
            rows = torch.arange(50) + step % 4 * 50
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(victim(x[rows]), y[rows]).backward()
            optimizer.step()
    return victim.eval()
