"""Each up-sampling chain against its closed form, and its trace in finished pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.synthetic.generators import (
    GENERATORS,
    downsample,
    upsample_bilinear,
    upsample_nearest,
    upsample_pixel_shuffle,
    upsample_sinc,
    upsample_transposed,
)
from datamodules.synthetic.scenes import Camera, SceneClass, render_scene


@pytest.fixture
def low():
    return np.random.default_rng(0).random((12, 20, 3), dtype=np.float32)


def as_torch(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def as_numpy(tensor):
    return tensor[0].permute(1, 2, 0).numpy()


def test_downsampling_is_average_pooling(low):
    assert np.allclose(downsample(low), as_numpy(F.avg_pool2d(as_torch(low), 2)), atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolations_are_those_of_torch(low, mode):
    ours = {"nearest": upsample_nearest, "bilinear": upsample_bilinear}[mode](low)
    assert np.allclose(ours, as_numpy(F.interpolate(as_torch(low), scale_factor=2, mode=mode)), atol=1e-6)


def test_transposed_is_a_transposed_convolution_of_torch(low):
    taps = torch.tensor([0.5, 0.93, 0.5])
    kernel = torch.outer(taps, taps).expand(3, 1, 3, 3)
    padded = F.pad(as_torch(low), (0, 1, 0, 1), mode="replicate")
    expected = F.conv_transpose2d(padded, kernel, stride=2, padding=1, groups=3)[:, :, : 2 * 12, : 2 * 20]
    assert np.allclose(upsample_transposed(low), as_numpy(expected), atol=1e-6)


def test_pixel_shuffle_is_a_convolution_and_a_shuffle_of_torch(low):
    gains, quarter = [[1.03, 0.98], [0.96, 1.03]], torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
    kernels = torch.stack([gains[i][j] * torch.outer(quarter[i], quarter[j]) for i in (0, 1) for j in (0, 1)])[:, None]
    planes = as_torch(low).transpose(0, 1)  # one colour an example
    shuffled = F.pixel_shuffle(F.conv2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), kernels), 2)
    assert np.allclose(upsample_pixel_shuffle(low), as_numpy(shuffled.transpose(0, 1)), atol=1e-6)


def test_sinc_reproduces_band_limited_cosines_exactly():
    n = np.arange(32)
    fine = np.cos(np.pi * 5 * (n + 0.5) / 32)  # a cosine of the DCT basis below the half-resolution limit
    coarse = np.cos(np.pi * 5 * (np.arange(16) + 0.5) / 16)
    image = np.repeat((coarse[:, None] * coarse[None, :])[..., None], 3, axis=2).astype(np.float32)
    assert np.allclose(upsample_sinc(image)[..., 0], fine[:, None] * fine[None, :], atol=1e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_flat_light_stays_flat_or_becomes_the_known_checkerboard(name):
    out = GENERATORS[name].upsample(np.full((8, 8, 3), 0.5, dtype=np.float32))
    cell = {"transposed": np.outer([0.93, 1.0], [0.93, 1.0]), "pixel_shuffle": np.array([[1.03, 0.98], [0.96, 1.03]])}
    expected = 0.5 * np.tile(cell.get(name, np.ones((2, 2))), (8, 8))
    assert out.shape == (16, 16, 3)
    assert out.dtype == np.float32
    assert np.allclose(out, expected[..., None], atol=1e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_strength_blends_the_residual_linearly(name):
    generator = GENERATORS[name]
    light = render_scene(32, 48, SceneClass.of(0), np.random.default_rng(1))
    chain = generator.upsample(downsample(light))
    assert np.allclose(generator.trace(light), (1 - generator.strength) * light + generator.strength * chain, atol=1e-6)


def axis_profiles(pictures):
    """Mean log-power along the horizontal frequency axis, (side / 2 + 1,), of vertically averaged spectra."""
    side = pictures[0].shape[0]
    power = np.mean([np.abs(np.fft.rfft(p - p.mean(), axis=1)) ** 2 for p in pictures], axis=(0, 1))
    return np.log(power / side)


def fakes_and_natures(name, side=128, count=16, camera=None):
    camera, generator = camera or Camera(), GENERATORS[name]
    fakes, natures = [], []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        light = render_scene(side, side, SceneClass.of(seed), rng)
        fakes.append(camera.shoot(generator.trace(light), np.random.default_rng(seed)).mean(axis=2))
        natures.append(camera.shoot(light, np.random.default_rng(1000 + seed)).mean(axis=2))
    return axis_profiles(fakes) - axis_profiles(natures)


@pytest.mark.parametrize("name", ["transposed", "pixel_shuffle"])
def test_checkerboards_peak_at_the_nyquist_frequency(name):
    difference = fakes_and_natures(name)
    assert difference[-1] > 0.5
    assert difference[-1] - difference[-9:-1].mean() > 0.7


@pytest.mark.parametrize("name", ["nearest", "bilinear", "sinc"])
def test_interpolations_leave_a_hole_above_half_the_nyquist_frequency(name):
    difference = fakes_and_natures(name, camera=Camera(shot=0.0, read=0.0))
    side = len(difference) - 1
    assert difference[-4:].mean() < -0.5
    assert abs(difference[side // 16 : side // 8].mean()) < 0.2  # low frequencies are the scene's own


def test_empty_band_of_sinc_is_reduced_by_the_strength():
    """In linear light the band above half Nyquist shrinks to (1 - strength) of its amplitude, exactly."""
    from scipy.fft import dctn

    generator = GENERATORS["sinc"]
    light = render_scene(64, 64, SceneClass.of(2), np.random.default_rng(3))
    before, after = dctn(light, axes=(0, 1), norm="ortho"), dctn(generator.trace(light), axes=(0, 1), norm="ortho")
    assert np.allclose(after[32:, 32:], (1 - generator.strength) * before[32:, 32:], atol=1e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_fakes_have_their_size_and_the_sensor_noise_of_natures(name):
    """Noise is added after the up-sampling: on a flat scene, neighbouring pixels of a fake are uncorrelated."""
    generator = GENERATORS[name]
    fake = generator.generate(SceneClass.of(0), Camera(), np.random.default_rng(0))
    assert fake.shape == (generator.size, generator.size, 3)
    assert fake.dtype == np.uint8
    flat = generator.trace(np.full((128, 128, 3), 0.4, dtype=np.float32))
    noisy = Camera().shoot(flat, np.random.default_rng(0)).astype(float)
    residual = noisy - Camera(shot=0.0, read=0.0).shoot(flat, np.random.default_rng(0))
    assert abs(np.corrcoef(residual[:, 1:].ravel(), residual[:, :-1].ravel())[0, 1]) < 0.03
