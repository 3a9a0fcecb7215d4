"""The 15 + 4 common corruptions of ImageNet-C and CIFAR-10-C, batched and on the device of the images.

Every image has a seed of its own, so that its corruption is the same in any batch and on any rank (on one kind of
device). Results are multiples of 1/255, as those of stored files are. Two corruptions differ from the published ones by
more than rounding: ``frost`` blends in drawn textures instead of photographs, and the edges inside the water of
``spatter`` (severities 1 to 3) are those of the thresholded layer.

Source: Hendrycks and Dietterich 2019, Sec. 3.1 and Appendix B; parameters of the authors' code.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from functional.corruption_fields import (
    box_matrix,
    clipped_zoom,
    disk_kernel,
    frost_texture,
    motion_blur,
    plasma,
    shuffled_pixels,
    smooth,
    warp,
)
from functional.degradations import seeded_noise
from functional.jpeg import jpeg_roundtrip

__all__ = ["BENCHMARK_CORRUPTIONS", "CORRUPTIONS", "EXTRA_CORRUPTIONS", "PARAMETERS", "Variant", "corrupt"]

Variant = Literal["imagenet", "cifar"]
BENCHMARK_CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CORRUPTIONS = BENCHMARK_CORRUPTIONS + EXTRA_CORRUPTIONS
SMALLEST = 16
"""Side below which blurs and textures make no sense."""

_WIDE = 244 / 224  # the authors' elastic transform of 224 pixels is written in units of 244
PARAMETERS: dict[Variant, dict[str, tuple[Any, ...]]] = {
    "imagenet": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": tuple(
            tuple(_WIDE * part for part in parts)
            for parts in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
        "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
    "cifar": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": ((1.05, 0.01), (1.1, 0.01), (1.15, 0.01), (1.2, 0.01), (1.25, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
        "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    },
}
"""Published parameters of each corruption at severities 1 to 5; elastic ones are shares of the shorter side."""


class Draws(NamedTuple):
    """Random fields of a batch, each image's from its own seed."""

    seeds: list[int]
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, shape ``(B, *shape)``."""
        return seeded_noise(self.seeds, shape, self.device)

    def uniform(self, *shape: int, salt: int = 0) -> Tensor:
        """Uniform in [0, 1), shape ``(B, *shape)``; fields of different salt are independent."""
        generator = torch.Generator(self.device)
        fields = torch.empty(len(self.seeds), *shape, device=self.device)
        for field, seed in zip(fields, self.seeds, strict=True):
            field.uniform_(generator=generator.manual_seed((seed + salt) % 2**63))
        return fields

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts of rates ``(B, ...)``."""
        generator = torch.Generator(self.device)
        pairs = zip(rates, self.seeds, strict=True)
        return torch.stack([torch.poisson(rate, generator=generator.manual_seed(seed)) for rate, seed in pairs])


