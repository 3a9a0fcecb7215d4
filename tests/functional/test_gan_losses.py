"""GAN losses and penalties against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from functional.gan_losses import critic_loss, generator_loss, gradient_penalty, r1_penalty


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_losses_are_those_of_the_papers():
    real, fake = torch.tensor([2.0, 0.25]), torch.tensor([[-3.0], [0.5]])
    assert critic_loss(real, fake, "hinge") == pytest.approx((0 + 0.75) / 2 + (0 + 1.5) / 2)
    assert critic_loss(real, fake, "wasserstein") == pytest.approx(-1.25 - 1.125)
    log = [math.log1p(math.exp(value)) for value in (-2, -0.25, -3, 0.5)]
    assert critic_loss(real, fake, "non-saturating") == pytest.approx(sum(log[:2]) / 2 + sum(log[2:]) / 2)
    assert generator_loss(fake, "hinge") == generator_loss(fake, "wasserstein") == pytest.approx(1.25)
    assert generator_loss(fake, "non-saturating") == pytest.approx(
        (math.log1p(math.exp(3)) + math.log1p(math.exp(-0.5))) / 2
    )


def test_penalties_of_a_linear_critic():
    """Its gradient is its weight everywhere: (2.5 - 1)^2, and half of 2.5^2."""
    weight = torch.randn(3, 4, 5, generator=generator())
    weight *= 2.5 / weight.norm()
    real, fake = (torch.rand(6, 3, 4, 5, generator=generator(seed)) for seed in (1, 2))
    share = torch.rand(6, generator=generator(3))

    def critic(x):
        return (x * weight).flatten(1).sum(1)

    torch.testing.assert_close(gradient_penalty(critic, real, fake, share), torch.full((6,), 2.25))
    torch.testing.assert_close(gradient_penalty(critic, real, fake, share, target=0.0), torch.full((6,), 6.25))
    torch.testing.assert_close(r1_penalty(critic, real), torch.full((6,), 3.125))
    mask = (torch.rand(6, 1, 4, 5, generator=generator(4)) < 0.5).float()
    expected = ((mask * weight).flatten(1).norm(dim=1) - 1).square()
    torch.testing.assert_close(gradient_penalty(critic, real, fake, share, mask), expected)


def test_penalty_is_taken_between_the_images_and_reaches_the_critic():
    """For f = a |x|^2 / 2 the gradient is a x, so the penalty and its derivative by a are known."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    real, fake = (torch.rand(4, 2, 3, 3, generator=generator(seed)) for seed in (1, 2))
    share = torch.tensor([0.0, 1.0, 0.25, 0.5])

    def critic(x):
        return a * x.flatten(1).square().sum(1) / 2

    penalty = gradient_penalty(critic, real, fake, share)
    points = share.view(-1, 1, 1, 1) * real + (1 - share).view(-1, 1, 1, 1) * fake
    norms = points.flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty.detach(), (0.7 * norms - 1).square(), check_dtype=False)
    penalty.mean().backward()
    torch.testing.assert_close(a.grad, (2 * (0.7 * norms - 1) * norms).mean(), check_dtype=False)


def test_a_flat_critic_has_a_penalty_and_no_nan():
    weight = torch.zeros(3, requires_grad=True)

    def critic(x):
        return (x.mean((2, 3)) * weight).sum(1)

    x = torch.rand(2, 3, 4, 4)
    penalty = gradient_penalty(critic, x, x, torch.rand(2))
    assert penalty.tolist() == [1.0, 1.0]
    penalty.sum().backward()
    assert torch.isfinite(weight.grad).all()


def test_penalties_stay_in_float32_under_autocast():
    layer = torch.nn.Conv2d(3, 1, 3)
    x = torch.rand(2, 3, 8, 8)
    exact = r1_penalty(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(r1_penalty(layer, x.bfloat16().float()), r1_penalty(layer, x.bfloat16()))
        torch.testing.assert_close(r1_penalty(layer, x), exact)


def test_mistakes_are_named():
    for call in (lambda: critic_loss(torch.zeros(1), torch.zeros(1), "lsgan"), lambda: generator_loss(0, "lsgan")):
        with pytest.raises(ValueError, match="gan_loss='lsgan' is not one of hinge, non-saturating, wasserstein"):
            call()
