"""Triplet losses for embeddings that are to be clustered: exact means over all triplets, and mining.

A triplet is an anchor a, a positive p of the same class and a negative n of another. Nothing here builds triplets:
memory is O(B^2), the two losses that compare distances take O(B^2 log B), the third separates into pairs.

Source: Ho, J. Keuper, Pfreundt, M. Keuper 2020, Learning Embeddings for Image Clustering (three losses);
Schroff et al. 2015, FaceNet; Cheng et al. 2016 (bound on the distance within a class).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Mining",
    "bounded_triplet_loss",
    "flip_pairs",
    "mine_triplets",
    "pair_distances",
    "same_class",
    "triplet_loss",
    "two_margin_loss",
]

Mining = Literal["all", "random", "semi-hard", "batch-hard"]


def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    *,
    squared: bool = True,
    mining: Mining = "all",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of ``[d_ap - d_an + alpha]+``, the loss of FaceNet.

    Args:
        embeddings: shape ``(B, D)``.
        labels: class of each, shape ``(B,)``; or which pairs count as the same class, bool, shape ``(B, B)``.
        alpha: margin, at least 0.
        squared: d is the squared Euclidean distance; otherwise the distance itself.
        mining: which triplets: ``all`` (the exact mean), or those of :func:`mine_triplets`.
        generator: draws the triplets of ``random``.

    Returns:
        Scalar, float32 or float64; 0 where the batch has no triplet.

    Raises:
        ValueError: if shapes do not fit, a margin is negative or ``mining`` has no such name.
    """
    return _compared(embeddings, labels, alpha, None, 0.0, "sum", squared, mining, generator)


def bounded_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 0.5,
    *,
    weight: float = 1.0,
    form: Literal["sum", "nested"] = "sum",
    squared: bool = True,
    mining: Mining = "all",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Triplet loss with a bound on distances within a class.

    ``sum``: mean of ``[d_ap - d_an + alpha]+ + weight [d_ap - beta]+``; ``nested``: mean of
    ``[d_ap - d_an + alpha + weight [d_ap - beta]+]+``.

    Args:
        embeddings: shape ``(B, D)``.
        labels: as for :func:`triplet_loss`.
        alpha: margin between the two distances, at least 0.
        beta: distance within a class that costs nothing, at least 0.
        weight: of the bound, at least 0.
        form: where the bound stands.
        squared: as for :func:`triplet_loss`.
        mining: as for :func:`triplet_loss`.
        generator: as for :func:`triplet_loss`.

    Returns:
        Scalar; 0 where the batch has no triplet.

    Raises:
        ValueError: as for :func:`triplet_loss`, or if ``form`` has no such name.
    """
    return _compared(embeddings, labels, alpha, beta, weight, form, squared, mining, generator)


def two_margin_loss(
    embeddings: Tensor,
    labels: Tensor,
    alpha: float = 3.0,
    beta: float = 1.0,
    *,
    squared: bool = True,
    mining: Mining = "all",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of ``[alpha - d_an]+ + [d_ap - beta]+``, the paper's own loss.

    The two distances are not compared, so the mean over all triplets is a weighted sum over pairs. Where it is 0, every
    threshold between ``beta`` and ``alpha`` tells same from different, and the classes are the optimal multicut.

    Args:
        embeddings: shape ``(B, D)``; not normalised, or no distance could exceed 4.
        labels: as for :func:`triplet_loss`.
        alpha: least distance between classes that costs nothing.
        beta: largest distance within a class that costs nothing, at least 0 and below ``alpha``.
        squared: as for :func:`triplet_loss`.
        mining: as for :func:`triplet_loss`.
        generator: as for :func:`triplet_loss`.

    Returns:
        Scalar; 0 where the batch has no triplet.

    Raises:
        ValueError: as for :func:`triplet_loss`, or if ``beta`` is not below ``alpha``.
    """
    _check_margins(alpha=alpha, beta=beta)
    if beta >= alpha:
        raise ValueError(f"beta={beta} must be below alpha={alpha}: pairs within a class are to be the closer ones.")
    same = same_class(embeddings, labels)
    with torch.autocast(embeddings.device.type, enabled=False):
        distances = pair_distances(embeddings, squared)
        pull, push = (distances - beta).clamp_min(0), (alpha - distances).clamp_min(0)
        if mining != "all":
            anchor, positive, negative = mine_triplets(distances.detach(), same, mining, generator)
            return _mean(pull[anchor, positive] + push[anchor, negative], distances)
        positives, negatives = _masks(same, distances.dtype)
        count, total = _triplet_counts(positives, negatives)
        weights = negatives.sum(1, keepdim=True) * positives
        return ((weights * pull).sum() + (positives.sum(1, keepdim=True) * negatives * push).sum()) / total * count


