"""Borders and rotations of training images."""

from __future__ import annotations

import pytest
import torch

from datamodules.transforms import Augmentation
from datamodules.transforms.pipelines import train_pipeline


def images(count=64, side=8):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) / 2 + 0.5


@pytest.mark.parametrize("border", ["reflect", "black"])
def test_border_of_shifted_images(border):
    """Every output is the window, at one of 5 x 5 places, of the image with the border around it."""
    torch.manual_seed(0)
    x = images()
    cropped = train_pipeline(Augmentation(padding=2, border=border, flip=0.0), 8)(x)
    mode = {"reflect": "reflect", "black": "constant"}[border]
    padded = torch.nn.functional.pad(x, [2] * 4, mode=mode)
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(2, 3, 0, 1, 4, 5).flatten(0, 1)
    place = (windows - cropped).abs().amax((2, 3, 4)).min(0)
    assert place.values.max() == 0
    assert len(place.indices.unique()) > 15
    assert bool((cropped == 0).any()) == (border == "black")


def test_rotation_stays_within_its_angle():
    """The angle of a rotated line, by its moments, against the largest one that was asked for."""
    torch.manual_seed(0)
    x = torch.zeros(200, 3, 33, 33)
    x[:, :, 16, 4:29] = 1
    turned = train_pipeline(Augmentation(rotation=15, border="black", flip=0.0), 33, 33)(x)[:, 0]
    across = torch.arange(33.0) - 16
    xx = (turned * across.square()[None, None, :]).sum((1, 2))
    yy = (turned * across.square()[None, :, None]).sum((1, 2))
    xy = (turned * across[None, None, :] * across[None, :, None]).sum((1, 2))
    angles = (torch.atan2(2 * xy, xx - yy) / 2).rad2deg()
    assert angles.abs().max() < 15.5
    assert angles.min() < -12
    assert angles.max() > 12
    assert angles.std() == pytest.approx(15 / 3**0.5, rel=0.1)  # uniform
