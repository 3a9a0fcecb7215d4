"""NT-Xent against its closed form and the formula written out."""

from __future__ import annotations

import math

import pytest
import torch

from functional.contrastive import nt_xent


def test_orthogonal_identical_pairs():
    views = 3 * torch.eye(8)
    expected = -math.log(math.exp(10) / (math.exp(10) + 2 * 8 - 2))
    assert nt_xent(views, views, 0.1) == pytest.approx(expected, rel=1e-3)
    assert nt_xent(views.double(), views.double(), 0.1) == pytest.approx(6.354e-4, rel=1e-4)


def test_formula_written_out():
    first, second = (torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    views = torch.cat([first, second])
    total = 0.0
    for i in range(10):
        cosine = [torch.cosine_similarity(views[i], views[k], dim=0).item() / 0.3 for k in range(10)]
        others = sum(math.exp(cosine[k]) for k in range(10) if k != i)
        total -= math.log(math.exp(cosine[(i + 5) % 10]) / others) / 10
    assert nt_xent(first, second, 0.3) == pytest.approx(total, rel=1e-12)
    assert nt_xent(second * 5, first * 2, 0.3) == pytest.approx(total, rel=1e-12)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"needed are two of \(N, D\)"):
        nt_xent(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="temperature=0"):
        nt_xent(torch.zeros(2, 3), torch.zeros(2, 3), 0)
