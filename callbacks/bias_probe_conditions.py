"""The conditions under which a detector is probed, and the batches that they make of a batch."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from functional.degradations import add_noise, gaussian_blur, rescale, seeded_noise, shift_to_phase
from functional.jpeg import jpeg_roundtrip

__all__ = ["Degradations", "noise_seed"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Degradations:
    """Levels of each degradation; an empty tuple leaves it out.

    Args:
        jpeg: IJG qualities, 1 to 100; saved with 4:2:0 chroma, exactly as libjpeg does.
        resize: positive factors of the side lengths.
        blur: standard deviations in pixels, at least 0.
        noise: standard deviations in grey levels, at least 0.
        crop_phase: distances of the crop's corner to the 8 x 8 grid, 0 to 7.
        webp: qualities, 0 to 100, of lossy WebP.

    Raises:
        ValueError: if a level is out of its range or given twice.
    """

    jpeg: tuple[int, ...]
    resize: tuple[float, ...]
    blur: tuple[float, ...]
    noise: tuple[float, ...]
    crop_phase: tuple[int, ...]
    webp: tuple[int, ...]

    def __post_init__(self) -> None:
        unbounded = float("inf")
        ranges = {"jpeg": (1, 100), "blur": (0, unbounded), "noise": (0, unbounded), "crop_phase": (0, 7)}
        ranges |= {"webp": (0, 100), "resize": (np.nextafter(0, 1), unbounded)}
        for name, (lowest, highest) in ranges.items():
            levels = getattr(self, name)
            for level in levels:
                if not lowest <= level <= highest or level == unbounded:
                    limits = "is a positive factor" if name == "resize" else f"lies in [{lowest}, {highest}]"
                    raise ValueError(f"BiasProbe.{name}: a level {limits}, got {level}.")
            if len(set(levels)) < len(levels):
                raise ValueError(f"BiasProbe.{name}={list(levels)} names a level twice.")

    @property
    def conditions(self) -> list[tuple[str, float]]:
        """Degradation and level of each condition, in the order of :meth:`batches`."""
        names = ("jpeg", "resize", "blur", "noise", "crop_phase", "webp")
        return [(name, level) for name, levels in zip(names, astuple(self), strict=True) for level in levels]

    def batches(self, batch: dict[str, Any]) -> Iterator[Tensor]:
        """The batch's images under one condition after the other; only one is held at a time.

        All of it happens on the images' device but WebP, which Pillow does in threads while the device is busy with
        the rest. Noise depends on an image's path alone, not on its batch or rank.

        Args:
            batch: ``image`` in [0, 1], shape ``(B, 3, H, W)``; ``path``, B names; and ``crop_offset``, top and left of
                the crops, ``(B, 2)``, without which, or where it is negative, a crop counts as cut at (0, 0).

        Yields:
            Images in [0, 1], shape, type and device as given; the very tensor where a level changes nothing.
        """
        images: Tensor = batch["image"]
        pixels = list(_bytes(images)) if self.webp else []
        with ThreadPoolExecutor() as pool:
            coded = [pool.map(_save_as_webp, pixels, [quality] * len(images)) for quality in self.webp]
            yield from (jpeg_roundtrip(images, quality) for quality in self.jpeg)
            yield from (rescale(images, factor) for factor in self.resize)
            yield from (gaussian_blur(images, sigma) for sigma in self.blur)
            if self.noise:
                noise = seeded_noise([noise_seed(path) for path in batch["path"]], images.shape[1:], images.device)
                yield from (add_noise(images, sigma, noise) for sigma in self.noise)
            yield from (shift_to_phase(images, phase, batch.get("crop_offset")) for phase in self.crop_phase)
            yield from (_as_images(list(pictures), images) for pictures in coded)


def noise_seed(path: str) -> int:
    """Seed in [0, 2**63) that follows from a path, the same in every process."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) >> 1


def _bytes(images: Tensor) -> Pixels:
    """Images in [0, 1] as uint8 ``(B, H, W, 3)`` on the CPU."""
    return (images.float() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _as_images(pictures: list[Pixels], like: Tensor) -> Tensor:
    """Pictures ``(H, W, 3)`` as images in [0, 1] with the type and device of others."""
    stacked = torch.from_numpy(np.stack(pictures)).to(like.device)
    return (stacked.permute(0, 3, 1, 2).contiguous().float() / 255).to(like.dtype)


def _save_as_webp(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
