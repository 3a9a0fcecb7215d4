"""Critic of an edited region: one look at the whole image, one at the region's surroundings, and what it shows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from functional.face_regions import crop_boxes

__all__ = ["InpaintingCritic", "Verdict"]


class Verdict(NamedTuple):
    """What the critic says.

    Attributes:
        whole: scores of patches of the image and its mask, ``(B, 1, h, w)``.
        local: scores of patches of the region, ``(B, 1, h, w)``.
        attributes: logits read from the region, ``(B, A)``.
    """

    whole: Tensor
    local: Tensor
    attributes: Tensor


class InpaintingCritic(nn.Module):
    """Patch critic of the image, patch critic of the region's box at one size, and attribute head on the latter.

    All convolutions are spectrally normalised (patch variant of Yu et al. 2019).

    Args:
        attributes: length of the attribute vector.
        width: channels after the first convolution; they double with each of the others, up to four times.
        depth: convolutions of the critic of the image, each of which halves the size.
        local_size: side that the region's box is resized to, a multiple of 8.
        margin: of the surroundings shown with the box, in units of its sides.

    Raises:
        ValueError: if ``local_size`` does not fit.
    """

    def __init__(
        self, attributes: int, width: int = 32, depth: int = 3, local_size: int = 32, margin: float = 0.15
    ) -> None:
        super().__init__()
        if local_size < 8 or local_size % 8:
            raise ValueError(f"model.local_size={local_size} must be a multiple of 8.")
        self.local_size, self.margin = local_size, margin
        self.whole, channels = _trunk(4, width, depth)
        self.whole_score = spectral_norm(nn.Conv2d(channels, 1, 3, padding=1))
        self.local, channels = _trunk(3, width, 3)
        self.local_score = spectral_norm(nn.Conv2d(channels, 1, 3, padding=1))
        self.head = nn.Linear(channels * (local_size // 8) ** 2, attributes)

    def crop(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Boxes ``(B, 4)`` with their margins, cut out of images ``(B, 3, H, W)`` and resized."""
        border = self.margin * (boxes[:, 2:] - boxes[:, :2])
        return crop_boxes(x, torch.cat([boxes[:, :2] - border, boxes[:, 2:] + border], dim=1), self.local_size)

    def forward(self, x: Tensor, mask: Tensor, boxes: Tensor) -> Verdict:
        """Scores and logits.

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``.
            mask: 1 inside the region, shape ``(B, 1, H, W)``.
            boxes: around the region, shape ``(B, 4)``.
        """
        region = self.local(2 * self.crop(x, boxes) - 1)
        whole = self.whole_score(self.whole(torch.cat([2 * x - 1, mask], dim=1)))
        return Verdict(whole, self.local_score(region), self.head(region.flatten(1)))


def _trunk(before: int, width: int, depth: int) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    for index in range(depth):
        after = width * 2 ** min(index, 2)
        layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        before = after
    return nn.Sequential(*layers), before
