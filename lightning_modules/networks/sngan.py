"""Residual generator and critic of SNGAN (Miyato et al. 2018), with conditions that are vectors.

Images are in [0, 1] at both doors. The condition enters the generator beside the noise and through conditional batch
normalisation, the critic through a projection (Miyato and Koyama 2018). With one-hot conditions this is the supervised
projection GAN; without a condition it is the plain SNGAN.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["ConditionalBatchNorm", "ProjectionCritic", "ResidualGenerator"]

# Channels in units of the widest, from the 4 x 4 maps on; and of the critic's blocks, with those that halve the size.
_GENERATOR = {32: (1, 1, 1, 1), 64: (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16), 128: (1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)}
_CRITIC = {32: (1, 1, 1, 1), 64: (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), 128: (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 1)}
_HALVING = {32: 2, 64: 5, 128: 5}
_GENERATOR_WIDTH = {32: 256, 64: 1024, 128: 1024}
_CRITIC_WIDTH = {32: 128, 64: 1024, 128: 1024}


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are linear in the condition: ``BN(h) (1 + W c) + V c``.

    Args:
        channels: of the maps.
        condition_size: length of the condition; 0 gives an ordinary batch normalisation.
    """

    def __init__(self, channels: int, condition_size: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not condition_size)
        self.scale_and_shift = nn.Linear(condition_size, 2 * channels, bias=False) if condition_size else None
        if self.scale_and_shift is not None:
            nn.init.normal_(self.scale_and_shift.weight[:channels], std=0.02)
            nn.init.zeros_(self.scale_and_shift.weight[channels:])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps ``(B, C, H, W)`` normalised, under conditions ``(B, condition_size)``."""
        x = self.norm(x)
        if self.scale_and_shift is None:
            return x
        scale, shift = self.scale_and_shift(condition)[..., None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class GeneratorBlock(nn.Module):
    """Residual block that doubles height and width."""

    def __init__(self, before: int, after: int, condition_size: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ConditionalBatchNorm(before, condition_size), _conv(before, after, 3)
        self.norm2, self.conv2 = ConditionalBatchNorm(after, condition_size), _conv(after, after, 3)
        self.shortcut = _conv(before, after, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """``(B, before, H, W)`` to ``(B, after, 2 H, 2 W)``."""
        h = F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2.0)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), condition)))
        return h + self.shortcut(F.interpolate(x, scale_factor=2.0))


class CriticBlock(nn.Module):
    """Residual block with spectral normalisation that may halve height and width.

    Args:
        before: input channels.
        after: output channels.
        halve: mean-pool the output by two.
        first: of images; no rectifier before the first convolution, and the shortcut is pooled before it is convolved.
    """

    def __init__(self, before: int, after: int, halve: bool, first: bool = False) -> None:
        super().__init__()
        hidden = before if halve and not first else after
        self.conv1 = spectral_norm(_conv(before, hidden, 3))
        self.conv2 = spectral_norm(_conv(hidden, after, 3))
        self.shortcut = spectral_norm(_conv(before, after, 1)) if halve or before != after else nn.Identity()
        self.halve, self.first = halve, first

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W)`` to ``(B, after, H, W)`` or half that size."""
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.halve:
            return h + self.shortcut(x)
        beside = self.shortcut(F.avg_pool2d(x, 2)) if self.first else F.avg_pool2d(self.shortcut(x), 2)
        return F.avg_pool2d(h, 2) + beside


