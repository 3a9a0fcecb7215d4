"""The work of a loader process: read a file, align its codec, bring it to the common shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.decoding import crop, decode_image, jpeg_resave, pad_to, resize_short_side
from datamodules.sampling import Draw

__all__ = ["ManifestDataset", "Preparation"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Preparation:
    """What happens to each image before it joins a batch.

    Args:
        crop_size: side of the square that leaves the worker.
        crop: ``center``; ``random``; or ``resized``: a random part of 8 % to all of the area, resized.
        crop_first: side of a centre crop before the resize; smaller images are left as they are.
        resize: side to which the short side is resized (bicubic, antialiased) before the crop; None keeps the pixels.
        common_size: side to which the short side of every image is resized before it is re-encoded.
        quality: JPEG quality for fakes; None leaves them as they are.
        quality_shares: share of each quality, shape ``(101,)``, to draw from instead at each access.
        reencode_reals: re-encode reals (and images of unknown label) as fakes are.
    """

    crop_size: int
    crop: Literal["center", "random", "resized"] = "center"
    crop_first: int | None = None
    resize: int | None = None
    common_size: int | None = None
    quality: int | None = None
    quality_shares: NDArray[np.float64] | None = None
    reencode_reals: bool = False

    def align(self, image: Pixels, label: int, rng: np.random.Generator) -> Pixels:
        """Bring an image to the common size and codec, before anything is cropped."""
        if self.common_size is not None:
            image = resize_short_side(image, self.common_size)
        quality = self.quality if self.quality_shares is None else int(rng.choice(101, p=self.quality_shares))
        if quality is None or (label != 1 and not self.reencode_reals):
            return image
        return jpeg_resave(image, quality)

    def cut(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Resize if asked, pad by reflection if too small, and crop to ``(crop_size, crop_size, 3)``."""
        size = self.crop_size
        if self.crop == "resized":
            return _resized_crop(image, size, rng)
        if self.crop_first is not None and min(image.shape[:2]) >= self.crop_first:
            image = crop(image, self.crop_first, *((np.array(image.shape[:2]) - self.crop_first) // 2).tolist())
        if self.resize is not None:
            image = resize_short_side(image, self.resize)
        image = pad_to(image, size)
        rooms = np.array(image.shape[:2]) - size
        top, left = rng.integers(rooms + 1) if self.crop == "random" else rooms // 2
        return crop(image, size, int(top), int(left))


class ManifestDataset(Dataset[dict[str, Any]]):
    """Images of a manifest as uint8 tensors of one shape.

    Args:
        manifest: rows with ``path``, ``label`` and ``generator``.
        root: folder that the paths are relative to.
        preparation: what to do with each image.
        cached: decode (and align) everything once, now, and keep it in memory.
    """

    def __init__(self, manifest: pd.DataFrame, root: Path, preparation: Preparation, cached: bool = False) -> None:
        self.root = root
        self.preparation = preparation
        # Arrays, not lists of strings: forked workers would copy every object that they touch.
        self._paths = np.array([str(path).encode() for path in manifest["path"]])
        self.labels = manifest["label"].to_numpy(np.int64)
        generators = manifest["generator"].astype("category").cat
        self._generator_names, self._generator_codes = generators.categories.tolist(), generators.codes.to_numpy()
        self.images: list[Pixels] | None = None
        if cached:
            with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter
                numbers = tqdm(range(len(self)), desc="Decoding", unit="image", leave=False, disable=len(self) < 500)
                self.images = list(pool.map(self._decode, numbers))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def paths(self) -> list[str]:
        """Paths of all samples, relative to the root."""
        return [path.decode() for path in self._paths]

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """One sample; its random choices follow from the draw's seed."""
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        rng = np.random.default_rng(seed)
        label, path = int(self.labels[index]), self._paths[index].decode()
        image = self.images[index] if self.images is not None else self._decode(index)
        if self.preparation.quality_shares is not None:  # a fresh draw at each access
            image = self.preparation.align(image, label, rng)
        image = self.preparation.cut(image, rng)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "label": label,
            "path": path,
            "generator": self._generator_names[self._generator_codes[index]],
            "seed": seed,
        }

    def _decode(self, index: int) -> Pixels:
        image = decode_image(self.root / self._paths[index].decode())
        if self.preparation.quality_shares is not None:
            return image
        return self.preparation.align(image, int(self.labels[index]), np.random.default_rng(0))


def _resized_crop(image: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Random part of 8 % to 100 % of the area and aspect 3/4 to 4/3, bilinear or bicubic (Inception crop)."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    method = Image.Resampling.BICUBIC if rng.random() < 0.5 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((size, size), method, box=(left, top, left + w, top + h)))
