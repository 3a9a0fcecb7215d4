"""Distances between real and generated images, in the features of a network that the user names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from functional.generative_quality import neighbourhood_metrics
from lightning_modules.fidelity_inception import FidelityInception
from lightning_modules.image_classifier import ImageClassifier

__all__ = ["Judge", "JudgedFeatures", "JudgedSamples", "frechet_distance", "generation_quality"]

Gather = Callable[[list[Tensor]], Tensor]

MOST_CONFIDENT = 50.0  # beyond that gap of two logits torchmetrics' inception score is 0 * inf


class JudgedFeatures(NamedTuple):
    """What a judge says of images.

    Attributes:
        features: shape ``(B, D)``, float32.
        logits: shape ``(B, K)``, float32.
    """

    features: Tensor
    logits: Tensor


class Judge:
    """A frozen classifier, kept out of the module tree: it is in no checkpoint, no optimiser and no training mode.

    Args:
        classifier: trained; it gives features and logits.
        name: how its distances are called.

    Raises:
        ValueError: if the name is empty.
    """

    def __init__(self, classifier: ImageClassifier | FidelityInception, name: str) -> None:
        if not name.strip():
            raise ValueError("model.judge_name is empty: distances are named by the network that measures them.")
        self.classifier, self.name = classifier.requires_grad_(False).eval(), name
        self.knows_classes = isinstance(classifier, ImageClassifier)  # those of the data

    @torch.no_grad()
    def __call__(self, x: Tensor) -> JudgedFeatures:
        """Features and logits of images in [0, 1], ``(B, 3, S, S)``, without autocast."""
        self.classifier.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            features, logits = self.classifier.features_and_logits(x.float())
        return JudgedFeatures(features.float(), logits.float())


def generation_quality(
    judge: str, real: JudgedFeatures, fake: JudgedFeatures, other_real: Tensor | None = None, neighbours: int = 5
) -> dict[str, float]:
    """Fréchet and kernel distance, inception score and neighbourhood metrics, each named by judge and sample size.

    Args:
        judge: name of the network that the features come from.
        real: of real images that the generator has not seen.
        fake: of generated images.
        other_real: features of other real images, e.g. of the training set: their distances are the floor.
        neighbours: k of precision, recall, density and coverage.

    Returns:
        ``FID[judge,n]`` and so on, n being the smaller number of images; ``FID_floor[judge,n]`` where there are other
        reals; and ``distance``, the Fréchet distance again, to choose a checkpoint by.
    """
    count = min(len(real.features), len(fake.features))
    protocol = f"[{judge},{count}]"
    frechet = frechet_distance(real.features, fake.features)
    found = {
        "FID": frechet,
        "KID": _kernel(real.features, fake.features),
        "IS": _inception(fake.logits),
        **neighbourhood_metrics(real.features, fake.features, min(neighbours, count - 1))._asdict(),
    }
    if other_real is not None:
        found["FID_floor"] = frechet_distance(real.features, other_real)
    return {f"{name}{protocol}": float(value) for name, value in found.items()} | {"distance": frechet}


class JudgedSamples:
    """What a judge says of the samples of a validation, batch by batch.

    Args:
        judge: the judge.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._kept: list[dict[str, Tensor]] = []

    def update(self, images: Tensor, labels: Tensor, fake: Tensor, other: Tensor, alike: Tensor | None = None) -> None:
        """Keep a batch.

        Args:
            images: real ones, whose conditions the others were made for, ``(B, 3, S, S)``.
            labels: of these, ``(B,)``.
            fake: generated images, same shape.
            other: images generated for the same conditions with other noise.
            alike: cosines between features of real and generated images, ``(B,)``.
        """
        real, made = self.judge(images), self.judge(fake)
        kept = {
            "real": real.features,
            "real_logits": real.logits,
            "fake": made.features,
            "fake_logits": made.logits,
            "spread_over_noise": (fake - other).abs().mean((1, 2, 3)).float(),
        }
        if self.judge.knows_classes:
            kept["conditional_accuracy"] = (made.logits.argmax(1) == labels).float()
        self._kept.append(kept if alike is None else {**kept, "feature_cosine": alike.float()})

    def reset(self) -> None:
        """Forget everything."""
        self._kept = []

    def compute(self, others: Tensor | None, gather: Gather) -> dict[str, float]:
        """Figures over all processes, and forget.

        Args:
            others: other real images for the floor, uint8 ``(N, 3, S, S)``.
            gather: from tensors of this process to one of all processes.

        Returns:
            Those of :func:`generation_quality`; ``conditional_accuracy``, how often the judge sees the class of the
            image whose condition was used; ``class_entropy`` of the judge's answers, 1 for equally many of each;
            ``spread_over_noise``, mean absolute difference of two samples of one condition; ``feature_cosine``. The two
            about classes only of a judge that knows those of the data. An
            infinite ``distance`` alone if nothing was judged: no checkpoint is the best yet.
        """
        if not self._kept:
            return {"distance": float("inf")}
        all_of = {name: gather([kept[name] for kept in self._kept]) for name in self._kept[0]}
        floor = None
        if others is not None:
            device = all_of["real"].device
            floor = gather([self.judge(part.to(device).float() / 255).features for part in others.split(256)])
        figures = generation_quality(
            self.judge.name,
            JudgedFeatures(all_of["real"], all_of["real_logits"]),
            JudgedFeatures(all_of["fake"], all_of["fake_logits"]),
            floor,
        )
        if self.judge.knows_classes:
            classes = all_of["fake_logits"].shape[1]
            shares = all_of["fake_logits"].argmax(1).bincount(minlength=classes).double() / len(all_of["fake"])
            figures["class_entropy"] = float(torch.special.entr(shares).sum()) / math.log(classes)
        for name in ("conditional_accuracy", "spread_over_noise", "feature_cosine"):
            if name in all_of:
                figures[name] = float(all_of[name].mean())
        self.reset()
        return figures


class _Given(nn.Module):
    """In place of a network: the features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of features ``(N, D)`` and ``(M, D)``."""
    metric = FrechetInceptionDistance(_Given(real.shape[1]), normalize=True)
    return _compared(metric, real, fake).item()


def _kernel(real: Tensor, fake: Tensor) -> float:
    size = min(1000, len(real), len(fake))
    with _seeded():  # draws the subsets
        metric = KernelInceptionDistance(_Given(real.shape[1]), subsets=100, subset_size=size, normalize=True)
        return _compared(metric, real, fake)[0].item()


def _inception(logits: Tensor) -> float:
    logits = logits - logits.amax(dim=1, keepdim=True)
    with _seeded():  # draws the order
        metric = InceptionScore(_Given(logits.shape[1]), splits=min(10, len(logits)))
        metric.update(logits.clamp_min(-MOST_CONFIDENT).cpu())
        return metric.compute()[0].item()


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric .* will save all extracted features in buffer")
        torch.manual_seed(0)
        yield


def _compared(metric: Any, real: Tensor, fake: Tensor) -> Any:
    metric.update(real.cpu(), real=True)
    metric.update(fake.cpu(), real=False)
    return metric.compute()
