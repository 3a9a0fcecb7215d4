"""How good edits of a region are: what a judge sees in them, what they cost, and how they fit in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from functional.inpainting_losses import masked_l1, masked_psnr, seam_error
from lightning_modules.attribute_classifier import AttributeClassifier
from lightning_modules.generation_quality import JudgedFeatures, generation_quality
from lightning_modules.image_classifier import ImageClassifier

__all__ = ["InpaintingQuality"]

Gather = Callable[[list[Tensor]], Tensor]
Batch = dict[str, Any]


class InpaintingQuality:
    """Figures of a validation, batch by batch. Judge and embedder are kept out of the module tree.

    Args:
        attributes: their names.
        judge: trained on other images; without one, what needs it is left out.
        judge_name: how its distances are called.
        embedder: of faces, whose features' cosine is the similarity of identities; left out without one.
    """

    def __init__(
        self,
        attributes: list[str],
        judge: AttributeClassifier | None = None,
        judge_name: str = "judge",
        embedder: ImageClassifier | None = None,
    ) -> None:
        if judge is not None and judge.attributes != attributes:
            raise ValueError(
                f"model.judge tells {judge.attributes}, the model edits {attributes}: both need the same, in order."
            )
        self.attributes, self.judge_name = attributes, judge_name
        self.judge = None if judge is None else judge.requires_grad_(False).eval()
        self.embedder = None if embedder is None else embedder.requires_grad_(False).eval()
        self._kept: list[dict[str, Tensor]] = []

    def reset(self) -> None:
        """Forget everything."""
        self._kept = []

    @torch.no_grad()
    def update(self, batch: Batch, restored: Tensor, edits: Tensor) -> None:
        """Keep a batch.

        Args:
            batch: with ``image``, ``mask``, ``box``, ``attributes``, and perhaps ``counterfactuals``.
            restored: the images with the region made anew under their own attributes, ``(B, 3, H, W)``.
            edits: with each attribute changed in turn, ``(B, A, 3, H, W)``.
        """
        image, mask = batch["image"].float(), batch["mask"]
        restored, edits = restored.float(), edits.float()
        outside = ((edits - image[:, None]).abs() * (1 - mask[:, None])).amax((2, 3, 4))
        kept = {
            "psnr": masked_psnr(restored, image, mask),
            "ssim": _masked_ssim(restored, image, mask),
            "seam": seam_error(edits.flatten(0, 1), mask.repeat_interleave(edits.shape[1], 0)).view(len(image), -1),
            "seam_real": seam_error(image, mask),
            "outside": outside,
        }
        truths = batch.get("counterfactuals")
        if truths is not None:
            pairs = zip(edits.unbind(1), truths.float().unbind(1), strict=True)
            kept["counterfactual"] = torch.stack([masked_l1(made, truth, mask) for made, truth in pairs], dim=1)
        if self.embedder is not None:
            self.embedder.to(image.device)
            mine = self.embedder.embed(image)[:, None]
            theirs = self.embedder.embed(edits.flatten(0, 1)).unflatten(0, edits.shape[:2])
            kept["identity"] = F.cosine_similarity(theirs, mine, dim=-1).float()
        if self.judge is not None:
            kept |= self._judged(batch, image, restored, edits)
        self._kept.append(kept)

    def compute(self, gather: Gather) -> dict[str, float]:
        """Figures over all processes, and forget.

        Args:
            gather: from tensors of this process to one of all processes.

        Returns:
            ``transfer/<name>``: how often the judge sees the attribute changed where it was asked for, and
            ``preservation/<name>``: the others unchanged in these edits; their means ``transfer_accuracy`` and
            ``preservation``; ``kept/<name>``: own attribute seen in restored images; ``psnr`` and ``ssim`` of these in
            the mask; ``seam`` of edits and ``seam_real``; ``outside``, largest change of a pixel that was to be kept;
            ``counterfactual_l1/<name>``; ``identity``; ``FID[judge region,n]`` and its like of the regions of edits.
        """
        if not self._kept:
            return {}
        all_of = {name: gather([kept[name] for kept in self._kept]) for name in self._kept[0]}
        self.reset()
        figures: dict[str, float] = {
            name: float(all_of[name].mean())
            for name in ("psnr", "ssim", "seam", "seam_real", "identity", "kept")
            if name in all_of
        }
        figures["outside"] = float(all_of["outside"].max())
        for key, shown in (
            ("counterfactual", "counterfactual_l1"),
            ("transfer", "transfer"),
            ("kept", "kept"),
            ("preservation", "preservation"),
        ):
            if key in all_of and all_of[key].ndim == 2:
                figures |= {f"{shown}/{n}": float(v) for n, v in zip(self.attributes, all_of[key].mean(0), strict=True)}
        if "transfer" in all_of:
            figures["transfer_accuracy"] = float(all_of["transfer"].mean())
            figures["preservation"] = float(all_of["preservation"].mean())
            empty = all_of["real_features"].new_zeros(len(all_of["real_features"]), 2)
            distances = generation_quality(
                f"{self.judge_name} region",
                JudgedFeatures(all_of["real_features"], empty),
                JudgedFeatures(all_of["made_features"], empty),
            )
            figures |= {name: value for name, value in distances.items() if not name.startswith("IS[")}
        return figures

    def _judged(self, batch: Batch, image: Tensor, restored: Tensor, edits: Tensor) -> dict[str, Tensor]:
        judge: Any = self.judge
        judge.to(image.device)
        own, boxes, count = batch["attributes"] > 0.5, batch["box"], edits.shape[1]
        with torch.autocast(image.device.type, enabled=False):
            many = boxes.repeat_interleave(count, 0)
            seen = (judge(edits.flatten(0, 1), many) > 0).unflatten(0, edits.shape[:2])  # (B, edit, attribute)
            kept = (judge(restored, boxes) > 0) == own
            # One edit of each image, a different attribute in turn, so that there are as many as real ones.
            turn = torch.arange(len(image), device=image.device) % count
            made = edits[torch.arange(len(image), device=image.device), turn]
            real_features, made_features = judge.embed(image, boxes), judge.embed(made, boxes)
        same = seen == own[:, None]
        itself = torch.eye(count, dtype=torch.bool, device=image.device)
        others = (
            (same & ~itself).float().sum(2) / max(1, count - 1) if count > 1 else torch.ones_like(same[..., 0]).float()
        )
        return {
            "transfer": (~same.diagonal(dim1=1, dim2=2)).float(),
            "preservation": others,
            "kept": kept.float(),
            "real_features": real_features.float(),
            "made_features": made_features.float(),
        }


def _masked_ssim(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Structural similarity averaged over the pixels of the mask, per sample ``(B,)``."""
    _, maps = structural_similarity_index_measure(first, second, data_range=1.0, return_full_image=True, sigma=1.0)
    inside = (mask > 0.5).float()
    return (maps.mean(1, keepdim=True) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)
