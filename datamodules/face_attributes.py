"""Photographed faces with attributes: CelebA, its mirrors, and folders laid out like it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from datamodules.attribute_faces import PARTS, AttributeFaces, Part, check_balance
from datamodules.celeba_files import FaceTable, read_face_table, region_mask_files
from datamodules.decoding import decode_image
from datamodules.image_folder import OnCorrupt, readable_images
from datamodules.transforms import Augmentation
from functional.face_regions import MEAN_LANDMARKS, Region

__all__ = ["FaceAttributesDataModule"]

_ALIGNED = (178, 218)  # width and height of aligned CelebA


class _FaceFiles(Dataset[dict[str, Any]]):
    """Files, decoded, cropped and resized when they are asked for."""

    def __init__(
        self,
        files: list[Path],
        attributes: NDArray[np.float32] | None,
        landmarks: NDArray[np.float32] | None,
        geometry: tuple[int, int],
        masks: tuple[Path, list[str]] | None,
    ) -> None:
        self.files, self.attributes, self.landmarks = files, attributes, landmarks
        (self.crop, self.size), self.masks = geometry, masks

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        path = self.files[index]
        pixels = decode_image(path)
        height, width = pixels.shape[:2]
        side = min(self.crop, height, width)
        left, top = (width - side) // 2, (height - side) // 2
        points = self._points(index, width, height)
        sample = {
            "image": torch.from_numpy(_cropped(pixels, left, top, side, self.size)).permute(2, 0, 1).contiguous(),
            "landmarks": torch.from_numpy((points - np.array([left, top], np.float32)) * np.float32(self.size / side)),
            "label": -1,
            "path": str(path),
            "seed": seed,
        }
        if self.attributes is not None:
            sample["attributes"] = torch.from_numpy(self.attributes[index])
            sample["label"] = int(self.attributes[index][0])
        if self.masks is not None:
            folder, regions = self.masks
            union = np.zeros((height, width), np.uint8)
            for file in region_mask_files(folder, path.name, regions):
                with Image.open(file) as mask:
                    union |= np.asarray(mask.convert("L").resize((width, height), Image.Resampling.NEAREST)) // 128
            sample["region_mask"] = torch.from_numpy(_cropped(255 * union, left, top, side, self.size)[None] // 128)
        return sample

    def _points(self, index: int, width: int, height: int) -> NDArray[np.float32]:
        if self.landmarks is not None:
            return self.landmarks[index]
        if (width, height) != _ALIGNED and self.masks is None:
            raise ValueError(
                f"{self.files[index]} is {width} x {height} and has no landmarks: only aligned CelebA images of "
                f"{_ALIGNED[0]} x {_ALIGNED[1]} can do without. Add list_landmarks_align_celeba.csv, or set data.masks."
            )
        return MEAN_LANDMARKS.numpy()


class FaceAttributesDataModule(AttributeFaces):
    """Faces of CelebA, or of a folder laid out like it, with some of their attributes and the regions to edit.

    Read are the official layout (``img_align_celeba/``, ``list_attr_celeba.txt``, and, where they exist,
    ``list_landmarks_align_celeba.txt`` and ``list_eval_partition.txt``), the same tables as ``.csv``, and any folder
    of images beside one table of attributes. Images that a table names and the folder lacks are left out. Regions come
    from landmarks, from mask files, or, for aligned images without either, from the mean positions of landmarks.

    Args:
        root: folder of images and tables.
        attributes: columns of the table, e.g. ``[Smiling, Mustache]``.
        regions: parts of the face that are made anew: ``mouth``, ``eyes``, ``nose``, or several.
        images: folder of images below the root, if it has another name.
        table: table of attributes below the root, if it has another name; its first column names the files, values
            above 0 say that a face has the attribute.
        masks: folder of mask files, ``<stem>.png`` or CelebAMask-HQ's annotations.
        predict_root: folder of aligned images for ``predict``; the test images by default.
        on_corrupt: of that folder, ``skip`` damaged images and report them, or ``raise``.
        crop_first: side of the square that is cut from the middle before it is resized to ``image_size``.
        image_size: side of the images; 128 in the paper.
        val_fraction: share for validation where no table says it.
        test_fraction: share for the test where no table says it.
        half: train on the ``first`` or the ``second`` half of the training images only, drawn by ``seed``: a judge and
            what it judges then learn from different images. All by default.
        least_share: refuse attributes of which the training images have less than this share of either value.
        augmentation: random changes of colours in training; none by default. Mirroring is ``flip``.
        kwargs: as for AttributeFaces: ``jitter``, ``jitter_scale``, ``flip``, ``balanced``, ``batch_size``,
            ``num_workers``, ``seed``.

    Raises:
        ValueError: if shares make no sense.
    """

    def __init__(
        self,
        root: str,
        attributes: list[str],
        regions: list[Region],
        images: str | None = None,
        table: str | None = None,
        masks: str | None = None,
        predict_root: str | None = None,
        on_corrupt: OnCorrupt = "skip",
        crop_first: int = 178,
        image_size: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        half: str | None = None,
        least_share: float = 0.01,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            attributes=attributes,
            regions=regions,
            image_size=image_size,
            augmentation=augmentation or Augmentation(flip=0.0),
            **kwargs,
        )
        if min(val_fraction, test_fraction) <= 0 or val_fraction + test_fraction >= 1 or crop_first < 1:
            raise ValueError(
                f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must be above 0 and leave "
                f"something to train on; data.crop_first={crop_first} must be at least 1."
            )
        if half not in (None, "first", "second"):
            raise ValueError(f"data.half={half!r} is neither first nor second.")
        self.root, self.images, self.table, self.predict_root = root, images, table, predict_root
        self.on_corrupt: OnCorrupt = on_corrupt
        self.masks = None if masks is None else (Path(masks), [str(region) for region in regions])
        self.geometry, self.half, self.least_share = (crop_first, image_size), half, least_share
        self.shares = (val_fraction, test_fraction)

    def setup(self, stage: str) -> None:
        """Read the tables and split the images, or list the folder of ``predict``."""
        if stage == "predict" and self.predict_root is not None:
            files = readable_images(self.predict_root, "predict_root", self.on_corrupt, self.trainer)
            self.predict_set = _FaceFiles(files, None, None, self.geometry, self.masks)
        else:
            super().setup(stage)

    def faces(self, part: Part) -> _FaceFiles:
        """Images of a part.

        Raises:
            ValueError: for attributes that (almost) all or no training images have, among others.
        """
        table = self._table
        parts = self._parts(len(table.files)) if table.parts is None else table.parts
        training = (parts == 0) & self._used(len(parts))
        check_balance(self.attributes, table.attributes[training], self.least_share, f"data.root={self.root!r}")
        rows = np.flatnonzero(training if part == "train" else parts == PARTS.index(part))
        points = None if table.landmarks is None else table.landmarks[rows]
        files = [table.files[row] for row in rows]
        return _FaceFiles(files, table.attributes[rows], points, self.geometry, self.masks)

    @cached_property
    def _table(self) -> FaceTable:
        return read_face_table(self.root, self.attributes, self.images, self.table)

    def _parts(self, count: int) -> NDArray[np.int64]:
        """Training, validation and test by chance: 0, 1 and 2 of each image."""
        order = np.random.default_rng((self.seed, 0)).permutation(count)
        val, test = (max(1, round(share * count)) for share in self.shares)
        parts = np.zeros(count, np.int64)
        parts[order[:val]], parts[order[val : val + test]] = 1, 2
        return parts

    def _used(self, count: int) -> NDArray[np.bool_]:
        if self.half is None:
            return np.ones(count, bool)
        first = np.random.default_rng((self.seed, 1)).permutation(count) % 2 == 0
        return first if self.half == "first" else ~first


def _cropped(pixels: NDArray[np.uint8], left: int, top: int, side: int, size: int) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    kind = Image.Resampling.BICUBIC if pixels.ndim == 3 else Image.Resampling.NEAREST
    return np.array(image.resize((size, size), kind, (left, top, left + side, top + side)))
