"""Generators that fill a masked region of an image under a vector of attributes.

All take images in [0, 1], masks that are 1 inside the region, and attributes, and give raw images in [0, 1] of the same
size, the final one first; pixels outside of the mask are for the caller to put back. What lies inside the mask is
blanked at the door, so it cannot leak. Attributes enter as constant maps, beside the image and again at the narrowest
place; there is no normalisation, which would take constant maps out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functional.contextual_attention import contextual_attention
from functional.inpainting_losses import composite, hidden
from lightning_modules.networks.stargan import TranslationGenerator

__all__ = ["ContextualInpainter", "SmallInpainter", "WholeImageTranslator"]

Stages = tuple[Tensor, ...]


class SmallInpainter(nn.Module):
    """One stage: a U-Net with dilated convolutions at a quarter of the size.

    Args:
        attributes: length of the attribute vector.
        width: channels at full size; two and four times as many below.
        dilations: of the convolutions in the middle.
    """

    def __init__(self, attributes: int, width: int = 24, dilations: tuple[int, ...] = (1, 2, 4)) -> None:
        super().__init__()
        self.first = _convolution(4 + attributes, width, 5)
        self.down1, self.down2 = _convolution(width, 2 * width, 3, 2), _convolution(2 * width, 4 * width, 3, 2)
        self.condition = _convolution(4 * width + attributes, 4 * width, 3)
        self.middle = nn.Sequential(*(_convolution(4 * width, 4 * width, 3, 1, rate) for rate in dilations))
        self.up2 = _convolution(4 * width + 2 * width, 2 * width, 3)
        self.up1 = _convolution(2 * width + width, width, 3)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor, attributes: Tensor) -> Stages:
        """One image ``(B, 3, H, W)`` in [0, 1].

        Args:
            x: images in [0, 1], shape ``(B, 3, H, W)``.
            mask: 1 inside, shape ``(B, 1, H, W)``.
            attributes: shape ``(B, attributes)``.
        """
        x, mask, size = *_padded(hidden(x, mask), mask, 4), x.shape[-2:]
        full = self.first(torch.cat([2 * x - 1, mask, _maps(attributes, x)], dim=1))
        half = self.down1(full)
        low = self.down2(half)
        low = self.middle(self.condition(torch.cat([low, _maps(attributes, low)], dim=1)))
        half = self.up2(torch.cat([_double(low), half], dim=1))
        full = self.up1(torch.cat([_double(half), full], dim=1))
        return (_image(self.last(full), size),)


class ContextualInpainter(nn.Module):
    """Two stages: a coarse filling, and its refinement by dilated convolutions and by contextual attention.

    Args:
        attributes: length of the attribute vector.
        width: channels at full size; 32 in the paper.

    Source: Yu et al. 2018, Fig. 2 and 4; the attributes are ours.
    """

    def __init__(self, attributes: int, width: int = 32) -> None:
        super().__init__()
        self.coarse = nn.ModuleList([_Encoder(4 + attributes, width), _Dilated(4 * width + attributes, width)])
        self.coarse_decoder = _Decoder(4 * width, width)
        self.dilated = nn.ModuleList([_Encoder(4 + attributes, width), _Dilated(4 * width + attributes, width)])
        self.attending = _Encoder(4 + attributes, width)
        self.attended = nn.Sequential(*(_convolution(4 * width, 4 * width, 3) for _ in range(2)))
        self.decoder = _Decoder(8 * width, width)

    def forward(self, x: Tensor, mask: Tensor, attributes: Tensor) -> Stages:
        """The refined and the coarse image, each ``(B, 3, H, W)`` in [0, 1]; arguments as of SmallInpainter."""
        x, mask, size = *_padded(hidden(x, mask), mask, 8), x.shape[-2:]
        low = _through(self.coarse, _entrance(x, mask, attributes), attributes)
        coarse = _image(self.coarse_decoder(low), x.shape[-2:])
        entrance = _entrance(composite(x, coarse, mask), mask, attributes)
        maps = self.attending(entrance)
        hole = F.max_pool2d(mask, 4)
        found = self.attended(contextual_attention(maps, maps, hole))
        beside = _through(self.dilated, entrance, attributes)
        fine = _image(self.decoder(torch.cat([beside, found.to(beside.dtype)], dim=1)), size)
        return fine, coarse[..., : size[0], : size[1]]


class WholeImageTranslator(nn.Module):
    """Baseline that sees and makes anew the whole image, whatever the mask: the generator of StarGAN.

    Args:
        attributes: length of the attribute vector.
        width: channels after the first convolution.
        blocks: residual blocks.
    """

    def __init__(self, attributes: int, width: int = 24, blocks: int = 3) -> None:
        super().__init__()
        self.network = TranslationGenerator(attributes, width, blocks)

    def forward(self, x: Tensor, mask: Tensor, attributes: Tensor) -> Stages:
        """One image ``(B, 3, H, W)`` in [0, 1], H and W multiples of 4; the mask is not looked at."""
        return (self.network(x, attributes),)


class _Encoder(nn.Module):
    """From full size to a quarter of it."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(before, width, 5),
            _convolution(width, 2 * width, 3, 2),
            _convolution(2 * width, 2 * width, 3),
            _convolution(2 * width, 4 * width, 3, 2),
            _convolution(4 * width, 4 * width, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Dilated(nn.Module):
    """Convolutions that see further and further, at a quarter of the size."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        rates = (2, 4, 8, 16)
        self.layers = nn.Sequential(
            _convolution(before, 4 * width, 3), *(_convolution(4 * width, 4 * width, 3, 1, rate) for rate in rates)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Decoder(nn.Module):
    """From a quarter of the size to full size."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first = _convolution(before, 4 * width, 3)
        self.middle = _convolution(4 * width, 2 * width, 3)
        self.full = nn.Sequential(_convolution(2 * width, width, 3), _convolution(width, max(1, width // 2), 3))
        self.last = nn.Conv2d(max(1, width // 2), 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.full(_double(self.middle(_double(self.first(x))))))


def _through(parts: nn.ModuleList, entrance: Tensor, attributes: Tensor) -> Tensor:
    encoder, dilated = parts
    low = encoder(entrance)
    return dilated(torch.cat([low, _maps(attributes, low)], dim=1))


def _entrance(x: Tensor, mask: Tensor, attributes: Tensor) -> Tensor:
    return torch.cat([2 * x - 1, mask, _maps(attributes, x)], dim=1)


def _maps(attributes: Tensor, like: Tensor) -> Tensor:
    """Attributes, centred, as constant maps of the size of others."""
    return (2 * attributes.to(like.dtype) - 1)[:, :, None, None].expand(-1, -1, *like.shape[2:])


def _padded(x: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Repeat the last row and column until both sides are multiples; nothing of what is added is to be made."""
    below, right = (-length % multiple for length in x.shape[-2:])
    if not below and not right:
        return x, mask
    return F.pad(x, (0, right, 0, below), mode="replicate"), F.pad(mask, (0, right, 0, below))


def _image(raw: Tensor, size: torch.Size) -> Tensor:
    return ((torch.tanh(raw.float()) + 1) / 2)[..., : size[0], : size[1]]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


def _convolution(before: int, after: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    return nn.Sequential(nn.Conv2d(before, after, size, stride, padding, dilation), nn.ELU())
