"""The batches of each condition, in order, and the codec that Pillow does."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.bias_probe_conditions import Degradations, noise_seed
from functional.jpeg import jpeg_roundtrip

NONE = {"jpeg": (), "resize": (), "blur": (), "noise": (), "crop_phase": (), "webp": ()}


def batch(count: int = 3) -> dict:
    """Smooth random pictures with paths."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (40, 48), mode="bilinear")
    return {"image": (images * 255).round() / 255, "path": [f"{index}.png" for index in range(count)]}


def test_conditions_and_batches_go_together():
    every = Degradations(jpeg=(50, 90), resize=(0.5,), blur=(1.0,), noise=(2.0, 4.0), crop_phase=(3,), webp=(70, 90))
    data = batch()
    results = dict(zip(every.conditions, every.batches(data), strict=True))
    assert [name for name, _ in results] == ["jpeg"] * 2 + ["resize", "blur", "noise", "noise", "crop_phase"] + [
        "webp"
    ] * 2
    assert torch.equal(results["jpeg", 90], jpeg_roundtrip(data["image"], 90))
    for changed in results.values():
        assert changed.shape == data["image"].shape
        assert changed.dtype == torch.float32
        assert not torch.equal(changed, data["image"])
    strengths = [(results["noise", sigma] - data["image"]).std() for sigma in (2.0, 4.0)]
    assert strengths[1] > 1.8 * strengths[0]
    assert Degradations(**NONE).conditions == list(Degradations(**NONE).batches(data)) == []


def test_webp_is_that_of_pillow():
    data = batch()
    (coded,) = Degradations(**{**NONE, "webp": (60,)}).batches(data)
    for image, ours in zip(data["image"], coded, strict=True):
        buffer = io.BytesIO()
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "WEBP", quality=60)
        expected = np.asarray(Image.open(buffer).convert("RGB"))
        np.testing.assert_array_equal((ours.permute(1, 2, 0) * 255).round().byte().numpy(), expected)


def test_noise_belongs_to_the_path():
    data = batch()
    noisy = Degradations(**{**NONE, "noise": (8.0,)})
    (together,) = noisy.batches(data)
    (alone,) = noisy.batches({"image": data["image"][2:], "path": data["path"][2:]})
    assert torch.equal(alone, together[2:])
    (renamed,) = noisy.batches({**data, "path": ["x", "y", "z"]})
    assert not torch.equal(renamed, together)


def test_noise_seed_is_the_beginning_of_a_digest():
    """Python's own hash of a string differs from process to process."""
    assert noise_seed("") == 0xE3B0C44298FC1C14 >> 1  # the SHA-256 of nothing begins like this
    assert 0 <= noise_seed("real/ä.png") < 2**63


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"jpeg": (0,)}, r"BiasProbe.jpeg: a level lies in \[1, 100\], got 0"),
        ({"webp": (101,)}, r"BiasProbe.webp: a level lies in \[0, 100\], got 101"),
        ({"resize": (0.0,)}, r"BiasProbe.resize: a level is a positive factor, got 0.0"),
        ({"noise": (-1.0,)}, r"BiasProbe.noise: a level lies in \[0, inf\], got -1.0"),
        ({"blur": (float("nan"),)}, r"BiasProbe.blur: .* got nan"),
        ({"resize": (float("inf"),)}, r"BiasProbe.resize: .* got inf"),
        ({"crop_phase": (8,)}, r"BiasProbe.crop_phase: .* got 8"),
        ({"jpeg": (90, 90)}, r"BiasProbe.jpeg=\[90, 90\] names a level twice"),
    ],
)
def test_levels_out_of_range_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        Degradations(**{**NONE, **levels})
