"""What attacked images look like in the Fourier domain, and to two older detectors (Harder et al. 2021, Sec. III).

The spectral features are plain: two-dimensional DFT of each channel, no window, no shift, no logarithm, all of the
plane although half of it mirrors the other. Images stay in [0, 1]; feature maps are those after a ReLU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ClassGaussians",
    "ClassMoments",
    "class_gaussians",
    "class_moments",
    "local_intrinsic_dimension",
    "magnitude_spectrum",
    "mahalanobis_score",
    "phase_spectrum",
]

# Where neighbours coincide, the dimension has no value; the largest that real activations reach is far below.
HIGHEST_DIMENSION = 1e4


def magnitude_spectrum(maps: Tensor, own_maximum: bool = False) -> Tensor:
    """Magnitude Fourier spectrum (MFS): ``|F|`` of each channel.

    Args:
        maps: images or feature maps, real, shape ``(B, C, H, W)``. float64 is worked on in float64, all else in
            float32.
        own_maximum: divide each sample's spectrum by its largest value, as the authors do for CIFAR-100 with DeepFool
            and Carlini-Wagner.

    Returns:
        Shape ``(B, C * H * W)``, not negative, channel by channel, zero frequency first.

    Raises:
        ValueError: if there are not four axes.

    Source: Harder et al. 2021, Sec. III-A; without normalisation, as in the authors' code.

    Example:
        >>> magnitude_spectrum(torch.ones(1, 1, 2, 2))
        tensor([[4., 0., 0., 0.]])
    """
    half = _half_plane(maps)
    return _flat(_mirrored(half.abs(), maps.shape[-1]), own_maximum)


def phase_spectrum(maps: Tensor, own_maximum: bool = False) -> Tensor:
    """Phase Fourier spectrum (PFS): ``|arg F|`` of each channel, the sign thrown away.

    Arguments, shape and errors are those of :func:`magnitude_spectrum`.

    Returns:
        Values in [0, pi]; 0 where F is 0 (NumPy's angle is 0 or pi there, by the sign of a zero).

    Source: Harder et al. 2021, Sec. III-A.
    """
    half = _half_plane(maps)
    # A safe point in place of the origin, where the angle has no derivative.
    real = torch.where((half.real == 0) & (half.imag == 0), 1.0, half.real) + 0.0
    return _flat(_mirrored(torch.atan2(half.imag.abs(), real), maps.shape[-1]), own_maximum)


def local_intrinsic_dimension(samples: Tensor, reference: Tensor, neighbours: int, skip: int = 1) -> Tensor:
    """Local intrinsic dimensionality (LID) of each sample among reference samples.

    ``-1 / mean(log(r_i / r_k))`` over the distances ``r_1 <= ... <= r_k`` to the k nearest. The published reference of
    a sample is a minibatch of 100 clean samples; of an attacked one the minibatch that holds its own source.

    Args:
        samples: shape ``(B, ...)``, flattened to vectors.
        reference: clean samples, shape ``(R, ...)``.
        neighbours: k.
        skip: nearest samples left out; 1 (published) where the sample or its source is among the reference.

    Returns:
        Shape ``(B,)``, positive, at most 1e4; that where all neighbours are equally far.

    Raises:
        ValueError: if there are fewer than ``neighbours + skip`` reference samples, or ``neighbours`` is below 2.

    Source: Ma et al. 2018, Sec. 4.1, as used by Harder et al. 2021, Sec. IV.
    """
    if skip < 0:
        raise ValueError(f"skip={skip} must not be negative.")
    if neighbours < 2 or len(reference) < neighbours + skip:
        raise ValueError(
            f"{neighbours} neighbours after the nearest {skip} cannot be found among {len(reference)} reference "
            "samples; a dimension needs at least 2 neighbours."
        )
    with torch.autocast(samples.device.type, enabled=False):
        x, others = (_precise(values).flatten(1) for values in (samples, reference))
        # Not by |x|^2 + |y|^2 - 2xy: an attacked sample is so close to its source that nothing would be left.
        distances = torch.cdist(x, others, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.topk(neighbours + skip, largest=False).values[:, skip:]
        tiny = torch.finfo(nearest.dtype).tiny
        mean = (nearest.clamp_min(tiny) / nearest[:, -1:].clamp_min(tiny)).log().mean(dim=1)
        return -1 / mean.clamp_max(-1 / HIGHEST_DIMENSION)


class ClassMoments(NamedTuple):
    """Sums over samples that add up over batches and processes.

    Attributes:
        counts: samples of each class, float64 ``(K,)``.
        total: their sum, float64 ``(K, D)``.
        square: sum of outer products over all samples, float64 ``(D, D)``.
    """

    counts: Tensor
    total: Tensor
    square: Tensor


class ClassGaussians(NamedTuple):
    """One Gaussian for each class, all of one covariance.

    Attributes:
        means: float64 ``(K, D)``.
        precision: inverse of the covariance, float64 ``(D, D)``.
    """

    means: Tensor
    precision: Tensor


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> ClassMoments:
    """Moments of features ``(N, D)`` with classes ``(N,)``.

    Raises:
        ValueError: if there is a class that does not exist.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"Labels lie between {int(labels.min())} and {int(labels.max())}; with {num_classes} classes they are "
            f"0 to {num_classes - 1}."
        )
    x = features.double()
    belongs = torch.nn.functional.one_hot(labels, num_classes).to(x.dtype)
    return ClassMoments(belongs.sum(dim=0), belongs.mT @ x, x.mT @ x)


