"""How well an adapted generator translates held-out images: colours, what else changed, and distances to real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functional.recolouring import mean_colour, nearest_colour, region_l1
from lightning_modules.attribute_classifier import AttributeClassifier
from lightning_modules.generation_quality import frechet_distance
from lightning_modules.image_classifier import ImageClassifier

__all__ = ["FewShotFigures", "TranslationJudge"]

Batch = dict[str, Any]
Row = dict[str, float]


class TranslationJudge:
    """A frozen classifier of the target's classes, kept out of the module tree and of every checkpoint.

    Args:
        classifier: trained on other images; its class or attribute of the largest logit is its verdict.
        name: how distances in its features are called.

    Raises:
        ValueError: if the name is empty.
    """

    def __init__(self, classifier: ImageClassifier | AttributeClassifier, name: str) -> None:
        if not name.strip():
            raise ValueError("model.judge_name is empty: distances are named by the network that measures them.")
        self.classifier, self.name = classifier.requires_grad_(False).eval(), name

    @torch.no_grad()
    def verdicts(self, x: Tensor) -> Tensor:
        """Class ``(B,)`` of images in [0, 1]."""
        found: Tensor = self.classifier.to(x.device)(x.float()).argmax(1)
        return found

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features ``(B, D)`` of images in [0, 1]."""
        found: Tensor = self.classifier.to(x.device).embed(x.float())
        return found


class FewShotFigures:
    """Figures of tasks after some numbers of adaptation steps.

    Args:
        judge: says which class it sees; without one, a palette in the batch and the exact hair do.
    """

    def __init__(self, judge: TranslationJudge | None = None) -> None:
        self.judge = judge
        self.rows: list[tuple[int, Row]] = []

    @torch.no_grad()
    def score(self, translate: Callable[[Tensor], Tensor], task: Batch) -> Row:
        """Figures of one task.

        Args:
            translate: from images in [0, 1] to translated ones.
            task: what an episode has for evaluation: ``support_image``, ``support_hair``, ``query_image``,
                ``query_hair``, ``target``, and where they are known ``query_truth``, ``query_real`` and ``palette``.

        Returns:
            ``colour_accuracy``, how often the hair is nearest to the target among the palette's colours, or
            ``judge_accuracy``, how often the judge sees the target; ``hair_colour_error``, how far the mean colour of
            what may change lies from that of the shots; ``non_hair_l1`` to the image before, outside of the hair;
            ``counterfactual_l1`` to the truth within it; ``FID[judge,n]`` to real images of the target, and
            ``FID_copy``, that of the untranslated images.
        """
        x, hair, target = task["query_image"], task["query_hair"], int(task["target"])
        made = translate(x).float().clamp(0, 1)
        wanted = mean_colour(task["support_image"].float(), task["support_hair"]).mean(0)
        row = {
            "hair_colour_error": (mean_colour(made, hair) - wanted).abs().mean().item(),
            "non_hair_l1": region_l1(made, x, 1 - hair).mean().item(),
        }
        if "palette" in task:
            inside = hair * (hair > 0.5)
            seen = nearest_colour(mean_colour(made, inside), task["palette"])
            row["colour_accuracy"] = (seen == target).float().mean().item()
        if "query_truth" in task:
            row["counterfactual_l1"] = region_l1(made, task["query_truth"], hair).mean().item()
        if self.judge is not None:
            row["judge_accuracy"] = (self.judge.verdicts(made) == target).float().mean().item()
            if "query_real" in task:
                real = self.judge.features(task["query_real"])
                protocol = f"[{self.judge.name},{min(len(made), len(real))}]"
                for name, images in (("FID", made), ("FID_copy", x)):
                    row[name + protocol] = frechet_distance(real, self.judge.features(images))
        return row

    def update(self, steps: int, row: Row) -> None:
        """Keep the figures of a task after a number of steps."""
        self.rows.append((steps, row))

    def compute(self, gather: Callable[[list[Any]], list[Any]]) -> dict[str, float]:
        """Means over the tasks of all processes, and forget: ``colour_accuracy/10`` after 10 steps, and so on.

        Args:
            gather: from the rows of this process to those of all.
        """
        together: dict[str, list[float]] = {}
        for steps, row in gather(self.rows):
            for name, value in row.items():
                together.setdefault(f"{name}/{steps}", []).append(value)
        self.rows = []
        return {name: sum(values) / len(values) for name, values in together.items()}
