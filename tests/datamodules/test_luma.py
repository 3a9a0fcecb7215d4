"""Luma planes: the JPEG's own, Pillow's weights for the rest, upright."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import noise, write_image
from PIL import Image

from datamodules.decoding import ImageReadError, decode_image, jpeg_resave
from datamodules.luma import jpeg_luma, luma_plane, rgb_luma


def stored_plane(file) -> np.ndarray:
    """What libjpeg hands out as YCbCr without conversion: the first component."""
    with Image.open(file) as image:
        image.draft("YCbCr", image.size)
        return np.asarray(image)[..., 0]


def test_jpeg_gives_its_own_plane(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)  # saturated: RGB is clipped
    write_image(tmp_path / "a.jpg", colours, quality=75)
    plane = luma_plane(tmp_path / "a.jpg")
    np.testing.assert_array_equal(plane, stored_plane(tmp_path / "a.jpg"))
    assert (plane != rgb_luma(decode_image(tmp_path / "a.jpg"))).any()  # RGB in between rounds and clips
    assert plane.flags.writeable


def test_other_formats_are_converted_with_pillows_weights(tmp_path):
    pixels = noise(np.random.default_rng(0), 30, 20)
    write_image(tmp_path / "a.png", pixels)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(luma_plane(tmp_path / "a.png"), expected)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(luma_plane(tmp_path / "a.jpg"), rgb_luma(decode_image(tmp_path / "a.jpg")))


def test_grey_jpegs_and_orientation(tmp_path):
    grey = Image.fromarray(noise(np.random.default_rng(0), 24, 40)).convert("L")
    grey.save(tmp_path / "grey.jpg")
    np.testing.assert_array_equal(luma_plane(tmp_path / "grey.jpg"), np.asarray(Image.open(tmp_path / "grey.jpg")))
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "turned.jpg", noise(np.random.default_rng(0), 24, 40), exif=exif)
    plane = luma_plane(tmp_path / "turned.jpg")
    np.testing.assert_array_equal(plane, np.rot90(stored_plane(tmp_path / "turned.jpg"), -1))
    assert plane.shape == decode_image(tmp_path / "turned.jpg").shape[:2]


def test_compressing_in_memory_equals_a_file(tmp_path):
    pixels = noise(np.random.default_rng(0), 33, 47)
    write_image(tmp_path / "a.jpg", pixels, quality=90)
    np.testing.assert_array_equal(jpeg_luma(pixels, 90), luma_plane(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(jpeg_resave(pixels, 90), decode_image(tmp_path / "a.jpg"))


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(ImageReadError, match=r"a\.jpg"):
        luma_plane(tmp_path / "a.jpg")
    whole = io.BytesIO()
    Image.fromarray(noise(np.random.default_rng(0), 64, 64)).save(whole, "JPEG")
    (tmp_path / "b.jpg").write_bytes(whole.getvalue()[:900])
    with pytest.raises(ImageReadError, match=r"b\.jpg"):
        luma_plane(tmp_path / "b.jpg")