def pair_distances(x: Tensor, squared: bool = True) -> Tensor:
    """Euclidean distances of all pairs.

    Args:
        x: shape ``(B, D)``; half precision is computed in float32.
        squared: squared distances.

    Returns:
        Shape ``(B, B)``, symmetric, 0 on the diagonal; the gradient at distance 0 is 0.
    """
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    x = x - x.mean(0, keepdim=True)  # distances do not change, and less is cancelled below
    norms = x.square().sum(1)
    distances = torch.addmm(norms[:, None] + norms, x, x.mT, alpha=-2.0).clamp_min(0)
    distances = distances * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    if squared:
        return distances
    apart = distances > 0
    return torch.where(apart, distances, 1).sqrt() * apart


def same_class(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Which pairs are of the same class, bool ``(B, B)``.

    Args:
        embeddings: shape ``(B, D)``.
        labels: classes ``(B,)``, or the answer itself, bool ``(B, B)``, whose diagonal does not matter.

    Raises:
        ValueError: if the shapes do not fit.
    """
    size = len(embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; needed is (B, D).")
    if labels.shape == (size,):
        return labels[:, None] == labels
    if labels.shape == (size, size) and labels.dtype == torch.bool:
        return labels | torch.eye(size, dtype=torch.bool, device=labels.device)
    raise ValueError(
        f"labels are {labels.dtype} of shape {tuple(labels.shape)}; needed are classes ({size},) or bool "
        f"({size}, {size})."
    )


def flip_pairs(
    same: Tensor, false_negatives: float, false_positives: float, generator: torch.Generator | None = None
) -> Tensor:
    """Noise on pairs: some of the same class are called different, some different ones the same.

    Args:
        same: bool, symmetric, shape ``(B, B)``.
        false_negatives: share of the pairs of the same class, in [0, 1].
        false_positives: share of the pairs of different classes, in [0, 1].
        generator: on the CPU, so that every device draws the same.

    Returns:
        Bool, symmetric, shape ``(B, B)``; the diagonal stays.

    Raises:
        ValueError: if a share is outside [0, 1].
    """
    for name, share in (("false_negatives", false_negatives), ("false_positives", false_positives)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is a share of pairs and lies in [0, 1].")
    draw = torch.rand(same.shape, generator=generator).triu(1)
    draw = (draw + draw.mT).to(same.device)
    off_diagonal = ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    return same ^ ((draw < torch.where(same, false_negatives, false_positives)) & off_diagonal)


@torch.no_grad()
def mine_triplets(
    distances: Tensor, same: Tensor, mining: Mining, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose triplets.

    ``random``: one positive and one negative per anchor, at random. ``semi-hard``: per anchor and positive the nearest
    negative that is farther than the positive, or else the farthest. ``batch-hard``: per anchor the farthest positive
    and the nearest negative. Anchors that lack a positive or a negative are left out.

    Args:
        distances: shape ``(B, B)``.
        same: bool, shape ``(B, B)``.
        mining: how.
        generator: for ``random``, on the CPU, so that every device draws the same.

    Returns:
        Indices of anchors, positives and negatives, each ``(T,)``.

    Raises:
        ValueError: if ``mining`` has no such name.
    """
    size, infinity = len(distances), float("inf")
    if size == 0 and mining in ("random", "batch-hard"):
        return (torch.empty(0, dtype=torch.long, device=distances.device),) * 3
    positives = same & ~torch.eye(size, dtype=torch.bool, device=same.device)
    usable = positives.any(1) & (~same).any(1)
    if mining == "semi-hard":
        anchor, positive = (positives & usable[:, None]).nonzero(as_tuple=True)
        ordered, order = distances.masked_fill(same, infinity).sort(dim=1)
        place = torch.searchsorted(ordered, distances.contiguous(), right=True)[anchor, positive]
        last = (~same).sum(1)[anchor] - 1
        return anchor, positive, order[anchor, torch.minimum(place, last)]
    if mining == "random":
        value = torch.rand(2, size, size, generator=generator).to(distances.device)
        to_positive, to_negative = value[0], value[1]
    elif mining == "batch-hard":
        to_positive, to_negative = distances, -distances
    else:
        raise ValueError(f"mining={mining!r} is not one of all, random, semi-hard, batch-hard.")
    anchor = usable.nonzero()[:, 0]
    positive = to_positive.masked_fill(~positives, -infinity).argmax(1)
    negative = to_negative.masked_fill(same, -infinity).argmax(1)
    return anchor, positive[anchor], negative[anchor]


def _compared(
    embeddings: Tensor,
    labels: Tensor,
    alpha: float,
    beta: float | None,
    weight: float,
    form: str,
    squared: bool,
    mining: Mining,
    generator: torch.Generator | None,
) -> Tensor:
    """The two losses that compare ``d_ap`` with ``d_an``."""
    _check_margins(alpha=alpha, beta=beta or 0.0, weight=weight)
    if form not in ("sum", "nested"):
        raise ValueError(f"form={form!r} is not one of sum, nested.")
    same = same_class(embeddings, labels)
    with torch.autocast(embeddings.device.type, enabled=False):
        distances = pair_distances(embeddings, squared)
        bound = None if beta is None else weight * (distances - beta).clamp_min(0)
        pulled = distances + bound if bound is not None and form == "nested" else distances
        if mining != "all":
            anchor, positive, negative = mine_triplets(distances.detach(), same, mining, generator)
            terms = (pulled[anchor, positive] - distances[anchor, negative] + alpha).clamp_min(0)
            if bound is not None and form == "sum":
                terms = terms + bound[anchor, positive]
            return _mean(terms, distances)
        positives, negatives = _masks(same, distances.dtype)
        count, total = _triplet_counts(positives, negatives)
        nearer, farther = _active_triplets(distances.detach(), pulled.detach() + alpha, same, positives)
        loss = (nearer * (pulled + alpha)).sum() - (farther * distances).sum()
        if bound is not None and form == "sum":
            loss = loss + (negatives.sum(1, keepdim=True) * positives * bound).sum()
        return loss / total * count


@torch.no_grad()
def _active_triplets(distances: Tensor, reach: Tensor, same: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """In how many triplets with ``d_an < reach_ap`` each pair is: as the positive, and as the negative one.

    With these counts held fixed, the sum of the hinges is linear in the distances: value and gradient are exact.
    """
    size = len(distances)
    ordered, order = distances.masked_fill(same, float("inf")).sort(dim=1)
    negatives_within = torch.searchsorted(ordered, reach.contiguous())
    nearer = negatives_within * positives
    # A positive that reaches over k negatives counts for the first k: a histogram of k, summed from above.
    histogram = distances.new_zeros(size, size + 1).scatter_add_(1, negatives_within, positives)
    ranks = positives.sum(1, keepdim=True) - histogram.cumsum(1)[:, :size]
    farther = torch.empty_like(distances).scatter_(1, order, ranks)
    return nearer, farther.masked_fill_(same, 0)


def _masks(same: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pairs of the same class without the diagonal, and pairs of different classes, as numbers ``(B, B)``."""
    negatives = (~same).to(dtype)
    return same.to(dtype) - torch.eye(len(same), dtype=dtype, device=same.device), negatives


def _triplet_counts(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """1 or 0, whether there are triplets, and their number or 1: no division by zero, no wait for the device."""
    total = (positives.sum(1) * negatives.sum(1)).sum()
    return (total > 0).to(total.dtype), total.clamp_min(1)


def _mean(terms: Tensor, distances: Tensor) -> Tensor:
    return terms.mean() if len(terms) else distances.sum() * 0


def _check_margins(**margins: float) -> None:
    for name, value in margins.items():
        if value < 0:
            raise ValueError(f"{name}={value} must not be negative.")
