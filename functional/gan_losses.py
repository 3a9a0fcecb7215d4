"""Losses of generator and critic, and penalties on the critic's gradient.

Scores are what a critic gives images, higher for real ones; patch critics give many per image. Penalties come per
sample, so that a batch that is spread over processes has the same mean, and are computed in float32 under autocast:
in half precision a squared norm of many small numbers is 0.

Source: Miyato et al. 2018 (hinge); Goodfellow et al. 2014 (non-saturating); Arjovsky et al. 2017 and Gulrajani et al.
2017 (Wasserstein, gradient penalty); Mescheder et al. 2018 (R1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["GANLoss", "check_gan_loss", "critic_loss", "generator_loss", "gradient_penalty", "r1_penalty"]

GANLoss = Literal["hinge", "non-saturating", "wasserstein"]
Critic = Callable[[Tensor], Tensor]


def critic_loss(real: Tensor, fake: Tensor, kind: GANLoss = "hinge") -> Tensor:
    """What the critic lowers.

    ``hinge``: ``E[1 - real]+ + E[1 + fake]+``; ``non-saturating``: ``E softplus(-real) + E softplus(fake)``;
    ``wasserstein``: ``E fake - E real``.

    Args:
        real: scores of real images, any shape.
        fake: scores of generated images, any shape.
        kind: which of the three.

    Returns:
        Scalar.

    Raises:
        ValueError: if there is no such kind.
    """
    check_gan_loss(kind)
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "non-saturating":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    return fake.mean() - real.mean()


def generator_loss(fake: Tensor, kind: GANLoss = "hinge") -> Tensor:
    """What the generator lowers: ``E softplus(-fake)`` for ``non-saturating``, ``-E fake`` for the others.

    Args:
        fake: scores of generated images, any shape.
        kind: as for :func:`critic_loss`.

    Returns:
        Scalar.

    Raises:
        ValueError: if there is no such kind.
    """
    check_gan_loss(kind)
    return F.softplus(-fake).mean() if kind == "non-saturating" else -fake.mean()


def gradient_penalty(
    critic: Critic, real: Tensor, fake: Tensor, share: Tensor, mask: Tensor | None = None, target: float = 1.0
) -> Tensor:
    """Squared distance of the critic's gradient norm to ``target``, at points between real and generated images.

    Args:
        critic: from images ``(B, C, H, W)`` to scores ``(B, ...)``, each of its own image alone.
        real: images, shape ``(B, C, H, W)``.
        fake: generated images of the same shape.
        share: of the real image at each point, uniform in [0, 1], shape ``(B,)``.
        mask: what of the gradient counts, broadcast to the images; for inpainting the region that was made.
        target: norm that costs nothing; 0 asks for a flat critic.

    Returns:
        Shape ``(B,)``, not negative; its mean times a weight (10 in the paper) is added to the critic's loss.

    Source: Gulrajani et al. 2017, Eq. 3; the norm is over all pixels and channels of a sample.
    """
    with torch.autocast(real.device.type, enabled=False):
        weight = share.float().view(-1, *[1] * (real.ndim - 1))
        points = weight * real.detach().float() + (1 - weight) * fake.detach().float()
        slope = _slope(critic, points)
        return (_norm(slope if mask is None else slope * mask) - target).square()


def r1_penalty(critic: Critic, real: Tensor) -> Tensor:
    """Half the squared norm of the critic's gradient at real images.

    Args:
        critic: as for :func:`gradient_penalty`.
        real: images, shape ``(B, C, H, W)``.

    Returns:
        Shape ``(B,)``, not negative.

    Source: Mescheder et al. 2018, Eq. 9, without its weight gamma.
    """
    with torch.autocast(real.device.type, enabled=False):
        return _slope(critic, real.detach().float()).flatten(1).square().sum(1) / 2


def check_gan_loss(kind: str) -> None:
    """Refuse a kind that does not exist.

    Raises:
        ValueError: if it does not.
    """
    if kind not in get_args(GANLoss):
        raise ValueError(f"gan_loss={kind!r} is not one of {', '.join(get_args(GANLoss))}.")


def _slope(critic: Critic, points: Tensor) -> Tensor:
    points = points.requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).float().sum(), points, create_graph=True)
    return slope


def _norm(slope: Tensor) -> Tensor:
    squared = slope.flatten(1).square().sum(1)
    apart = squared > 0  # the root has no derivative at 0
    return torch.where(apart, squared, 1.0).sqrt() * apart
