"""Networks of SNGAN: sizes, identities between conditions, spectral norms."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks.sngan import ConditionalBatchNorm, ProjectionCritic, ResidualGenerator


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "generator", "critic"),
    # Layers of the published tables, added up by hand: convolutions, linear layers and batch normalisations.
    [(32, 4_276_739, 1_053_825), (64, None, None), (128, None, None)],
)
def test_full_size_networks(size, generator, critic):
    with torch.device("meta"):
        g, d = ResidualGenerator(image_size=size), ProjectionCritic(image_size=size)
        images = g(torch.empty(2, 128))
        assert images.shape == (2, 3, size, size)
        assert d(images).shape == (2,)
    if generator:
        assert (count(g), count(d)) == (generator, critic)
    assert d.feature_size == {32: 128}.get(size, 1024)


def test_images_lie_in_the_unit_interval_and_follow_noise_and_condition():
    torch.manual_seed(0)
    network = ResidualGenerator(8, 5, 32, width=16)
    noise, condition = torch.randn(6, 8), torch.randn(6, 5) * 4
    images = network(noise, condition)
    assert images.shape == (6, 3, 32, 32)
    assert 0 <= images.min() < images.max() <= 1
    network.eval()
    assert not torch.equal(network(noise, condition), network(noise, condition.flip(0)))
    assert not torch.equal(network(noise, condition), network(noise.flip(0), condition))


def test_one_hot_conditions_are_a_table_of_embeddings():
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(7, 4)
    x, labels = torch.randn(9, 7, 3, 3), torch.arange(9) % 4
    torch.nn.init.normal_(norm.scale_and_shift.weight)
    found = norm(x, torch.nn.functional.one_hot(labels, 4).float())
    table = norm.scale_and_shift.weight.T[labels]  # one row per class
    plain = torch.nn.functional.batch_norm(x, None, None, training=True)
    expected = plain * (1 + table[:, :7, None, None]) + table[:, 7:, None, None]
    torch.testing.assert_close(found, expected)

    critic = ProjectionCritic(4, 32, width=8).eval()
    images = torch.rand(9, 3, 32, 32)
    table, features = critic.projection.weight.T[labels], critic.features(images)
    scores = critic(images, torch.nn.functional.one_hot(labels, 4).float())
    torch.testing.assert_close(scores, critic.score(features)[:, 0] + (table * features).sum(1))


def test_no_condition_is_the_unconditional_network():
    torch.manual_seed(0)
    conditional, plain = ProjectionCritic(4, 32, width=8).eval(), ProjectionCritic(0, 32, width=8).eval()
    plain.load_state_dict({k: v for k, v in conditional.state_dict().items() if not k.startswith("projection")})
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(conditional(images, torch.zeros(3, 4)), plain(images))
    constant = ResidualGenerator(8, 3, 32, width=8).eval()
    unconditional = ResidualGenerator(8, 0, 32, width=8).eval()
    state = {k: v for k, v in constant.state_dict().items() if "scale_and_shift" not in k}
    state["first.weight"] = state["first.weight"][:, :8]
    missing = unconditional.load_state_dict(state, strict=False).missing_keys
    assert all("norm" in name for name in missing)  # scale 1 and shift 0 of the ordinary normalisation
    noise = torch.randn(3, 8)
    torch.testing.assert_close(constant(noise, torch.zeros(3, 3)), unconditional(noise))


def test_spectral_norms_are_one():
    torch.manual_seed(0)
    critic = ProjectionCritic(4, 32, width=16)
    for _ in range(20):
        critic(torch.rand(2, 3, 32, 32), torch.rand(2, 4))
    critic.eval()
    weights = [m.weight.detach() for m in critic.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weights) == 12
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2) == pytest.approx(1, abs=0.02)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="image_size=48: SNGAN's networks are for 32, 64, 128 pixels"):
        ResidualGenerator(image_size=48)
    with pytest.raises(ValueError, match="width=8 leaves a layer of the 64-pixel network"):
        ProjectionCritic(image_size=64, width=8)
