"""JPEG history from pixels: against files that Pillow wrote, whose history is known."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from functional.jpeg import jpeg_roundtrip
from functional.jpeg_history import EVIDENCE, jpeg_history
from functional.spectrum import luma


def natural(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    """Colours with a 1/f spectrum and some grain, uint8 `(H, W, 3)`."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3, height, width))) / frequency**1.2).real
    field = field / field.std() * 40 + 128 + rng.normal(0, 2, field.shape)
    return field.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def saved(image: np.ndarray, quality: int, subsampling: str = "4:2:0") -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))


def gray(*images: np.ndarray) -> torch.Tensor:
    return luma(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_quality_is_read_off_the_pixels(subsampling):
    qualities = [10, 30, 50, 65, 75, 85, 90, 92, 95, 96, 97, 98, 99, 100]
    images = [saved(natural(seed), quality, subsampling) for seed, quality in enumerate(qualities)]
    history = jpeg_history(gray(*images))
    assert history.quality.tolist() == qualities
    assert (history.evidence.max(1).values > EVIDENCE).all()
    assert not history.row.any()
    assert not history.column.any()


def test_images_without_history_show_none():
    """Never compressed, and compressed but halved since."""
    untouched = [natural(seed) for seed in range(8)]
    halved = [
        np.asarray(Image.fromarray(saved(natural(seed, 192, 192), 75)).resize((96, 96), Image.Resampling.BICUBIC))
        for seed in range(8)
    ]
    history = jpeg_history(gray(*untouched, *halved), all_grids=True)
    assert not history.quality.any()
    assert (history.evidence[:, :95] < -EVIDENCE).all()  # what a quality of 98 leaves is hardly a trace


@pytest.mark.parametrize(("top", "left"), [(0, 1), (3, 5), (7, 7)])
def test_a_crop_is_found_by_its_grid(top, left):
    images = [saved(natural(seed, 128, 128), 85)[top:, left:][:112, :112] for seed in range(4)]
    plain, searched = (jpeg_history(gray(*images), all_grids=all_grids) for all_grids in (False, True))
    assert not plain.quality.any()
    assert searched.quality.tolist() == [85] * 4
    assert searched.row.tolist() == [-top % 8] * 4
    assert searched.column.tolist() == [-left % 8] * 4


def test_the_last_of_two_compressions_hides_a_finer_one():
    assert jpeg_history(gray(saved(saved(natural(0), 96), 60))).quality.tolist() == [60]


def test_flat_images_do_not_tell():
    history = jpeg_history(gray(np.full((64, 64, 3), 90, dtype=np.uint8)))
    assert not history.quality.any()
    assert history.evidence.abs().max() < EVIDENCE  # nor do they rule anything out


def test_blocks_with_clipped_pixels_are_left_out():
    """Saturated colours: what decoding cut off moved the coefficients off their lattice."""
    rng = np.random.default_rng(0)
    image = natural(0).copy()
    for top, left in rng.integers(0, 80, (12, 2)):
        image[top : top + 9, left : left + 9] = rng.choice([0, 255], 3)
    decoded = saved(image, 75)
    clipped = torch.from_numpy(((decoded == 0) | (decoded == 255)).any(2))[None]
    assert clipped.float().mean() > 0.05
    assert jpeg_history(gray(decoded), clipped=clipped).quality.tolist() == [75]
    whole, left_out = (jpeg_history(gray(decoded), clipped=mask).evidence[0, 74] for mask in (None, clipped))
    assert left_out > whole


def test_content_does_not_matter():
    """Smooth and busy pictures of one quality are told the same."""
    busy = jpeg_roundtrip(torch.from_numpy(natural(0)).permute(2, 0, 1)[None], 80)
    smooth = Image.fromarray(natural(1, 24, 24)).resize((96, 96), Image.Resampling.BICUBIC)
    images = busy[0].permute(1, 2, 0).numpy(), saved(np.asarray(smooth), 80)
    assert jpeg_history(gray(*images)).quality.tolist() == [80, 80]


@pytest.mark.parametrize("shape", [(64, 64), (1, 3, 64, 64), (1, 15, 64)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="sides of at least 16"):
        jpeg_history(torch.zeros(shape))
