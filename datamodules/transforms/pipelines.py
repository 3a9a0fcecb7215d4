"""What happens to a batch after it has reached the device: crop, flip, optional degradations.

All pipelines map images in [0, 1], shape ``(B, 3, H, W)``, to ``(B, 3, image_size, image_size)``. They treat both
classes alike: re-encoding one class only would be a shortcut, and aligning classes is done at native size before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import kornia.augmentation as K
import torch
from kornia.augmentation.auto import RandAugment
from torch import Tensor, nn

from datamodules.transforms.exact_jpeg import ExactJPEG

__all__ = ["Augmentation", "eval_pipeline", "train_pipeline", "view_pipeline"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, the same for both classes.

    Args:
        resized_crop: range of the area share that a random crop keeps before it is resized to ``image_size``, e.g.
            ``[0.08, 1.0]``; None crops ``image_size`` pixels without resizing, which keeps pixel-level traces.
        padding: border in pixels before the crop without resizing.
        border: what that border and the corners of rotated images show: ``reflect``, the image, or ``black``.
        rotation: largest angle in degrees; each image draws its own from [-rotation, rotation].
        flip: probability of a horizontal flip.
        erasing: probability of erasing a rectangle.
        blur: probability of a Gaussian blur with sigma in [0.1, 2].
        noise: largest deviation of Gaussian noise, pixels being in [0, 1]; each image draws its own from [0, noise].
        brightness: largest relative change of brightness and of contrast; each image draws its own.
        jpeg: lowest and highest JPEG quality; each image, real or fake, is recompressed with one of its own, with the
            pixels that libjpeg gives.
        rescale: probability of scaling an image by a factor in [0.5, 1.5] and cropping it back.
        rand_augment: magnitude of RandAugment in (0, 10), two operations; 0 switches it off. On images it acts after
            the crop; with ``augmented_views`` it acts on the views only, as does ``erasing``.
    """

    resized_crop: tuple[float, float] | None = None
    padding: int = 0
    border: Literal["reflect", "black"] = "reflect"
    rotation: float = 0.0
    flip: float = 0.5
    erasing: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    brightness: float = 0.0
    jpeg: tuple[int, int] | None = None
    rescale: float = 0.0
    rand_augment: float = 0.0


class RandomNoise(nn.Module):
    """Gaussian noise whose deviation differs from image to image; kornia's has one deviation for all.

    Args:
        most: largest deviation; each image draws its own uniformly in [0, most].
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        """Add noise to images ``(B, 3, H, W)`` in [0, 1]."""
        deviation = self.most * torch.rand(len(x), 1, 1, 1, device=x.device)
        return (x + deviation * torch.randn_like(x)).clamp(0, 1)


class GroupedRandAugment(nn.Module):
    """RandAugment whose two operations are drawn anew for every few images of a batch.

    kornia draws the operations once per call; groups of eight come near timm's one draw per image.

    Args:
        magnitude: in (0, 10), timm's scale.
        group: images that share their operations.
    """

    def __init__(self, magnitude: float, group: int = 8) -> None:
        super().__init__()
        self.augment = RandAugment(n=2, m=max(1, round(3 * magnitude)))  # kornia counts to 30
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Augment images ``(B, 3, H, W)`` in [0, 1]."""
        return torch.cat([self.augment(part) for part in x.split(self.group)]).clamp(0, 1)


def train_pipeline(
    augmentation: Augmentation, image_size: int, crop_size: int | None = None, with_views: bool = False
) -> nn.Sequential:
    """Pipeline of training batches.

    Args:
        augmentation: what to do.
        image_size: side of the output.
        crop_size: side of the input where it is known; no crop is made if it is the output's.
        with_views: leave RandAugment and erasing to :func:`view_pipeline`.

    Returns:
        Module from ``(B, 3, H, W)`` to ``(B, 3, image_size, image_size)``.
    """
    steps: list[nn.Module] = []
    size = (image_size, image_size)
    if augmentation.rescale:
        steps.append(K.RandomAffine(degrees=0.0, scale=(0.5, 1.5), p=augmentation.rescale, padding_mode="reflection"))
    if augmentation.resized_crop is not None:
        steps.append(
            K.RandomResizedCrop(size, scale=augmentation.resized_crop, ratio=(3 / 4, 4 / 3), cropping_mode="slice")
        )
    elif crop_size != image_size or augmentation.padding:
        padding, mode = augmentation.padding or None, "reflect" if augmentation.border == "reflect" else "constant"
        steps.append(K.RandomCrop(size, padding=padding, padding_mode=mode, cropping_mode="slice"))
    if augmentation.flip:
        steps.append(K.RandomHorizontalFlip(p=augmentation.flip))
    if augmentation.rotation:
        mode = "reflection" if augmentation.border == "reflect" else "zeros"
        steps.append(K.RandomAffine(degrees=augmentation.rotation, p=1.0, padding_mode=mode))
    if augmentation.blur:
        steps.append(K.RandomGaussianBlur((9, 9), (0.1, 2.0), p=augmentation.blur))
    if augmentation.noise:
        steps.append(RandomNoise(augmentation.noise))
    if augmentation.brightness:
        reach = (1 - augmentation.brightness, 1 + augmentation.brightness)
        steps.append(K.ColorJiggle(brightness=reach, contrast=reach, p=1.0))
    if augmentation.jpeg is not None:
        steps.append(ExactJPEG(augmentation.jpeg))
    if not with_views:
        steps.extend(_strong_steps(augmentation))
    return nn.Sequential(*steps)


def view_pipeline(augmentation: Augmentation) -> nn.Sequential:
    """RandAugment and erasing, which make an augmented view of a cropped training image."""
    return nn.Sequential(*_strong_steps(augmentation))


def eval_pipeline(image_size: int) -> nn.Module:
    """Centre crop of ``image_size`` pixels; workers have resized where that was asked."""
    return K.CenterCrop((image_size, image_size), cropping_mode="slice")


def _strong_steps(augmentation: Augmentation) -> list[nn.Module]:
    steps: list[nn.Module] = []
    if augmentation.rand_augment:
        steps.append(GroupedRandAugment(augmentation.rand_augment))
    if augmentation.erasing:
        steps.append(K.RandomErasing(scale=(0.02, 1 / 3), ratio=(0.3, 3.3), p=augmentation.erasing))
    return steps
