"""The work of a loader process: read a file, align its codec, bring it to the common shape."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.decoding import crop, decode_image, jpeg_resave, pad_to, resize_short_side
from datamodules.sampling import Draw
from datamodules.transforms.codec_windows import cut_window, padded_sample

__all__ = ["Codec", "ManifestDataset", "ManifestRows", "Preparation"]

Pixels = NDArray[np.uint8]
Codec = Literal["device", "pillow"]
T = TypeVar("T")


@dataclass(frozen=True)
class Preparation:
    """What happens to each image before it joins a batch: common size, then codec, then crop.

    Args:
        crop_size: side of the square that the pipeline on the device starts from.
        crop: ``center``; ``random``; or ``resized``: a random part of 8 % to all of the area, resized.
        crop_first: side of a centre crop before the resize; smaller images are left as they are.
        resize: side to which the short side is resized (bicubic, antialiased) before the crop; None keeps the pixels.
        common_size: side to which the short side of every image is resized before it is re-encoded.
        quality: JPEG quality for fakes; None leaves them as they are.
        quality_shares: share of each quality, shape ``(101,)``, to draw from instead at each access.
        reencode_reals: re-encode reals (and images of unknown label) as fakes are.
        codec: where crops are compressed, on the ``device`` or by ``pillow`` in the worker; the pixels are the same.
            Images that are resized or padded afterwards are compressed by the worker in any case.
    """

    crop_size: int
    crop: Literal["center", "random", "resized"] = "center"
    crop_first: int | None = None
    resize: int | None = None
    common_size: int | None = None
    quality: int | None = None
    quality_shares: NDArray[np.float64] | None = None
    reencode_reals: bool = False
    codec: Codec = "device"

    @property
    def resizes(self) -> bool:
        """Whether an image is resized after it has been re-encoded."""
        return self.crop == "resized" or self.resize is not None

    @property
    def reencodes(self) -> bool:
        """Whether there are images to re-encode."""
        return self.quality is not None or self.quality_shares is not None

    def to_common_size(self, image: Pixels) -> Pixels:
        """Bring an image to the common size."""
        return image if self.common_size is None else resize_short_side(image, self.common_size)

    def quality_for(self, label: int, rng: np.random.Generator) -> int:
        """JPEG quality that an image of this label is re-encoded with; 0 if it is left alone."""
        quality = self.quality if self.quality_shares is None else int(rng.choice(101, p=self.quality_shares))
        return 0 if quality is None or (label != 1 and not self.reencode_reals) else quality

    def align(self, image: Pixels, label: int, rng: np.random.Generator) -> Pixels:
        """Bring a whole image to the common size and codec."""
        quality = self.quality_for(label, rng)
        image = self.to_common_size(image)
        return jpeg_resave(image, quality) if quality else image

    def cut(self, image: Pixels, quality: int, rng: np.random.Generator) -> dict[str, Any]:
        """Re-encode, resize if asked, pad by reflection if too small, and crop.

        Args:
            image: RGB of the common size, shape ``(H, W, 3)``.
            quality: JPEG quality, 0 for none.
            rng: draws the place of a random crop.

        Returns:
            ``image``, uint8 ``(3, crop_size, crop_size)``; or a larger window with ``codec``, see
            :func:`datamodules.transforms.codec_windows.compress_windows`. ``crop_offset``: top and left of the crop,
            -1 where the image was resized.
        """
        size = self.crop_size
        if quality and (self.resizes or min(image.shape[:2]) < size):
            image, quality = jpeg_resave(image, quality), 0
        if self.crop == "resized":
            return _as_sample(_resized_crop(image, size, rng), (-1, -1))
        if self.crop_first is not None and min(image.shape[:2]) >= self.crop_first:
            image = crop(image, self.crop_first, *((np.array(image.shape[:2]) - self.crop_first) // 2).tolist())
        if self.resize is not None:
            image = resize_short_side(image, self.resize)
        image = pad_to(image, size)
        rooms = np.array(image.shape[:2]) - size
        top, left = (rng.integers(rooms + 1) if self.crop == "random" else rooms // 2).tolist()
        offset = (-1, -1) if self.resizes else (top, left)
        if not self.reencodes or self.resizes:
            return _as_sample(crop(image, size, top, left), offset)
        window = cut_window(image, size, top, left)
        if self.codec == "pillow":
            coded = jpeg_resave(window.image, quality) if quality else window.image
            return _as_sample(crop(coded, size, window.top, window.left), offset)
        return {**padded_sample(window, size, quality), "crop_offset": torch.tensor(offset)}


class ManifestRows(Dataset[dict[str, Any]]):
    """What data sets keep of a manifest.

    Arrays, not lists of strings: forked workers would copy every object that they touch.

    Args:
        manifest: rows with ``path``, ``label`` and ``generator``.
        root: folder that the paths are relative to.
    """

    def __init__(self, manifest: pd.DataFrame, root: Path) -> None:
        self.root = root
        self._paths = np.array([str(path).encode() for path in manifest["path"]])
        self.labels = manifest["label"].to_numpy(np.int64)
        generators = manifest["generator"].astype("category").cat
        self._generator_names, self._generator_codes = generators.categories.tolist(), generators.codes.to_numpy()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def paths(self) -> list[str]:
        """Paths of all samples, relative to the root."""
        return [path.decode() for path in self._paths]

    def row(self, index: int) -> dict[str, Any]:
        """Label, path and generator of a sample."""
        return {
            "label": int(self.labels[index]),
            "path": self._paths[index].decode(),
            "generator": self._generator_names[self._generator_codes[index]],
        }

    def for_all(self, function: Callable[[int], T], description: str) -> list[T]:
        """Results of a function of each index, in threads: Pillow decodes without holding the interpreter."""
        with ThreadPoolExecutor() as pool:
            numbers = tqdm(range(len(self)), desc=description, unit="image", leave=False, disable=len(self) < 500)
            return list(pool.map(function, numbers))


class ManifestDataset(ManifestRows):
    """Images of a manifest as uint8 tensors of one shape.

    Args:
        manifest: rows with ``path``, ``label`` and ``generator``.
        root: folder that the paths are relative to.
        preparation: what to do with each image.
        cached: decode everything once, now, and keep it in memory; re-encoded too, unless qualities are drawn anew at
            each access.
    """

    def __init__(self, manifest: pd.DataFrame, root: Path, preparation: Preparation, cached: bool = False) -> None:
        super().__init__(manifest, root)
        self.preparation = preparation
        has_sizes = {"height", "width"} <= set(manifest.columns)
        self._native_sizes = manifest[["height", "width"]].to_numpy(np.int64) if has_sizes else None
        self._is_aligned = cached and preparation.quality_shares is None
        self._at_access = replace(preparation, quality=None) if self._is_aligned else preparation
        self.images = self.for_all(self._aligned, "Decoding") if cached else None

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """One sample; its random choices follow from the draw's seed."""
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        rng = np.random.default_rng(seed)
        row = self.row(index)
        if self.images is None:
            image = self.preparation.to_common_size(decode_image(self.root / row["path"]))
        else:
            image = self.images[index]
        sample = {
            **self._at_access.cut(image, self._at_access.quality_for(row["label"], rng), rng),
            **row,
            "seed": seed,
        }
        if self._native_sizes is not None:
            sample["native_size"] = torch.from_numpy(self._native_sizes[index])
        return sample

    def _aligned(self, index: int) -> Pixels:
        image = decode_image(self.root / self._paths[index].decode())
        if not self._is_aligned:
            return self.preparation.to_common_size(image)
        return self.preparation.align(image, int(self.labels[index]), np.random.default_rng(0))


def _as_sample(image: Pixels, offset: tuple[int, int]) -> dict[str, Any]:
    channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
    return {"image": torch.from_numpy(channels_first), "crop_offset": torch.tensor(offset)}


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
