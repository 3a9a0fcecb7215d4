"""Jensen-Shannon divergence against its definition and bounds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from functional.consistency import jensen_shannon_divergence


def test_definition():
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    views = logits.softmax(-1)
    mixture = views.mean(0)
    expected = sum(F.kl_div(mixture.log(), view, reduction="batchmean") for view in views) / 3
    torch.testing.assert_close(jensen_shannon_divergence(logits), expected)


def test_bounds():
    same = torch.randn(1, 6, 2).expand(3, 6, 2)
    assert jensen_shannon_divergence(same).abs() < 1e-6
    opposite = torch.tensor([[[100.0, -100.0]], [[-100.0, 100.0]]])
    torch.testing.assert_close(jensen_shannon_divergence(opposite), torch.tensor(math.log(2)))
