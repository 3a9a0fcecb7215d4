"""Generator and critic of StarGAN (Choi et al. 2018): translate an image under a vector of attributes.

Images are in [0, 1] at both doors. Instance normalisation keeps no running statistics, so a copy of the weights is all
of the network: meta-learning needs that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TranslationCritic", "TranslationGenerator"]


class TranslationGenerator(nn.Module):
    """Image and wanted attributes to image.

    Args:
        attributes: length of the attribute vector.
        width: channels after the first convolution; 64 in the paper.
        blocks: residual blocks in the middle; 6 in the paper.
    """

    def __init__(self, attributes: int, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.attributes = attributes
        layers = _normalised(nn.Conv2d(3 + attributes, width, 7, padding=3, bias=False))
        for channels in (width, 2 * width):
            layers += _normalised(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False))
        layers += [Residual(4 * width) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            layers += _normalised(nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, padding=3, bias=False), nn.Tanh())

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        """Translated images in [0, 1], ``(B, 3, H, W)``, H and W multiples of 4.

        Args:
            x: images in [0, 1], same shape.
            attributes: wanted, shape ``(B, attributes)``.
        """
        maps = attributes.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return (self.layers(torch.cat([2 * x - 1, maps], dim=1)) + 1) / 2


class TranslationCritic(nn.Module):
    """Image to a score for each patch, and to logits of its attributes.

    Args:
        attributes: length of the attribute vector.
        image_size: side of the images, a multiple of ``2 ** depth``.
        width: channels after the first convolution; 64 in the paper.
        depth: convolutions, each of which halves the size; 6 in the paper.

    Raises:
        ValueError: if the image size does not fit the depth.
    """

    def __init__(self, attributes: int, image_size: int = 128, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        if depth < 1 or image_size % 2**depth or image_size < 2**depth:
            raise ValueError(f"image_size={image_size} must be a multiple of 2 ** depth = {2**depth}; lower depth.")
        layers: list[nn.Module] = []
        channels = 3
        for index in range(depth):
            layers += [nn.Conv2d(channels, width * 2**index, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
            channels = width * 2**index
        self.trunk = nn.Sequential(*layers)
        self.score = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        self.classes = nn.Conv2d(channels, attributes, image_size // 2**depth, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Patch scores ``(B, 1, h, w)`` and attribute logits ``(B, attributes)`` of images in [0, 1]."""
        features = self.trunk(2 * x - 1)
        return self.score(features), self.classes(features)[:, :, 0, 0]


class Residual(nn.Module):
    """Two convolutions with instance normalisation beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.layers = nn.Sequential(*_normalised(first), second, nn.InstanceNorm2d(channels, affine=True))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)``, same shape."""
        return x + self.layers(x)


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels, affine=True), nn.ReLU()]
