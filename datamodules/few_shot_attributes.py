"""Few-shot episodes from photographed faces: CelebA's hair colours, or the classes of any table of attributes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.attribute_faces import PARTS, Part
from datamodules.decoding import decode_image
from datamodules.face_attributes import FaceAttributesDataModule
from datamodules.few_shot_episodes import EpisodePlan, Episodes, FewShotEpisodes, Pool
from datamodules.image_folder import OnCorrupt, readable_images
from functional.recolouring import face_oval, hair_band

__all__ = ["FewShotAttributeDataModule"]

_KEPT_BYTES = 256 * 2**20
_HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


class _FilePool(Pool):
    """Faces of one part that have exactly one of the classes.

    Episodes draw the same images time and again: as many as fit in 256 MiB stay decoded, in each process.
    """

    def __init__(self, faces: Any, size: int, class_names: list[str]) -> None:
        values = np.asarray(faces.attributes)
        self.rows = np.flatnonzero(values.sum(1) == 1)
        names = [str(faces.files[row]) for row in self.rows]
        super().__init__(values[self.rows].argmax(1).astype(np.int64), names, class_names)
        self.faces, self.size = faces, size
        self.most, self.kept = _KEPT_BYTES // (3 * size**2), dict[int, tuple[Tensor, Tensor]]()

    def load(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.stack([self._face(row)[0] for row in rows])

    def hair(self, rows: NDArray[np.int64], images: Tensor) -> Tensor:
        return hair_band(images, self._landmarks(rows))

    def changeable(self, rows: NDArray[np.int64]) -> Tensor:
        return 1 - face_oval(self._landmarks(rows), self.size, self.size)

    def _landmarks(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.stack([self._face(row)[1] for row in rows])

    def _face(self, row: np.int64) -> tuple[Tensor, Tensor]:
        """Image and landmarks."""
        found = self.kept.get(int(row))
        if found is None:
            sample = self.faces[int(self.rows[row])]
            found = sample["image"], sample["landmarks"]
            if len(self.kept) < self.most:
                self.kept[int(row)] = found
        return found


class FewShotAttributeDataModule(FewShotEpisodes):
    """Episodes from CelebA, or a folder laid out like it: one class is held out, the others are learnt from.

    Classes exclude one another; images that have none or several of them are left out. Shots of validation and test
    come from the training images of the held-out class, which no training task sees; what is translated, and the real
    images of the class that translations are compared with, from the other parts. What may change is all but an oval
    around the face, since there is no segmentation of hair.

    ``predict`` reads two folders of images of any size, cut to a square in the middle: a few of the wanted class, and
    those to be translated. It needs nothing else.

    Args:
        root: folder of images and tables, as for FaceAttributesDataModule.
        classes: columns of the table; hair colours by default.
        held_out: class of validation and test; the last one by default.
        half: train on the ``first`` or the ``second`` half of the training images, drawn by ``seed``, so that a judge
            can learn from the other; all by default.
        shots_root: folder of the shots for ``predict``.
        predict_root: folder of the images to translate.
        on_corrupt: of these folders, ``skip`` damaged images and report them, or ``raise``.
        crop_first: side of the square that is cut from the middle before it is resized to ``image_size``.
        image_size: side of the images; 128 in the paper.
        val_fraction: share for validation where no table says it.
        test_fraction: share for the test where no table says it.
        kwargs: as for other episodes: ``shots``, ``sources``, ``queries``, ``train_tasks``, ``test_draws``,
            ``recoloured`` (on a guess of where hair is), ``batch_size``, ``num_workers``, ``seed``.

    Raises:
        ValueError: if the held-out class is none of the classes, or fewer than two are left.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: list[str] | None = None,
        held_out: str | None = None,
        half: str | None = None,
        shots_root: str | None = None,
        predict_root: str | None = None,
        on_corrupt: OnCorrupt = "skip",
        crop_first: int = 178,
        image_size: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        if crop_first < 1:
            raise ValueError(f"data.crop_first={crop_first} must be at least 1.")
        self.classes = list(_HAIR) if classes is None else classes
        held_out = self.classes[-1] if held_out is None and self.classes else held_out
        if held_out not in self.classes or len(set(self.classes)) < max(3, len(self.classes)):
            raise ValueError(
                f"data.held_out={held_out!r} must be one of data.classes={self.classes}, at least two others "
                "left, and none named twice."
            )
        self.held_out = self.classes.index(held_out)
        self.known = tuple(index for index in range(len(self.classes)) if index != self.held_out)
        self.shots_root, self.predict_root, self.crop_first = shots_root, predict_root, crop_first
        self.root = root
        self.on_corrupt: OnCorrupt = on_corrupt
        self.faces_of: dict[str, Any] = {
            "half": half,
            "crop_first": crop_first,
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
        }

    def setup(self, stage: str) -> None:
        """Read the tables and make pools, or list the two folders of ``predict``.

        Raises:
            ValueError: if what the stage needs is not given.
        """
        if stage == "predict":
            if self.shots_root is None or self.predict_root is None:
                raise ValueError(
                    "predict needs two folders: data.shots_root, a few images of the wanted class, and "
                    "data.predict_root, the images to translate."
                )
            shots, faces = (
                _Files(readable_images(folder, option, self.on_corrupt, self.trainer), self.crop_first, self.image_size)
                for folder, option in ((self.shots_root, "shots_root"), (self.predict_root, "predict_root"))
            )
            self.predict_set = faces
            self.support = shots.some(len(shots))
            self.predict_sources = faces.some(self.sources)
            return
        train, val, test = (self._pool(part) for part in PARTS)
        plan = EpisodePlan(self.known, self.known, self.shots, self.sources)
        learnt = replace(plan, recoloured=self.recoloured)
        judged = replace(plan, targets=(self.held_out,), queries=self.queries)
        self.train_set = Episodes(learnt, self.train_tasks, train)
        self.val_set = Episodes(judged, self.test_draws, train, val)
        self.test_sets = {"held_out": Episodes(judged, self.test_draws, train, test)}

    def _pool(self, part: Part) -> _FilePool:
        if self.root is None:
            raise ValueError("data.root is not given: name the folder of images and tables.")
        table = FaceAttributesDataModule(
            self.root,
            self.classes,
            ["eyes"],
            image_size=self.image_size,
            seed=self.seed,
            num_workers=0,
            least_share=0.0,
            **self.faces_of,
        )
        return _FilePool(table.faces(part), self.image_size, self.classes)


class _Files(Dataset[dict[str, Any]]):
    """Images, cut to a square in the middle and resized."""

    def __init__(self, files: list[Path], crop: int, size: int) -> None:
        self.files, self.crop, self.size = files, crop, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        return {"image": self.image(index), "path": str(self.files[index]), "seed": seed}

    def image(self, index: int) -> Tensor:
        """Pixels, uint8 ``(3, size, size)``."""
        pixels = decode_image(self.files[index])
        height, width = pixels.shape[:2]
        aligned = (height, width) == (218, 178)  # CelebA's, of which training cuts the same square
        side = min(self.crop, width) if aligned else min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        picture = Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC, box)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def some(self, count: int) -> Tensor:
        """Up to ``count`` images, evenly spaced, ``(n, 3, size, size)``."""
        rows = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return torch.stack([self.image(int(row)) for row in rows])
