import kornia.augmentation as K
import numpy as np
import pytest
import torch

from datamodules.decoding import jpeg_resave
from datamodules.transforms.exact_jpeg import ExactJPEG
from functional.jpeg import jpeg_roundtrip


def pictures(count: int, size: int = 24, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator).float() / 255


def resaved(image: torch.Tensor, quality: int, subsampling: str = "4:2:0") -> torch.Tensor:
    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(jpeg_resave(pixels, quality, subsampling)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_equals_pillow_at_the_drawn_qualities(subsampling):
    torch.manual_seed(0)
    compress = ExactJPEG(quality=(20, 100), subsampling=subsampling)
    images = pictures(6)
    output = compress(images)
    drawn = compress._params["quality"].tolist()
    assert len(set(drawn)) > 1
    for image, got, quality in zip(images, output, drawn, strict=True):
        assert torch.equal(got, resaved(image, quality, subsampling))


def test_qualities_are_uniform_integers_over_the_range():
    torch.manual_seed(0)
    drawn = ExactJPEG(quality=(70, 79)).forward_parameters((5000, 3, 8, 8))["quality"]
    counts = torch.bincount(drawn, minlength=101)
    assert drawn.dtype == torch.int64
    assert counts[70:80].sum() == 5000
    assert (counts[70:80] - 500).abs().max() < 110  # five standard deviations


def test_qualities_follow_a_histogram():
    torch.manual_seed(0)
    shares = np.zeros(101)
    shares[[75, 96]] = 1, 3
    drawn = ExactJPEG(quality_shares=shares).forward_parameters((4000, 3, 8, 8))["quality"]
    assert set(drawn.tolist()) == {75, 96}
    assert abs((drawn == 96).float().mean().item() - 0.75) < 0.035


def test_probability_selects_single_images():
    torch.manual_seed(0)
    compress = ExactJPEG(quality=(50, 50), p=0.5)
    images = pictures(64)
    output = compress(images)
    chosen = compress._params["batch_prob"] > 0.5
    assert 16 < chosen.sum() < 48
    assert torch.equal(output[~chosen], images[~chosen])
    assert torch.equal(output[chosen], jpeg_roundtrip(images[chosen], 50))
    assert torch.equal(ExactJPEG(p=0.0)(images), images)


def test_seed_and_stored_parameters_repeat_the_draw():
    compress, images = ExactJPEG(p=0.7), pictures(8)
    torch.manual_seed(1)
    first = compress(images)
    assert torch.equal(compress(images, params=compress._params), first)
    torch.manual_seed(1)
    assert torch.equal(compress(images), first)
    assert not torch.equal(compress(images), first)


def test_composes_in_a_kornia_sequence_and_leaves_masks_alone():
    sequence = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=1.0), ExactJPEG(quality=(80, 80)), data_keys=["input", "mask"]
    )
    images, masks = pictures(3), pictures(3, channels=1).round()
    output, flipped = sequence(images, masks)
    assert torch.equal(output, jpeg_roundtrip(images.flip(-1), 80))
    assert torch.equal(flipped, masks.flip(-1))


def test_one_quality_for_the_batch():
    assert len(ExactJPEG(same_on_batch=True).forward_parameters((50, 3, 8, 8))["quality"].unique()) == 1


def test_shapes_and_dtypes():
    compress = ExactJPEG(keepdim=True)
    assert compress(pictures(1)[0]).shape == (3, 24, 24)
    assert compress(pictures(2, channels=1)).shape == (2, 1, 24, 24)
    assert compress(pictures(0)).shape == (0, 3, 24, 24)
    assert compress(pictures(2).half()).dtype == torch.float16
    assert "30 to 100" in repr(compress)


@pytest.mark.gpu
def test_equals_the_cpu_on_a_gpu():
    compress, images = ExactJPEG(p=0.5), pictures(8)
    on_cpu = compress(images)
    assert torch.equal(ExactJPEG(p=0.5).cuda()(images.cuda(), params=compress._params).cpu(), on_cpu)
    assert ExactJPEG().cuda()(images.cuda()).is_cuda


@pytest.mark.parametrize("quality", [(0, 50), (60, 50), (50, 101), (50.5, 60)])
def test_bad_ranges_are_refused(quality):
    with pytest.raises(ValueError, match="two integers"):
        ExactJPEG(quality=quality)


@pytest.mark.parametrize(
    "shares", [np.ones(100), np.zeros(101), np.ones(101), -np.eye(101)[5], np.eye(101)[5] * np.nan]
)
def test_bad_shares_are_refused(shares):
    with pytest.raises(ValueError, match="101 finite shares"):
        ExactJPEG(quality_shares=shares)


def test_unknown_subsampling_is_refused_at_once():
    with pytest.raises(ValueError, match="subsampling"):
        ExactJPEG(subsampling="4:1:1")
