"""Radial spectra: the published definition written out, closed forms of the variants, precision and gradients."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import griddata

from functional.spectrum import (
    RadialSpectrum,
    central_third,
    luma,
    radial_log_spectrum,
    spectrum_frequencies,
    spectrum_length,
)


def published(gray: np.ndarray, features: int | None = None) -> np.ndarray:
    """The definition, step by step: shifted FFT, 20 ln, rings by sorting, griddata, division by the first."""
    height, width = gray.shape
    magnitude = 20 * np.log(np.abs(np.fft.fftshift(np.fft.fft2(gray)) + 1e-8))
    rows, columns = np.indices(gray.shape)
    radius = np.hypot(columns - (width - 1) / 2, rows - (height - 1) / 2).astype(int).ravel()
    rings = [magnitude.ravel()[radius == ring].mean() for ring in range(1, radius.max())]
    if features is None:
        return np.array(rings)
    values = griddata(
        np.linspace(0, features, len(rings)), np.array(rings), np.linspace(0, features, features), method="cubic"
    )
    return values / values[0]


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Whole numbers in 0..255 in float64."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape)).double()


@pytest.mark.parametrize("size", [(128, 128), (31, 31), (32, 48), (33, 20), (218, 178)])
def test_defaults_are_the_published_definition(size):
    gray = pictures(3, *size)
    expected = np.stack([published(image) for image in gray.numpy()])
    np.testing.assert_allclose(radial_log_spectrum(gray), expected, rtol=0, atol=1e-9)
    resampled = np.stack([published(image, 80) for image in gray.numpy()])
    np.testing.assert_allclose(radial_log_spectrum(gray, 80, relative=True), resampled, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("size", "length"), [((1024, 1024), 722), ((128, 128), 88), ((218, 178), 139)])
def test_lengths_of_the_paper(size, length):
    assert spectrum_length(*size) == length
    assert spectrum_length(*size, 300) == 300


def test_leading_axes_batches_and_chunks_do_not_matter():
    gray = pictures(5, 3, 300, 280)  # larger than a chunk
    whole = radial_log_spectrum(gray)
    assert whole.shape == (5, 3, spectrum_length(300, 280))
    torch.testing.assert_close(whole[4, 1], radial_log_spectrum(gray[4, 1]), rtol=0, atol=0)
    small = pictures(40, 16, 16)
    torch.testing.assert_close(radial_log_spectrum(small)[7:9], radial_log_spectrum(small[7:9]), rtol=0, atol=1e-12)
    assert radial_log_spectrum(small[:0]).shape == (0, spectrum_length(16, 16))


def test_float32_is_close_and_integers_are_taken():
    gray = pictures(4, 128, 128)
    exact = radial_log_spectrum(gray)
    assert radial_log_spectrum(gray.float()).dtype == torch.float32
    torch.testing.assert_close(radial_log_spectrum(gray.float()).double(), exact, rtol=0, atol=5e-3)
    torch.testing.assert_close(radial_log_spectrum(gray.byte()), radial_log_spectrum(gray.float()))


def test_constant_image_gives_the_floor_set_by_epsilon():
    spectrum = radial_log_spectrum(torch.full((1, 64, 64), 100.0, dtype=torch.float64))
    torch.testing.assert_close(spectrum, torch.full_like(spectrum, 20 * np.log(1e-8)))


@pytest.mark.parametrize("disc_only", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (63, 96)])
def test_cycles_put_a_wave_into_the_bin_of_its_frequency(size, disc_only):
    bins, (height, width) = 20, size
    x = np.arange(width)
    wave = torch.from_numpy(100 * np.cos(2 * np.pi * (width // 3) / width * x)).expand(height, width).contiguous()
    frequencies = spectrum_frequencies(height, width, bins, axis="cycles", disc_only=disc_only)
    spectrum = radial_log_spectrum(wave, bins, axis="cycles", power=True, disc_only=disc_only)
    nearest = np.abs(frequencies - (width // 3) / width).argmin()
    assert int(spectrum.argmax()) == nearest
    assert frequencies[-1] < (0.5 if disc_only else np.sqrt(0.5))


def test_power_of_a_wave_is_its_share_of_the_bin():
    """Parseval: a cosine of amplitude a holds a^2 / 4 of power per pixel in each of its two frequencies."""
    size, bins, at, amplitude = 64, 8, 10, 50.0
    wave = torch.from_numpy(amplitude * np.cos(2 * np.pi * at / size * np.arange(size))).expand(size, size)
    spectrum = radial_log_spectrum(wave.contiguous(), bins, axis="cycles", power=True, disc_only=True)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    low, high = 2 / 16, 3 / 16  # the bin of 10 / 64 = 0.156
    members = ((frequency > low) & (frequency <= high)).sum()
    expected = 10 * np.log(2 * (amplitude / 2) ** 2 * size**2 / members)
    assert float(spectrum[2]) == pytest.approx(expected, abs=1e-9)


def test_white_noise_is_flat_and_alike_at_all_sizes_in_cycles():
    rng = np.random.default_rng(0)
    spectra = [
        radial_log_spectrum(torch.from_numpy(rng.normal(128, 10, (60, size, size))), 16, axis="cycles", power=True)
        for size in (40, 64, 150)
    ]
    for spectrum in spectra:  # variance per pixel is 100
        torch.testing.assert_close(spectrum.mean(0), torch.full((16,), 10 * np.log(100.0)).double(), rtol=0, atol=1.5)


def test_window_keeps_white_noise_and_removes_the_cross_of_the_borders():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(128, 10, (60, 64, 64)))
    settings = {"features": 16, "axis": "cycles", "power": True}
    plain, windowed = (radial_log_spectrum(noise, window=w, **settings).mean(0) for w in ("none", "hann"))
    torch.testing.assert_close(plain[2:], windowed[2:], rtol=0, atol=1.0)
    ramp = torch.arange(64.0, dtype=torch.float64).expand(64, 64).contiguous()  # smooth, but for its borders
    plain, windowed = (radial_log_spectrum(ramp, window=w, **settings) for w in ("none", "hann"))
    assert (windowed[1:6] < plain[1:6] - 40).all()


def test_high_pass_lowers_low_frequencies_by_the_filter_response():
    """The residual of a 3 x 3 mean has the response 1 - (1 + 2 cos u)(1 + 2 cos v) / 9."""
    size, at = 96, 6
    wave = torch.from_numpy(90 * np.cos(2 * np.pi * (at * (np.arange(size) + 0.5)) / size)).expand(size, size)
    settings = {"features": 12, "axis": "cycles", "power": True}
    plain, residual = (radial_log_spectrum(wave.contiguous(), high_pass=h, **settings) for h in (False, True))
    response = 1 - (1 + 2 * np.cos(2 * np.pi * at / size)) / 3
    assert float((residual - plain)[1]) == pytest.approx(20 * np.log(response), abs=1.0)  # borders are reflected


def test_disc_only_drops_the_corners():
    gray = pictures(2, 64, 64)
    disc = radial_log_spectrum(gray, disc_only=True)
    assert disc.shape[-1] == 31
    torch.testing.assert_close(disc, radial_log_spectrum(gray)[:, :31], rtol=0, atol=1e-9)
    assert spectrum_frequencies(64, 64, disc_only=True).max() < 0.5


def test_small_images_fill_their_empty_bins():
    spectrum = radial_log_spectrum(pictures(3, 16, 16), 80, axis="cycles")
    assert spectrum.shape == (3, 80)
    assert spectrum.isfinite().all()


def test_relative_starts_at_one_or_at_zero():
    gray = pictures(2, 32, 32)
    assert (radial_log_spectrum(gray, relative=True)[:, 0] == 1).all()
    assert (radial_log_spectrum(gray, relative=True, axis="cycles")[:, 0] == 0).all()


def test_frequencies_rise_and_know_nyquist():
    frequencies = spectrum_frequencies(128, 128)
    assert (np.diff(frequencies) > 0).all()
    assert frequencies[62] < 0.5 < frequencies[63]
    assert (np.diff(spectrum_frequencies(128, 128, 80)) > 0).all()


def test_gradients_follow_finite_differences():
    gray = pictures(1, 10, 11).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: radial_log_spectrum(x, 8, relative=True), gray, atol=1e-6)
    with torch.inference_mode():  # what it caches must serve training afterwards
        radial_log_spectrum(torch.rand(1, 9, 9))
    radial_log_spectrum(torch.rand(1, 9, 9, requires_grad=True)).sum().backward()


def test_autocast_changes_nothing():
    gray = pictures(2, 32, 32).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(radial_log_spectrum(gray, 20), radial_log_spectrum(gray, 20), rtol=0, atol=0)
        inside = radial_log_spectrum(gray, 20)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, radial_log_spectrum(gray, 20), rtol=0, atol=0)


def test_compiled_gives_the_same():
    gray = pictures(2, 33, 40)
    compiled = torch.compile(lambda x: radial_log_spectrum(x, 20, True, high_pass=True), backend="eager")
    torch.testing.assert_close(compiled(gray), radial_log_spectrum(gray, 20, True, high_pass=True), rtol=0, atol=1e-12)


def test_luma_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    np.testing.assert_array_equal(luma(images)[0], expected)


def test_luma_plane_of_a_jpeg_differs_from_that_of_its_rgb():
    """What the docstring of `luma` warns of; the datamodule's `luma_plane` takes the plane itself."""
    smooth = np.cumsum(np.random.default_rng(0).normal(size=(64, 64, 3)), axis=1) * 8 + 120
    buffer = io.BytesIO()
    Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
    with Image.open(buffer) as image:
        image.draft("L", image.size)
        plane = torch.from_numpy(np.array(image.convert("L"))).double()
    rgb = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).double() / 255
    distance = (radial_log_spectrum(plane, 80, True) - radial_log_spectrum(luma(rgb), 80, True)).norm()
    assert 1e-5 < distance < 0.1


