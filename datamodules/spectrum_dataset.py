"""Spectra of image files, each at its own size, made by a loader's workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.decoding import decode_image, jpeg_resave
from datamodules.image_dataset import ManifestRows, Preparation
from datamodules.luma import jpeg_luma, luma_plane, rgb_luma
from datamodules.sampling import Draw
from functional.spectrum import RadialSpectrum

__all__ = ["SpectrumDataset", "as_bits", "from_bits"]

Plane = NDArray[np.uint8]


class SpectrumDataset(ManifestRows):
    """Spectra of the images of a manifest, in float64.

    Args:
        manifest: rows with ``path``, ``label`` and ``generator``; a ``group`` that all rows have goes into the samples.
        root: folder that the paths are relative to.
        spectrum: the spectrum to take.
        preparation: common size and codec that the images are brought to; nothing is cropped by it.
        center_crop: side of the central square that is looked at, in pixels of the file; None for all.
        cached: take all spectra now, and keep them.
        thumbnail: side of a small picture that goes with each spectrum, for people to look at; 0 for none.
    """

    def __init__(
        self,
        manifest: pd.DataFrame,
        root: Path,
        spectrum: RadialSpectrum,
        preparation: Preparation,
        center_crop: int | None = None,
        cached: bool = False,
        thumbnail: int = 0,
    ) -> None:
        super().__init__(manifest, root)
        self.spectrum, self.preparation = spectrum, preparation
        self.center_crop, self.thumbnail = center_crop, thumbnail
        has_groups = "group" in manifest and bool(manifest["group"].notna().all())
        self._groups = np.array([str(group).encode() for group in manifest["group"]]) if has_groups else None
        self.spectra: list[Tensor] | None = None
        if cached and preparation.quality_shares is None:
            self.spectra = self.for_all(lambda index: self._spectrum(index, np.random.default_rng(0)), "Spectra")

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """One sample; a quality that is drawn follows from the draw's seed."""
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        kept = self.spectra[index] if self.spectra is not None else None
        sample = {
            "spectrum": as_bits(self._spectrum(index, np.random.default_rng(seed)) if kept is None else kept),
            **self.row(index),
        }
        if self._groups is not None:
            sample["group"] = self._groups[index].decode()
        if self.thumbnail:
            sample["image"] = _thumbnail(decode_image(self.root / sample["path"]), self.thumbnail)
        return sample

    def _spectrum(self, index: int, rng: np.random.Generator) -> Tensor:
        path = self.root / self._paths[index].decode()
        planes = torch.from_numpy(self._planes(path, int(self.labels[index]), rng)).double()
        if self.center_crop is not None:
            planes = _center(planes, self.center_crop, path)
        return self.spectrum.of_plane(planes).flatten()

    def _planes(self, path: Path, label: int, rng: np.random.Generator) -> Plane:
        """Luma ``(H, W)`` or colour planes ``(3, H, W)`` of a file, in the common size and codec."""
        preparation = self.preparation
        quality = preparation.quality_for(label, rng)
        if self.spectrum.colour == "luma" and not quality and preparation.common_size is None:
            return luma_plane(path)
        pixels = preparation.to_common_size(decode_image(path))
        if self.spectrum.colour == "luma":
            return jpeg_luma(pixels, quality) if quality else rgb_luma(pixels)
        return np.ascontiguousarray((jpeg_resave(pixels, quality) if quality else pixels).transpose(2, 0, 1))


def as_bits(features: Tensor) -> Tensor:
    """The bits of float64 features as int64: a trainer of half precision rounds every float of a batch on its way."""
    return features.double().contiguous().view(torch.int64)


def from_bits(bits: Tensor) -> Tensor:
    """Features in float64 from their bits."""
    return bits.view(torch.float64)


def _center(planes: Tensor, side: int, path: Path) -> Tensor:
    height, width = planes.shape[-2:]
    if min(height, width) < side:
        raise ValueError(f"{path} has {width} x {height} pixels; lower data.center_crop={side}.")
    top, left = (height - side) // 2, (width - side) // 2
    return planes[..., top : top + side, left : left + side]


def _thumbnail(image: Plane, side: int) -> Tensor:
    """Central square of RGB pixels, resized to ``(3, side, side)``."""
    short = min(image.shape[:2])
    top, left = (image.shape[0] - short) // 2, (image.shape[1] - short) // 2
    box = (left, top, left + short, top + short)
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(small).transpose(2, 0, 1).copy())
