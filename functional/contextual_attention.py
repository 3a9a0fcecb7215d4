"""Contextual attention: fill a hole with patches of what surrounds it.

Source: Yu et al. 2018, "Generative Image Inpainting with Contextual Attention", Sec. 4.1, without the propagation of
scores to neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contextual_attention"]

_NORM_FLOOR = 1e-4


def contextual_attention(
    foreground: Tensor, background: Tensor, mask: Tensor, patch: int = 3, rate: int = 2, scale: float = 10.0
) -> Tensor:
    """Rebuild feature maps from patches of the background that lie outside the mask.

    Both maps are thinned by ``rate``. Each ``patch`` x ``patch`` neighbourhood of the foreground is compared with all
    of the background, each of these divided by its norm; a softmax over those that do not touch the mask gives
    weights, by which patches of side ``2 rate`` of the background are averaged; where they overlap, their mean is
    taken. Where there are more patches than numbers in each, the weights of all pairs are never kept at once: the
    softmax runs through ``scaled_dot_product_attention``.

    Args:
        foreground: what asks, shape ``(B, C, H, W)``, H and W multiples of ``rate``.
        background: what answers, same shape.
        mask: 1 where nothing is known, shape ``(B, 1, H, W)``. Where no patch is free of it, all may answer.
        patch: side of the compared patches, odd.
        rate: even, or 1.
        scale: of the scores before the softmax; 10 in the paper.

    Returns:
        Same shape as the foreground.

    Raises:
        ValueError: if the sizes do not fit.
    """
    height, width = foreground.shape[-2:]
    if height % rate or width % rate or (rate > 1 and rate % 2) or patch % 2 == 0:
        raise ValueError(
            f"contextual attention: a map of {height} x {width} needs sides that are multiples of rate={rate}, an "
            f"even rate (or 1) and an odd patch, not {patch}."
        )
    queries = _patches(foreground[..., ::rate, ::rate], patch)
    keys = _patches(background[..., ::rate, ::rate], patch)
    wide = torch.promote_types(keys.dtype, torch.float32)
    norm = torch.linalg.vector_norm(keys, dim=2, keepdim=True, dtype=wide).clamp_min(_NORM_FLOOR)
    keys = keys / norm.to(keys.dtype)
    side, padding = (2 * rate, rate // 2) if rate > 1 else (1, 0)
    answers = F.unfold(background, side, stride=rate, padding=padding).transpose(1, 2)
    allowed = _free(mask, patch, rate)
    mixed = _mix(queries, keys, answers, allowed, scale).transpose(1, 2)
    size = (height, width)
    cover = F.fold(F.unfold(torch.ones_like(mask), side, stride=rate, padding=padding), size, side, 1, padding, rate)
    return F.fold(mixed, size, side, 1, padding, rate) / cover.to(mixed.dtype)


def _mix(queries: Tensor, keys: Tensor, answers: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Answers averaged for each query, ``(B, L, V)``, by the softmax of its products with the allowed keys."""
    if queries.shape[1] <= answers.shape[2]:  # all weights are no larger than the patches themselves
        scores = torch.bmm(queries, keys.transpose(1, 2)).mul(scale)
        weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(dim=2)
        return torch.bmm(weights.to(answers.dtype), answers)
    # The kernels that keep no weights want equal lengths of all three; zeros change no product.
    length = max(queries.shape[2], answers.shape[2])
    query, key, value = (F.pad(part, (0, length - part.shape[2]))[:, None] for part in (queries, keys, answers))
    bias = torch.zeros(allowed.shape, dtype=queries.dtype, device=queries.device).masked_fill(~allowed, -torch.inf)
    bias = bias[:, None, None, :].expand(-1, 1, queries.shape[1], -1)
    return F.scaled_dot_product_attention(query, key, value, bias, scale=scale)[:, 0, :, : answers.shape[2]]


def _patches(maps: Tensor, size: int) -> Tensor:
    """Neighbourhoods of all pixels, zeros beyond the border, shape ``(B, H * W, C * size**2)``."""
    return F.unfold(maps, size, padding=size // 2).transpose(1, 2)


def _free(mask: Tensor, patch: int, rate: int) -> Tensor:
    """Which thinned patches touch no masked pixel, ``(B, L)``; all of them where none is free."""
    thinned = F.max_pool2d((mask > 0.5).float(), rate)
    touched = F.max_pool2d(thinned, patch, stride=1, padding=patch // 2).flatten(1) > 0
    return ~touched | touched.all(1, keepdim=True)
