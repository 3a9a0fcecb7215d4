"""Procedural faces in batches, with the truth of every edit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.attribute_faces import PARTS, AttributeFaces, Part
from datamodules.synthetic.face_parameters import FACE_ATTRIBUTES, FaceParameters, draw_faces
from datamodules.synthetic.faces import face_landmarks, render_faces
from datamodules.transforms import Augmentation
from functional.face_regions import Region

__all__ = ["ProceduralFacesDataModule"]

_AT_ONCE = 256


class _Faces(Dataset[dict[str, Any]]):
    """Rendered faces, and where asked for each of them with one attribute changed."""

    def __init__(self, faces: FaceParameters, attributes: list[str], size: int, name: str, edits: bool) -> None:
        self.attributes, self.hair, self.name = faces.attributes(attributes), faces.hair, name
        self.landmarks = face_landmarks(faces, size)
        self.images = _bytes(faces, size)
        self.edits = (
            torch.stack([_bytes(faces.with_attributes({k: 1 - getattr(faces, k)}), size) for k in attributes], dim=1)
            if edits
            else None
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        index, seed = draw if isinstance(draw, tuple) else (draw, draw)
        sample = {
            "image": self.images[index],
            "attributes": self.attributes[index],
            "landmarks": self.landmarks[index],
            "label": int(self.hair[index]),
            "path": f"{self.name}_{index:05d}.png",
            "seed": seed,
        }
        return sample if self.edits is None else {**sample, "counterfactuals": self.edits[index]}


class ProceduralFacesDataModule(AttributeFaces):
    """Drawn faces whose attributes are known exactly; batches for validation and test bring ``counterfactuals``.

    These are, ``(B, A, 3, H, W)``, the same face with each of the attributes changed in turn. ``label`` is the
    colour of the hair. Nothing is downloaded.

    Args:
        attributes: some of ``smile``, ``moustache``, ``glasses``.
        regions: as for the other faces.
        train: number of training faces.
        val: number of faces for validation.
        test: number of faces for the test, and for ``predict``.
        image_size: side of the pictures.
        augmentation: random changes of colours in training; none by default. Mirroring is ``flip``.
        kwargs: as for AttributeFaces: ``jitter``, ``jitter_scale``, ``flip``, ``balanced``, ``batch_size``,
            ``num_workers``, ``seed``.

    Raises:
        ValueError: if an attribute is unknown, or there are no faces.
    """

    def __init__(
        self,
        attributes: list[str],
        regions: list[Region],
        train: int = 4000,
        val: int = 256,
        test: int = 512,
        image_size: int = 32,
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
        unknown = sorted(set(attributes) - set(FACE_ATTRIBUTES))
        if unknown:
            raise ValueError(f"data.attributes: {unknown} is none of {', '.join(FACE_ATTRIBUTES)}.")
        if min(train, val, test) < 1:
            raise ValueError(f"data.train={train}, data.val={val} and data.test={test} must be at least 1.")
        self.counts = {"train": train, "val": val, "test": test}

    def faces(self, part: Part) -> _Faces:
        """Draw the faces of a part, each from a stream of its own."""
        draws = torch.Generator().manual_seed(3 * self.seed + PARTS.index(part))
        drawn = draw_faces(self.counts[part], draws)
        return _Faces(drawn, self.attributes, self.image_size, part, edits=part != "train")


def _bytes(faces: FaceParameters, size: int) -> Tensor:
    """Pictures as uint8 ``(N, 3, size, size)``."""
    parts = (faces[start : start + _AT_ONCE] for start in range(0, len(faces), _AT_ONCE))
    return torch.cat([(render_faces(part, size) * 255).round().byte() for part in parts])
