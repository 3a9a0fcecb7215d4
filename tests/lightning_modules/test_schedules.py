"""Warm-up, cosine and cool-down against their closed form."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_modules import WarmupCosine, WarmupMultiStep


def rates(total, peak=0.05, **kwargs):
    return seen_rates(lambda optimizer: WarmupCosine(optimizer, total, **kwargs), total, peak)


def seen_rates(build, total, peak):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = build(optimizer)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_recipe_of_the_resnet():
    seen = rates(210, warmup_epochs=3, warmup_lr=1e-4, min_lr=1e-6, cooldown_epochs=10)
    assert seen[:3] == pytest.approx([1e-4, 1e-4 + 0.0499 / 3, 1e-4 + 2 * 0.0499 / 3])
    for epoch in (3, 100, 199):
        expected = 1e-6 + (0.05 - 1e-6) * (1 + math.cos(math.pi * epoch / 200)) / 2
        assert seen[epoch] == pytest.approx(expected, rel=1e-9)
    assert seen[200:] == pytest.approx([1e-6] * 10)


def test_no_room_is_refused():
    with pytest.raises(ValueError, match=r"total_epochs=5 leaves no room for warmup_epochs=4"):
        rates(5, warmup_epochs=4, cooldown_epochs=2)


def test_milestones_after_a_warm_up():
    seen = seen_rates(lambda optimizer: WarmupMultiStep(optimizer, [3, 5], gamma=0.2, warmup_epochs=2), 7, 0.1)
    assert seen == pytest.approx([0.025, 0.075, 0.1, 0.02, 0.02, 0.004, 0.004])
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(plain, [3, 5], gamma=0.2)
    for rate in seen_rates(lambda optimizer: WarmupMultiStep(optimizer, [3, 5], gamma=0.2), 7, 0.1):
        assert rate == pytest.approx(reference.get_last_lr()[0])
        plain.step()
        reference.step()
    with pytest.raises(ValueError, match=r"milestones=\[1\]: none may lie within"):
        seen_rates(lambda optimizer: WarmupMultiStep(optimizer, [1], warmup_epochs=2), 1, 0.1)
