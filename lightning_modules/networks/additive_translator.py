"""Generator for few-shot translation: it says what to add to an image."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AdditiveTranslator"]

_DILATIONS = (1, 2, 4, 1)


class AdditiveTranslator(nn.Module):
    """Image and wanted class to image, as a change that is added; without any normalisation.

    A learned gate between old and new image would close in the first updates, when every change is punished, and never
    open again; a sum has no such trap. Few updates change colours fast because no layer stands between the last
    convolution and the image.

    Args:
        slots: length of the label vector.
        width: channels at full size; doubled at each halving.
        blocks: dilated residual blocks at the lowest size.
        depth: how often the size is halved before them.
    """

    def __init__(self, slots: int, width: int = 24, blocks: int = 4, depth: int = 0) -> None:
        super().__init__()
        self.depth = depth
        self.door = nn.Conv2d(3 + slots, width, 3, padding=1)
        sizes = [width * 2**level for level in range(depth + 1)]
        pairs = list(itertools.pairwise(sizes))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 4, stride=2, padding=1) for fine, coarse in pairs)
        self.blocks = nn.Sequential(
            *(_Dilated(sizes[-1], _DILATIONS[index % len(_DILATIONS)]) for index in range(blocks))
        )
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in reversed(pairs))
        self.change = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        """Translated images ``(B, 3, H, W)``, not clamped, so that a colour beyond the range has a gradient back.

        Args:
            x: images in [0, 1], same shape, H and W multiples of ``2 ** depth``.
            attributes: label vectors, shape ``(B, slots)``.
        """
        maps = attributes.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        h = self.door(torch.cat([2 * x - 1, maps], dim=1))
        fine = []
        for layer in self.down:
            fine.append(h)
            h = layer(F.leaky_relu(h, 0.2))
        h = self.blocks(h)
        for layer in self.up:
            h = fine.pop() + F.interpolate(layer(F.leaky_relu(h, 0.2)), scale_factor=2.0)
        return x + self.change(F.leaky_relu(h, 0.2))


class _Dilated(nn.Module):
    """Two dilated convolutions beside the identity."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)``, same shape."""
        h: Tensor = self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))
        return x + h