def corrupt(
    images: Tensor, corruption: str, severity: int, seeds: Sequence[int], variant: Variant = "imagenet"
) -> Tensor:
    """Corrupt a batch.

    Args:
        images: in [0, 1], shape ``(B, 3, H, W)``, sides from 16.
        corruption: one of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        seeds: one per image, in [0, 2**63); each corruption draws numbers of its own from it.
        variant: strengths for large images (``imagenet``) or for those of 32 x 32 (``cifar``).

    Returns:
        Images in [0, 1] of the same shape, type and device.

    Raises:
        ValueError: if a name, a severity, the shape or the number of seeds is off.
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"corruption={corruption!r} is not one of {', '.join(CORRUPTIONS)}.")
    if variant not in get_args(Variant):
        raise ValueError(f"variant={variant!r} is not one of {', '.join(get_args(Variant))}.")
    if severity not in range(1, 6):
        raise ValueError(f"severity={severity}: there are the severities 1 to 5.")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST or not images.is_floating_point():
        raise ValueError(
            f"images {tuple(images.shape)} {images.dtype}: needed are floating (B, 3, H, W) from {SMALLEST} pixels."
        )
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images: each image needs one.")
    if not len(images):
        return images
    salt = zlib.crc32(corruption.encode())
    mixed = [(int(seed) * 0x9E3779B97F4A7C15 + salt) % 2**63 for seed in seeds]  # neighbours must not share fields
    parameter = PARAMETERS[variant][corruption][severity - 1]
    with torch.no_grad():
        changed = _FUNCTIONS[corruption](images.float(), parameter, Draws(mixed, images.device))
        return changed.mul(255).round_().clamp_(0, 255).div_(255).to(images.dtype)


def _gaussian_noise(x: Tensor, c: float, draws: Draws) -> Tensor:
    return x + c * draws.normal(*x.shape[1:])


def _shot_noise(x: Tensor, c: float, draws: Draws) -> Tensor:
    return draws.poisson(x * c) / c


def _impulse_noise(x: Tensor, c: float, draws: Draws) -> Tensor:
    struck, white = draws.uniform(*x.shape[1:]) <= c, draws.uniform(*x.shape[1:], salt=1) <= 0.5
    return torch.where(struck, white.to(x.dtype), x)


def _speckle_noise(x: Tensor, c: float, draws: Draws) -> Tensor:
    return x + x * c * draws.normal(*x.shape[1:])


def _gaussian_blur(x: Tensor, c: float, draws: Draws) -> Tensor:
    return smooth(x, c)


def _defocus_blur(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    kernel = disk_kernel(*c).to(x.device)
    reach = len(kernel) // 2
    padded = F.pad(x, (reach,) * 4, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, kernel[None, None]).view_as(x)


def _glass_blur(x: Tensor, c: tuple[float, int, int], draws: Draws) -> Tensor:
    sigma, reach, turns = c
    blurred = smooth(x, sigma).mul(255).floor().div(255)
    steps = (draws.uniform(turns, 2, *x.shape[-2:]) * 2 * reach).long().clamp_max(2 * reach - 1) - reach
    sources = torch.from_numpy(shuffled_pixels(steps.cpu().numpy(), reach)).to(x.device)
    shuffled = blurred.flatten(2).gather(2, sources[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return smooth(shuffled, sigma)


def _motion_blur(x: Tensor, c: tuple[int, float], draws: Draws) -> Tensor:
    return motion_blur(x, *c, degrees=-45 + 90 * draws.uniform())


def _zoom_blur(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    factors = np.arange(1, c[0] + c[1] / 2, c[1])
    return (x + sum(clipped_zoom(x, float(factor)) for factor in factors)) / (len(factors) + 1)


def _snow(x: Tensor, c: tuple[float, ...], draws: Draws) -> Tensor:
    mean, deviation, zoom, threshold, radius, sigma, share = c
    flakes = clipped_zoom(mean + deviation * draws.normal(1, *x.shape[-2:]), zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = motion_blur(flakes, int(radius), sigma, -135 + 90 * draws.uniform(salt=1)).mul(255).round().div(255)
    pale = torch.maximum(x, _grey(x) * 1.5 + 0.5)
    return share * x + (1 - share) * pale + flakes + flakes.rot90(2, (2, 3))


def _frost(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    side = _power_of_two(max(x.shape[-2:]))
    return c[0] * x + c[1] * frost_texture(2 * draws.uniform(2, side, side) - 1, *x.shape[-2:])


def _fog(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    side = _power_of_two(max(x.shape[-2:]))
    cloud = plasma(2 * draws.uniform(side, side) - 1, c[1])[:, None, : x.shape[-2], : x.shape[-1]]
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + c[0] * cloud) * most / (most + c[0])


def _brightness(x: Tensor, c: float, draws: Draws) -> Tensor:
    value = x.amax(1, keepdim=True)  # of hue, saturation, value
    return torch.where(value > 0, x / value.clamp_min(1e-12), 1.0) * (value + c).clamp(0, 1)


def _saturate(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    value = x.amax(1, keepdim=True)
    lacking = value - x
    saturation = lacking.amax(1, keepdim=True) / value.clamp_min(1e-12)
    wanted = (saturation * c[0] + c[1]).clamp(0, 1)
    red = value * x.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)  # grey has the hue 0
    return value - torch.where(saturation > 0, lacking / saturation.clamp_min(1e-12), red) * wanted


def _contrast(x: Tensor, c: float, draws: Draws) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * c + mean


def _elastic_transform(x: Tensor, c: tuple[float, float, float], draws: Draws) -> Tensor:
    height, width = x.shape[-2:]
    side = min(height, width)
    reach, sigma, corner = (side * part for part in c)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=x.device).float(), torch.arange(width, device=x.device).float(), indexing="ij"
    )
    # Three corners of a square move; the image moves along, and is read at where its pixels came from.
    middle, third = x.new_tensor([height // 2, width // 2]), float(side // 3)
    before = middle + third * x.new_tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + corner * (2 * draws.uniform(3, 2) - 1)
    ones = torch.ones(len(x), 3, 1, device=x.device)
    transform = torch.linalg.solve(torch.cat([after, ones], dim=2), before.expand(len(x), 3, 2))  # (B, 3, 2)
    points = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1)
    source = torch.einsum("hwk,bkd->bhwd", points, transform)
    moved = warp(x, source[..., 0], source[..., 1])
    if reach == 0:
        return moved
    fields = smooth(2 * draws.uniform(2, height, width, salt=1) - 1, sigma, truncate=3, border="reflect") * reach
    return warp(moved, rows + fields[:, 0], columns + fields[:, 1])


def _pixelate(x: Tensor, c: float, draws: Draws) -> Tensor:
    for sides in ([int(side * c) for side in x.shape[-2:]], list(x.shape[-2:])):
        down, across = (box_matrix(old, new).to(x.device) for old, new in zip(x.shape[-2:], sides, strict=True))
        x = down @ x @ across.T
    return x


def _jpeg_compression(x: Tensor, c: int, draws: Draws) -> Tensor:
    return jpeg_roundtrip(x, c)


def _spatter(x: Tensor, c: tuple[float, ...], draws: Draws) -> Tensor:
    mean, deviation, sigma, threshold, strength, mud = c
    layer = smooth(mean + deviation * draws.normal(1, *x.shape[-2:]), sigma)
    layer = torch.where(layer < threshold, 0.0, layer)
    if mud:
        mask = smooth((layer > threshold).to(x.dtype), strength)
        mask = torch.where(mask < 0.8, 0.0, mask)
        return x * (1 - mask) + mask * x.new_tensor([63, 42, 20]).view(1, 3, 1, 1) / 255
    layer = layer.mul(255).floor().clamp(0, 255)
    water = layer * _relief(layer > 0)
    water = strength * water / water.amax((2, 3), keepdim=True).clamp_min(1e-12)
    return x + water * x.new_tensor([175, 238, 238]).view(1, 3, 1, 1) / 255


def _relief(wet: Tensor) -> Tensor:
    """Light on drops: distance to their edge, its histogram made even, seen as a relief; ``(B, 1, H, W)``."""
    grown, shrunk = (F.max_pool2d(mask.float(), 3, 1, 1) for mask in (wet, ~wet))
    edges = (wet & (shrunk > 0)) | (~wet & (grown > 0))
    dry = ~edges.squeeze(1).cpu().numpy()
    far = np.stack([distance_transform_edt(part) if not part.all() else np.full(part.shape, 20.0) for part in dry])
    distance = _mean3(torch.from_numpy(far).to(wet.device).float().clamp_max(20)[:, None]).floor()
    levels = distance.long()
    shares = torch.zeros(len(wet), 256, device=wet.device)
    flat = levels.flatten(1)
    counts = shares.scatter_add_(1, flat, torch.ones_like(flat, dtype=shares.dtype)).cumsum(1)
    least = counts.gather(1, flat.amin(1, keepdim=True))
    even = ((counts - least) / (counts[:, -1:] - least).clamp_min(1) * 255).round().clamp(0, 255)
    even = even.gather(1, flat).view_as(distance)
    kernel = even.new_tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = F.conv2d(F.pad(even, (1, 1, 1, 1), mode="reflect"), kernel[None, None]).clamp(0, 255)
    return _mean3(relief).round()


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _power_of_two(side: int) -> int:
    return 1 << (side - 1).bit_length()


_FUNCTIONS: dict[str, Callable[[Tensor, Any, Draws], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "spatter": _spatter,
    "saturate": _saturate,
}
