"""Features of images as a classifier sees them, by which attacked images are told apart (Harder et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from functional.activations import layer_activations
from functional.adversarial_features import (
    ClassGaussians,
    ClassMoments,
    class_gaussians,
    class_moments,
    local_intrinsic_dimension,
    magnitude_spectrum,
    mahalanobis_score,
    phase_spectrum,
)
from lightning_modules.fitted_heads import FittedBuffers
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.victim_layers import observed_layers

__all__ = ["FEATURES", "FeatureName", "VictimFeatures"]

FeatureName = Literal["input_mfs", "input_pfs", "layer_mfs", "layer_pfs", "lid", "mahalanobis"]
FEATURES: tuple[FeatureName, ...] = get_args(FeatureName)
BASELINES = ("lid", "mahalanobis")


class VictimFeatures(FittedBuffers):
    """Logits and features of images in one forward pass of a victim.

    Args:
        name: ``input_mfs`` and ``input_pfs``, magnitude and phase of the spectrum of the image in [0, 1];
            ``layer_mfs`` and ``layer_pfs``, those of feature maps; or a baseline, one number per layer: ``lid``, local
            intrinsic dimensionality, or ``mahalanobis``, the score of the likeliest class.
        layers: names of layers of the victim's ``backbone``; by default those of :func:`observed_layers`.
        own_maximum: divide each layer's spectrum by its own maximum.
        log1p: logarithm of 1 + magnitude, which brings low and high frequencies to one scale (not in the paper).
        neighbours: k of ``lid``; 20 for CIFAR-10 and 10 for CIFAR-100 in the paper.
        references: clean images that ``lid`` compares with; 100 in the paper.
        step: size of the signed-gradient step, in normalised pixels, that ``mahalanobis`` takes before it scores; 2e-4
            for FGSM, 5e-5 for BIM, PGD and DeepFool and 1e-5 for Carlini-Wagner on CIFAR-10. 0 takes none.

    Raises:
        ValueError: if the name is unknown.
    """

    reference: Tensor
    statistics: Tensor

    def __init__(
        self,
        name: FeatureName,
        layers: Sequence[str] | None = None,
        own_maximum: bool = False,
        log1p: bool = False,
        neighbours: int = 20,
        references: int = 100,
        step: float = 5e-5,
    ) -> None:
        super().__init__()
        if name not in FEATURES:
            raise ValueError(f"model.features={name!r} is not one of {', '.join(FEATURES)}.")
        if log1p and not name.endswith("mfs"):
            raise ValueError(f"model.log1p is for magnitudes, not for {name}; leave it off.")
        self.name, self.layers, self.own_maximum, self.log1p = name, layers, own_maximum, log1p
        self.neighbours, self.references, self.step = neighbours, references, step
        self.register_buffer("reference", torch.empty(0))
        self.register_buffer("statistics", torch.empty(0))

    @property
    def needs_reference(self) -> bool:
        """Whether :meth:`fit` must see clean images before there are features."""
        return self.name in BASELINES

    @property
    def ready(self) -> bool:
        """Whether there can be features."""
        return not self.needs_reference or self.reference.numel() > 0 or self.statistics.numel() > 0

    @torch.no_grad()
    def fit(self, victim: ImageClassifier, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take from clean images what the baselines need: some of the images, or Gaussians of the classes.

        Args:
            victim: in eval mode.
            batches: images in [0, 1], ``(B, C, H, W)``, and their classes ``(B,)``; the victim's training images.

        Raises:
            ValueError: if there are too few images, or none of some class.
        """
        if self.name == "lid":
            kept, count = [], 0
            for images, _ in batches:
                kept.append(images[: self.references - count])
                count += len(kept[-1])
                if count == self.references:
                    break
            if count < self.references:
                raise ValueError(f"model.references={self.references}: there are only {count} clean images.")
            self._buffers["reference"] = torch.cat(kept).float()
        elif self.name == "mahalanobis":
            sums: list[ClassMoments] | None = None
            for images, labels in batches:
                _, maps = self._activations(victim, victim.normalize(images))
                new = [class_moments(_pooled(part), labels, victim.num_classes) for part in maps]
                before = sums or [ClassMoments(*(torch.zeros_like(part) for part in moments)) for moments in new]
                sums = [ClassMoments(*map(torch.add, old, more)) for old, more in zip(before, new, strict=True)]
            if sums is None:
                raise ValueError("model.features=mahalanobis: there are no clean images to take statistics of.")
            # One flat buffer: layers differ in size, and a checkpoint must say nothing but numbers.
            gaussians = [class_gaussians(moments) for moments in sums]
            self._buffers["statistics"] = torch.cat([part.flatten() for pair in gaussians for part in pair])

    def forward(
        self, victim: ImageClassifier, x: Tensor, reference: Tensor | None = None, skip: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Logits and features; differentiable by the images.

        Args:
            victim: the classifier.
            x: images in [0, 1], shape ``(B, C, H, W)``.
            reference: for ``lid``, clean images ``(R, C, H, W)`` in place of those of the fit: the published minibatch,
                which holds the sources of attacked images.
            skip: nearest reference images that ``lid`` leaves out; 1 with the published minibatch.

        Returns:
            Logits ``(B, classes)`` and features ``(B, K)``.

        Raises:
            RuntimeError: for a baseline before its fit.
        """
        if not self.ready and reference is None:
            raise RuntimeError(f"The {self.name} features are not fitted yet: run `fit`, or load a checkpoint.")
        if self.name.startswith("input"):
            return victim(x), self._spectrum(x)
        if self.name == "mahalanobis":
            return self._mahalanobis(victim, x)
        logits, maps = self._activations(victim, victim.normalize(x))
        if self.name != "lid":
            return logits, torch.cat([self._spectrum(part) for part in maps], dim=1)
        with torch.no_grad():
            clean = self.reference if reference is None else reference
            _, others = self._activations(victim, victim.normalize(clean.to(x.dtype)))
        numbers = [
            local_intrinsic_dimension(own, other, self.neighbours, skip)
            for own, other in zip(maps, others, strict=True)
        ]
        return logits, torch.stack(numbers, dim=1)

    def _spectrum(self, maps: Tensor) -> Tensor:
        if self.name.endswith("pfs"):
            return phase_spectrum(maps, self.own_maximum)
        spectrum = magnitude_spectrum(maps, self.own_maximum)
        return spectrum.log1p() if self.log1p else spectrum

    def _activations(self, victim: ImageClassifier, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        layers = self.layers or observed_layers(victim.backbone, spectral=self.name not in BASELINES)
        return layer_activations(victim.backbone, normalised, layers)

    def _mahalanobis(self, victim: ImageClassifier, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score of each layer, after a step of its own that raises the score of the likeliest class."""
        with torch.inference_mode(False):  # tensors of inference cannot be differentiated, nor by
            normalised = victim.normalize(x.clone())
            logits, maps = self._activations(victim, normalised)
            gaussians = self._gaussians([part.shape[1] for part in maps], logits.shape[1])
        if self.step:
            maps = self._stepped(victim, normalised, gaussians)
        scores = [mahalanobis_score(_pooled(part), of) for part, of in zip(maps, gaussians, strict=True)]
        return logits, torch.stack(scores, dim=1)

    def _stepped(
        self, victim: ImageClassifier, normalised: Tensor, gaussians: Sequence[ClassGaussians]
    ) -> list[Tensor]:
        """Maps of each layer after its own step."""
        with torch.inference_mode(False), torch.enable_grad():
            start = normalised.detach().clone().requires_grad_()
            _, maps = self._activations(victim, start)
            scores = [mahalanobis_score(_pooled(part), of).sum() for part, of in zip(maps, gaussians, strict=True)]
            slopes = [torch.autograd.grad(score, start, retain_graph=True)[0] for score in scores]
        steps = (normalised + self.step * slope.sign() for slope in slopes)
        return [self._activations(victim, moved)[1][layer] for layer, moved in enumerate(steps)]

    def _gaussians(self, widths: Sequence[int], classes: int) -> list[ClassGaussians]:
        sizes = [size for width in widths for size in (classes * width, width * width)]
        if sum(sizes) != self.statistics.numel():
            raise ValueError(
                f"The mahalanobis features were fitted on other layers: {self.statistics.numel()} numbers are stored, "
                f"{sum(sizes)} are needed for this victim and model.layers."
            )
        parts = iter(self.statistics.clone().split(sizes))
        return [ClassGaussians(next(parts).view(classes, w), next(parts).view(w, w)) for w in widths]


def _pooled(maps: Tensor) -> Tensor:
    """Mean over all places, ``(B, C)``, of maps ``(B, C, ...)``."""
    return maps.float().flatten(2).mean(dim=2) if maps.ndim > 2 else maps.float()
