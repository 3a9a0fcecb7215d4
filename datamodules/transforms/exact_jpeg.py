"""JPEG compression in kornia pipelines, on the device, with the pixels that libjpeg gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.augmentation.random_generator.base import RandomGeneratorBase
from torch import Tensor

from functional.jpeg import jpeg_roundtrip

__all__ = ["ExactJPEG"]


class ExactJPEG(IntensityAugmentationBase2D):
    """Random JPEG compression, equal to Pillow's bit for bit (see :func:`functional.jpeg.jpeg_roundtrip`).

    Images in [0, 1], floating, shape `(B, 3, H, W)` or `(B, 1, H, W)`; only those that the draw selects are
    compressed, the others stay as they are. Draws come from torch's global generator. No gradient flows through.

    Args:
        quality: lowest and highest quality, integers in [1, 100]; each image draws its own uniformly.
        quality_shares: share of each quality, shape `(101,)`, index = quality, to draw from instead (scale free), such
            as the histogram of a data set's files.
        subsampling: of chroma, `"4:4:4"`, `"4:2:2"` or `"4:2:0"`.
        same_on_batch: one quality for the whole batch.
        p: probability of compressing an image.
        keepdim: keep the input's shape, where the batch dimension was missing.

    Raises:
        ValueError: if `quality` is no such range, or `quality_shares` are not 101 finite shares, at least zero, zero at
            quality 0 and not all zero.

    Example:
        >>> compress = ExactJPEG(quality=(90, 90))
        >>> compress(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 100),
        quality_shares: npt.ArrayLike | None = None,
        subsampling: str = "4:2:0",
        same_on_batch: bool = False,
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        shares = _uniform_shares(*quality) if quality_shares is None else _checked_shares(quality_shares)
        self.subsampling = subsampling
        self._param_generator = _QualityGenerator(shares)
        jpeg_roundtrip(torch.zeros(0, 3, 1, 1), 1, subsampling)  # refuses an unknown subsampling now, not in training

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Compress the images that the draw selected."""
        quality, chosen = params["quality"], params["batch_prob"] > 0.5
        if chosen.all() or self.p == 1:
            return jpeg_roundtrip(input, quality, self.subsampling)
        output = input.clone()
        index = chosen.nonzero()[:, 0]
        where = index.to(input.device)
        output[where] = jpeg_roundtrip(input[where], quality[index], self.subsampling)
        return output


class _QualityGenerator(RandomGeneratorBase):
    """Draws qualities, int64, shape `(B,)`, with the probabilities `shares`, shape `(101,)`."""

    def __init__(self, shares: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.shares = torch.from_numpy(shares / shares.sum()).float()

    def __repr__(self) -> str:
        possible = self.shares.nonzero()
        return f"quality={int(possible.min())} to {int(possible.max())}"

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        """Put the shares where kornia wants the numbers to be drawn."""
        self.shares = self.shares.to(device)

    def forward(self, batch_shape: tuple[int, ...], same_on_batch: bool = False) -> dict[str, Tensor]:
        """Draw one quality for each image."""
        count = batch_shape[0]
        drawn = torch.multinomial(self.shares, 1 if same_on_batch else max(count, 1), replacement=True)
        return {"quality": drawn.expand(count) if same_on_batch else drawn[:count]}


def _uniform_shares(lowest: int, highest: int) -> npt.NDArray[np.float64]:
    if int(lowest) != lowest or int(highest) != highest or not 1 <= lowest <= highest <= 100:
        raise ValueError(f"quality must be two integers, 1 <= lowest <= highest <= 100, got ({lowest}, {highest})")
    qualities = np.arange(101)
    return ((lowest <= qualities) & (qualities <= highest)).astype(np.float64)


def _checked_shares(given: npt.ArrayLike) -> npt.NDArray[np.float64]:
    shares = np.array(given, dtype=np.float64)
    if shares.shape != (101,) or not np.isfinite(shares).all() or shares.min() < 0 or shares[0] or not shares.any():
        raise ValueError(
            "quality_shares must be 101 finite shares, one for each quality from 0 to 100, at least zero, that of "
            f"quality 0 being zero and another positive; got {given!r}"
        )
    return shares