class ResidualGenerator(nn.Module):
    """From noise and condition to images.

    Args:
        latent_size: length of the noise.
        condition_size: length of the condition; 0 for none.
        image_size: 32, 64 or 128.
        width: channels of the widest maps; 256 for 32 pixels and 1024 for more by default.

    Raises:
        ValueError: if there is no network for the image size, or the width leaves a layer without channels.
    """

    def __init__(
        self, latent_size: int = 128, condition_size: int = 0, image_size: int = 32, width: int | None = None
    ) -> None:
        super().__init__()
        channels = _channels(_GENERATOR, _GENERATOR_WIDTH, image_size, width)
        self.latent_size, self.condition_size, self.image_size = latent_size, condition_size, image_size
        self.first = nn.Linear(latent_size + condition_size, 16 * channels[0])
        nn.init.xavier_uniform_(self.first.weight)
        self.blocks = nn.ModuleList(
            GeneratorBlock(before, after, condition_size) for before, after in pairwise(channels)
        )
        self.norm, self.last = nn.BatchNorm2d(channels[-1]), _conv(channels[-1], 3, 3, gain=1.0)

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images in [0, 1], ``(B, 3, S, S)``.

        Args:
            noise: standard normal, shape ``(B, latent_size)``.
            condition: shape ``(B, condition_size)``; None if there is none.
        """
        kind = self.first.weight.dtype  # what comes in is float32 also where the network is not
        condition = None if condition is None else condition.to(kind)
        start = noise.to(kind) if condition is None else torch.cat([noise.to(kind), condition], dim=1)
        h = self.first(start).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            h = block(h, condition)
        return (torch.tanh(self.last(F.relu(self.norm(h)))) + 1) / 2


class ProjectionCritic(nn.Module):
    """From images and conditions to scores: ``w . phi(x) + b + (V c) . phi(x)``, all layers spectrally normalised.

    Args:
        condition_size: length of the condition; 0 for none.
        image_size: 32, 64 or 128.
        width: channels of the widest maps; 128 for 32 pixels and 1024 for more by default.

    Raises:
        ValueError: as for :class:`ResidualGenerator`.
    """

    def __init__(self, condition_size: int = 0, image_size: int = 32, width: int | None = None) -> None:
        super().__init__()
        channels = [3, *_channels(_CRITIC, _CRITIC_WIDTH, image_size, width)]
        self.condition_size, self.feature_size = condition_size, channels[-1]
        self.blocks = nn.Sequential(
            *(
                CriticBlock(before, after, halve=index < _HALVING[image_size], first=index == 0)
                for index, (before, after) in enumerate(pairwise(channels))
            )
        )
        self.score = spectral_norm(_xavier(nn.Linear(channels[-1], 1)))
        self.projection = (
            spectral_norm(_xavier(nn.Linear(condition_size, channels[-1], bias=False))) if condition_size else None
        )

    def features(self, x: Tensor) -> Tensor:
        """phi: features ``(B, feature_size)`` of images in [0, 1], ``(B, 3, S, S)``."""
        bias: Any = self.score.bias
        return F.relu(self.blocks((2 * x - 1).to(bias.dtype))).sum((2, 3))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Scores ``(B,)`` of images in [0, 1] under conditions ``(B, condition_size)``."""
        features = self.features(x)
        score = self.score(features)[:, 0]
        if self.projection is None:
            return score
        if condition is None:
            raise ValueError(f"This critic needs conditions of shape (B, {self.condition_size}).")
        return score + (self.projection(condition.to(features.dtype)) * features).sum(1)


def _channels(
    shares: dict[int, tuple[float, ...]], widths: dict[int, int], image_size: int, width: int | None
) -> list[int]:
    if image_size not in shares:
        raise ValueError(f"image_size={image_size}: SNGAN's networks are for {', '.join(map(str, shares))} pixels.")
    channels = [int(share * (width or widths[image_size])) for share in shares[image_size]]
    if min(channels) < 1:
        raise ValueError(f"width={width} leaves a layer of the {image_size}-pixel network without channels; give more.")
    return channels


def _conv(before: int, after: int, size: int, gain: float | None = None) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, size, padding=size // 2)
    nn.init.xavier_uniform_(layer.weight, gain or (math.sqrt(2) if size > 1 else 1.0))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _xavier(layer: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
