import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datamodules.decoding import ImageReadError, crop, decode_image, jpeg_resave, pad_to, resize_short_side

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_lossless_rgb_is_read_exactly(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(RGB), name, **({"lossless": True} if name == "a.webp" else {}))
    image = decode_image(path)
    np.testing.assert_array_equal(image, RGB)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_orientation_is_applied(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(RGB), name, exif=exif)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    np.testing.assert_array_equal(decode_image(path), expected)
    assert decode_image(path).shape[:2] == ((11, 7) if orientation >= 5 else (7, 11))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_invalid_orientation_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(saved(tmp_path, Image.fromarray(RGB), exif=exif)), RGB)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_with_rounding(tmp_path, name):
    grey = np.linspace(0, 65535, 4096).round().astype(np.uint16).reshape(64, 64)
    image = decode_image(saved(tmp_path, Image.fromarray(grey), name))
    expected = np.rint(grey / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(image, np.stack([expected] * 3, -1))
    assert image.max() == 255


def test_big_endian_and_32_bit_grey(tmp_path):
    grey = np.array([[0, 128, 129], [40000, 65534, 65535]])
    expected = np.rint(grey / 257).astype(np.uint8)
    big = Image.frombytes("I;16B", (3, 2), grey.astype(">u2").tobytes())
    assert Image.open(saved(tmp_path, big, "big.tif")).mode == "I;16B"
    for path in (tmp_path / "big.tif", saved(tmp_path, Image.fromarray(grey.astype(np.int32)), "wide.tif")):
        np.testing.assert_array_equal(decode_image(path)[..., 1], expected)


@pytest.mark.parametrize("values", [np.full((2, 2), 70000, np.int32), np.full((2, 2), 0.5, np.float32)])
def test_modes_without_a_range_are_refused(tmp_path, values):
    with pytest.raises(ImageReadError, match="8 or 16 bits"):
        decode_image(saved(tmp_path, Image.fromarray(values), "odd.tif"))


def test_grey_and_one_bit(tmp_path):
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(saved(tmp_path, Image.fromarray(grey))), np.stack([grey] * 3, -1))
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decode_image(saved(tmp_path, bits))[..., 0], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(tmp_path, mode):
    alpha = RNG.integers(0, 256, (7, 11), dtype=np.uint8)
    colour = RGB if mode == "RGBA" else RGB[..., :1]
    image = Image.fromarray(np.concatenate([colour, alpha[..., None]], -1), mode)
    weight = alpha[..., None] / 255
    expected = colour * weight + 255 * (1 - weight)
    assert np.abs(decode_image(saved(tmp_path, image)) - expected).max() <= 1


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    path = saved(tmp_path, image, transparency=1)
    np.testing.assert_array_equal(decode_image(path), [[[10, 20, 30], [255, 255, 255]]])
    path = saved(tmp_path, image, transparency=bytes([255, 0]))
    np.testing.assert_array_equal(decode_image(path), [[[10, 20, 30], [255, 255, 255]]])
    np.testing.assert_array_equal(decode_image(saved(tmp_path, image, "b.png")), [[[10, 20, 30], [200, 100, 50]]])


def test_cmyk_jpeg(tmp_path):
    flat = Image.new("RGB", (32, 32), (200, 30, 90))
    path = saved(tmp_path, flat.convert("CMYK"), "a.jpg", quality=100)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(decode_image(path).astype(int) - (200, 30, 90)).max() <= 3


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 2
    np.testing.assert_array_equal(decode_image(path), np.asarray(frames[0]))


def test_errors_name_the_file_and_the_mend(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    cut = saved(tmp_path, Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-200])
    for path in (text, cut, tmp_path / "missing.png"):
        with pytest.raises(ImageReadError, match=rf"{path.name}.*restore the file") as error:
            decode_image(path)
        assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_resave_is_pillows(subsampling):
    image = RNG.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=83, subsampling=subsampling)
    result = jpeg_resave(image, 83, subsampling)
    np.testing.assert_array_equal(result, np.asarray(Image.open(buffer)))
    assert result.flags.writeable


def test_jpeg_resave_refuses_what_pillow_would_reinterpret():
    with pytest.raises(ValueError, match="1 to 100"):
        jpeg_resave(RGB, 0)
    with pytest.raises(ValueError, match="4:4:4, 4:2:2, 4:2:0"):
        jpeg_resave(RGB, 75, "4:1:1")


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_short_side_and_aspect(height, width, size):
    result = resize_short_side(np.zeros((height, width, 3), dtype=np.uint8), size)
    assert min(result.shape[:2]) == size
    assert max(result.shape[:2]) == round(max(height, width) * size / min(height, width))
    assert (result.shape[0] >= result.shape[1]) == (height >= width) or result.shape[0] == result.shape[1]


def test_resize_is_antialiased_and_checks_its_arguments():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_short_side(stripes, 16)[4:-4, 4:-4].astype(int) - 128).max() < 10
    with pytest.raises(ValueError, match="bicubic"):
        resize_short_side(stripes, 16, "cubic")
    with pytest.raises(ValueError, match="at least 1"):
        resize_short_side(stripes, 0)


def test_crop():
    part = crop(RGB, 4, 2, 5)
    np.testing.assert_array_equal(part, RGB[2:6, 5:9])
    assert part.base is None
    for size, top, left in ((8, 0, 0), (4, 4, 0), (4, 0, 8), (4, -1, 0), (0, 0, 0)):
        with pytest.raises(ValueError, match="does not fit"):
            crop(RGB, size, top, left)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_padding_mirrors_as_often_as_needed(height, width, size):
    image = np.arange(1, height * width + 1, dtype=np.uint8)[:, None].repeat(3, 1).reshape(height, width, 3)
    padded = pad_to(image, size)
    assert padded.shape == (max(height, size), max(width, size), 3)
    assert padded.min() > 0

    def mirrored(length):  # the triangle wave 0, 1, ..., n-1, n-1, ..., 1, 0, 0, 1, ...
        at = np.arange(max(length, size)) - max(0, size - length) // 2
        return np.minimum(at % (2 * length), 2 * length - 1 - at % (2 * length))

    np.testing.assert_array_equal(padded, image[mirrored(height)][:, mirrored(width)])
