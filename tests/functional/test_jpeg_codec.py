import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from functional import jpeg, jpeg_codec
from functional.jpeg import jpeg_roundtrip, jpeg_roundtrip_ste, jpeg_smooth, quantization_tables

SAMPLINGS = ["4:4:4", "4:2:2", "4:2:0"]
QUALITIES = [1, 10, 30, 50, 65, 75, 85, 90, 95, 96, 98, 99, 100]
SIZES = [
    *[(1, 1), (1, 2), (2, 5), (3, 4), (4, 3), (5, 1), (6, 6), (8, 8), (8, 15), (9, 8), (16, 16), (17, 31), (33, 16)],
    *[(64, 48), (77, 101), (128, 128), (224, 225), (255, 256), (37, 517), (517, 40), (517, 517)],
]


def noise(count: int, size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, *size), dtype=np.uint8))


def saturated(count: int, size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return (noise(count, size, channels) > 127).to(torch.uint8) * 255


def constant(count: int, size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return noise(count, (1, 1), channels).expand(-1, -1, *size)


def natural(count: int, size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    """Images with a 1/f amplitude spectrum, some of it beyond black and white."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1]))
    frequency[0, 0] = 1
    white = np.random.default_rng(1).normal(size=(count, channels, *size))
    field = np.fft.ifft2(np.fft.fft2(white) / frequency).real
    field = field / (field.std() + 1e-9) * 60 + 128
    return torch.from_numpy(field.round().clip(0, 255).astype(np.uint8))


CONTENTS = [noise, natural, saturated, constant]


def pillow(images: torch.Tensor, subsampling: str = "4:2:0", **options: list) -> torch.Tensor:
    """The reference; every option is a list with one entry per image."""
    decoded = []
    for index, image in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
        buffer = io.BytesIO()
        chosen = {name: values[index] for name, values in options.items()}
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
            buffer, "JPEG", subsampling=subsampling, **chosen
        )
        decoded.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_no_difference_to_pillow(size, subsampling):
    images = torch.cat([content(len(QUALITIES), size) for content in CONTENTS])
    qualities = QUALITIES * len(CONTENTS)
    assert torch.equal(jpeg_roundtrip(images, qualities, subsampling), pillow(images, subsampling, quality=qualities))


@pytest.mark.parametrize("size", SIZES[::3], ids=str)
def test_no_difference_to_pillow_on_grey_images(size):
    images = torch.cat([content(len(QUALITIES), size, 1) for content in CONTENTS])
    qualities = QUALITIES * len(CONTENTS)
    assert torch.equal(jpeg_roundtrip(images, qualities), pillow(images, quality=qualities))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 100),
    st.sampled_from(SAMPLINGS),
    st.sampled_from(CONTENTS),
    st.sampled_from([1, 3]),
)
def test_no_difference_to_pillow_anywhere(height, width, quality, subsampling, content, channels):
    images = content(2, (height, width), channels)
    expected = pillow(images, subsampling, quality=[quality] * 2)
    assert torch.equal(jpeg_roundtrip(images, quality, subsampling), expected)


def test_explicit_tables():
    rng = np.random.default_rng(0)
    tables = torch.from_numpy(rng.integers(1, 256, (6, 2, 64)))
    tables[0], tables[1] = 1, 255
    images = torch.cat([noise(2, (33, 47)), saturated(2, (33, 47)), natural(2, (33, 47))])
    expected = pillow(images, qtables=tables.tolist())
    assert torch.equal(jpeg_roundtrip(images, tables), expected)
    assert torch.equal(jpeg_roundtrip(images, tables.numpy()), expected)
    assert torch.equal(jpeg_roundtrip(images[3:4], tables[3]), expected[3:4])
    assert torch.equal(jpeg_roundtrip(images, quantization_tables(42)), jpeg_roundtrip(images, 42))


def test_every_form_of_quality():
    images = natural(3, (20, 20))
    expected = jpeg_roundtrip(images, [80, 80, 80])
    for quality in (80, np.int64(80), (80,) * 3, torch.tensor(80), torch.tensor([80] * 3, dtype=torch.uint8)):
        assert torch.equal(jpeg_roundtrip(images, quality), expected)
    mixed = jpeg_roundtrip(images, [30, 60, 90])
    for image, quality, result in zip(images, (30, 60, 90), mixed, strict=True):
        assert torch.equal(jpeg_roundtrip(image[None], quality)[0], result)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_images_are_rounded_to_eight_bits(dtype):
    images = noise(2, (19, 21))
    got = jpeg_roundtrip(images.to(dtype) / 255, 75)
    assert got.dtype == dtype
    assert torch.equal(got, jpeg_roundtrip(images, 75).to(dtype) / 255)


def test_values_outside_the_range_are_clamped():
    images = torch.linspace(-0.5, 1.5, 3 * 16 * 16).view(1, 3, 16, 16)
    assert torch.equal(jpeg_roundtrip(images, 90), jpeg_roundtrip(images.clamp(0, 1), 90))


def test_layout_chunks_and_global_modes_change_nothing(monkeypatch):
    images = natural(5, (40, 24))
    expected = jpeg_roundtrip(images, [10, 50, 75, 95, 100])
    assert torch.equal(
        jpeg_roundtrip(images.contiguous(memory_format=torch.channels_last), [10, 50, 75, 95, 100]), expected
    )
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(jpeg_roundtrip(images, [10, 50, 75, 95, 100]), expected)
    finally:
        torch.set_float32_matmul_precision(precision)
    with torch.inference_mode():
        assert torch.equal(jpeg_roundtrip(images, [10, 50, 75, 95, 100]), expected)
    monkeypatch.setattr(jpeg, "_CHUNK_CPU", 2 * 40 * 24)
    assert torch.equal(jpeg_roundtrip(images, [10, 50, 75, 95, 100]), expected)
    assert jpeg_roundtrip(images[:0], 75).shape == (0, 3, 40, 24)


@pytest.mark.gpu
@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_a_gpu_gives_the_same_pixels(subsampling):
    images = torch.cat([content(len(QUALITIES), (77, 101)) for content in CONTENTS])
    expected = jpeg_roundtrip(images, QUALITIES * 4, subsampling)
    torch.set_float32_matmul_precision("medium")
    assert torch.equal(jpeg_roundtrip(images.cuda(), QUALITIES * 4, subsampling).cpu(), expected)


@pytest.mark.parametrize("content", [noise, natural])
@pytest.mark.parametrize(
    ("subsampling", "unit", "reach"),
    [("4:4:4", (8, 8), (0, 0)), ("4:2:2", (8, 16), (0, 1)), ("4:2:0", (16, 16), (1, 1))],
)
def test_windows_of_whole_blocks_equal_crops_of_the_whole(subsampling, unit, reach, content):
    """Compressing a window and cropping equals compressing the image and cropping.

    The window starts on the grid of `unit`, and ends on it or with the image. Chroma of the outermost row and column
    of pixels is interpolated with a sample outside the window, so a border inside the image costs `reach` pixels.
    """
    images, qualities = content(4, (103, 91)), [30, 75, 90, 100]
    whole = jpeg_roundtrip(images, qualities, subsampling)
    differs = torch.zeros(4, dtype=torch.bool)
    for top, left, bottom, right in [(32, 16, 64, 64), (0, 0, 48, 48), (48, 32, 103, 91), (16, 0, 32, 91)]:
        assert (top % unit[0], left % unit[1]) == (0, 0)
        window = jpeg_roundtrip(images[..., top:bottom, left:right], qualities, subsampling)
        wrong = (window != whole[..., top:bottom, left:right]).any(1).any(0)
        up, down = reach[0] * (top > 0), reach[0] * (bottom < 103)
        before, after = reach[1] * (left > 0), reach[1] * (right < 91)
        height, width = wrong.shape
        assert not wrong[up : height - down, before : width - after].any()
        edges = wrong[0, 1:-1], wrong[-1, 1:-1], wrong[1:-1, 0], wrong[1:-1, -1]
        differs |= torch.stack([edge.any() for edge in edges])
    assert differs.tolist() == [reach[0] == 1] * 2 + [reach[1] == 1] * 2  # no margin is stated that is not needed


@pytest.mark.parametrize("subsampling", SAMPLINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_padded_to_one_shape_are_compressed_as_if_alone(subsampling, channels):
    rng = np.random.default_rng(0)
    for _ in range(12):
        frame = rng.integers(12, 60, 2)
        sizes = torch.from_numpy(np.minimum(rng.integers(1, frame + 1, (6, 2)), frame))
        sizes[0] = torch.from_numpy(frame)
        images, qualities = noise(6, tuple(frame), channels), rng.integers(1, 101, 6)
        coded = jpeg_roundtrip(images, qualities, subsampling, sizes)
        for index, (height, width) in enumerate(sizes.tolist()):
            alone = images[index : index + 1, :, :height, :width]
            expected = pillow(alone, subsampling, quality=[int(qualities[index])])
            assert torch.equal(coded[index : index + 1, :, :height, :width], expected)


@pytest.mark.parametrize("sizes", [[[8, 9]], [[0, 8]], [[8, 8], [8, 8]], [[8.0, 8.0]]])
def test_sizes_beyond_the_frame_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be height and width"):
        jpeg_roundtrip(noise(1, (8, 8)), 75, sizes=torch.tensor(sizes))


def test_windows_off_the_grid_differ():
    images = natural(1, (96, 96))
    whole = jpeg_roundtrip(images, 75)
    assert not torch.equal(jpeg_roundtrip(images[..., 8:72, 8:72], 75)[..., 2:-2, 2:-2], whole[..., 10:70, 10:70])


def test_colour_arithmetic_on_every_colour():
    """jccolor.c and jdcolor.c in integers, for all of the 2**24 triples."""
    low = torch.arange(256, dtype=torch.int32)
    second, third = (axis.reshape(1, 256, 256) for axis in torch.meshgrid(low, low, indexing="ij"))
    for first in range(256):
        pixels = torch.stack((torch.full_like(second, first), second, third), 1)
        red, green, blue = pixels.unbind(1)
        luma, chroma = jpeg_codec._to_ycc(pixels.float())
        assert torch.equal(luma[:, 0], ((19595 * red + 38470 * green + 7471 * blue + 32768 >> 16) - 128).float())
        offset = (128 << 16) + 32767
        assert torch.equal(chroma[:, 0], ((-11059 * red - 21709 * green + 32768 * blue + offset >> 16) - 128).float())
        assert torch.equal(chroma[:, 1], ((32768 * red - 27439 * green - 5329 * blue + offset >> 16) - 128).float())

        centred = pixels - 128
        decoded = jpeg_codec._to_rgb(centred[:, :1].float(), centred[:, 1:].float()).int()
        luma, blueness, redness = red, second - 128, third - 128
        assert torch.equal(decoded[:, 0], (luma + (91881 * redness + 32768 >> 16)).clamp(0, 255))
        shift = -22554 * blueness - 46802 * redness + 32768 >> 16
        assert torch.equal(decoded[:, 1], (luma + shift).clamp(0, 255))
        assert torch.equal(decoded[:, 2], (luma + (116130 * blueness + 32768 >> 16)).clamp(0, 255))


def test_quantisation_of_every_coefficient_by_every_step():
    values = torch.arange(-(2**15), 2**15)
    for steps in torch.arange(1, 256).split(16):
        divisors = 8 * steps[:, None]
        expected = values.sign() * ((values.abs() + divisors // 2) // divisors) * steps[:, None]
        given = values.double().view(1, 1, -1, 8, 8).repeat(len(steps), 1, 1, 1, 1)
        table = steps.double().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        assert torch.equal(jpeg_codec._quantize(given, table).view(len(steps), -1), expected.double())


@pytest.mark.parametrize("subsampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(7, 9), (2, 3), (6, 4)], ids=str)
def test_smooth_gradient_by_finite_differences(size, subsampling):
    torch.manual_seed(0)
    images = (0.2 + 0.6 * torch.rand(2, 3, *size, dtype=torch.float64)).requires_grad_()
    # Far from grey, chroma interpolation leads beyond [0, 1]: the clamp would be on a finite difference's way.
    assert ((jpeg_smooth(images, subsampling) - 0.5).abs() - 0.5).abs().min() > 1e-4
    assert torch.autograd.gradcheck(lambda x: jpeg_smooth(x, subsampling), images)


@pytest.mark.parametrize("subsampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(48, 64), (33, 41), (5, 3)], ids=str)
def test_smooth_codec_is_near_the_exact_one_where_little_is_quantised(size, subsampling):
    images = natural(4, size).double() / 255
    difference = jpeg_smooth(images, subsampling) - jpeg_roundtrip(images, torch.ones(2, 64).long(), subsampling)
    assert difference.abs().max() < 4.5 / 255
    assert difference.abs().mean() < 0.8 / 255


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_straight_through_value_is_exact_and_gradient_smooth(dtype):
    images = (natural(2, (21, 18)).to(dtype) / 255).requires_grad_()
    weights = torch.randn(2, 3, 21, 18, dtype=dtype, generator=torch.Generator().manual_seed(0))
    output = jpeg_roundtrip_ste(images, [40, 90], "4:2:2")
    assert torch.equal(output, jpeg_roundtrip(images, [40, 90], "4:2:2"))
    (got,) = torch.autograd.grad((output * weights).sum(), images)
    (expected,) = torch.autograd.grad((jpeg_smooth(images, "4:2:2") * weights).sum(), images)
    assert got.dtype == dtype
    assert torch.equal(got, expected)
    assert not jpeg_roundtrip(images, 75).requires_grad


def test_luma_keeps_its_gradient_in_black_and_white_and_loses_it_outside():
    grey = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1]).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone().requires_grad_()
    jpeg_roundtrip_ste(grey, 75).sum().backward()
    assert grey.grad is not None
    torch.testing.assert_close(grey.grad.mean((1, 2, 3)), torch.tensor([0.0, 1, 1, 1, 0]))
    single = torch.rand(1, 1, 8, 8, requires_grad=True)
    jpeg_roundtrip_ste(single, 75).sum().backward()
    assert torch.equal(single.grad, torch.ones(1, 1, 8, 8))


def test_training_through_compression_lowers_a_loss():
    target = jpeg_roundtrip(natural(1, (32, 32)).float() / 255, 60)
    images = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([images], lr=0.02)
    losses = []
    for _ in range(80):
        loss = (jpeg_roundtrip_ste(images, 60) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_malformed_images_are_refused(shape):
    with pytest.raises(ValueError, match="images must have shape"):
        jpeg_roundtrip(torch.zeros(shape), 75)


def test_dtypes_without_meaning_are_refused():
    with pytest.raises(ValueError, match="uint8 or floating"):
        jpeg_roundtrip(torch.zeros(1, 3, 8, 8, dtype=torch.int64), 75)
    with pytest.raises(ValueError, match="gradients need floating"):
        jpeg_roundtrip_ste(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 75)


@pytest.mark.parametrize("quality", [0, 101, 75.5, 75.0, [75, 0], torch.tensor([80.0, 90.0]), True])
def test_qualities_out_of_range_are_refused(quality):
    with pytest.raises(ValueError, match="JPEG quality must be integers from 1 to 100"):
        jpeg_roundtrip(torch.zeros(2, 3, 8, 8), quality)


@pytest.mark.parametrize("quality", [[75], [75] * 3, np.ones((3, 64), int), np.ones((3, 2, 64), int), []])
def test_qualities_of_another_shape_are_refused(quality):
    with pytest.raises(ValueError, match="one for each of the 2 images"):
        jpeg_roundtrip(torch.zeros(2, 3, 8, 8), quality)


@pytest.mark.parametrize("step", [0, 256])
def test_steps_out_of_range_are_refused(step):
    with pytest.raises(ValueError, match="quantisation steps must be integers from 1 to 255"):
        jpeg_roundtrip(torch.zeros(2, 3, 8, 8), np.full((2, 64), step))


@pytest.mark.parametrize("function", [lambda x, s: jpeg_roundtrip(x, 75, s), jpeg_smooth])
def test_unknown_subsampling_is_refused(function):
    with pytest.raises(ValueError, match="4:4:4, 4:2:2, 4:2:0"):
        function(torch.zeros(1, 3, 8, 8), "4:1:1")