def test_central_third():
    gray = torch.arange(100.0).view(1, 10, 10)
    torch.testing.assert_close(central_third(gray), gray[:, 3:7, 3:7])


def test_settings_object_for_images_planes_and_channels():
    images = torch.rand(2, 3, 60, 60)
    settings = RadialSpectrum(features=20, relative=True, disc_only=True)
    expected = radial_log_spectrum(luma(images).double(), 20, True, disc_only=True)
    torch.testing.assert_close(settings(images), expected, rtol=0, atol=0)
    colour = RadialSpectrum(features=20, colour="rgb")(images)
    assert colour.shape == (2, 60)
    torch.testing.assert_close(colour[:, 20:40], radial_log_spectrum(images[:, 1].double() * 255, 20))
    third = RadialSpectrum(central_third=True)
    torch.testing.assert_close(third(images), radial_log_spectrum(luma(images).double()[:, 20:40, 20:40]))
    assert len(third.frequencies(60, 60)) == third(images).shape[1]


def test_refusals():
    with pytest.raises(ValueError, match="sides of at least 4"):
        radial_log_spectrum(torch.rand(1, 3, 8))
    with pytest.raises(ValueError, match="features=1"):
        radial_log_spectrum(torch.rand(1, 8, 8), 1)
    with pytest.raises(ValueError, match="axis='spam'"):
        radial_log_spectrum(torch.rand(1, 8, 8), axis="spam")
    with pytest.raises(ValueError, match="too few"):
        radial_log_spectrum(torch.rand(1, 4, 4), 80)
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W\)"):
        radial_log_spectrum(torch.rand(8))
    with pytest.raises(ValueError, match="RGB images"):
        luma(torch.rand(1, 1, 8, 8))


@pytest.mark.gpu
def test_gpu_gives_the_same():
    gray = pictures(8, 128, 128)
    torch.testing.assert_close(radial_log_spectrum(gray.cuda(), 80).cpu(), radial_log_spectrum(gray, 80))
    single = radial_log_spectrum(gray.cuda().float(), 80).cpu()
    torch.testing.assert_close(single.double(), radial_log_spectrum(gray, 80), rtol=0, atol=5e-3)
