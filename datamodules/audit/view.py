"""Images as a detector would meet them: which ones, and what is done to each before it is cropped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.decoding import crop, decode_image, pad_to
from datamodules.image_dataset import Pixels, Preparation
from functional.jpeg_history import jpeg_history
from functional.spectrum import luma, radial_log_spectrum

__all__ = ["METADATA", "PixelTraces", "View", "metadata", "pixel_traces", "sample_rows"]

METADATA = {
    "format": ["format"],
    "quality": ["quality"],
    "chroma": ["subsampling"],
    "tables": ["tables"],
    "size": ["width", "height"],
}
"""Columns of each group of metadata, in which a shortcut can lie that pixels show."""

SPECTRUM_BINS = 40
_MOST_PIXELS = 512  # side of the part in which traces of the codec are looked for
_SPECTRUM_SIDE = 256
_LEAST_SIDE = 16  # smaller images are padded


@dataclass(frozen=True)
class View:
    """Rows of a manifest, and how their images are aligned.

    Args:
        name: heading of the figures.
        rows: manifest with the columns of the scan.
        root: folder that the paths are relative to.
        preparation: common size and codec; its crop is ignored.
        whole: whether whole images are looked at, so that exact size and aspect count; a square crop shows only the
            scale.
    """

    name: str
    rows: pd.DataFrame
    root: Path
    preparation: Preparation
    whole: bool = False

    def aligned(self, position: int) -> Pixels:
        """Image of a row, by its position, RGB `(H, W, 3)`."""
        row = self.rows.iloc[position]
        rng = np.random.default_rng(position)
        return self.preparation.align(decode_image(self.root / row["path"]), int(row["label"]), rng)


def metadata(view: View) -> pd.DataFrame:
    """Numbers that stand for format, compression and size of each image after its alignment.

    Returns:
        Columns as in :data:`METADATA`, and ``exif``, float64, one row per image in order. Names are numbered, what is
        unknown is -1. Without whole images, ``width`` and ``height`` are the scale in half octaves from the median
        fake.
    """
    rows, preparation = view.rows, view.preparation
    rng = np.random.default_rng(0)
    qualities = np.array([preparation.quality_for(int(label), rng) for label in rows["label"]])
    saved = pd.Series(qualities > 0, index=rows.index)
    table = pd.DataFrame(
        {
            "format": rows["format"].astype(object).mask(saved, "JPEG"),
            "quality": rows["quality"].astype(float).mask(saved, pd.Series(qualities, index=rows.index, dtype=float)),
            "subsampling": rows["subsampling"].astype(object).mask(saved, "4:2:0"),
            "tables": rows["tables"].astype(object).mask(saved, "IJG"),
            "exif": rows["exif"].astype(float),
        }
    )
    short = rows[["width", "height"]].min(axis=1).astype(float)
    if view.whole:
        table[["width", "height"]] = rows[["width", "height"]].astype(float)
    else:
        fakes = short[rows["label"] == 1]
        scale = np.log2(short / (fakes.median() if len(fakes) else 1.0))
        octaves = (2 * scale).round() / 2 if preparation.common_size is None else 0.0 * scale
        table["width"] = table["height"] = octaves
    standard = rows["standard_tables"].fillna(False).astype(bool)  # then quality says it all
    table["tables"] = table["tables"].mask(standard, "IJG")
    for column in ("format", "subsampling", "tables"):
        table[column] = pd.factorize(table[column])[0]
    return table.astype(float).fillna(-1.0)


class PixelTraces(NamedTuple):
    """What pixels tell of how an image was made.

    Attributes:
        quality: JPEG quality of the last compression, 0 for none found, shape ``(N,)``.
        grid: number of the 8 x 8 grid's first pixel, row times eight plus column, shape ``(N,)``.
        evidence: log-likelihood ratio of each quality on that grid against none, shape ``(N, 100)``.
        gray: whether all pixels are without colour, shape ``(N,)``.
        spectrum: radial log-power less its mean over frequencies, in units of 20 ln, shape ``(N, 40)``.
    """

    quality: NDArray[np.int64]
    grid: NDArray[np.int64]
    evidence: NDArray[np.float64]
    gray: NDArray[np.bool_]
    spectrum: NDArray[np.float64]


def pixel_traces(view: View, positions: NDArray[np.int64], all_grids: bool = True) -> PixelTraces:
    """Traces of the images at some positions of a view, each decoded once, in threads.

    Args:
        view: the images.
        positions: which rows.
        all_grids: look for JPEG grids that do not start at the first pixel too.

    Returns:
        The traces. Spectra are those of central squares of one side, the largest that all images hold up to 256.
    """
    rows, size = view.rows.iloc[positions], view.preparation.common_size
    short = rows[["width", "height"]].min(axis=1)
    side = int(np.clip(short.min() if size is None else size, _LEAST_SIDE, _SPECTRUM_SIDE))

    def look(position: int) -> tuple[int, int, NDArray[np.float64], bool, NDArray[np.float64]]:
        image = pad_to(view.aligned(position), side)
        part = _central(image, _MOST_PIXELS)
        clipped = torch.from_numpy(((part == 0) | (part == 255)).any(axis=2))[None]
        history = jpeg_history(_gray(part), all_grids=all_grids, clipped=clipped)
        rooms = (np.array(image.shape[:2]) - side) // 2
        spectrum = radial_log_spectrum(
            _gray(crop(image, side, int(rooms[0]), int(rooms[1]))),
            SPECTRUM_BINS,
            axis="cycles",
            window="hann",
            power=True,
            disc_only=True,
        )[0]
        grid, evidence = 8 * int(history.row) + int(history.column), history.evidence[0].double().numpy()
        shape = (spectrum - spectrum.mean()).double().numpy()
        return int(history.quality), grid, evidence, _is_gray(image), shape

    with ThreadPoolExecutor(max_workers=4) as pool:
        bar = tqdm(
            disable=len(positions) < 200,
            total=len(positions),
            desc=f"Audit, {view.name}",
            unit="image",
            leave=False,
            mininterval=1,
        )
        found = []
        for item in pool.map(look, positions.tolist()):
            found.append(item)
            bar.update()
        bar.close()
    quality, grid, evidence, gray, spectrum = zip(*found, strict=True)
    return PixelTraces(np.array(quality), np.array(grid), np.stack(evidence), np.array(gray), np.stack(spectrum))


def sample_rows(rows: pd.DataFrame, per_label: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most ``per_label`` images of each label, generators in turn, in the order of the rows."""
    order = pd.Series(np.random.default_rng(seed).permutation(len(rows)), index=rows.index)
    turn = order.groupby([rows["label"], rows["generator"]]).rank()
    ranks = pd.DataFrame({"label": rows["label"].to_numpy(), "turn": turn.to_numpy(), "order": order.to_numpy()})
    chosen = ranks.sort_values(["turn", "order"]).groupby("label").head(per_label)
    return np.sort(chosen.index.to_numpy(np.int64))


def _central(image: Pixels, most: int) -> Pixels:
    """Middle of an image, cut on the 8 x 8 grid of its first pixel."""
    top, left = (max(0, side - most) // 2 // 8 * 8 for side in image.shape[:2])
    return image[top : top + most, left : left + most]


def _is_gray(image: Pixels) -> bool:
    """Whether the channels agree up to the rounding of a codec."""
    middle = image[..., 1:2].astype(np.int16)
    return bool((np.abs(image - middle) <= 2).all())


def _gray(image: Pixels) -> torch.Tensor:
    """Luma of one image, in 0..255, shape ``(1, H, W)``."""
    return luma(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255)
