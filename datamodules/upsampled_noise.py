"""Data-free check of spectrum detectors: 1/f pictures at their own size against up-sampled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from datamodules.spectrum_data import SpectraMixin
from datamodules.spectrum_dataset import as_bits
from functional.spectrum import RadialSpectrum

__all__ = ["UpsampledNoiseDataModule", "power_law_picture"]

_METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def power_law_picture(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Random grey picture whose amplitude falls as 1/f, like that of photographs.

    Args:
        rng: source of the picture.
        size: side in pixels.

    Returns:
        uint8 in [0, 255] around 128, standard deviation about 40, shape ``(size, size)``.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) / frequency).real
    return (field / field.std() * 40 + 128).round().clip(0, 255).astype(np.uint8)


class UpsampledNoise(Dataset[dict[str, Any]]):
    """Pictures that follow from seed and number: even ones native, odd ones up-sampled by two, the methods in turn.

    Args:
        count: number of pictures.
        size: side in pixels.
        spectrum: spectrum to take.
        seed: seed of the pictures; other sets have others.
    """

    def __init__(self, count: int, size: int, spectrum: RadialSpectrum, seed: tuple[int, ...]) -> None:
        self.count, self.size, self.spectrum, self.seed = count, size, spectrum, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        """One sample."""
        index = draw[0] if isinstance(draw, tuple) else draw
        label, method = index % 2, list(_METHODS)[index // 2 % len(_METHODS)]
        rng = np.random.default_rng((*self.seed, index))
        picture = power_law_picture(rng, self.size // 2 if label else self.size)
        if label:
            picture = np.array(Image.fromarray(picture).resize((self.size, self.size), _METHODS[method]))
        plane = torch.from_numpy(picture).double()
        planes = plane.expand(3, -1, -1) if self.spectrum.colour == "rgb" else plane
        return {
            "spectrum": as_bits(self.spectrum.of_plane(planes).flatten()),
            "label": label,
            "path": f"{'-'.join(map(str, self.seed))}/{index:06d}",
            "generator": method if label else "real",
        }


class UpsampledNoiseDataModule(SpectraMixin):
    """Native against up-sampled 1/f pictures, drawn as they are needed: the trace that up-sampling leaves, alone.

    Args:
        spectrum: the spectrum; the paper's 80 features by default.
        size: side of the pictures in pixels; an even number.
        train: number of training pictures, half of them up-sampled.
        val: number of validation pictures.
        test: number of test pictures.
        batch_size: pictures per batch and process.
        num_workers: loader processes.
        seed: seed of all pictures.
    """

    def __init__(
        self,
        spectrum: RadialSpectrum | None = None,
        size: int = 128,
        train: int = 20,
        val: int = 40,
        test: int = 400,
        batch_size: int = 64,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if size % 2 or min(train, val, test) < 2:
            raise ValueError(f"data.size={size} must be even, and train, val, test at least 2, got {train, val, test}.")
        self.spectrum = spectrum or RadialSpectrum(features=80, relative=True)
        self.train_set, self.val_set, test_set = (
            UpsampledNoise(count, size, self.spectrum, (seed, part)) for part, count in enumerate((train, val, test))
        )
        self.test_sets = {"upsampled": test_set}
