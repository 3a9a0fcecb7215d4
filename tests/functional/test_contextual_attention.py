"""Contextual attention against a direct, patch-by-patch implementation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from functional.contextual_attention import contextual_attention


def direct(foreground, background, mask, patch=3, rate=2, scale=10.0):
    """One pair of patches at a time, as the formula is written."""
    result, cover = torch.zeros_like(foreground), torch.zeros_like(foreground)
    half, side, border = patch // 2, 2 * rate, rate // 2
    for image in range(len(foreground)):
        low_f = F.pad(foreground[image, :, ::rate, ::rate], (half,) * 4)
        low_b = F.pad(background[image, :, ::rate, ::rate], (half,) * 4)
        low_m = F.pad(F.max_pool2d(mask[image : image + 1], rate)[0, 0], (half,) * 4)
        high_b = F.pad(background[image], (border,) * 4)
        rows, columns = (length // rate for length in foreground.shape[-2:])
        places = [(i, j) for i in range(rows) for j in range(columns)]
        free = [p for p in places if low_m[p[0] : p[0] + patch, p[1] : p[1] + patch].sum() == 0] or places
        made = torch.zeros_like(high_b)
        count = torch.zeros_like(high_b)
        for i, j in places:
            query = low_f[:, i : i + patch, j : j + patch]
            keys = [low_b[:, k : k + patch, m : m + patch] for k, m in free]
            scores = torch.stack([(query * key / key.norm().clamp_min(1e-4)).sum() for key in keys])
            weights = torch.softmax(scale * scores, dim=0)
            values = [high_b[:, k * rate : k * rate + side, m * rate : m * rate + side] for k, m in free]
            filled = sum(weight * value for weight, value in zip(weights, values, strict=True))
            made[:, i * rate : i * rate + side, j * rate : j * rate + side] += filled
            count[:, i * rate : i * rate + side, j * rate : j * rate + side] += 1
        inner = (slice(None), slice(border, border + result.shape[-2]), slice(border, border + result.shape[-1]))
        result[image], cover[image] = made[inner], count[inner]
    return result / cover


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("hole", ["some", "none", "all"])
def test_it_is_the_formula(hole, channels):
    draws = torch.Generator().manual_seed(0)
    shape = (2, channels, 6, 8 if channels > 1 else 14)  # 12 patches of 48 numbers, or 21 of 16: two ways to compute
    foreground, background = (torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(2, 1, *shape[2:], dtype=torch.float64)
    mask[..., 2:3, 3:5] = float(hole == "some")
    if hole == "all":
        mask[:] = 1
    found = contextual_attention(foreground, background, mask)
    torch.testing.assert_close(found, direct(foreground, background, mask))


def test_a_periodic_texture_is_continued_into_the_hole():
    draws = torch.Generator().manual_seed(1)
    texture = torch.randn(1, 8, 4, 4, generator=draws).repeat(1, 1, 8, 8)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 12:20, 12:20] = 1
    spoilt = torch.where(mask > 0, torch.randn(texture.shape, generator=draws), texture)
    found = contextual_attention(texture, spoilt, mask, scale=50.0)
    torch.testing.assert_close(found, texture, atol=1e-3, rtol=0)


def test_what_is_in_the_hole_is_never_copied_and_has_no_gradient():
    background = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:10, 4:10] = 1
    asking = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(3))
    contextual_attention(asking, background, mask).square().sum().backward()
    inside = background.grad[..., 5:9, 5:9].abs().max()
    assert inside == 0
    assert background.grad.abs().max() > 0


@pytest.mark.parametrize(("size", "options"), [(7, {}), (8, {"rate": 3}), (8, {"patch": 4})])
def test_sizes_that_do_not_fit_are_named(size, options):
    maps = torch.zeros(1, 1, size, size)
    with pytest.raises(ValueError, match="contextual attention: a map of"):
        contextual_attention(maps, maps, maps, **options)
