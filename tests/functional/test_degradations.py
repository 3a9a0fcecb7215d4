"""Degradations against scipy, Pillow, closed forms and their own identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from functional.degradations import add_noise, gaussian_blur, rescale, seeded_noise, shift_to_phase


def pictures(count: int = 3, height: int = 24, width: int = 33, channels: int = 3) -> torch.Tensor:
    """Random 8-bit pictures as floats."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator).float() / 255


def assert_eight_bits(images: torch.Tensor) -> None:
    """Every value is a multiple of 1/255 in [0, 1]."""
    levels = (images.double() * 255).round()
    assert torch.equal(images, (levels.float() / 255).to(images.dtype))
    assert 0 <= levels.min() <= levels.max() <= 255


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 12.0])
def test_blur_is_that_of_scipy(sigma):
    images = pictures()
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4.5)
    blurred = gaussian_blur(images, sigma)
    assert_eight_bits(blurred)
    # Half a grey level of rounding, and what the tails beyond four sigmas hold.
    np.testing.assert_allclose(blurred, expected, atol=0.55 / 255)


def test_blur_keeps_constants_and_reaches_beyond_small_pictures():
    assert torch.equal(gaussian_blur(torch.full((1, 1, 5, 1), 77 / 255), 20.0), torch.full((1, 1, 5, 1), 77 / 255))


@pytest.mark.parametrize("factor", [0.5, 0.75, 0.9, 1.1, 1.5, 2.0])
def test_rescale_is_that_of_pillow_cropped_or_continued(factor):
    images = (pictures(1, 40, 48) * 60 + 90).round() / 255  # far from black and white, where Pillow clamps midway
    pixels = (images[0].permute(1, 2, 0) * 255).round().byte().numpy()
    height, width = round(40 * factor), round(48 * factor)
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    ours = rescale(images, factor)
    assert_eight_bits(ours)
    if factor > 1:
        top, left = (height - 39) // 2, (width - 47) // 2
        expected = resized[top : top + 40, left : left + 48]
    else:
        top, left = (40 - height) // 2, (48 - width) // 2
        padding = ((top, 40 - height - top), (left, 48 - width - left), (0, 0))
        expected = np.pad(resized, padding, mode="reflect")
    levels = (ours[0].permute(1, 2, 0) * 255).round().int().numpy()
    assert np.abs(levels - expected).max() <= 1  # Pillow rounds between its two passes
    assert np.mean(levels == expected) > 0.6


def test_identity_levels_return_the_very_images():
    images = pictures()
    assert rescale(images, 1.0) is images
    assert gaussian_blur(images, 0.0) is images
    assert add_noise(images, 0.0, torch.randn_like(images)) is images
    assert torch.equal(shift_to_phase(images, 0), images)


def test_seeded_noise_is_normal_and_knows_no_neighbours():
    noise = seeded_noise([3, 1, 2**62 + 5], (3, 64, 64))
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    correlation = np.corrcoef(noise.flatten(1).numpy())
    assert np.abs(correlation - np.eye(3)).max() < 0.05
    alone = torch.cat([seeded_noise([seed], (3, 64, 64)) for seed in (3, 1, 2**62 + 5)])
    assert torch.equal(alone, noise)
    state = torch.get_rng_state()
    seeded_noise([1], (1, 2, 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_has_the_strength_that_was_asked_for():
    images = torch.full((2, 3, 64, 64), 128 / 255)
    noisy = add_noise(images, 4.0, seeded_noise([1, 2], images.shape[1:]))
    assert_eight_bits(noisy)
    # Rounding to whole grey levels adds the variance 1/12 of a uniform error.
    assert ((noisy - images) * 255).std() == pytest.approx((16 + 1 / 12) ** 0.5, rel=0.02)


@pytest.mark.parametrize("phase", range(8))
def test_shifted_crop_is_the_crop_at_that_phase(phase):
    """A window cut elsewhere from the same picture shows the same pixels, up to what is beyond the first window."""
    picture = pictures(1, 64, 72)[0]
    offsets = torch.tensor([[3, 14], [8, 0], [-1, -1]])
    windows = torch.stack(
        [picture[:, max(t, 0) : max(t, 0) + 32, max(left, 0) : max(left, 0) + 32] for t, left in offsets]
    )
    shifted = shift_to_phase(windows, phase, offsets)
    for index, (top, left) in enumerate(offsets.clamp_min(0).tolist()):
        down, right = (phase - top) % 8, (phase - left) % 8
        expected = picture[:, top + down : top + 32, left + right : left + 32]
        assert (top + down) % 8 == (left + right) % 8 == phase
        assert torch.equal(shifted[index, :, : 32 - down, : 32 - right], expected)
        if down:
            assert torch.equal(shifted[index, :, 32 - down], shifted[index, :, 32 - down - 2])  # reflection
    assert torch.equal(shift_to_phase(windows, phase)[2], shifted[2])  # unknown counts as 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_and_shape_are_kept(dtype):
    images = pictures(2, 16, 20, channels=1).to(dtype)
    for changed in (
        rescale(images, 1.5),
        gaussian_blur(images, 1.0),
        add_noise(images, 2.0, seeded_noise([0, 1], images.shape[1:])),
        shift_to_phase(images, 5),
    ):
        assert changed.dtype == dtype
        assert changed.shape == images.shape


def test_arguments_are_left_alone():
    images = pictures()
    before, noise = images.clone(), seeded_noise([1, 2, 3], (3, 24, 33))
    kept = noise.clone()
    for changed in (rescale(images, 0.5), gaussian_blur(images, 2.0), add_noise(images, 9.0, noise)):
        assert not torch.equal(changed, images)
    assert torch.equal(images, before)
    assert torch.equal(noise, kept)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rescale(x, 0.0), "factor=0.0"),
        (lambda x: gaussian_blur(x, -1.0), "sigma=-1.0"),
        (lambda x: add_noise(x, float("nan"), x), "sigma=nan"),
        (lambda x: shift_to_phase(x, 8), "phase=8"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(pictures())
