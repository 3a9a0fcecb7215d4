"""Scenes and camera: statistics of photographs, noise of the stated variance."""

import itertools

import numpy as np
import pytest

from datamodules.synthetic.scenes import Camera, SceneClass, power_law_texture, render_scene


def amplitude_slope(pictures, low=0.03, high=0.35):
    """Exponent of the mean radial amplitude spectrum between two frequencies, in cycles per pixel."""
    side = pictures[0].shape[0]
    window = np.hanning(side)[:, None] * np.hanning(side)[None, :]
    power = np.mean([np.abs(np.fft.fft2((p - p.mean()) * window)) ** 2 for p in pictures], axis=0)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    edges = np.geomspace(low, high, 12)
    rings = [(radius >= a) & (radius < b) for a, b in itertools.pairwise(edges)]
    centres = [np.log(radius[ring]).mean() for ring in rings]
    return np.polyfit(centres, [0.5 * np.log(power[ring].mean()) for ring in rings], 1)[0]


@pytest.mark.parametrize("slope", [0.0, 1.0, 1.6])
def test_texture_has_the_requested_spectrum_mean_and_spread(slope):
    textures = [power_law_texture(slope, np.random.default_rng(seed), 128) for seed in range(8)]
    assert amplitude_slope(textures) == pytest.approx(-slope, abs=0.06)
    assert np.mean(textures) == pytest.approx(0.0, abs=1e-4)
    assert [texture.std() for texture in textures] == pytest.approx([1.0] * 8, abs=1e-4)


def test_scenes_have_the_amplitude_spectrum_of_photographs():
    scenes = []
    for class_id in range(10):
        rng = np.random.default_rng([7, class_id])
        scenes.append(render_scene(192, 192, SceneClass.of(class_id), rng).mean(axis=2))
    assert -1.6 < amplitude_slope(scenes) < -0.9  # photographs: -1.2 to -1 (Field 1987), with edges up to -1.5


def test_scene_has_the_asked_shape_and_range_and_follows_its_seed():
    first, again, other = (render_scene(70, 110, SceneClass.of(1), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.shape == (70, 110, 3)
    assert first.dtype == np.float32
    assert first.min() >= 0.0
    assert first.max() <= 1.0
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01


def test_crops_do_not_tell_the_size_of_the_canvas():
    """Border and centre, small and large canvases: the same density of edges."""

    def roughness(side, cut):
        values = []
        for seed in range(40):
            patch = render_scene(side, side, SceneClass.of(seed), np.random.default_rng(seed)).mean(axis=2)[cut, cut]
            values.append(np.abs(np.diff(np.log(patch + 0.02), axis=0)).mean())
        return np.mean(values)

    centre, corner, small = roughness(200, slice(68, 132)), roughness(200, slice(0, 64)), roughness(64, slice(0, 64))
    assert corner == pytest.approx(centre, rel=0.15)
    assert small == pytest.approx(centre, rel=0.15)


@pytest.mark.parametrize("light", [0.1, 0.6])
def test_sensor_noise_has_the_stated_variance(light):
    camera = Camera(shot=1e-3, read=3e-3, gains=(2.0, 1.0, 1.5), gamma=1.0)
    pixels = camera.shoot(np.full((300, 300, 3), light, dtype=np.float32), np.random.default_rng(0)) / 255.0
    expected = np.square(camera.gains) * (1e-3 * light + 3e-3**2) + 1 / 255**2 / 12  # plus rounding to 8 bits
    assert pixels.var(axis=(0, 1)) == pytest.approx(expected, rel=0.05)
    assert pixels.mean() == pytest.approx(light, abs=1e-3)
    red, green = pixels[..., 0].ravel(), pixels[..., 1].ravel()
    assert abs(np.corrcoef(red, green)[0, 1]) < 0.02  # channels are independent
    assert abs(np.corrcoef(red[1:], red[:-1])[0, 1]) < 0.02  # and so are pixels


def test_tone_curve_without_noise_is_the_power_law():
    light = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = Camera(shot=0.0, read=0.0).shoot(light, np.random.default_rng(0))
    assert np.array_equal(pixels, np.rint(255.0 * light.astype(np.float64) ** (1 / 2.2)).astype(np.uint8))