def class_gaussians(moments: ClassMoments) -> ClassGaussians:
    """Means, and the inverse of the empirical covariance around them that all classes share.

    Args:
        moments: of the training set.

    Returns:
        The Gaussians. Directions in which nothing varies, such as dead channels, do not count (pseudo-inverse).

    Raises:
        ValueError: if a class has no sample.

    Source: Lee et al. 2018, Sec. 2.1.
    """
    empty = (moments.counts == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"There are no samples of class {empty[0]}; every class needs some to have a mean.")
    means = moments.total / moments.counts[:, None]
    covariance = (moments.square - means.mT @ moments.total) / moments.counts.sum()
    return ClassGaussians(means, torch.linalg.pinv((covariance + covariance.mT) / 2, rtol=1e-10, hermitian=True))


def mahalanobis_score(features: Tensor, gaussians: ClassGaussians) -> Tensor:
    """Log-likelihood under the likeliest class, up to a constant: ``max_c -(f - mu_c)^T P (f - mu_c) / 2``.

    Args:
        features: shape ``(B, D)``.
        gaussians: of the training set.

    Returns:
        Shape ``(B,)``, not positive, of the type of the Gaussians.

    Source: Lee et al. 2018, Eq. 2, as used by Harder et al. 2021, Sec. IV.
    """
    with torch.autocast(features.device.type, enabled=False):
        means, precision = gaussians
        apart = features.to(means.dtype)[:, None] - means
        return (-(apart @ precision * apart).sum(dim=2) / 2).amax(dim=1)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _half_plane(maps: Tensor) -> Tensor:
    if maps.ndim != 4:
        raise ValueError(f"Need images or feature maps of shape (B, C, H, W), got {tuple(maps.shape)}.")
    if not maps.numel():  # which some Fourier libraries refuse
        return torch.zeros(*maps.shape[:3], maps.shape[3] // 2 + 1, dtype=torch.complex64, device=maps.device)
    return torch.fft.rfft2(_precise(maps))


def _mirrored(half: Tensor, width: int) -> Tensor:
    """All of the plane ``(..., H, W)`` from the half that ``rfft2`` gives, of values equal at k and -k."""
    columns = half[..., 1 : (width + 1) // 2].flip(-1)
    rows = torch.cat([columns[..., :1, :], columns[..., 1:, :].flip(-2)], dim=-2)
    return torch.cat([half, rows], dim=-1)


def _flat(spectrum: Tensor, own_maximum: bool) -> Tensor:
    spectrum = spectrum.flatten(1)
    if not own_maximum:
        return spectrum
    return spectrum / spectrum.amax(dim=1, keepdim=True).clamp_min(torch.finfo(spectrum.dtype).tiny)
