"""Attacks against their definitions written out, and against a second library."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from adversarial_data import striped_images, trained_victim
from secmlt.adv.evasion.pgd import PGDNative
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.attacks import ATTACKS, AdaptivePGD, Attack, frozen


@pytest.fixture(scope="module")
def victim():
    return trained_victim()


@pytest.fixture(scope="module")
def right(victim):
    """Images that the victim classifies correctly, with their classes."""
    images, labels = striped_images(40, 5)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
    with torch.no_grad():
        correct = victim(x).argmax(dim=1) == y
    assert correct.sum() >= 20
    return x[correct][:20], y[correct][:20]


def gradient(victim, x, y):
    x = x.clone().requires_grad_()
    F.cross_entropy(victim(x), y, reduction="sum").backward()
    return x.grad


def test_fgsm_and_bim_are_signed_gradient_steps(victim, right):
    x, y = right
    once, _ = Attack("fgsm", 0.05).perturb(victim, x, y)
    torch.testing.assert_close(once, (x + 0.05 * gradient(victim, x, y).sign()).clamp(0, 1), rtol=0, atol=1e-7)
    moved = x
    for _ in range(10):
        moved = moved + 0.2 * 0.03 * gradient(victim, moved, y).sign()
        moved = (x + (moved - x).clamp(-0.03, 0.03)).clamp(0, 1)
    often, success = Attack("bim").perturb(victim, x, y)
    torch.testing.assert_close(often, moved, rtol=0, atol=1e-6)
    assert torch.equal(success, victim(often).argmax(dim=1) != y)


def test_bim_equals_another_library(victim, right):
    """secml-torch keeps the iterate of the highest loss among those that foolbox goes through."""
    x, y = right
    ours, _ = Attack("bim").perturb(victim, x, y)
    attack = PGDNative("linf", epsilon=0.03, num_steps=11, step_size=0.006, random_start=False)
    with frozen(victim):
        loader = attack(BasePyTorchClassifier(victim), DataLoader(TensorDataset(x, y), batch_size=20))
    theirs = torch.cat([batch[0] for batch in loader])
    losses = [F.cross_entropy(victim(part), y, reduction="none") for part in (ours, theirs)]
    assert (losses[1] >= losses[0] - 1e-4).all()
    same = (ours - theirs).abs().flatten(1).amax(dim=1) < 1e-6
    assert same.float().mean() >= 0.5
    assert (theirs - x).abs().amax() <= 0.03 + 1e-6


def deepfool(victim, image, label, steps=50):
    """One image, one forward pass a step, after Moosavi-Dezfooli et al. 2016, Algorithm 2."""
    order = victim(image[None])[0].argsort(descending=True)
    moved, total = image, torch.zeros_like(image)
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        logits = victim(moved[None])[0]
        if logits.argmax() != label:
            break
        best = None
        for other in order[1:]:
            difference = logits[other] - logits[order[0]]
            (slope,) = torch.autograd.grad(difference, moved, retain_graph=True)
            distance = difference.abs() / (slope.norm() + 1e-8)
            if best is None or distance < best[0]:
                best = (distance, slope)
        total = total + (best[0] + 1e-4) * best[1] / (best[1].norm() + 1e-8)
        moved = (image + 1.02 * total).clamp(0, 1)
    return moved.detach()


def test_deepfool_equals_its_definition(victim, right):
    x, y = right[0][:6], right[1][:6]
    attacked, success = Attack("deepfool").perturb(victim, x, y)
    assert success.all()
    expected = torch.stack([deepfool(victim, image, label) for image, label in zip(x, y, strict=True)])
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-4)


def test_carlini_wagner_searches_its_constant(victim, right):
    """With the search all attacks succeed, by changes no larger than those of FGSM; with the first constant few do."""
    x, y = right[0][:8], right[1][:8]
    searched, success = Attack("carlini_wagner", steps=60, binary_search_steps=7).perturb(victim, x, y)
    assert success.all()
    bounded, fooled = Attack("fgsm").perturb(victim, x, y)
    sizes = [(moved - x).flatten(1).norm(dim=1)[fooled] for moved in (searched, bounded)]
    assert (sizes[0] < sizes[1]).all()
    given_up, few = Attack("carlini_wagner", steps=5, binary_search_steps=1).perturb(victim, x, y)
    assert (given_up[~few] == 0).all(), "foolbox leaves a black image where it fails"
    assert few.float().mean() < 0.5


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_the_victim_as_it_was_and_repeat(name, victim, right):
    x, y = right[0][:4], right[1][:4]
    victim.train()
    victim.zero_grad(set_to_none=True)
    victim.backbone.linear.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in victim.state_dict().items()}
    state = torch.get_rng_state()
    results = [Attack(name, steps=3).perturb(victim, x, y, seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert victim.training
    assert not victim.backbone.linear.weight.requires_grad
    assert victim.backbone.conv1.weight.requires_grad
    assert victim.backbone.conv1.weight.grad is None
    victim.eval().backbone.linear.weight.requires_grad_(True)
    assert all(torch.equal(before[key], value) for key, value in victim.state_dict().items())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (name != "pgd")
    assert ((results[0] >= 0) & (results[0] <= 1)).all()


def test_attacks_run_inside_inference_mode(victim, right):
    with torch.inference_mode():
        attacked, _ = Attack("fgsm").perturb(victim, right[0][:2].clone(), right[1][:2].clone())
    assert (attacked != right[0][:2]).any()


def test_adaptive_attack_lowers_the_score_it_knows(victim, right):
    x, y = right
    pattern = torch.sign(torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)))

    def score(images):
        return 100 * (images * pattern).mean(dim=(1, 2, 3))

    scores = [
        score(AdaptivePGD(steps=10, weight=weight).perturb(victim, score, x, y)[0]).mean().item() for weight in (0, 10)
    ]
    assert scores[1] < scores[0] - 1
    attacked, _ = AdaptivePGD(steps=10, weight=10).perturb(victim, score, x, y)
    assert (attacked - x).abs().max() <= 0.03 + 1e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jsma", "'jsma' is not one of fgsm"),
        ("deepfool@0.1", "has no epsilon; leave out @0.1"),
        ("fgsm@2", "epsilon=2"),
    ],
)
def test_refuses_settings_without_a_sense(text, message):
    with pytest.raises(ValueError, match=message):
        Attack.parse(text)


def test_published_settings():
    settings = {name: Attack(name).settings() for name in ATTACKS}
    assert [settings[name]["steps"] for name in ATTACKS] == [1, 10, 40, 50, 1000]
    assert [settings[name]["epsilon"] for name in ATTACKS] == [0.03, 0.03, 0.03, None, None]
    assert settings["carlini_wagner"]["binary_search_steps"] == 9
    assert [Attack.parse(key).key for key in ("bim", "bim@0.03", "bim@0.01")] == ["bim", "bim", "bim@0.01"]
