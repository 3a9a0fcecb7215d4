"""Networks of StarGAN: sizes, ranges, what the output depends on."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks.stargan import TranslationCritic, TranslationGenerator


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_full_size_networks_have_the_published_parameters():
    """StarGAN at 128 pixels and 5 attributes: 8.4 and 44.8 million."""
    with torch.device("meta"):
        generator, critic = TranslationGenerator(5), TranslationCritic(5)
        image = generator(torch.empty(1, 3, 128, 128), torch.empty(1, 5))
        score, classes = critic(image)
    assert image.shape == (1, 3, 128, 128)
    assert score.shape == (1, 1, 2, 2)
    assert classes.shape == (1, 5)
    residual = 12 * (256 * 256 * 9 + 2 * 256)
    ends = 49 * 64 * (3 + 5) + 2 * 64 + 49 * 64 * 3
    scaling = 2 * (16 * 64 * 128 + 16 * 128 * 256) + 2 * (128 + 256 + 128 + 64)
    assert count(generator) == residual + ends + scaling == 8_430_528
    widths = [3, 64, 128, 256, 512, 1024, 2048]
    trunk = sum(16 * before * after + after for before, after in zip(widths, widths[1:], strict=False))
    assert count(critic) == trunk + 2048 * (9 + 4 * 5) == 44_762_048


def test_attributes_reach_every_pixel_and_no_statistics_are_kept():
    torch.manual_seed(0)
    generator, critic = TranslationGenerator(3, width=8, blocks=1), TranslationCritic(3, 32, width=8, depth=3)
    x, wanted = torch.rand(4, 3, 32, 32), torch.eye(3)[[0, 1, 2, 0]]
    images = generator(x, wanted)
    assert 0 <= images.min() < images.max() <= 1
    other = generator(x, wanted.roll(1, 1))
    assert (images != other).any(1).float().mean() > 0.99
    assert torch.equal(generator.eval()(x, wanted), images)
    assert not list(generator.buffers())
    score, classes = critic(x)
    assert score.shape == (4, 1, 4, 4)
    assert classes.shape == (4, 3)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"image_size=96 must be a multiple of 2 \*\* depth = 64"):
        TranslationCritic(3, 96)
