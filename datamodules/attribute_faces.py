"""Faces with attributes and a region to edit: what procedural and photographed ones have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import ImageDataModule, as_float
from datamodules.sampling import Draw, SeededSampler
from functional.face_regions import Region, box_masks, jitter_boxes, mask_boxes, region_boxes

__all__ = ["PARTS", "AttributeFaces", "Part", "check_balance"]

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
_SWAPPED = (1, 0, 2, 4, 3)  # of the landmarks, when left and right change places


class BalancedAttributeSampler(SeededSampler):
    """Draws an attribute, then one of its two values, then an image that has it, with replacement.

    Rare attributes, such as moustaches, are seen as often as frequent ones.

    Args:
        values: 0 or 1, shape ``(N, A)``.
        kwargs: as for :class:`SeededSampler`.
    """

    def __init__(self, dataset: Dataset[object], values: NDArray[np.float32], **kwargs: Any) -> None:
        super().__init__(dataset, shuffle=True, **kwargs)
        groups = (np.flatnonzero(column == value) for column in values.T for value in (0, 1))
        self.groups = [members for members in groups if len(members)]

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.default_rng((self.seed, self.current_epoch() + 1))
        count = len(self) * self.num_replicas
        seeds = generator.integers(2**62, size=count)
        group = generator.integers(len(self.groups), size=count)
        place = generator.random(count)
        draws = (
            Draw(int(members[int(share * len(members))]), int(seed))
            for members, share, seed in zip((self.groups[index] for index in group), place, seeds, strict=True)
        )
        return (draw for index, draw in enumerate(draws) if index % self.num_replicas == self.rank)


class AttributeFaces(ImageDataModule):
    """Batches of ``image``, ``attributes`` ``(B, A)``, ``mask`` ``(B, 1, H, W)`` of the region, and ``box`` around it.

    Subclasses say in :meth:`faces` where they come from. Data sets give ``landmarks`` ``(5, 2)`` in pixels, or a
    ``region_mask`` ``(1, H, W)`` that goes before them. Regions are cut out on the device; in training faces are
    mirrored, and boxes moved and resized, at random.

    Args:
        attributes: names of those that are edited, in the order of the batch's columns.
        regions: parts of the face that are made anew: ``mouth``, ``eyes``, ``nose``, or several.
        jitter: largest move of a box in training, in pixels of a 128-pixel image.
        jitter_scale: largest relative change of a box's sides in training.
        flip: probability of a mirrored face in training.
        balanced: draw training images so that both values of every attribute are about equally frequent.
        kwargs: as for :class:`ImageDataModule`.

    Raises:
        ValueError: if there is no attribute or no region.
    """

    train_attributes: NDArray[np.float32]

    def __init__(
        self,
        attributes: list[str],
        regions: list[Region],
        jitter: float = 4.0,
        jitter_scale: float = 0.1,
        flip: float = 0.5,
        balanced: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not attributes or len(set(attributes)) < len(attributes) or not regions:
            raise ValueError(f"data.attributes={attributes} and data.regions={regions}: name at least one, none twice.")
        region_boxes(torch.zeros(1, 5, 2), regions[0])  # refuses an unknown name before anything is read
        self.attributes, self.regions, self.balanced = list(attributes), list(regions), balanced
        self.jitter, self.jitter_scale, self.flip = jitter, jitter_scale, flip

    def faces(self, part: Part) -> Any:
        """Data set of a part, whose ``attributes`` are 0 or 1, ``(N, A)``."""
        raise TypeError(f"{type(self).__name__} must say where its faces come from: define faces(part).")

    def setup(self, stage: str) -> None:
        """Get the faces of the stage."""
        if stage in ("fit", "validate"):
            train = self.faces("train")
            self.train_set, self.val_set = train, self.faces("val")
            self.train_attributes = np.asarray(train.attributes, np.float32)
        else:
            test = self.faces("test")
            self.test_sets, self.predict_set = {"faces": test}, test

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled or balanced training batches; a last incomplete batch is dropped unless it is the only one."""
        if not self.balanced:
            return super().train_dataloader()
        sampler = BalancedAttributeSampler(self.train_set, self.train_attributes, **self.shard())
        drop_last = len(self.train_attributes) >= self.batch_size
        return self.batches(self.train_set, sampler, self.batch_size, drop_last)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Mirror, cut the regions out, and run the pipeline, on the device; draws come from the batch's seed."""
        training = self.trainer is not None and self.trainer.training
        draws = torch.Generator().manual_seed(int(batch.get("seed", 0)) % 2**62)
        batch["image"] = as_float(batch["image"])
        if "counterfactuals" in batch:
            batch["counterfactuals"] = as_float(batch["counterfactuals"])
        if "region_mask" in batch:
            batch["region_mask"] = batch["region_mask"].float()
        if training:
            mirrored = torch.rand(len(batch["image"]), generator=draws) < self.flip
            _mirror(batch, mirrored.to(batch["image"].device))
        batch["mask"] = self._regions(batch, draws if training else None)
        batch["box"] = mask_boxes(batch["mask"])
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _regions(self, batch: dict[str, Any], draws: torch.Generator | None) -> Tensor:
        landmarks, external = batch.pop("landmarks"), batch.pop("region_mask", None)
        if external is not None:
            return (external > 0.5).float()
        height, width = batch["image"].shape[-2:]
        mask = batch["image"].new_zeros(len(landmarks), 1, height, width)
        for region in self.regions:
            boxes = region_boxes(landmarks, region)
            if draws is not None:
                boxes = jitter_boxes(boxes, self.jitter * width / 128, self.jitter_scale, draws)
            mask = torch.maximum(mask, box_masks(boxes, height, width))
        return mask


def check_balance(attributes: list[str], values: NDArray[np.float32], least: float, where: str) -> None:
    """Refuse attributes that (almost) all training images have, or none.

    A network would ignore such an attribute, or give every face the same one: the usual sign of a wrong folder or of a
    table that belongs to other images.

    Args:
        attributes: their names.
        values: 0 or 1, shape ``(N, A)``.
        least: smallest share of either value.
        where: what the values come from, for the message.

    Raises:
        ValueError: if there is such an attribute.
    """
    for name, share in zip(attributes, values.mean(axis=0), strict=True):
        if min(share, 1 - share) < least:
            raise ValueError(
                f"{where}: {share:.1%} of {len(values)} training images have {name!r}, and nothing can be learned "
                f"from less than {least:.1%} of either kind. Check that the table belongs to the images, leave "
                f"{name!r} out of data.attributes, or lower data.least_share."
            )


def _mirror(batch: dict[str, Any], chosen: Tensor) -> None:
    """Mirror some samples of a batch in place: pixels, masks and landmarks alike."""
    width = batch["image"].shape[-1]
    for key in ("image", "region_mask", "counterfactuals"):
        if key in batch:
            picked = chosen.view(-1, *[1] * (batch[key].ndim - 1))
            batch[key] = torch.where(picked, batch[key].flip(-1), batch[key])
    landmarks = batch["landmarks"]
    turned = landmarks[:, list(_SWAPPED)] * landmarks.new_tensor([-1, 1]) + landmarks.new_tensor([width, 0])
    batch["landmarks"] = torch.where(chosen[:, None, None], turned, landmarks)
