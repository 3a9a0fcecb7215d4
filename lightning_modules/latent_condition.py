"""From features of images to conditions of a GAN (after the idea of Durall et al. 2020; the defaults are ours)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from functional.clustering import kmeans
from lightning_modules.fitted_heads import FittedBuffers

__all__ = ["ConditionMode", "LatentCondition"]

ConditionMode = Literal["features", "soft", "hard"]


class LatentCondition(FittedBuffers):
    """Standardised features on a sphere, or their k-means clusters.

    Features are standardised over the training set, then brought to one length: without that, features of different
    images are almost parallel. ``hard`` conditions are one-hot clusters, ``soft`` ones the softmax of the negative
    squared distances to the centres; both have the same length as the features, so that modes can be compared.

    Args:
        mode: ``features``, ``soft`` or ``hard``.
        feature_size: length of the features.
        clusters: number of clusters.
        norm: length of a condition.
        temperature: of the softmax, for distances on the unit sphere.
        kept: conditions of training images that are kept for sampling without an image at hand.

    Raises:
        ValueError: if the mode does not exist or a number makes no sense.
    """

    mean: Tensor
    std: Tensor
    centres: Tensor
    members: Tensor

    def __init__(
        self,
        mode: ConditionMode,
        feature_size: int,
        clusters: int = 10,
        norm: float = 8.0,
        temperature: float = 0.1,
        kept: int = 1000,
    ) -> None:
        super().__init__()
        if mode not in get_args(ConditionMode):
            raise ValueError(f"model.condition={mode!r} is not one of {', '.join(get_args(ConditionMode))}.")
        if clusters < 2 or norm <= 0 or temperature <= 0 or kept < 1:
            raise ValueError(
                f"model.clusters={clusters} must be at least 2, condition_norm={norm} and "
                f"condition_temperature={temperature} above 0, kept_conditions={kept} at least 1."
            )
        self.mode, self.feature_size, self.clusters = mode, feature_size, clusters
        self.norm, self.temperature, self.kept = norm, temperature, kept
        for name in ("mean", "std", "centres", "members"):
            self.register_buffer(name, torch.empty(0))

    @property
    def size(self) -> int:
        """Length of the condition vector."""
        return self.feature_size if self.mode == "features" else self.clusters

    @property
    def fitted(self) -> bool:
        """Whether :meth:`fit` has run, or a checkpoint was loaded."""
        return self.mean.numel() > 0

    def fit(self, features: Tensor, seed: int = 0) -> None:
        """Take mean, deviation and clusters from features of training images.

        Args:
            features: shape ``(N, feature_size)``, N at least the number of clusters.
            seed: of k-means and of the choice of the kept conditions.

        Raises:
            ValueError: if there are too few, or one is not finite.
        """
        if len(features) < self.clusters or not torch.isfinite(features).all():
            raise ValueError(
                f"Conditions need finite features of at least {self.clusters} images, got {len(features)}; the encoder "
                "may have diverged."
            )
        values = features.double()
        self._buffers["mean"] = values.mean(0)
        deviation = values.std(0, correction=0)
        self._buffers["std"] = torch.where(deviation > 0, deviation, 1.0)  # a dead feature says nothing
        unit = self.unit(features)
        centres = torch.from_numpy(kmeans(unit.cpu(), self.clusters, seed=seed)[1])
        self._buffers["centres"] = centres.to(values)
        chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[: self.kept]
        self._buffers["members"] = unit[chosen.to(unit.device)].to(values)

    def unit(self, features: Tensor) -> Tensor:
        """Standardised features of length 1, float32 ``(B, feature_size)``."""
        if not self.fitted:
            raise RuntimeError("The conditions are not fitted yet: run `fit`, or load a checkpoint.")
        return F.normalize((features.to(self.mean) - self.mean) / self.std, dim=1).float()

    def cluster(self, unit: Tensor) -> Tensor:
        """Nearest centre ``(B,)`` of unit features."""
        return torch.cdist(unit.to(self.centres), self.centres).argmin(1)

    def forward(self, features: Tensor) -> Tensor:
        """Conditions ``(B, size)`` of features ``(B, feature_size)``, float32."""
        return self.from_unit(self.unit(features))

    def from_unit(self, unit: Tensor) -> Tensor:
        """Conditions ``(B, size)`` of unit features ``(B, feature_size)``."""
        if self.mode == "features":
            return self.norm * F.normalize(unit, dim=1)
        if self.mode == "hard":
            return self.norm * F.one_hot(self.cluster(unit), self.clusters).float()
        distances = torch.cdist(unit.to(self.centres), self.centres).square()
        return self.norm * F.normalize(torch.softmax(-distances / self.temperature, dim=1), dim=1).float()

    def of_cluster(self, cluster: int, count: int, pick: Literal["centroid", "member"] = "centroid") -> Tensor:
        """Conditions ``(count, size)`` from one cluster: its centre each time, or kept training images in turn.

        Raises:
            ValueError: if there is no such cluster, no such way to pick, or no kept image in the cluster.
        """
        if not 0 <= cluster < self.clusters:
            raise ValueError(f"cluster={cluster}: there are clusters 0 to {self.clusters - 1}.")
        if pick == "centroid":
            return self.from_unit(self.centres[cluster : cluster + 1].float()).expand(count, -1)
        if pick != "member":
            raise ValueError(f"pick={pick!r} is not one of centroid, member.")
        members = self.members[self.cluster(self.members) == cluster].float()
        if not len(members):
            raise ValueError(f"No kept training image lies in cluster {cluster}; raise model.kept_conditions.")
        turns = torch.arange(count, device=members.device) % len(members)
        return self.from_unit(members[turns])
