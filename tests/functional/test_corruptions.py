"""Corruptions against direct definitions in NumPy and SciPy, and the published parameters."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from functional.corruption_fields import (
    box_matrix,
    clipped_zoom,
    disk_kernel,
    frost_texture,
    motion_blur,
    plasma,
    shuffled_pixels,
    smooth,
)
from functional.corruptions import BENCHMARK_CORRUPTIONS, CORRUPTIONS, PARAMETERS, corrupt

STEP = 1 / 255


@pytest.fixture(scope="module")
def images():
    """Smooth pictures with edges, multiples of 1/255."""
    generator = torch.Generator().manual_seed(0)
    x = smooth(torch.rand(6, 3, 32, 40, generator=generator), 2.0)
    x = (x - x.amin((2, 3), keepdim=True)) / (x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True))
    x[:, :, 8:20, 10:30] = x[:, :, 8:20, 10:30] * 0.5
    return x.mul(255).round().div(255)


def as_numpy(x):
    return x.double().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("variant", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_contract(images, name, variant):
    for severity in (1, 5):
        found = corrupt(images, name, severity, range(6), variant)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        assert torch.allclose((found * 255).round(), found * 255, atol=1e-3)
        assert (found != images).any()
    turned = corrupt(images[[3, 1]], name, 5, [3, 1], variant)
    assert torch.allclose(turned, found[[3, 1]], atol=1.01 * STEP)  # an image's corruption is its own
    before = torch.random.get_rng_state()
    again = corrupt(images, name, 5, range(6), variant)
    assert torch.equal(again, found)
    assert torch.equal(before, torch.random.get_rng_state())


def test_names_and_refusals(images):
    assert len(BENCHMARK_CORRUPTIONS) == 15
    assert len(set(CORRUPTIONS)) == 19
    assert all(len(table[name]) == 5 for table in PARAMETERS.values() for name in CORRUPTIONS)
    for arguments, message in (
        (("rain", 1, range(6)), "rain"),
        (("fog", 6, range(6)), "severity=6"),
        (("fog", 1, range(5)), "5 seeds"),
        (("fog", 1, range(6), "mnist"), "mnist"),
    ):
        with pytest.raises(ValueError, match=message):
            corrupt(images, *arguments)
    with pytest.raises(ValueError, match="16 pixels"):
        corrupt(images[:, :, :8], "fog", 1, range(6))
    assert len(corrupt(images[:0], "fog", 1, [])) == 0


@pytest.mark.parametrize(("name", "scaled"), [("gaussian_noise", False), ("speckle_noise", True)])
@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_published_deviation(name, scaled, severity):
    x = torch.full((8, 3, 64, 64), 0.5)
    expected = PARAMETERS["cifar"][name][severity - 1] * (0.5 if scaled else 1)
    change = corrupt(x, name, severity, range(8), "cifar") - x
    assert float(change.std()) == pytest.approx(expected, rel=0.02)
    assert abs(float(change.mean())) < 0.01


def test_shot_noise_is_poisson():
    x = torch.full((8, 3, 64, 64), 0.5)
    change = corrupt(x, "shot_noise", 3, range(8), "cifar")  # 100 photons at full white
    assert float(change.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(change.var()) == pytest.approx(0.5 / 100, rel=0.03)


def test_impulse_noise_is_half_salt_half_pepper():
    x = torch.full((8, 3, 64, 64), 128 * STEP)
    found = corrupt(x, "impulse_noise", 5, range(8))
    struck = found != x
    assert float(struck.float().mean()) == pytest.approx(0.27, abs=0.01)
    assert float((found[struck] == 1).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert set(found[struck].unique().tolist()) == {0.0, 1.0}


def test_gaussian_blur_is_scipys(images):
    found = as_numpy(corrupt(images, "gaussian_blur", 2, range(6)))
    expected = ndimage.gaussian_filter(as_numpy(images), (0, 2, 2, 0), mode="nearest", truncate=4)
    assert np.abs(found - expected).max() < 0.51 * STEP
    field = torch.rand(1, 20, 24, generator=torch.Generator().manual_seed(1))
    expected = ndimage.gaussian_filter(field[0].double().numpy(), 3, mode="reflect", truncate=3)
    assert np.abs(smooth(field, 3, 3, "reflect")[0].numpy() - expected).max() < 1e-6


def test_defocus_blur_is_a_disk(images):
    kernel = disk_kernel(6, 0.5).double().numpy()
    assert kernel.shape == (17, 17)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert kernel[8, 8] == pytest.approx(1 / np.count_nonzero(np.hypot(*np.mgrid[-8:9, -8:9]) <= 6), rel=1e-6)
    expected = ndimage.correlate(as_numpy(images), kernel[None, :, :, None], mode="mirror")
    assert np.abs(as_numpy(corrupt(images, "defocus_blur", 3, range(6))) - expected).max() < 0.51 * STEP


def test_motion_blur_along_the_rows(images):
    blurred = motion_blur(images, 3, 2.0, torch.zeros(6)).double().numpy()
    weights = np.exp(-0.5 * (np.arange(7) / 2.0) ** 2)
    weights /= weights.sum()
    padded = np.pad(images.double().numpy(), ((0, 0), (0, 0), (0, 0), (0, 6)), mode="edge")
    expected = sum(weight * padded[..., tap : tap + 40] for tap, weight in enumerate(weights))
    assert np.abs(blurred - expected).max() < 1e-6
    down = motion_blur(images.transpose(2, 3), 3, 2.0, torch.full((6,), 90.0)).transpose(2, 3)
    assert np.abs(down.double().numpy() - expected).max() < 1e-6


def test_zoom_is_scipys(images):
    height, width = (round(np.ceil(side / 1.2) * 1.2) for side in (32, 40))
    rows, columns = (int(np.ceil(side / 1.2)) for side in (32, 40))
    top, left = (32 - rows) // 2, (40 - columns) // 2
    part = as_numpy(images)[0, top : top + rows, left : left + columns]
    zoomed = ndimage.zoom(part, (height / rows, width / columns, 1), order=1)
    cut = (height - 32) // 2, (width - 40) // 2
    expected = zoomed[cut[0] : cut[0] + 32, cut[1] : cut[1] + 40]
    assert np.abs(as_numpy(clipped_zoom(images, 1.2))[0] - expected).max() < 1e-5


def test_contrast_and_brightness(images):
    x = as_numpy(images)
    mean = x.mean((1, 2), keepdims=True)
    expected = np.clip((x - mean) * 0.4 + mean, 0, 1)
    assert np.abs(as_numpy(corrupt(images, "contrast", 1, range(6))) - expected).max() < 0.51 * STEP
    found = as_numpy(corrupt(images, "brightness", 3, range(6)))
    expected = np.clip(x.max(-1) + 0.3, 0, 1)  # the value of hue, saturation, value
    assert np.abs(found.max(-1) - expected).max() < 0.51 * STEP


def test_saturation_scales_what_the_colour_has(images):
    x, found = as_numpy(images), as_numpy(corrupt(images, "saturate", 1, range(6)))
    most, least = x.max(-1), x.min(-1)
    assert np.abs(found.max(-1) - most).max() < 0.51 * STEP
    assert np.abs((most - found.min(-1)) - 0.3 * (most - least)).max() < 0.51 * STEP
    grey = corrupt(torch.full((1, 3, 16, 16), 0.5), "saturate", 5, [0], "cifar")[0, :, 0, 0]
    assert torch.allclose(grey, torch.tensor([0.5, 0.4, 0.4]), atol=STEP)  # grey turns red, as in the published code


def test_jpeg_and_pixelate_are_pillows(images):
    jpeg, coarse = corrupt(images, "jpeg_compression", 1, range(6)), corrupt(images, "pixelate", 4, range(6), "cifar")
    for index, picture in enumerate((as_numpy(images) * 255).round().astype(np.uint8)):
        image, file = Image.fromarray(picture), io.BytesIO()
        image.save(file, "JPEG", quality=25)
        assert np.array_equal(np.asarray(Image.open(file)), (as_numpy(jpeg)[index] * 255).round())
        small = image.resize((30, 24), Image.Resampling.BOX).resize((40, 32), Image.Resampling.BOX)
        assert np.abs(np.asarray(small) - as_numpy(coarse)[index] * 255).max() <= 1.01
    assert torch.allclose(box_matrix(7, 3).sum(1), torch.ones(3))


def test_fog_keeps_the_brightest_pixel_and_follows_its_formula(images):
    noise = 2 * torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    field = plasma(noise, 2.0)
    assert torch.allclose(field.amin((1, 2)), torch.zeros(4))
    assert torch.allclose(field.amax((1, 2)), torch.ones(4))
    rough = plasma(noise, 1.2).diff(dim=2).abs().mean()
    assert field.diff(dim=2).abs().mean() < 0.6 * rough  # the faster noise decays, the smoother the cloud
    with pytest.raises(ValueError, match="power of two"):
        plasma(noise[:, :48, :48], 2.0)
    black = torch.zeros(1, 3, 32, 32)
    black[..., 0, 0] = 1
    found = corrupt(black, "fog", 5, [1])
    assert float(found[..., 1:, 1:].max()) <= 3 / 4 + STEP
    assert float(found.max()) <= 1


def test_frost_blends_a_bluish_texture():
    noise = 2 * torch.rand(4, 2, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    texture = frost_texture(noise, 20, 32)
    assert texture.shape == (4, 3, 20, 32)
    assert texture.min() >= 0
    assert texture.max() <= 1
    assert (texture[:, 2] >= texture[:, 0]).all()
    found = corrupt(torch.zeros(1, 3, 32, 32), "frost", 5, [0])
    assert 0.1 < float(found.mean()) < 0.75
    assert float(found.max()) <= 0.75 + STEP


def test_glass_copies_within_reach():
    draws = np.random.default_rng(0).integers(-2, 2, (3, 2, 2, 16, 20))
    sources = shuffled_pixels(draws, 2).reshape(3, 16, 20)
    rows, columns = np.divmod(sources, 20)
    assert np.array_equal(sources[:, :2], np.broadcast_to(np.arange(40).reshape(2, 20), (3, 2, 20)))
    far = np.maximum(abs(rows - np.arange(16)[:, None]), abs(columns - np.arange(20)))
    assert far.max() > 0
    expected = np.arange(320).reshape(16, 20).copy()
    for turn in range(2):
        for row in range(14, 2, -1):
            for column in range(18, 2, -1):
                down, right = draws[1, turn, :, row, column]
                expected[row, column] = expected[row + down, column + right]
    assert np.array_equal(sources[1], expected)


def test_snow_whitens_more_with_severity(images):
    means = [float(corrupt(images, "snow", severity, range(6), "cifar").mean()) for severity in (1, 3, 5)]
    assert float(images.mean()) < means[0] < means[1] < means[2]


def test_spatter_is_pale_water_or_brown_mud():
    x = torch.full((8, 3, 48, 48), 0.8)
    mud = corrupt(x, "spatter", 5, range(8)).amin((0, 2, 3))
    assert torch.allclose(mud * 255, torch.tensor([63.0, 42.0, 20.0]), atol=15)
    water = corrupt(torch.zeros_like(x), "spatter", 3, range(8)).amax((0, 2, 3))
    assert torch.allclose(water, 0.5 * torch.tensor([175.0, 238.0, 238.0]) / 255, atol=2 * STEP)


def test_elastic_moves_pixels_and_keeps_grey():
    grey = torch.full((2, 3, 32, 32), 100 * STEP)
    assert torch.allclose(corrupt(grey, "elastic_transform", 4, [0, 1], "cifar"), grey, atol=STEP / 2)
    ramp = (torch.arange(32.0) / 31).expand(2, 3, 32, 32)
    shift = 31 * (corrupt(ramp, "elastic_transform", 1, [0, 1], "cifar") - ramp)[..., 8:24, 8:24]
    assert 0.05 < float(shift.abs().max()) < 8  # corners move by at most 0.08 x 32 pixels
