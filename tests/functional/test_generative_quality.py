"""Neighbourhood metrics against loops, and where the answer is known."""

from __future__ import annotations

import pytest
import torch

from functional.generative_quality import neighbourhood_metrics


def normal(count, seed, dimensions=4):
    return torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_definitions_written_out():
    real, fake, k = normal(30, 0), normal(25, 1) * 1.3 + 0.4, 3

    def reach(x, i):
        return sorted((x[i] - x[j]).norm().item() for j in range(len(x)) if j != i)[k - 1]

    inside = [[(r - f).norm() <= reach(real, i) for f in fake] for i, r in enumerate(real)]
    recalled = [any((r - f).norm() <= reach(fake, j) for j, f in enumerate(fake)) for r in real]
    found = neighbourhood_metrics(real, fake, k, rows=7)
    assert found.precision == pytest.approx(sum(any(row[j] for row in inside) for j in range(25)) / 25)
    assert found.recall == pytest.approx(sum(recalled) / 30)
    assert found.density == pytest.approx(sum(map(sum, inside)) / (k * 25))
    assert found.coverage == pytest.approx(sum(map(any, inside)) / 30)


def test_equal_distributions_and_collapse():
    same = neighbourhood_metrics(normal(1000, 0), normal(1000, 1))
    assert same.density == pytest.approx(1, abs=0.1)
    assert same.coverage == pytest.approx(1 - 0.5**5, abs=0.03)  # Naeem et al. 2020, Lemma 2
    collapsed = neighbourhood_metrics(normal(1000, 0), normal(1000, 1) * 0.01)
    assert collapsed.precision > 0.99
    assert collapsed.recall < 0.05
    assert collapsed.coverage < 0.1
    apart = neighbourhood_metrics(normal(200, 0), normal(200, 1) + 100)
    assert apart == (0, 0, 0, 0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="5 real and 9 generated samples have no 5-th neighbour"):
        neighbourhood_metrics(normal(5, 0), normal(9, 1))
    broken = normal(9, 1)
    broken[3, 2] = float("nan")
    with pytest.raises(ValueError, match="A feature of a generated sample is not finite"):
        neighbourhood_metrics(normal(9, 0), broken)
